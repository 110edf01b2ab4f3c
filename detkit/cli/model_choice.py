"""Plugins, proposals and threads of a command's model: `--plugin`, `--proposals`, `--threads`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.cli.console import Console
from detkit.errors import UsageError
from detkit.inference.models import open_model

if TYPE_CHECKING:
    from detkit.inference.predict import Finder
    from detkit.proposals.source import MayTakeProposals, ProposalSource


def open_on_free_cores(
    console: Console,
    model: str,
    device: str,
    settings: Sequence[str] | None,
    precision: str,
    threads: int | None,
) -> Finder[Any]:
    """Return the model opened as by `open_model`, saying on how many CPU threads it computes.

    That is `threads`, or one for each core that is free now.
    """
    from detkit import machine

    most = None
    if Path(model).suffix != ".onnx":  # which needs no torch
        import torch

        from detkit.networks.precision import find_device

        if threads is None and find_device(device).type != "cpu":
            return open_model(model, device, settings, precision)
        most = torch.get_num_threads()
    chosen, reason = machine.choose_threads(threads, most)
    detector = open_model(model, device, settings, precision, threads=chosen)
    console.note(reason)
    return detector


def load_plugins(plugins: Sequence[str] | None) -> None:
    """Make the detectors of `--plugin` known as backends."""
    from detkit.detectors import add_plugin

    for name in plugins or ():
        add_plugin(name)


def open_proposals(word: str | None, detector: MayTakeProposals) -> ProposalSource | None:
    """Return the source that `--proposals` names for a detector; None when it was not given.

    Raises UsageError when the detector takes none or there is no such file or method.
    """
    if word is None:
        return None
    from detkit.config import ProposalConfig
    from detkit.proposals.source import open_source, source_for

    if detector.proposal_method is None:
        raise UsageError(f"--proposals {word}: {detector.name} finds its boxes itself")
    config = detector.config
    return source_for(
        detector, open_source(word, config if isinstance(config, ProposalConfig) else None)
    )
