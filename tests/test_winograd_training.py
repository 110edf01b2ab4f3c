"""Winograd's convolutions that learn: values and gradients against direct ones in float64."""

import copy
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy import make_toy

from detkit.config import Recipe
from detkit.networks import winograd_training
from detkit.networks.precision import for_training
from detkit.networks.winograd_training import LearningWinogradConv2d, learn_by_winograd
from detkit.training.learner import Learner, make_fabric

CPU = torch.device("cpu")
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(params=["AVX2", "AVX512"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)
    return name


@pytest.fixture(autouse=True)
def an_avx2_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """How often Winograd's form was computed."""
    counted = Mock(side_effect=winograd_training.convolved)
    monkeypatch.setattr(winograd_training, "convolved", counted)
    return counted


def gradients(layer: nn.Conv2d, images: Tensor, slopes: Tensor) -> dict[str, Tensor]:
    """Return the outputs, and the gradients of their product with `slopes`."""
    images = images.clone().requires_grad_()
    outputs = layer(images)
    (outputs * slopes).sum().backward()
    assert images.grad is not None
    own = {name: one.grad for name, one in layer.named_parameters() if one.grad is not None}
    return {"outputs": outputs.detach(), "images": images.grad, **own}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [0, 1, 2, (2, 0)])
@pytest.mark.parametrize(
    ("number", "size", "bias"),
    [(1, (32, 32), True), (1, (33, 46), False), (6, (15, 13), True), (4, (8, 70), True)],
)
def test_values_and_gradients_are_the_direct_convolution_s(
    calls: Mock,
    layout: torch.memory_format,
    padding: int | tuple[int, int],
    number: int,
    size: tuple[int, int],
    bias: bool,
) -> None:
    torch.manual_seed(0)
    direct = nn.Conv2d(20, 12, 3, padding=padding, bias=bias)
    images = torch.randn(number, 20, *size).relu().contiguous(memory_format=layout)
    wanted = copy.deepcopy(direct).double()
    slopes = torch.randn_like(wanted(images.double()))
    found = gradients(LearningWinogradConv2d(direct), images, slopes.float())
    assert calls.call_count == 1
    expected = gradients(wanted, images.double(), slopes)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-5 * scale)


def test_many_images_are_taken_in_blocks_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = LearningWinogradConv2d(nn.Conv2d(8, 8, 3, padding=1))
    images, slopes = torch.randn(5, 8, 21, 26), torch.randn(5, 8, 21, 26)
    whole = gradients(layer, images, slopes)
    for block_bytes in (1, 4 * 36 * 8 * 7 * 4, 4 * 36 * 8 * 7 * 13):  # a row, some, two images
        monkeypatch.setattr("detkit.networks.winograd.BLOCK_BYTES", block_bytes)
        layer.zero_grad()
        for name, value in gradients(layer, images, slopes).items():
            atol = 5e-5 * float(whole[name].abs().max())
            torch.testing.assert_close(value, whole[name], rtol=0, atol=atol)


def test_only_gradients_that_are_wanted_are_made() -> None:
    layer = LearningWinogradConv2d(nn.Conv2d(8, 8, 3, padding=1))
    images = torch.randn(1, 8, 40, 40)
    layer(images).sum().backward()  # as the first that learns behind frozen blocks
    assert layer.weight.grad is not None and images.grad is None
    layer.requires_grad_(False).zero_grad()
    layer(images.requires_grad_()).sum().backward()
    assert layer.weight.grad is None and images.grad is not None
    with torch.no_grad():
        assert not layer(images).requires_grad


def test_a_relu_may_change_the_outputs_in_place() -> None:
    torch.manual_seed(0)
    layer = LearningWinogradConv2d(nn.Conv2d(8, 8, 3, padding=1))
    images = torch.randn(1, 8, 40, 40)
    F.relu_(layer(images)).square().sum().backward()
    found = layer.weight.grad
    weight = layer.weight.detach().clone().requires_grad_()
    F.relu(F.conv2d(images, weight, layer.bias, padding=1)).square().sum().backward()
    torch.testing.assert_close(found, weight.grad, rtol=1e-4, atol=1e-2)


