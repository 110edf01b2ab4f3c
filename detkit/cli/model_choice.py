"""Plugins, proposals and threads of a command's model: `--plugin`, `--proposals`, `--threads`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.cli.console import Console
from detkit.errors import UsageError

if TYPE_CHECKING:
    from detkit.proposals.source import MayTakeProposals, ProposalSource


def choose_threads(console: Console, asked: int | None, model: str, device: str) -> int | None:
    """Return how many CPU threads a model is to compute on, saying why; None on other devices."""
    from detkit import machine

    most = None
    if Path(model).suffix != ".onnx":  # which needs no torch
        import torch

        from detkit.networks.precision import find_device

        if asked is None and find_device(device).type != "cpu":
            return None
        most = torch.get_num_threads()
    threads, reason = machine.choose_threads(asked, most)
    console.note(reason)
    return threads


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
