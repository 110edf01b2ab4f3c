"""Backbones hand out the right maps and take torchvision's weights."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from detkit.detectors import load_backend
from detkit.errors import DetkitError, UsageError
from detkit.inference.models import starting_config
from detkit.networks import backbones, pretrained, weights

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"


@pytest.mark.parametrize("name", list(backbones.ARCHITECTURES))
def test_every_map_has_the_declared_channels_and_stride(name: str) -> None:
    with torch.device("meta"):
        backbone = backbones.build(name).eval()
    maps = backbone(torch.empty(2, 3, 96, 128, device="meta"))
    assert len(maps) == len(backbone.taps)
    for tap, x in zip(backbone.taps, maps):
        rows, columns = -(-96 // tap.stride), -(-128 // tap.stride)
        assert x.shape[:2] == (2, tap.channels)
        lost = 2 if name.startswith("vgg_cnn_m") else 1  # it has no borders in its first layers
        assert abs(x.shape[2] - rows) <= lost and abs(x.shape[3] - columns) <= lost


def classifier(name: str) -> nn.Module:
    """Return torchvision's network with random weights (VGGs without their large classifier)."""
    torch.manual_seed(0)
    if name.startswith("vgg"):
        plan = torchvision.models.vgg.cfgs["E" if name == "vgg19" else "D"]
        layers = torchvision.models.vgg.make_layers(plan, batch_norm=name.endswith("bn"))
        network: nn.Module = nn.ModuleDict({"features": layers}).eval()
    else:
        made_anew = name in ("googlenet", "inception_v3")
        options = {"aux_logits": False, "init_weights": True} if made_anew else {}
        network = getattr(torchvision.models, name)(weights=None, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that a norm left out would show
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network


def widened(network: nn.Module) -> nn.Module:
    """Return Inception v3, each layer that shrinks its map by its lack of a border with one."""
    for name in (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "maxpool1", "Conv2d_4a_3x3", "maxpool2"),
        *("Mixed_6a", "Mixed_7a"),
    ):
        layer = network.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, given: nn.functional.pad(given[0], (1, 1, 1, 1)))
    return network


@pytest.mark.parametrize("name", ["densenet121", "convnext_tiny", "googlenet", "inception_v3"])
def test_the_last_map_is_what_torchvision_averages_for_its_classes(name: str) -> None:
    peer = classifier(name)
    backbone = backbones.build(name).eval()
    backbone.load_classifier(peer.state_dict(), "peer")
    image = torch.randn(1, 3, 64, 64)
    averaged = []
    if name == "inception_v3":
        widened(peer)
    if name == "densenet121":
        peer.classifier.register_forward_pre_hook(lambda _, given: averaged.append(given[0]))
    else:
        peer.avgpool.register_forward_hook(lambda _, given, output: averaged.append(output))
    with torch.no_grad():
        peer(image)
        mean = backbone(image)[-1].mean(dim=(2, 3))
        torch.testing.assert_close(mean, averaged[0].flatten(1), rtol=1e-4, atol=1e-5)


def test_densenets_published_names_with_dots_are_understood() -> None:
    state = classifier("densenet121").state_dict()
    dotted = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.")
        if "denselayer" in key
        else key: value
        for key, value in state.items()
    }
    assert dotted.keys() != state.keys()
    one, other = backbones.build("densenet121").eval(), backbones.build("densenet121").eval()
    one.load_classifier(state, "peer")
    other.load_classifier(dotted, "peer")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(one(image)[-1], other(image)[-1])


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_images_become_what_torchvisions_transform_input_makes_of_them(name: str) -> None:
    peer = getattr(torchvision.models, name)(
        weights=None, aux_logits=False, init_weights=True, transform_input=True
    )
    pixels = torch.rand(1, 3, 8, 8)
    normalise = torchvision.transforms.v2.functional.normalize
    theirs = normalise(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    config = starting_config(load_backend("ssd"), name, "none")
    ours = normalise(pixels, list(config.mean), list(config.std))
    torch.testing.assert_close(ours, peer._transform_input(theirs))


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenet_v2", "mobilenet_v3_large", "squeezenet1_0", "resnet18", "resnet152"),
        *("vgg16", "vgg16_bn", "vgg19", "alexnet"),
    ],
)
def test_the_last_map_equals_torchvisions_features(name: str) -> None:
    peer = classifier(name)
    backbone = backbones.build(name).eval()
    backbone.load_classifier(peer.state_dict(), "peer")
    assert backbone.pretrained and not backbone.folded_norms
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        if name.startswith("resnet"):
            x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(image))))
            expected = peer.layer4(peer.layer3(peer.layer2(peer.layer1(x))))
        else:
            ends_in_pool = name.startswith(("vgg", "alexnet"))
            features = peer.features[:-1] if ends_in_pool else peer.features
            expected = features(image)
        torch.testing.assert_close(backbone(image)[-1], expected)


def test_mobilenets_middle_map_is_the_expansion_of_block_14() -> None:
    peer = classifier("mobilenet_v2")
    backbone = backbones.build("mobilenet_v2").eval()
    backbone.load_classifier(peer.state_dict(), "peer")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = peer.features[14].conv[0](peer.features[:14](image))
        torch.testing.assert_close(backbone(image)[1], expected)


