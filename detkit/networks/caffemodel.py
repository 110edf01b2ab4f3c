"""Caffe's `.caffemodel` files: the layers that have weights, by name.

Such a file is one protobuf message, `NetParameter` of `caffe.proto`. Read here are the few fields
that hold weights, in all three forms there have been of a layer: `layer`; `layers`, before 2015;
and `layers` with a `layer` in it, of 2013, the form of R-CNN's own files. What a field is called
stands beside its number. The file is mapped, not read, and no code of it is run. protobuf's own
parser would need a description of the messages and hold everything twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError
from detkit.text import counted

LARGEST_FILE = 2**31  # bytes; protobuf's own limit of a message
MOST_FIELDS = 1_000_000  # of all messages together; the largest networks have some thousands
MOST_AXES = 32  # Caffe's own limit of a blob
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf's wire types; 3 and 4 are no more used
RUN = 4096  # numbers that are compared at once where each has a tag of its own


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's name and its blobs, mostly weights and biases: views of the mapped file."""

    name: str
    blobs: tuple[NDArray[Any], ...]  # float32 or float64
    box_sides: tuple[float, ...] = ()  # of SSD's prior boxes: min_size and max_size, in pixels


@dataclass(frozen=True, slots=True)
class CaffeModel:
    """The layers of a file, those without weights too, in their order."""

    layers: tuple[Layer, ...]


class _BrokenFile(ValueError):
    """Why a file cannot be read."""


@dataclass(slots=True)
class _Budget:
    """How many more fields may be read."""

    fields: int = MOST_FIELDS

    def take(self) -> None:
        self.fields -= 1
        if self.fields < 0:
            raise _BrokenFile("it has too many fields")


@dataclass(slots=True)
class _Field:
    """A field: its number, its wire type, and where its content lies; the value of an integer."""

    number: int
    wire: int
    start: int
    stop: int
    value: int = 0


