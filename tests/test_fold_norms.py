"""Folded batch norms give what they gave before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detkit.networks import backbones
from detkit.networks.fold_norms import fold_norms
from detkit.networks.precision import for_inference


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", backbones.backbone_names())
def test_a_folded_backbone_gives_the_same_maps(name: str) -> None:
    torch.manual_seed(0)
    backbone = backbones.build(name).eval()
    for norm in norms(backbone):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images)
        count, had = fold_norms(backbone), len(norms(backbone))
        after = backbone(images)
    # DenseNet's norms stand before their convolutions: in 58 layers, 3 transitions, at the end.
    assert had == (62 if name == "densenet121" else 0)
    assert (count > 0) == (
        name in ("tiny", "vgg16_bn", "googlenet", "inception_v3", "densenet121")
        or name.startswith(("resnet", "mobilenet"))
    )
    for one, other in zip(before, after):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_a_norm_that_still_learns_or_stands_alone_is_left_as_it_is() -> None:
    learning = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    assert fold_norms(learning) == 0 and len(norms(learning)) == 1
    apart = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert fold_norms(apart) == 0 and len(norms(apart)) == 1


def test_a_network_made_for_inference_detects_the_same_and_learns_no_more() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    network(torch.randn(8, 3, 9, 9))  # gives the norm statistics
    images = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        wanted = network.eval()(images)
    ready = for_inference(network, torch.device("cpu"))
    torch.testing.assert_close(ready(images), wanted, rtol=1e-4, atol=1e-5)
    assert not ready.training and not any(p.requires_grad for p in ready.parameters())
