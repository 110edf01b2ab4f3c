"""The command that serves a page to label images on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli.console import Console
from detkit.cli.options import Quiet, class_list, nearest
from detkit.errors import ExitCode, UsageError, is_installed
from detkit.text import counted

if TYPE_CHECKING:
    from detkit.labelling.desk import Desk
    from detkit.labelling.session import Session
    from detkit.labelling.suggestions import Drafts

PROPOSALS = ("auto", "edge-boxes", "selective-search", "none")


def label(
    photos: Annotated[
        Path, typer.Argument(metavar="PHOTOS", help="A folder of images, or a labelled folder.")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="OUT", help="The labelled folder to write."),
    ],
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="The classes to begin with; the page adds others."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="voc, yolo or coco. [default: as before; voc]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Pre-labels to accept: a model file, a run folder or a name."
        ),
    ] = None,
    proposals: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="Boxes to snap to: edge-boxes, selective-search, none; auto: edge-boxes where "
            "there is no model.",
        ),
    ] = "auto",
    every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Train on what is labelled after each N new images, in the background. "
            "[default: never]",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0: any that is free.")
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Open no browser; the address is printed.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Draw boxes on images, on a page in the browser.

    The page is served on this machine alone. Each change is on disk when the page says "saved",
    and OUT is a labelled folder that `detkit train OUT` takes at once: the images that are
    labelled are copied there. PHOTOS is never written to. The same command goes on the next day.
    Of a labelled folder OUT is a corrected copy.

    The address goes to stderr and, where stdout is no terminal, there, too. Ctrl-C ends it.

    \b
    Examples:
      detkit label photos -o labels --classes car,person
      detkit label photos -o labels --model run --every 50
      detkit label labelled -o corrected --to coco
    """
    from detkit.labelling.photos import open_photos
    from detkit.labelling.server import LabelServer, serving
    from detkit.labelling.session import Session

    console = Console(quiet)
    nearest("--proposals", proposals, PROPOSALS)
    _require_packages(model, proposals, every)
    images = open_photos(photos)
    for note in images.notes:
        console.note(note)
    for warning in images.warnings:
        console.warn(warning)
    with console.counting("copying") as progress:
        session = Session(images, out, to=to, classes=class_list(classes), progress=progress)
    if images.dataset is not None and session.is_new:
        from detkit.data.convert import losses

        for loss in losses(images.dataset, session.form):
            console.warn(f"{out}: {loss}")
    try:
        desk = _desk(session, model, proposals, every)
        server = LabelServer(desk, port)
    except BaseException:
        session.close()
        raise
    thread = serving(server)
    try:
        session.tell_address(server.address)
        _tell_start(console, session, server.address, no_open=no_open)
        while thread.is_alive():
            thread.join(1.0)
    except KeyboardInterrupt:
        pass
    finally:
        server.shutdown()
        server.server_close()
        desk.close()
    _tell_end(console, session, photos)
    raise typer.Exit(ExitCode.INTERRUPTED)


def _require_packages(model: str | None, proposals: str, every: int | None) -> None:
    """Raise at once what would be missing later: a model's file, packages of the extras."""
    from detkit.errors import require_installed

    if model is not None:
        from detkit.inference.models import require_model, require_published

        require_model(model)
        require_installed("onnxruntime" if model.endswith(".onnx") else "torch")
        require_published(model)
    if every is not None:
        require_installed("torch", "lightning_fabric")
    if proposals not in ("auto", "none"):
        require_installed("numba")


def _desk(session: Session, model: str | None, proposals: str, every: int | None) -> Desk:
    """Return what answers the page: the session, with what finds boxes and trains beside it."""
    from detkit.labelling.desk import Desk
    from detkit.labelling.ordering import LabelOrder
    from detkit.labelling.retraining import Retraining, latest_model
    from detkit.labelling.suggestions import Suggestions, proposals_by

    if model is None and every is not None:
        earlier = latest_model(session.hidden)
        model = None if earlier is None else str(earlier)
    paths = {number: one.photo.path for number, one in session.known.items()}
    order = LabelOrder(session)
    found: Drafts | None = None
    boxes = retraining = None
    if model is not None or every is not None:
        from detkit.labelling.suggestions import Drafts

        found = Drafts(model, paths, session.note_change, session.offer_classes, order)
    if proposals == "auto":
        proposals = "edge-boxes" if model is None and is_installed("numba") else "none"
    if proposals != "none":
        boxes = Suggestions(paths, proposals_by(proposals), session.note_change)
    if every is not None and found is not None:
        backend, weights = _start_of(model)
        retraining = Retraining(session, every, backend, weights, found.take)
    return Desk(session, order, drafts=found, proposals=boxes, retraining=retraining)


def _start_of(model: str | None) -> tuple[str, str]:
    """Return the backend to train and the weights to start from; SSD's where there is no model.

    Raises UsageError for a model that no training starts from.
    """
    if model is None:
        return "ssd", "none"
    from detkit.inference.models import model_of, published
    from detkit.model_file import is_model, model_info

    if Path(model).exists():
        path = model_of(Path(model))
        if not is_model(path):
            raise UsageError(f"--every: no training starts from {path}; give detkit's own model")
        return model_info(path)["backend"], str(path)
    return published()[model].name, model


def _tell_start(console: Console, session: Session, address: str, *, no_open: bool) -> None:
    """Say where the page is, and open it."""
    images = counted(len(session.known), "image")
    console.note(f"{session.photos.root}: {images}, {session.num_labelled} of them labelled")
    console.note(f"{session.out}: the labels, as {session.form}; Ctrl-C ends")
    sys.stderr.write(f"{address}\n")
    sys.stderr.flush()
    if not sys.stdout.isatty():
        console.data(address)
        sys.stdout.flush()
    if not no_open:
        import webbrowser

        if not webbrowser.open(address):
            console.note("no browser was found: open the address above in one")


def _tell_end(console: Console, session: Session, source: Path) -> None:
    """Say what is saved, and what to type next."""
    from detkit.files import shell_word

    new = session.num_labelled - session.num_at_start
    images = counted(session.num_labelled, "labelled image")
    more = f", {new} of them new" if new > 0 else ""
    console.note(f"{session.out}: {images}{more}; all is saved")
    folder, photos = shell_word(session.out), shell_word(source)
    console.note(f"  detkit label {photos} -o {folder}    goes on")
    if session.num_labelled:
        console.note(f"  detkit check {folder}")
        console.note(f"  detkit train {folder} --model ssd -o run")