class _Message:
    """A stretch of the file, from `at` to `stop`, that is read field by field."""

    def __init__(self, data: memoryview, at: int, stop: int, budget: _Budget) -> None:
        self.data, self.at, self.stop, self.budget = data, at, stop, budget

    def __iter__(self) -> Iterator[_Field]:
        """Yield the fields, in order."""
        while self.at < self.stop:
            self.budget.take()
            tag = self._varint()
            number, wire, start = tag >> 3, tag & 7, self.at
            value = 0
            if number == 0:
                raise _BrokenFile(f"there is no field at byte {start}")
            if wire == VARINT:
                value = self._varint()
            elif wire == LENGTH:
                length = self._varint()
                start = self.at
                self.at += length
            elif wire in (FIXED32, FIXED64):
                self.at += 4 if wire == FIXED32 else 8
            else:
                raise _BrokenFile(f"there is no field at byte {start}")
            if self.at > self.stop:
                raise _BrokenFile(f"cut short, or damaged at byte {start}")
            yield _Field(number, wire, start, self.at, value)

    def inside(self, field: _Field) -> _Message:
        """Return the message that a field is."""
        if field.wire != LENGTH:
            raise _BrokenFile(f"there is no message at byte {field.start}")
        return _Message(self.data, field.start, field.stop, self.budget)

    def text(self, field: _Field) -> str:
        """Return a field's content as text."""
        return bytes(self.data[field.start : field.stop]).decode("utf-8", "replace")

    def numbers(self, field: _Field, dtype: str) -> NDArray[Any]:
        """Return the floats of a field: packed in one, or it and all like it that follow."""
        width = np.dtype(dtype).itemsize
        if field.wire == LENGTH:
            if (field.stop - field.start) % width:
                raise _BrokenFile(f"no whole number of floats at byte {field.start}")
            return np.frombuffer(self.data[field.start : field.stop], dtype)
        if field.wire != (FIXED32 if width == 4 else FIXED64):
            raise _BrokenFile(f"there are no floats at byte {field.start}")
        first, tag = field.start - 1, self.data[field.start - 1]  # a tag below 16 takes one byte
        count = 0
        while True:
            rows = min(RUN, (self.stop - first) // (width + 1) - count)
            begin = first + count * (width + 1)
            table = np.frombuffer(self.data[begin : begin + rows * (width + 1)], np.uint8)
            alike = table.reshape(rows, width + 1)[:, 0] == tag
            count += rows if alike.all() else int(alike.argmin())
            if rows < RUN or not alike.all():
                break
        self.at = first + count * (width + 1)
        table = np.frombuffer(self.data[first : self.at], np.uint8).reshape(count, width + 1)
        return np.ascontiguousarray(table[:, 1:]).view(dtype)[:, 0]

    def integers(self, field: _Field) -> list[int]:
        """Return the integers of a field: one, or packed."""
        if field.wire == VARINT:
            return [field.value]
        packed, found = self.inside(field), []
        while packed.at < packed.stop:
            self.budget.take()
            found.append(packed._varint())
        return found

    def _varint(self) -> int:
        """Return the integer at `at`, seven bits a byte, the last first, and go behind it."""
        value = shift = 0
        while True:
            if self.at >= self.stop:
                raise _BrokenFile(f"cut short at byte {self.at}")
            if shift > 63:
                raise _BrokenFile(f"there is no number at byte {self.at}")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7


def read_caffemodel(path: Path) -> CaffeModel:
    """Return the layers of a `.caffemodel` file.

    Raises DetkitError for a file that is missing, too large, cut short, or none of Caffe's.
    """
    if not path.is_file():
        raise DetkitError(f"{path}: no such weights file")
    size = path.stat().st_size
    if size >= LARGEST_FILE:
        raise DetkitError(f"{path}: not a Caffe model: {size} bytes are more than one may have")
    if size == 0:
        raise DetkitError(f"{path}: not a readable Caffe model: the file is empty")
    data = np.memmap(path, np.uint8, mode="r").data
    if bytes(data[:4]) == b"\x89HDF":
        raise DetkitError(
            f"{path}: a Caffe model as HDF5; only the usual form, a protobuf file, is read"
        )
    try:
        layers = tuple(_layers(_Message(data, 0, size, _Budget())))
    except _BrokenFile as error:
        raise DetkitError(f"{path}: not a readable Caffe model: {error}") from None
    if not any(layer.blobs for layer in layers):
        raise DetkitError(f"{path}: not a Caffe model: there is no layer with weights in it")
    return CaffeModel(layers)


def _layers(net: _Message) -> Iterator[Layer]:
    """Yield the layers of a NetParameter."""
    for field in net:
        if field.number == 100:  # layer: LayerParameter
            yield _layer(net.inside(field), name=1, blobs=7)
        elif field.number == 2:  # layers: V1LayerParameter
            yield _old_layer(net.inside(field))


def _old_layer(message: _Message) -> Layer:
    """Return the layer of a V1LayerParameter: with a V0LayerParameter in it, that one's."""
    begin, oldest = message.at, None
    for field in message:
        if field.number == 1:  # layer: V0LayerParameter
            oldest = message.inside(field)
    if oldest is not None:
        return _layer(oldest, name=1, blobs=50)
    message.at = begin
    return _layer(message, name=4, blobs=6)


def _layer(message: _Message, *, name: int, blobs: int) -> Layer:
    """Return a layer whose name and blobs have these numbers."""
    called, found = "", []
    sides: list[float] = []
    for field in message:
        if field.number == name:
            called = message.text(field)
        elif field.number == blobs:
            found.append(_blob(message.inside(field), called))
        elif field.number == 203:  # prior_box_param, SSD's alone
            inner = message.inside(field)
            for side in inner:
                if side.number in (1, 2):
                    sides += inner.numbers(side, "<f4").tolist()
    return Layer(called, tuple(found), tuple(sides))


def _blob(message: _Message, layer: str) -> NDArray[Any]:
    """Return the values of a BlobProto in their shape."""
    shape: list[int] | None = None
    legacy = {1: 0, 2: 0, 3: 0, 4: 0}  # num, channels, height, width
    parts: list[NDArray[Any]] = []
    for field in message:
        if field.number in legacy and field.wire == VARINT:
            legacy[field.number] = field.value
        elif field.number == 5:  # data
            parts.append(message.numbers(field, "<f4"))
        elif field.number == 8:  # double_data
            parts.append(message.numbers(field, "<f8"))
        elif field.number == 7:  # shape: BlobShape
            inner = message.inside(field)
            shape = [side for dim in inner if dim.number == 1 for side in inner.integers(dim)]
    sides = list(legacy.values()) if shape is None else shape
    if len(sides) > MOST_AXES:
        raise _BrokenFile(f"a blob of layer {layer!r} has {len(sides)} axes")
    values = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, "<f4"), *parts])
    if math.prod(sides) != len(values):
        wanted = " x ".join(map(str, sides))
        stored = counted(len(values), "value")
        raise _BrokenFile(f"layer {layer!r} has {stored} for a shape of {wanted}")
    return values.reshape(sides)