def test_fc6_and_fc7_are_subsampled_as_in_the_paper() -> None:
    with torch.device("meta"):
        shapes = {
            k: v.shape for k, v in torchvision.models.vgg16(weights=None).state_dict().items()
        }
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    state["classifier.0.weight"].view(4096, 512, 7, 7)[20, 7] = torch.randn(7, 7)
    state["classifier.0.bias"] = torch.randn(4096)
    state["classifier.3.weight"][12] = torch.randn(4096)
    backbone = backbones.build("vgg16-atrous")
    backbone.load_classifier(state, "peer")
    fc6, fc7 = backbone.blocks["fc6"], backbone.blocks["fc7"]
    full = state["classifier.0.weight"].view(4096, 512, 7, 7)
    torch.testing.assert_close(fc6.weight[5, 7, 1, 2], full[20, 7, 3, 6])
    torch.testing.assert_close(fc6.bias[5], state["classifier.0.bias"][20])
    torch.testing.assert_close(fc7.weight[3, 9, 0, 0], state["classifier.3.weight"][12, 36])


@pytest.mark.parametrize("name", ["vgg16-atrous", "vgg16-fc"])
@pytest.mark.parametrize("classifier", ["absent", "nan"])  # nan: torchvision's IMAGENET1K_FEATURES
def test_a_file_of_convolutions_alone_leaves_fc6_and_fc7_at_hes_scale(
    name: str, classifier: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer = torchvision.models.vgg16(weights=None)
    state = peer.features.state_dict(prefix="features.")
    if classifier == "nan":
        tensors = peer.classifier.state_dict(prefix="classifier.")
        state |= {key: torch.full_like(value, float("nan")) for key, value in tensors.items()}
    backbone = backbones.build(name)
    with caplog.at_level("INFO"):
        backbone.load_classifier(state, "peer.pth")
    assert caplog.messages == ["peer.pth holds no fc6 and fc7: they start from random weights"]
    own = backbone.state_dict()
    assert torch.equal(own["blocks.28.weight"], state["features.28.weight"])
    fan_in = own["blocks.fc6.weight"][0].numel()
    assert own["blocks.fc6.weight"].std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert not own["blocks.fc6.bias"].any()


@pytest.mark.parametrize("name", ["squeezenet1_0", "mobilenet_v2"])
def test_nothing_is_said_to_be_missing_of_a_network_without_fc6(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = backbones.build(name)
    with caplog.at_level("INFO"):
        backbone.load_classifier(classifier(name).state_dict(), "peer.pth")
    assert not caplog.messages


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean mobilenet_v2"):
        backbones.build("mobilnet_v2")


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "r.pth"
    torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), file)
    with pytest.raises(DetkitError, match="r.pth: not the weights of tiny"):
        pretrained.load_weights(backbones.build("tiny"), str(file))


def test_a_weights_file_says_which_backbone_it_is_for(tmp_path: Path) -> None:
    for name in ("mobilenet_v2", "squeezenet1_0", "resnet18", "mobilenet_v3_large", "densenet121"):
        state = {k: v.half() for k, v in classifier(name).state_dict().items()}
        torch.save(state, tmp_path / "w.pth")
        assert pretrained.identify(tmp_path / "w.pth") == name


def test_a_file_that_is_no_state_dict_gives_one_clear_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"not weights")
    with pytest.raises(DetkitError, match="bad.pth: not a readable weights file") as caught:
        weights.read_state_dict(bad)
    assert "\n" not in str(caught.value)
    with pytest.raises(DetkitError, match="no such weights file"):
        weights.read_state_dict(tmp_path / "none.pth")


def test_a_download_says_so_and_a_failed_one_names_the_file_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "net.pth"
    torch.save({"a": torch.ones(1)}, source)
    with caplog.at_level("INFO", logger="detkit"):
        state = weights.download(source.as_uri())
    assert state["a"].item() == 1
    assert "downloading" in caplog.text
    with pytest.raises(DetkitError, match="fetch it by hand and put it at .*gone.pth"):
        weights.download((tmp_path / "gone.pth").as_uri())


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no weights folder")
def test_folded_norms_are_noticed() -> None:
    backbone = backbones.build("mobilenet_v2")
    pretrained.load_weights(backbone, str(WEIGHTS / "mobilenet_v2.pth"))
    assert backbone.folded_norms


def test_a_file_that_holds_no_weights_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    (tmp_path / "notes.pth").write_text("no weights at all")
    with pytest.raises(DetkitError, match=r"notes.pth: not a readable weights file: it is no") as e:
        weights.read_state_dict(tmp_path / "notes.pth")
    assert "weights_only" not in str(e.value)


def test_more_frozen_blocks_than_there_are_is_refused() -> None:
    backbone = backbones.build("tiny")
    backbone.freeze_blocks(len(backbone.blocks))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(UsageError, match=f"freeze_layers=99: .* has {len(backbone.blocks)} blocks"):
        backbone.freeze_blocks(99)
