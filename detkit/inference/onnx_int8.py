"""ONNX files quantised to 8 bits by onnxruntime's own quantiser, calibrated on images.

Convolutions and products compute in int8, by scales of each channel; what decodes boxes and
scores stays float32. Jacob et al. 2018 (arXiv:1712.05877) has the arithmetic.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DetkitError, naming_extras
from detkit.inference.onnx import OnnxDetector, first_line
from detkit.structures import FloatArray

QUANTISED = ["Conv", "Gemm", "MatMul"]


def quantised(content: bytes, images: Iterable[NDArray[np.uint8]]) -> bytes:
    """Return the float file of candidates `content` in 8 bits.

    The range of each activation is what it is on the (Y, X, 3) uint8 RGB `images`. Weights take 7
    bits: on processors without int8 products of their own, sums of 8 bits overflow. Raises
    DetkitError when there is no image, or the quantiser cannot take the network.
    """
    with naming_extras("ONNX"):
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    network = OnnxDetector(content)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Gives the quantiser one image after the other."""

        def __init__(self) -> None:
            self.inputs = _network_inputs(network, images)

        def get_next(self) -> dict[str, FloatArray] | None:
            return next(self.inputs, None)

    reader = Reader()
    first = reader.get_next()
    if first is None:
        raise DetkitError("--calibrate: there is no image to calibrate on")
    reader.inputs = _with(first, reader.inputs)
    with tempfile.TemporaryDirectory() as folder, _without_remarks():
        paths = [Path(folder) / name for name in ("float.onnx", "ready.onnx", "int8.onnx")]
        paths[0].write_bytes(content)
        try:
            quant_pre_process(str(paths[0]), str(paths[1]), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(paths[1]),
                str(paths[2]),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except DetkitError:  # of an image
            raise
        except Exception as error:  # its parts each raise errors of their own
            raise DetkitError(
                f"onnxruntime cannot quantise the network: {first_line(error)}"
            ) from error
        before, after = onnx.load_from_string(content), onnx.load(paths[2])
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    whole: bytes = after.SerializeToString(deterministic=True)
    return whole


def _network_inputs(
    network: OnnxDetector, images: Iterable[NDArray[np.uint8]]
) -> Iterator[dict[str, FloatArray]]:
    """Yield the inputs of runs of one image each, as many times as a run takes images."""
    for image in images:
        pixels = network.padded(network.prepare_image(image).images)
        yield {"images": pixels.repeat(network.at_once or 1, axis=0)}


def _with(
    first: dict[str, FloatArray], rest: Iterator[dict[str, FloatArray]]
) -> Iterator[dict[str, FloatArray]]:
    yield first
    yield from rest


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Return a block without the quantiser's remarks, which go to the root of all logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
