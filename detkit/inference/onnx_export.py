"""ONNX files written: a detector's network in a form that runs without torch.

The graph is `Detector.candidates`; `inference.onnx` says what else the file holds, and runs it.

Shape shorthand: B images a run (any number where `dense_candidates` answers, else fixed), H x W
network pixels (any where `free_sides` answers, else fixed), K candidate boxes, C classes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detkit import __version__
from detkit.config import DetectorConfig, Recipe, to_json
from detkit.data.demo.pictures import draw_picture
from detkit.detector import Detector
from detkit.errors import DetkitError, UsageError, naming_extras, require_installed
from detkit.files import write_bytes
from detkit.inference.onnx import RUNTIME_SETTINGS, SMALLEST_SIDE, OnnxDetector, first_line
from detkit.inference.onnx_ends import with_ends
from detkit.structures import Batch, Candidates, Sample

NetworkInput = tuple[int, int] | Literal["any"]  # (height, width) network pixels, that it takes
# Ours: float32 sums in another order differ by some 1e-6 in scores and 1e-6 of the side in
# boxes; a layer that was translated wrongly by far more than this.
LARGEST_DIFFERENCE = 1e-3
MOST_PROPOSALS = 2048  # of an image whose order may differ
# Ours, of an image's proposals: NMS keeps another one where an overlap is at its threshold.
MOST_REPLACED = 0.01
DRAWN_IMAGES = 3
# Portrait, landscape, square: a network size that is the same for all does not follow the image.
PROBED_SIZES = ((640, 480), (480, 640), (512, 512))


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the ONNX file and the detector are apart, at most, over some images."""

    num_images: int
    scores: float
    boxes: float  # network pixels, of boxes cut at the image's borders
    side: int  # the network image's longer side, network pixels

    @property
    def holds(self) -> bool:
        """Whether scores, and boxes in shares of the side, differ by less than is allowed."""
        # Written so that NaN does not hold.
        return self.scores <= LARGEST_DIFFERENCE and self.boxes / self.side <= LARGEST_DIFFERENCE


