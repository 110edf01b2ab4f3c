"""The command that writes a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli.model_choice import load_plugins, open_model
from detkit.cli.options import Force, Plugin, Quiet
from detkit.console import Console


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file, or a name: ssd300-coco.")
    ],
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
    from detkit.export import export_onnx, require_target
    from detkit.inference import find_images

    console = Console(quiet)
    require_target(out, force=force)
    load_plugins(plugin)
    images = find_images(verify) if verify else ()
    detector = open_model(model, "cpu")
    parity = export_onnx(
        detector,
        out,
        images=(image.read() for image in images),
        batch_size=batch_size,
        force=force,
    )
    console.note(
        f"compared with {model} on {parity.num_images} images: scores differ by at most "
        f"{parity.scores:.2g}, boxes by at most {parity.boxes:.2g} network pixels"
    )
    console.note(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
