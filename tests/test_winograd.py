"""Winograd's convolutions against direct ones, and the minimal algorithm against its counts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detkit.networks.precision import for_inference
from detkit.networks.winograd import WinogradConv2d, suits, use_winograd
from detkit.networks.winograd_matrices import A_T, B_T, G


def convolution(channels: tuple[int, int], padding: int = 1, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*channels, 3, padding=padding, bias=bias).eval().requires_grad_(False)


def test_the_paper_s_matrices_give_the_correlation_of_six_values_with_three() -> None:
    random = np.random.default_rng(0)
    data, filters = random.normal(size=6), random.normal(size=3)
    directly = [float(data[at : at + 3] @ filters) for at in range(4)]  # sec. 4.1's F(4, 3)
    found = np.array(A_T) @ ((np.array(G) @ filters) * (np.array(B_T) @ data))
    assert found.tolist() == pytest.approx(directly)


@pytest.mark.parametrize("size", [(16, 16), (17, 19), (33, 18), (1, 300), (90, 75)])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("number", [1, 3])
def test_any_size_and_padding_gives_the_direct_convolution(
    size: tuple[int, int], padding: int, number: int
) -> None:
    if min(size) + 2 * padding < 3:
        pytest.skip("smaller than the filter")
    direct = convolution((64, 128), padding)
    images = torch.randn(number, 64, *size, generator=torch.Generator().manual_seed(1))
    for layout in (torch.contiguous_format, torch.channels_last):
        found = WinogradConv2d(direct)(images.contiguous(memory_format=layout))
        wanted = F.conv2d(images.double(), direct.weight.double(), direct.bias.double(), 1, padding)  # type: ignore[union-attr]
        assert found.shape == wanted.shape
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=5e-5)


def test_many_images_are_taken_in_blocks_and_each_comes_out_as_alone() -> None:
    direct = convolution((128, 64), bias=False)
    images = torch.randn(9, 128, 40, 44, generator=torch.Generator().manual_seed(1))
    winograd = WinogradConv2d(direct)
    alone = torch.cat([winograd(image[None]) for image in images])
    torch.testing.assert_close(winograd(images), alone, rtol=0, atol=5e-5)
    torch.testing.assert_close(winograd(images), direct(images), rtol=0, atol=5e-5)


def test_no_images_and_small_maps_go_the_direct_way() -> None:
    direct = convolution((64, 128))
    winograd = WinogradConv2d(direct)
    small = torch.randn(2, 64, 9, 9)
    assert torch.equal(winograd(small), direct(small))
    assert winograd(torch.empty(0, 64, 40, 40)).shape == (0, 128, 40, 40)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(64, 128, 1),
        nn.Conv2d(64, 128, 3, stride=2),
        nn.Conv2d(64, 128, 3, dilation=2),
        nn.Conv2d(128, 128, 3, groups=2),
        nn.Conv2d(64, 128, 3, padding_mode="reflect"),
        nn.Conv2d(64, 128, 3, padding="same"),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(3, 512, 3),
        nn.Conv2d(64, 128, 3).half(),
    ],
)
def test_what_is_not_faster_or_not_the_same_stays_as_it_is(other: nn.Conv2d) -> None:
    assert not suits(other)


def test_a_network_for_inference_has_winograd_s_convolutions_in_float32_alone() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(convolution((64, 128)), nn.BatchNorm2d(128), nn.ReLU())

    cpu = torch.device("cpu")
    plain, images = network().eval(), torch.randn(2, 64, 20, 20)
    ready = for_inference(network(), cpu)
    torch.testing.assert_close(ready(images), plain(images), rtol=0, atol=5e-5)
    assert isinstance(ready[0], WinogradConv2d)
    assert type(for_inference(network(), cpu, torch.bfloat16)[0]) is nn.Conv2d
    assert list(ready.state_dict()) == ["0.weight", "0.bias"]
    assert use_winograd(ready) == 0  # once is enough