class CandidatesNetwork(nn.Module):
    """`Detector.candidates` as a function of one tensor: what an ONNX file can hold."""

    def __init__(self, detector: Detector, size: tuple[int, int]) -> None:
        """Take all images to have `size`, (height, width) in network pixels."""
        super().__init__()
        self.detector = detector
        self.size = size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, K, 4), or (B, K, C, 4), and scores (B, K, C) of (B, 3, H, W) images."""
        dense = self.detector.dense_candidates(images)
        if dense is not None:
            return dense[0].float(), dense[1].float()
        return self._found(images, self.size)

    def expected(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same, as detecting in torch comes to it, image by image.

        Of images that are not padded, where the network does that.
        """
        if self.detector.free_sides is None:
            return self._found(images, self.size)
        size = (images.shape[2], images.shape[3])
        height, width = self.detector.preparation.padded_size([size])
        padded = nn.functional.pad(images, (0, width - size[1], 0, height - size[0]))
        return self._found(padded, size)

    def _found(self, images: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        num_images = images.shape[0]
        none = images.new_zeros(0)
        batch = Batch(
            images=images,
            sizes=[size] * num_images,
            original_sizes=[size] * num_images,
            boxes=[none.view(0, 4)] * num_images,
            labels=[none.long()] * num_images,
            difficult=[none.bool()] * num_images,
        )
        found = self.detector.candidates(batch)
        # A detector may find fewer candidates in one image than in another.
        boxes = pad_sequence([one.boxes for one in found], batch_first=True).float()
        return boxes, pad_sequence([one.scores for one in found], batch_first=True).float()


class TracedOnnx(Detector):
    """An ONNX model as a detector of torch's, to ask what became of its boxes (`trace`)."""

    name: ClassVar[str] = "onnx"
    paper: ClassVar[str] = "that of the exported backend"
    recipe: ClassVar[Recipe] = Recipe()
    short_recipe: ClassVar[Recipe] = Recipe()
    config_class: ClassVar[type[DetectorConfig]] = DetectorConfig

    def __init__(self, model: OnnxDetector) -> None:
        """Take the network, the config and the class names of `model`."""
        super().__init__(model.config, model.class_names)
        self.model = model

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        """Return the rule that the file was exported with."""
        return self.model.rule

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Raise DetkitError: the file holds what detecting needs, not what training needs."""
        raise DetkitError("an ONNX file cannot be trained; train the model it was exported from")

    def candidates(self, batch: Batch) -> list[Candidates]:
        """Return each image's scored boxes before NMS, in network pixels."""
        boxes, scores = map(torch.from_numpy, self.model.run(batch.images.numpy()))
        return [Candidates(*one) for one in zip(boxes, scores)]


def export_onnx(
    detector: Detector,
    path: Path,
    *,
    images: Iterable[NDArray[np.uint8]] = (),
    batch_size: int | None = None,
    size: NetworkInput | None = None,
    raw: bool = False,
    nms: bool = False,
    force: bool = False,
) -> Parity:
    """Return how far the ONNX file written to `path` is from the detector.

    `exported`'s, with what `with_ends` adds for `raw` and `nms`. Raises UsageError when `path`
    exists and not `force`, and what those two do; then nothing is written.
    """
    require_target(path, force=force)
    content, parity = exported(
        detector, images=images, batch_size=batch_size, size=size, name=str(path)
    )
    write_bytes(path, with_ends(content, raw=raw, nms=nms))
    return parity


def exported(
    detector: Detector,
    *,
    images: Iterable[NDArray[np.uint8]] = (),
    batch_size: int | None = None,
    size: NetworkInput | None = None,
    name: str = "ONNX",
) -> tuple[bytes, Parity]:
    """Return an ONNX file's content that ends in candidates, and how far it is from the detector.

    Both see the same drawn images and the (H, W, 3) uint8 RGB `images`. The file takes
    `batch_size` images a run; by default any number where the network can, else one. It takes
    images of `size`, (height, width) network pixels or "any"; by default any where the network
    can. Into a given size images are fitted, and by default into that of a square image where the
    network's size follows the image, but its graph cannot. Raises UsageError for a size that the
    network cannot have; DetkitError, with the `name` of what is not written, when the onnx extra
    is missing, the network cannot be translated, or scores or boxes differ beyond
    `LARGEST_DIFFERENCE` (boxes in shares of the network image's longer side).
    """
    with naming_extras("ONNX"):
        require_installed("onnx", "onnxscript", "onnxruntime")
    if detector.proposal_method is not None:
        raise DetkitError(
            f"{detector.name} needs proposals beside the image and cannot be exported; "
            "export a model of a backend that takes the image alone"
        )
    network, header, shape = _network(detector, size)
    content = _translate(network, batch_size, shape, header)
    if batch_size is None and OnnxDetector(content).at_once not in (None, 1):
        content = _translate(network, 1, shape, header)  # its code fixes the number of images
    generator = np.random.default_rng(0)
    drawn = [draw_picture(generator).image for _ in range(DRAWN_IMAGES)]
    parity = _compare(network, OnnxDetector(content), itertools.chain(drawn, images))
    if not parity.holds:
        raise DetkitError(
            f"{name}: not written: the exported network differs from {detector.name}, scores by "
            f"up to {parity.scores:.2g} and boxes by up to {parity.boxes:.2g} network pixels; "
            "another version of torch or onnxruntime may translate it rightly"
        )
    return content, parity


def require_target(path: Path, *, force: bool) -> None:
    """Raise UsageError when `path` cannot be the file to write, or exists and not `force`."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file, like model.onnx")
    if path.suffix != ".onnx":  # by which it is known when it is opened
        raise UsageError(f"-o {path}: an ONNX file's name ends in .onnx")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists; name another file or add --force")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")


def _network(
    detector: Detector, size: NetworkInput | None
) -> tuple[CandidatesNetwork, dict[str, Any], tuple[int, int, int]]:
    """Return a copy of the detector's network, the file's header and the input's (3, H, W)."""
    # A copy: exporting may leave symbolic tensors in what a backend caches.
    detector = copy.deepcopy(detector).cpu().float().eval().requires_grad_(False)
    rule = detector.network_size()
    resize, inner = _resizing(detector, size)
    if detector.free_sides is not None:  # it pads images by itself
        shape = rule(*PROBED_SIZES[1]) if resize == "free" else inner
    else:
        shape = detector.preparation.padded_size([inner])
    values = to_json(detector.config)
    header = {
        "detkit": __version__,
        "backend": detector.name,
        "class_names": list(detector.class_names),
        "size": list(inner),
        "resize": resize,
        **{key: values[key] for key in RUNTIME_SETTINGS},
    }
    return CandidatesNetwork(detector, inner).eval(), header, (3, *shape)


def _resizing(
    detector: Detector, wanted: NetworkInput | None
) -> tuple[Literal["stretch", "fit", "free"], tuple[int, int]]:
    """Return `resize` and `size` of the file's `NetworkSize`; raises UsageError, see `exported`."""
    rule, free = detector.network_size(), detector.free_sides
    own = rule(*PROBED_SIZES[-1])
    if free is not None and wanted in (None, "any"):
        return "free", free
    follows_image = len({rule(*size) for size in PROBED_SIZES}) > 1
    if wanted in (None, own):
        return "fit" if follows_image else "stretch", own
    if follows_image and wanted != "any":
        return "fit", wanted
    told = wanted if wanted == "any" else "{}x{}".format(*wanted)
    is_fixed = "works on images of one size" if not follows_image else "was written for one size"
    raise UsageError(
        f"--size {told}: {detector.name} {is_fixed}, here {own[0]}x{own[1]}: what it says of "
        "a place holds for that size alone; leave --size out, or train with another --set size"
    )


def _translate(
    network: CandidatesNetwork,
    batch_size: int | None,
    shape: tuple[int, int, int],
    header: Mapping[str, Any],
) -> bytes:
    """Return the content of the ONNX file; raises DetkitError when torch cannot translate it.

    Without a `batch_size` it takes any number of images of `shape` (3, H, W), if it can; of any
    size where the header says "free".
    """
    with torch.no_grad():
        is_dense = network.detector.dense_candidates(torch.zeros(1, *shape)) is not None
    # Two of them: one would be taken for a constant.
    images = torch.zeros(batch_size or (2 if is_dense else 1), *shape)
    varies: dict[int, Any] = {}
    if is_dense and batch_size is None:
        varies[0] = torch.export.Dim("batch")
    if header["resize"] == "free":  # AUTO, since what holds for sides of 1 alone is no matter
        varies |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its remarks are to developers
            network(images)  # fills the backend's caches with real tensors
            program = torch.onnx.export(
                network,
                (images,),
                input_names=["images"],
                output_names=["boxes", "scores"],
                dynamo=True,
                dynamic_shapes=(varies,) if varies else None,
                verbose=False,
                custom_translation_table=_own_translations(),
            )
            if program is None:
                raise RuntimeError("torch.onnx.export returned nothing")
            proto: Any = program.model_proto
            _strip(proto.graph)
            for axis, name in ((2, "height"), (3, "width")):
                if axis in varies:
                    proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
            proto.producer_name, proto.producer_version = "detkit", __version__
            del proto.metadata_props[:]
            for key, value in header.items():
                proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
            content: bytes = proto.SerializeToString(deterministic=True)
            return content
    except Exception as error:  # the exporter's parts each raise errors of their own
        raise DetkitError(
            f"{network.detector.name}: its network cannot be translated to ONNX: "
            f"{first_line(error)}"
        ) from error


def _own_translations() -> dict[Any, Callable[..., Any]]:
    """Return operators to the functions that translate them, where onnxscript's own cannot.

    Its translation of RoI pooling takes the pooled size as one argument; the operator has two.
    """
    import onnxscript

    opset18: Any = onnxscript.opset18

    def roi_pool(x: Any, rois: Any, spatial_scale: float, height: int, width: int) -> Any:
        shape = (height, width)
        pooled = opset18.MaxRoiPool(x, rois, pooled_shape=shape, spatial_scale=spatial_scale)
        return pooled, pooled  # the second would be where the maxima are, which only gradients need

    def nms_survivors(boxes: Any, scores: Any, iou_thresh: float, number: int) -> Any:
        ranked = opset18.Unsqueeze(scores, [1])
        least = float(np.finfo(np.float32).min)
        chosen = opset18.NonMaxSuppression(boxes, ranked, [number], [iou_thresh], [least])
        marks = opset18.ConstantOfShape(opset18.Slice(opset18.Shape(chosen), [0], [1]))
        none = opset18.ConstantOfShape(opset18.Shape(ranked))
        marked = opset18.ScatterND(none, chosen, opset18.Add(marks, 1.0))
        return opset18.Cast(opset18.Squeeze(marked, [1]), to=9)  # bool

    return {
        torch.ops.torchvision.roi_pool.default: roi_pool,
        torch.ops.detkit.nms_survivors.default: nms_survivors,
    }


def _strip(graph: Any) -> None:
    """Remove the exporter's notes from a graph: stack traces with paths of this machine."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def _compare(
    network: CandidatesNetwork, exported: OnnxDetector, images: Iterable[NDArray[np.uint8]]
) -> Parity:
    """Return how far the two are apart on some images; infinitely when shapes differ."""
    at_once = exported.at_once or 1
    scores = boxes = 0.0
    num_images = side = 0
    for image in images:
        num_images += 1
        batch = exported.prepare_image(image)
        pixels = torch.from_numpy(exported.padded(batch.images)).expand(at_once, -1, -1, -1)
        height, width = pixels.shape[2:]
        side = max(side, height, width)
        with torch.no_grad():
            expected = network.expected(pixels)
        found = tuple(map(torch.from_numpy, exported.run(pixels.numpy())))
        # A graph gives always as many candidates, the last ones empty where there are fewer.
        short = max(0, found[1].shape[1] - expected[1].shape[1])
        expected = (
            nn.functional.pad(expected[0], (0, 0) * (expected[0].ndim - 2) + (0, short)),
            nn.functional.pad(expected[1], (0, 0, 0, short)),
        )
        wanted, got = (
            _within(one, values, batch.sizes[0], is_fitted=batch.sizes[0] != (height, width))
            for one, values in ((expected[0], expected[1]), (found[0], found[1]))
        )
        got = _in_order(wanted, got, side=max(height, width))
        boxes, scores = _larger(boxes, wanted[0], got[0]), _larger(scores, wanted[1], got[1])
    return Parity(num_images, scores, boxes, side)


def _in_order(
    expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], side: int
) -> tuple[Tensor, Tensor]:
    """Return the `found` (B, K, ...) boxes and scores of images, in the order of the `expected`.

    Proposals whose scores differ in the last digit change places: each is then compared with its
    own, up to `MOST_PROPOSALS` an image. Boxes are in shares of `side` for that. A few that are
    others, `MOST_REPLACED`, and whose scores are all but zero in both, count as the `expected`.
    """
    alike = all(one.shape == other.shape for one, other in zip(expected, found))
    if not alike or expected[1].shape[1] > MOST_PROPOSALS:
        return found
    if len(expected[0]) > 1:
        images = zip(*(one.chunk(len(one)) for one in (*expected, *found)))
        ordered = [_in_order((a, b), (c, d), side) for a, b, c, d in images]
        boxes, scores = map(torch.cat, zip(*ordered))
        return boxes, scores
    rows = [torch.cat([one[0][0].flatten(1) / side, one[1][0]], dim=1) for one in (expected, found)]
    apart = torch.cdist(rows[0], rows[1], p=math.inf)
    finite = all(bool(one.isfinite().all()) for one in rows)  # NaN is none of cdist's maxima
    if not finite or not len(apart) or apart.diagonal().max() <= LARGEST_DIFFERENCE:
        return found
    from scipy.optimize import linear_sum_assignment

    # Cut, so that one that is missing is one pair that differs, and no chain of neighbours.
    costs = apart.clamp(max=10 * LARGEST_DIFFERENCE)
    order = torch.from_numpy(linear_sum_assignment(costs.numpy())[1])
    boxes, scores = found[0][:, order], found[1][:, order]
    is_other = apart[torch.arange(len(order)), order] > LARGEST_DIFFERENCE
    is_faint = torch.maximum(expected[1], scores)[0].amax(dim=-1) <= LARGEST_DIFFERENCE
    if int(is_other.sum()) <= MOST_REPLACED * len(order) and bool(is_faint[is_other].all()):
        boxes[:, is_other] = expected[0][:, is_other]
    return boxes, scores


def _larger(so_far: float, expected: Tensor, found: Tensor) -> float:
    """Return the largest difference, counting `so_far`; infinity for other shapes or NaN."""
    if expected.shape != found.shape:
        return float("inf")
    difference = (expected - found).abs().nan_to_num(nan=torch.inf)
    return max(so_far, float(difference.amax()) if difference.numel() else 0.0)


def _within(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], *, is_fitted: bool
) -> tuple[Tensor, Tensor]:
    """Return (B, K, ...) candidates with boxes cut at an image's (height, width); NaN stays.

    Where it is fitted, those that lie in the room beside it are zero, as NMS leaves them out:
    anchors there score the same, and which of them are proposals is by chance.
    """
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    boxes = boxes.clamp(min=0).minimum(limits)
    if not is_fitted:
        return boxes, scores
    is_flat = (boxes[..., 2:] - boxes[..., :2]).amin(-1, keepdim=True) < SMALLEST_SIDE
    of_scores = is_flat.squeeze(-1) if boxes.ndim > scores.ndim else is_flat
    return boxes.masked_fill(is_flat, 0.0), scores.masked_fill(of_scores, 0.0)


def _sample(image: NDArray[np.uint8]) -> Sample:
    """Return an (H, W, 3) image without known objects as a detector's input."""
    return Sample(
        image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous(),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        difficult=torch.zeros(0, dtype=torch.bool),
    )
