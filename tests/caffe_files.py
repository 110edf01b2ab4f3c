"""Caffe's model files, written from the messages of its `caffe.proto` by Google's protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

Arrays = Sequence[NDArray[Any]]
OPTIONAL, REPEATED = 1, 3
DOUBLE, FLOAT, INT64, INT32, STRING, MESSAGE = 1, 2, 3, 5, 9, 11
# Fields of each message: number, name, label, type, and of what message.
MESSAGES = {
    "BlobShape": [(1, "dim", REPEATED, INT64)],
    "BlobProto": [
        (7, "shape", OPTIONAL, MESSAGE, "BlobShape"),
        (5, "data", REPEATED, FLOAT),
        (6, "diff", REPEATED, FLOAT),
        (8, "double_data", REPEATED, DOUBLE),
        *[(n + 1, side, OPTIONAL, INT32) for n, side in enumerate(("num", "channels"))],
        *[(n + 3, side, OPTIONAL, INT32) for n, side in enumerate(("height", "width"))],
    ],
    "PriorBoxParameter": [(1, "min_size", REPEATED, FLOAT), (2, "max_size", REPEATED, FLOAT)],
    "LayerParameter": [
        (1, "name", OPTIONAL, STRING),
        (2, "type", OPTIONAL, STRING),
        (3, "bottom", REPEATED, STRING),
        (4, "top", REPEATED, STRING),
        (7, "blobs", REPEATED, MESSAGE, "BlobProto"),
        (203, "prior_box_param", OPTIONAL, MESSAGE, "PriorBoxParameter"),
    ],
    "V0LayerParameter": [
        (1, "name", OPTIONAL, STRING),
        (2, "type", OPTIONAL, STRING),
        (50, "blobs", REPEATED, MESSAGE, "BlobProto"),
    ],
    "V1LayerParameter": [
        (1, "layer", OPTIONAL, MESSAGE, "V0LayerParameter"),
        (2, "bottom", REPEATED, STRING),
        (4, "name", OPTIONAL, STRING),
        (5, "type", OPTIONAL, INT32),
        (6, "blobs", REPEATED, MESSAGE, "BlobProto"),
    ],
    "NetParameter": [
        (1, "name", OPTIONAL, STRING),
        (2, "layers", REPEATED, MESSAGE, "V1LayerParameter"),
        (3, "input", REPEATED, STRING),
        (4, "input_dim", REPEATED, INT32),
        (100, "layer", REPEATED, MESSAGE, "LayerParameter"),
    ],
}
PACKED = {"dim", "data", "diff", "double_data"}


@cache
def messages(packed: bool = True) -> Mapping[str, Any]:
    """Return the classes of the messages; without `packed` each number has a tag of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for number, name, label, kind, *of in fields:
            field = made.field.add(name=name, number=number, label=label, type=kind)
            if of:
                field.type_name = f".caffe.{of[0]}"
            if name in PACKED:
                field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"caffe.{name}")) for name in MESSAGES}


def write(
    path: Path,
    layers: Mapping[str, Arrays],
    *,
    form: str = "layer",
    legacy: bool = False,
    packed: bool = True,
    double: bool = False,
    sides: Mapping[str, tuple[float, float]] | None = None,
) -> Path:
    """Write a network of these layers' blobs; `form` is `layer`, `layers` or `oldest`.

    `legacy` blobs have num, channels, height and width instead of a shape. `sides` are those of
    SSD's prior boxes.
    """
    net = messages(packed)["NetParameter"](name="made up", input=["data"], input_dim=[1, 3, 9, 9])
    for name, blobs in layers.items():
        if form == "layer":
            layer = net.layer.add(name=name, type="Convolution", bottom=["data"], top=[name])
        elif form == "layers":
            layer = net.layers.add(name=name, type=4, bottom=["data"])
        else:
            layer = net.layers.add(bottom=["data"]).layer
            layer.name, layer.type = name, "conv"
        for values in blobs:
            blob = layer.blobs.add()
            if legacy:
                whole = (1,) * (4 - values.ndim) + values.shape
                blob.num, blob.channels, blob.height, blob.width = whole
            else:
                blob.shape.dim.extend(values.shape)
            getattr(blob, "double_data" if double else "data").extend(values.ravel().tolist())
            blob.diff.extend([7.0])
    for name, (least, most) in (sides or {}).items():
        prior = net.layer.add(name=name, type="PriorBox").prior_box_param
        prior.min_size.append(least)
        prior.max_size.append(most)
    path.write_bytes(net.SerializeToString())
    return path


def varint(number: int) -> bytes:
    """Return an integer as protobuf writes it."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes, text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def write_large(
    path: Path,
    layers: Mapping[str, Arrays],
    sides: Mapping[str, tuple[float, float]] | None = None,
) -> Path:
    """Write what `write` does in the form of today, byte by byte: protobuf takes minutes."""
    with path.open("wb") as file:
        file.write(field(1, b"made up"))
        for name, blobs in layers.items():
            content = field(1, name.encode()) + field(2, b"Convolution")
            for values in blobs:
                shape = field(1, b"".join(map(varint, values.shape)))
                content += field(7, field(7, shape) + field(5, values.astype("<f4").tobytes()))
            file.write(field(100, content))
        for name, pair in (sides or {}).items():
            least, most = (np.float32(side).tobytes() for side in pair)
            prior = varint(1 << 3 | 5) + least + varint(2 << 3 | 5) + most
            file.write(field(100, field(1, name.encode()) + field(203, prior)))
    return path
