"""What an ONNX file may hold beside the network: the way in from pixels, and out to boxes.

`with_ends` adds either to a file that ends in candidates. Both are written in plain operators, of
which every runtime makes the same: resizing is two products with matrices, since OpenVINO gives
other pixels than onnxruntime for `Resize` with antialiasing.

Shape shorthand: B images a run, H x W network pixels, Y x X own pixels, K candidate boxes,
C classes, k of them that enter NMS, D detections at most.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import UsageError, naming_extras
from detkit.inference.onnx import SMALLEST_SIDE

THRESHOLDS = ("score_thresh", "nms_thresh")
_LN_2 = math.log(2)
NEVER = -1.0  # a score that no threshold lets pass


class Nodes:
    """A graph's nodes, written one after the other by calls that return the results' names."""

    def __init__(self, prefix: str) -> None:
        """Begin without any; names not given begin with `prefix`."""
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(
        self, operator: str, *inputs: str | NDArray[Any], name: str = "", **attributes: Any
    ) -> str:
        """Return the name of an operator's first result, `name` or a new one.

        Arrays among the inputs become constants; others are names.
        """
        from onnx import helper

        names = [self._named(one) for one in inputs]
        result = name or f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [result], **attributes))
        return result

    def best(self, values: str, number: int) -> tuple[str, str]:
        """Return (values, places) of the `number` largest along the last axis, best first."""
        from onnx import helper

        results = [f"{self.prefix}{len(self.nodes)}{end}" for end in ("", "_places")]
        names = [values, self._named(np.array([number]))]
        self.nodes.append(helper.make_node("TopK", names, results, axis=-1))
        return results[0], results[1]

    def _named(self, value: str | NDArray[Any]) -> str:
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def with_ends(content: bytes, *, raw: bool, nms: bool) -> bytes:
    """Return the file of candidates `content` with more in it.

    With `raw` its input is `pixels`, (B, Y, X, 3) uint8 RGB images of one size, any. With `nms`
    its outputs are `boxes` (B, D, 4) in own pixels, best first, `scores` (B, D), `labels` (B, D)
    int64, and `count` (B,) int64: how many of the D there are; beyond, labels are -1, the rest 0.
    Without `raw` it then has a second input, `image_sizes` (B, 2) int64, own (height, width).
    `score_thresh` and `nms_thresh` are inputs with values of their own, which a run may replace
    where the runtime can.

    Raises UsageError when the detector's NMS is soft, which ONNX has no operator for.
    """
    if not (raw or nms):
        return content
    with naming_extras("ONNX"):
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    model = onnx.load_from_string(content)
    header = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    if nms:
        require_greedy(header["nms_method"])
    graph = model.graph
    batch, _, height, width = _shape(graph.input[0])
    if nms:
        boxes, scores = graph.output
        for one in graph.node:
            one.output[:] = [
                f"detkit_network_{n}" if n in ("boxes", "scores") else n for n in one.output
            ]
            one.input[:] = [
                f"detkit_network_{n}" if n in ("boxes", "scores") else n for n in one.input
            ]
        write = Nodes("detkit_nms_")
        kept = _write_nms(write, header, _shape(boxes), _shape(scores))
        del graph.output[:]
        graph.output.extend(
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (
                ("boxes", TensorProto.FLOAT, [batch, kept, 4]),
                ("scores", TensorProto.FLOAT, [batch, kept]),
                ("labels", TensorProto.INT64, [batch, kept]),
                ("count", TensorProto.INT64, [batch]),
            )
        )
        if not raw:
            graph.input.append(
                helper.make_tensor_value_info("image_sizes", TensorProto.INT64, [batch, 2])
            )
        for name in THRESHOLDS:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
            value = np.array([header[name]], np.float32)
            graph.initializer.append(numpy_helper.from_array(value, name))
        graph.node.extend(write.nodes)
        graph.initializer.extend(write.constants)
    if raw:
        write = Nodes("detkit_raw_")
        _write_preparation(write, header, (height, width))
        nodes, others = [*write.nodes, *graph.node], list(graph.input)[1:]
        del graph.node[:], graph.input[:]
        graph.node.extend(nodes)
        graph.initializer.extend(write.constants)
        pixels = helper.make_tensor_value_info(
            "pixels", TensorProto.UINT8, [batch, "height", "width", 3]
        )
        graph.input.extend([pixels, *others])
    for key, is_there in (("raw", raw), ("nms", nms)):
        model.metadata_props.add(key=key, value=json.dumps(is_there))
    onnx.checker.check_model(model)
    whole: bytes = model.SerializeToString(deterministic=True)
    return whole


def require_greedy(nms_method: str) -> None:
    """Raise UsageError for a detector's way of NMS that ONNX has no operator for."""
    if nms_method != "greedy":
        raise UsageError(
            f"--nms: the model's nms_method is {nms_method}, and ONNX has greedy NMS alone; add "
            "--set nms_method=greedy, or export without --nms"
        )


