"""The commands that write a model in another form: for other programs, or smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import Force, Model, Plugin, Quiet, require_free
from detkit.errors import UsageError
from detkit.inference.models import open_model
from detkit.text import counted


def export(
    model: Model,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The ONNX file to write.")
    ],
    verify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE",
            help="Compare on this image, folder or glob too; repeatable.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images that the file takes a run.")
    ] = 1,
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as ONNX, for programs without torch.

    The file takes images of the network's size, RGB, divided by 255, minus mean, by std; it
    gives boxes (x1, y1, x2, y2) in network pixels and their scores by class, before NMS. Mean,
    std, size, thresholds and class names are in its metadata. Before it is written its answers
    are compared with the model's on drawn images; beyond 1e-3 the exit code is 3.

    \b
    Examples:
      detkit export run/best.safetensors -o model.onnx
      detkit export run/best.safetensors -o model.onnx --verify photos
    """
    from detkit.data.sources import find_images
    from detkit.detector import Detector
    from detkit.inference.onnx_export import export_onnx, require_target

    console = Console(quiet)
    require_target(out, force=force)
    load_plugins(plugin)
    images = find_images(verify) if verify else ()
    detector = open_model(model, "cpu")
    if not isinstance(detector, Detector):
        raise UsageError(f"{model}: is an ONNX file already; name the model it was exported from")
    parity = export_onnx(
        detector,
        out,
        images=(image.read() for image in images),
        batch_size=batch_size,
        force=force,
    )
    console.note(
        f"compared with {model} on {counted(parity.num_images, 'image')}: scores differ by at most "
        f"{parity.scores:.2g}, boxes by at most {parity.boxes:.2g} network pixels"
    )
    console.note(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def compress(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file.")],
    svd: Annotated[
        str,
        typer.Option(
            metavar="N,N", help="Singular values kept of fc6 and of fc7; 0 leaves a layer whole."
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The model file to write.")
    ],
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Make a model's fully connected layers shorter by truncated SVD.

    For Fast and Faster R-CNN (Fast R-CNN, sec. 3.1: VGG16 with 1024,256 detects in 30 % less
    time at .3 points of mAP). The new file is a model like the old one; its time and mAP are
    for you to measure: detkit detect --timing, detkit eval.

    \b
    Examples:
      detkit compress run/best.safetensors --svd 128,64 -o small.safetensors
      detkit eval small.safetensors photos
    """
    from detkit.inference.models import load_model
    from detkit.model_file import model_info, save_model

    console = Console(quiet)
    require_free("-o", out, force=force)
    load_plugins(plugin)
    words = svd.split(",")
    if len(words) != 2 or not all(word.strip().isdigit() for word in words):
        raise UsageError(f"--svd {svd}: expected two numbers, like --svd 1024,256")
    detector = load_model(model)
    shorter = detector.compressed((int(words[0]), int(words[1])))
    save_model(out, shorter, data_hash=model_info(model)["data_hash"])
    before, after = (sum(p.numel() for p in one.parameters()) for one in (detector, shorter))
    console.note(f"{out}: {after / 1e6:.2f} million parameters of {before / 1e6:.2f}")
