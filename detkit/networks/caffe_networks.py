"""The papers' Caffe networks beside VGG16: CaffeNet, BVLC's AlexNet, ZF, VGG_CNN_M_1024.

Blocks have the names of Caffe's layers, so its weights go by name. Definitions, all released:

- `caffenet`: `bvlc_reference_caffenet`, which is the AlexNet of R-CNN (pooling before
  normalisation); as fast-rcnn's CaffeNet sees whole images it has borders in its first layers.
- `bvlc_alexnet`: the order of Krizhevsky et al. 2012, normalisation before pooling, with groups.
  The paper's normalisation has k = 2, this one k = 1.
- `zf`: py-faster-rcnn's ZF (Zeiler and Fergus 2013): normalised within each channel, borders
  everywhere, dropout that scales in test instead of in training.
- `vgg_cnn_m_1024`: fast-rcnn's (Chatfield et al. 2014), with an fc7 of 1024.

Shape shorthand: B images, C channels, H x W places.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Classifier:
    """What a detector has to know of a classifier with fc6 and fc7."""

    places: int  # a side of pool5, fc6's input
    crop: int  # the side of its images in pixels, R-CNN's crops
    top: int = 4096  # fc7's outputs
    fixed: int = 0  # blocks that Fast and Faster R-CNN never train
    borders: str = ""  # the end of the name of the form that sees whole images


# fast-rcnn, py-faster-rcnn: up to conv2 of VGG16, conv1 of CaffeNet and VGG_CNN_M_1024 are fixed;
# ZF is trained whole. VGG19 and VGG16 with batch norms are torchvision's, up to conv2 as VGG16.
CLASSIFIERS = {
    "alexnet": Classifier(6, 227),
    "vgg16": Classifier(7, 224, fixed=10),
    "vgg16_bn": Classifier(7, 224, fixed=14),
    "vgg19": Classifier(7, 224, fixed=10),
    "caffenet": Classifier(6, 227, fixed=1, borders="-borders"),
    "bvlc_alexnet": Classifier(6, 227, fixed=1, borders="-borders"),
    "zf": Classifier(6, 224),
    "vgg_cnn_m_1024": Classifier(6, 224, top=1024, fixed=1),
}


LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")  # those with weights


class NormWithinChannels(nn.Module):
    """Caffe's local response normalisation within each channel, over 3 x 3 places.

    `x * (1 + alpha * a) ** -beta`, where a is the mean of the squares around; beyond the map
    they are 0.
    """

    def __init__(self, alpha: float, beta: float) -> None:
        """Keep the two numbers; there are no weights."""
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the (B, C, H, W) map normalised."""
        around = F.avg_pool2d(x.square(), 3, 1, 1)
        return x * (1 + self.alpha * around) ** -self.beta


class DropoutScaledInTest(nn.Module):
    """Dropout as in its paper (Hinton et al. 2012): what is kept stays; in test all is halved.

    Caffe's `scale_train: false`. torch's doubles in training instead; weights for one are not
    right for the other.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return half of the values, drawn at random, and else zero; in eval mode x / 2."""
        return x * (torch.rand_like(x) < 0.5) if self.training else x * 0.5


def _norm_across(alpha: float, k: float) -> nn.Module:
    return nn.LocalResponseNorm(5, alpha, 0.75, k)  # alpha / 5 of the sum of 5 channels, as Caffe's


@dataclass(frozen=True, slots=True)
class _Plan:
    """A network's five convolutions, (outputs, side, stride, border, groups) each."""

    convs: tuple[tuple[int, int, int, int, int], ...]
    norm: Callable[[], nn.Module]
    norm_first: bool
    pool_border: int = 0
    top: int = 4096
    scaled_in_test: bool = False


_ALEX = ((96, 11, 4, 0, 1), (256, 5, 1, 2, 2), (384, 3, 1, 1, 1), (384, 3, 1, 1, 2))
_ALEX_CONVS = (*_ALEX, (256, 3, 1, 1, 2))
_ALEX_BORDERS = ((96, 11, 4, 5, 1), *_ALEX_CONVS[1:])
_ALEX_NORM = partial(_norm_across, 1e-4, 1.0)
_ZF_CONVS = ((96, 7, 2, 3, 1), (256, 5, 2, 2, 1), (384, 3, 1, 1, 1), (384, 3, 1, 1, 1))
_M_CONVS = ((96, 7, 2, 0, 1), (256, 5, 2, 1, 1), *((512, 3, 1, 1, 1),) * 3)

PLANS = {
    "caffenet": _Plan(_ALEX_CONVS, _ALEX_NORM, norm_first=False),
    "caffenet-borders": _Plan(_ALEX_BORDERS, _ALEX_NORM, norm_first=False, pool_border=1),
    "bvlc_alexnet": _Plan(_ALEX_CONVS, _ALEX_NORM, norm_first=True),
    "bvlc_alexnet-borders": _Plan(_ALEX_BORDERS, _ALEX_NORM, norm_first=True, pool_border=1),
    "zf": _Plan(
        (*_ZF_CONVS, (256, 3, 1, 1, 1)),
        partial(NormWithinChannels, 5e-5, 0.75),
        norm_first=True,
        pool_border=1,
        scaled_in_test=True,
    ),
    "vgg_cnn_m_1024": _Plan(_M_CONVS, partial(_norm_across, 5e-4, 2.0), norm_first=True, top=1024),
}


def convolutions(name: str) -> OrderedDict[str, nn.Module]:
    """Return a network's blocks up to conv5 and its ReLU, with random weights (He's)."""
    plan = PLANS[name]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for number, (after, side, stride, border, groups) in enumerate(plan.convs, 1):
        convolution = nn.Conv2d(before, after, side, stride, border, groups=groups)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        blocks[f"conv{number}"] = convolution
        blocks[f"relu{number}"] = nn.ReLU(inplace=True)
        if number <= 2:
            # Caffe counts a last window that a map only begins, and none in the border alone.
            pool = nn.MaxPool2d(3, 2, plan.pool_border, ceil_mode=True)
            kinds = (("norm", plan.norm()), ("pool", pool))
            for kind, module in kinds if plan.norm_first else reversed(kinds):
                blocks[f"{kind}{number}"] = module
        before = after
    return blocks


def with_fc(name: str) -> OrderedDict[str, nn.Module]:
    """Return the blocks up to fc7, without pool5: a detector of regions pools in its own way."""
    plan = PLANS[name]
    blocks = convolutions(name)
    blocks["flatten"] = nn.Flatten()
    before = plan.convs[-1][0] * 6 * 6
    for number, after in ((6, 4096), (7, plan.top)):
        blocks[f"fc{number}"] = nn.Linear(before, after)
        blocks[f"relu{number}"] = nn.ReLU(inplace=True)
        blocks[f"drop{number}"] = DropoutScaledInTest() if plan.scaled_in_test else nn.Dropout(0.5)
        before = after
    return blocks


def rename(key: str) -> str | None:
    """`conv1.weight` -> `blocks.conv1.weight`, and fc6 and fc7 alike; else None."""
    return f"blocks.{key}" if key.partition(".")[0] in LAYERS else None