def _write_preparation(write: Nodes, header: dict[str, Any], size: tuple[Any, Any]) -> None:
    """Write the way from `pixels` to `images` (B, 3, H, W) of `size`, and `image_sizes` (1, 2).

    As `transforms.preparation` goes: bilinear, antialiased as Pillow does it, normalised, and
    zero beyond an image that is fitted in.
    """
    rounded = header["antialias"]
    shape = write("Shape", "pixels")
    sizes = write("Slice", shape, _whole(1), _whole(3))
    sizes = write("Unsqueeze", sizes, _whole(0), name="image_sizes")
    inner = write("Squeeze", _inner_size(write, header, sizes), _whole(0))
    levels = write("Transpose", write("Cast", "pixels", to=1), perm=[0, 3, 1, 2])
    matrices = [
        _triangles(write, write("Gather", shape, np.array(1 + axis)), inner, axis, rounded)
        for axis in (0, 1)
    ]
    # The product with the shorter result first, in Pillow's order: rows, then columns.
    levels = write("MatMul", levels, write("Transpose", matrices[1], perm=[1, 0]))
    if rounded:
        levels = write("Floor", write("Add", levels, _real(0.5)))
    levels = write("MatMul", matrices[0], levels)
    if rounded:
        levels = write("Floor", write("Add", levels, _real(0.5)))
    mean = (255.0 * np.array(header["mean"])).astype(np.float32).reshape(3, 1, 1)
    factor = (1.0 / (255.0 * np.array(header["std"]))).astype(np.float32).reshape(3, 1, 1)
    levels = write("Sub", levels, mean)
    is_whole = header["resize"] == "free" or tuple(header["size"]) == size
    if is_whole and header["resize"] != "fit":
        write("Mul", levels, factor, name="images")
        return
    levels = write("Mul", levels, factor)
    room = write("Sub", np.array(size), write("Cast", inner, to=7))
    write("Pad", levels, write("Concat", np.zeros(6, np.int64), room, axis=0), name="images")


def _inner_size(write: Nodes, header: dict[str, Any], sizes: str) -> str:
    """Return the name of the float (height, width), (1 or B, 2) network pixels, of the images.

    `NetworkSize` of the own `sizes` (1 or B, 2).
    """
    room = np.array([header["size"]], np.float32)
    if header["resize"] == "stretch":
        return write("Identity", room)
    # In float64, as Python reckons: at a half pixel the last digit decides.
    own = write("Cast", sizes, to=11)
    ends = own
    if header["resize"] == "free":  # the shorter side and the longer one
        ends = write(
            "Concat",
            *(write(f"Reduce{end}", own, _whole(-1), keepdims=1) for end in ("Min", "Max")),
            axis=-1,
        )
    scale = write("ReduceMin", write("Div", room.astype(np.float64), ends), _whole(-1), keepdims=1)
    rounded = "Floor" if header["resize"] == "free" else "Round"
    size = write(rounded, write("Mul", own, scale))
    return write("Cast", write("Max", size, np.array([1.0])), to=1)


def _triangles(write: Nodes, own: str, inner: str, axis: int, antialias: bool) -> str:
    """Return the name of the (n, N) weights of N own rows, or columns, in n of the network's.

    Bilinear: of each own pixel one minus its distance in network pixels, or in its own where the
    image grows or is not antialiased; of those inside the image the sum is 1. Antialiased images
    are uint8, of which torch rounds the weights, too: 0.2 % of the grey levels depend on it.
    """
    number = write("Cast", write("Gather", inner, np.array([axis]), axis=0), to=11)
    ratio = write("Div", write("Cast", own, to=11), number)
    places = write("Range", np.array(0), own, np.array(1))
    half = np.array([0.5])
    centres = write("Add", write("Cast", places, to=11), half)
    count = write("Squeeze", write("Cast", number, to=7), _whole(0))
    wanted = write("Cast", write("Range", np.array(0), count, np.array(1)), to=11)
    wanted = write("Mul", write("Add", wanted, half), ratio)
    apart = write("Abs", write("Sub", centres, write("Unsqueeze", wanted, _whole(1))))
    if antialias:
        apart = write("Div", apart, write("Max", ratio, np.array([1.0])))
    weights = write("Max", write("Sub", np.array([1.0]), apart), np.array([0.0]))
    weights = write("Div", weights, write("ReduceSum", weights, _whole(1), keepdims=1))
    if antialias:
        # As many binary digits as let the largest weight be an int16.
        largest = write("Cast", write("ReduceMax", weights, keepdims=0), to=1)
        digits = write("Div", write("Log", write("Div", _real(32767.5), largest)), _real(_LN_2))
        digits = write("Min", write("Sub", write("Ceil", digits), _real(1.0)), _real(22.0))
        one = write("Cast", write("Pow", _real(2.0), digits), to=11)
        weights = write("Floor", write("Add", write("Mul", weights, one), half))
        weights = write("Div", weights, one)
    return write("Cast", weights, to=1)