def test_without_gradients_filters_are_transformed_once_until_the_weights_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformed = Mock(side_effect=winograd_training.transformed_filters)
    monkeypatch.setattr(winograd_training, "transformed_filters", transformed)
    torch.manual_seed(0)
    layer = LearningWinogradConv2d(nn.Conv2d(8, 8, 3, padding=1))
    images = torch.randn(1, 8, 40, 40)

    def assert_is_direct(one: nn.Conv2d, *, in_all: int) -> None:
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                direct = F.conv2d(images, one.weight, one.bias, padding=1)
                torch.testing.assert_close(one(images), direct, rtol=1e-4, atol=1e-4)
        assert transformed.call_count == in_all

    assert_is_direct(layer, in_all=1)
    assert_is_direct(layer, in_all=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(images).square().mean().backward()  # forth and back they are transformed, and not kept
    assert transformed.call_count == 3 and layer._kept is None
    assert_is_direct(layer, in_all=4)
    optimizer.step()
    assert_is_direct(layer, in_all=5)
    twin = copy.deepcopy(layer)
    assert twin._kept is None
    with torch.no_grad():
        twin.weight.mul_(2)  # as EMA fills a network
    assert_is_direct(twin, in_all=6)
    assert_is_direct(layer, in_all=6)
    layer.weight.data = layer.weight.data * 3  # as Module.to
    assert_is_direct(layer, in_all=7)
    layer.bfloat16().float()
    assert_is_direct(layer, in_all=8)


def test_small_maps_other_numbers_autocast_and_exports_go_the_direct_way(calls: Mock) -> None:
    layer = LearningWinogradConv2d(nn.Conv2d(8, 8, 3, padding=1))
    images = torch.randn(2, 8, 40, 40)
    direct = F.conv2d(images[:, :, :9, :9], layer.weight, layer.bias, padding=1)
    assert torch.equal(layer(images[:, :, :9, :9]), direct)
    assert layer(images[:0]).shape == (0, 8, 40, 40)
    layer(torch.randn(64, 8, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
    copy.deepcopy(layer).double()(images.double())
    copy.deepcopy(layer).to("meta")(images.to("meta"))
    with torch.no_grad():
        program = torch.export.export(layer, (images,))
    assert "conv2d" in program.graph_module.code
    assert not calls.called
    layer(images)
    assert calls.called


def test_wide_convolutions_alone_are_replaced_by_what_the_processor_gains(capability: str) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(*channels, 3) for channels in ((64, 64), (32, 512), (128, 128), (128, 256))),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 256, 3, stride=2),
        nn.Conv2d(256, 256, 3, groups=2),
        nn.Conv2d(256, 256, 3).double(),
    )
    names, weights = list(network.state_dict()), list(network.parameters())
    number = learn_by_winograd(network)
    replaced = [at for at, one in enumerate(network) if isinstance(one, LearningWinogradConv2d)]
    assert replaced == ([0, 2, 3] if capability == "AVX2" else [3])
    assert number == len(replaced)
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(network.parameters(), weights, strict=True))
    assert learn_by_winograd(network) == 0  # once is enough


def test_an_unknown_processor_keeps_direct_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    assert learn_by_winograd(nn.Sequential(nn.Conv2d(512, 512, 3))) == 0


def test_a_network_learns_so_in_float32_alone_and_wants_its_images_by_place(
    capability: str,
) -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(256, 256, 3))

    full, reduced = network(), network()
    assert for_training(full, CPU) is torch.channels_last
    assert isinstance(full[0], LearningWinogradConv2d)
    layout = for_training(reduced, CPU, torch.bfloat16)
    assert layout is LAYOUTS[capability == "AVX512"]
    assert type(reduced[0]) is nn.Conv2d


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_replaces_them_where_it_computes_in_float32(
    capability: str, precision: str
) -> None:
    toy = make_toy()
    toy.backbone.append(nn.Conv2d(256, 256, 3))
    Learner(make_fabric(CPU, 1, 1, precision), toy, Recipe(), precision)
    assert isinstance(toy.backbone[-1], LearningWinogradConv2d) is (precision == "32-true")


def test_a_network_learns_to_the_same_loss_as_by_direct_convolutions(calls: Mock) -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(4, 3, 16, 16), torch.arange(4)
    direct = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
    other = copy.deepcopy(direct)
    other[2] = LearningWinogradConv2d(other[2])
    losses = []
    for network in (direct, other):
        optimizer = torch.optim.SGD(network.parameters(), 0.2, momentum=0.9)
        of_network = []
        for _ in range(15):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), targets)
            loss.backward()
            optimizer.step()
            of_network.append(loss.item())
        losses.append(of_network)
    assert calls.call_count == 15
    assert losses[0][-1] < 0.9 * losses[0][0], "it learns"
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
