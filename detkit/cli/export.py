"""The commands that write a model in another form: for other programs, or smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import Force, Model, Plugin, Quiet, Settings, require_free
from detkit.errors import ExitCode, UsageError
from detkit.inference.models import open_model
from detkit.text import counted

MAX_DROP = 0.01  # of mAP, without --max-drop


def export(
    model: Model,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The ONNX file to write.")
    ],
    nms: Annotated[
        bool,
        typer.Option("--nms", help="End in boxes, scores and labels, in the image's own pixels."),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Begin with pixels: uint8 images of any size, as decoded."),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute in 8 bits; wants --calibrate.")
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="The labelled folder that --int8 learns ranges and tells mAP on."
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help=f"Most mAP that --int8 may cost, else exit code 1. [default: {MAX_DROP:g}]",
        ),
    ] = None,
    verify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATA|IMAGE",
            help="Compare on this, too: a labelled folder, by detections and mAP, an image, a "
            "folder or glob; repeatable.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images that the file takes a run. [default: any number if it can, else 1]",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="any|HxW",
            help="The network's images: of any size, or height x width, into which others are "
            "fitted. [default: any if it can, else its own]",
        ),
    ] = None,
    set_: Settings = None,
    plugin: Plugin = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as ONNX, for programs without torch.

    The file takes images of the network's size, RGB, divided by 255, minus mean, by std; it
    gives boxes (x1, y1, x2, y2) in network pixels and their scores by class, before NMS. Mean,
    std, size, thresholds and class names are in its metadata. With --raw it takes the pixels as
    they are, with --nms it gives final detections. Before it is written its answers are compared
    with the model's on drawn images; beyond 1e-3 the exit code is 3. With a labelled folder to
    verify or calibrate on, stdout has the mAP of both.

    \b
    Examples:
      detkit export run/best.safetensors -o model.onnx
      detkit export run/best.safetensors -o model.onnx --raw --nms --verify photos
      detkit export run/best.safetensors -o small.onnx --raw --nms --int8 --calibrate photos
    """
    from detkit.cli.export_checks import (
        calibration,
        labelled,
        network_input,
        require_parity,
        small_enough,
    )
    from detkit.data.sources import find_images
    from detkit.detector import Detector
    from detkit.files import write_bytes
    from detkit.inference.onnx_ends import require_greedy, with_ends
    from detkit.inference.onnx_export import exported, require_target

    console = Console(quiet)
    require_target(out, force=force)
    if int8 != (calibrate is not None):
        raise UsageError(
            "--int8 needs --calibrate DATA, a labelled folder"
            if int8
            else "--calibrate is for --int8: add it, or leave both out"
        )
    if max_drop is not None and not int8:
        raise UsageError("--max-drop is for --int8: add it, or leave both out")
    wanted = None if size is None else network_input(size)
    load_plugins(plugin)
    detector = open_model(model, "cpu", set_)
    if not isinstance(detector, Detector):
        raise UsageError(f"{model}: is an ONNX file already; name the model it was exported from")
    if nms:
        require_greedy(detector.config.nms_method)
    names = detector.class_names
    small_on = None if calibrate is None else calibration(console, calibrate, names)
    found = [(word, labelled(console, word, names)) for word in verify or ()]
    data = [dataset for _, dataset in found if dataset is not None]
    others = [word for word, dataset in found if dataset is None]
    images = find_images(others) if others else ()
    content, parity = exported(
        detector,
        images=(image.read() for image in images),
        batch_size=batch_size,
        size=wanted,
        name=str(out),
    )
    console.note(
        f"compared with {model} on {counted(parity.num_images, 'image')}: scores differ by at most "
        f"{parity.scores:.2g}, boxes by at most {parity.boxes:.2g} network pixels"
    )
    whole = with_ends(content, raw=raw, nms=nms)
    for dataset in data:
        require_parity(console, detector, whole, dataset, (model, str(out)))
    if small_on is not None:
        limit = MAX_DROP if max_drop is None else max_drop
        small = small_enough(console, content, whole, small_on, limit, raw=raw, nms=nms)
        if small is None:
            raise typer.Exit(ExitCode.NOT_MET)
        whole = small
    write_bytes(out, whole)
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