def _write_nms(
    write: Nodes, header: dict[str, Any], box_shape: list[Any], score_shape: list[Any]
) -> int:
    """Write the way from the candidates to detections; return D.

    As `Detector.detect` goes: of each class what scores above the threshold, of these the best
    `pre_nms_top_k`, NMS, then the best `max_detections` of all classes. Equal scores keep their
    order. The shapes are (B, K, 4) or, of each class its own boxes, (B, K, C, 4); (B, K, C).
    """
    number, classes = score_shape[1:]
    of_class = len(box_shape) == 4
    most = min(header["pre_nms_top_k"], number)
    kept = min(header["max_detections"], most * classes)
    in_order = np.array([1, 0, 1, 0])  # (height, width) to that of x, y, x, y
    own = write("Cast", "image_sizes", to=1)
    if header["resize"] == "free":  # whatever they were resized by
        sides = write("Slice", write("Shape", "images"), _whole(2), _whole(4))
        inner = write("Unsqueeze", write("Cast", sides, to=1), _whole(0))
    else:
        inner = _inner_size(write, header, "image_sizes")
    limits = write("Gather", inner, in_order, axis=1)
    around = write("Unsqueeze", limits, np.array([1, 2] if of_class else [1]))
    inside = write("Min", write("Max", "detkit_network_boxes", _real(0.0)), around)
    starts = write("Slice", inside, _whole(0), _whole(2), _whole(-1))
    ends = write("Slice", inside, _whole(2), _whole(4), _whole(-1))
    least = write("ReduceMin", write("Sub", ends, starts), _whole(-1), keepdims=0)
    is_flat = write("Less", least, _real(SMALLEST_SIDE))
    if not of_class:
        is_flat = write("Unsqueeze", is_flat, _whole(-1))
    scores = write("Where", is_flat, _real(NEVER), "detkit_network_scores")
    top, places = write.best(write("Transpose", scores, perm=[0, 2, 1]), most)  # (B, C, k)
    boxes = inside if header["clip_before_nms"] else "detkit_network_boxes"
    if of_class:
        boxes = write("Transpose", boxes, perm=[0, 2, 1, 3])
        rows = write("Expand", write("Unsqueeze", places, _whole(-1)), np.array([1, 1, 1, 4]))
        boxes = write("GatherElements", boxes, rows, axis=2)
    else:
        rows = write("Reshape", places, np.array([-1, classes * most, 1]))
        rows = write("Expand", rows, np.array([1, 1, 4]))
        boxes = write("GatherElements", boxes, rows, axis=1)
    # Each class of each image is one of NMS's batch: then every class has boxes of its own.
    chosen = write(
        "NonMaxSuppression",
        write("Reshape", boxes, np.array([-1, most, 4])),
        write("Reshape", top, np.array([-1, 1, most])),
        _whole(most),
        "nms_thresh",
        "score_thresh",
    )
    place = write(
        "Add",
        write("Mul", write("Gather", chosen, np.array(0), axis=1), np.array(most)),
        write("Gather", chosen, np.array(2), axis=1),
    )
    ranked = write("Reshape", top, _whole(-1))
    none = write("Add", write("Mul", ranked, _real(0.0)), _real(NEVER))
    left = write("ScatterElements", none, place, write("Gather", ranked, place), axis=0)
    best, places = write.best(write("Reshape", left, np.array([-1, classes * most])), kept)
    there = write("Greater", best, _real(NEVER / 2))
    write("Where", there, best, _real(0.0), name="scores")
    write("Where", there, write("Div", places, np.array(most)), np.array(-1), name="labels")
    write("ReduceSum", write("Cast", there, to=7), _whole(-1), name="count", keepdims=0)
    boxes = write("Reshape", boxes, np.array([-1, classes * most, 4]))
    rows = write("Expand", write("Unsqueeze", places, _whole(-1)), np.array([1, 1, 4]))
    boxes = write("GatherElements", boxes, rows, axis=1)
    borders = write("Unsqueeze", write("Gather", own, in_order, axis=1), _whole(1))
    scale = write("Div", write("Unsqueeze", limits, _whole(1)), borders)
    boxes = write("Min", write("Max", write("Div", boxes, scale), _real(0.0)), borders)
    write("Where", write("Unsqueeze", there, _whole(-1)), boxes, _real(0.0), name="boxes")
    return int(kept)


def _shape(value: Any) -> list[Any]:
    """Return the shape of a graph's input or output; a name where it may vary."""
    return [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]


def _whole(value: int) -> NDArray[np.int64]:
    """Return one whole number as ONNX's operators take their axes."""
    return np.array([value], np.int64)


def _real(value: float) -> NDArray[np.float32]:
    """Return one number in the network's float32."""
    return np.array([value], np.float32)
