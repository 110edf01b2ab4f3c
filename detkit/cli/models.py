"""The command that lists what there is to choose from: backends, backbones, settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli.console import Console
from detkit.cli.model_choice import load_plugins
from detkit.cli.options import AsJson, Plugin, nearest
from detkit.errors import is_installed

if TYPE_CHECKING:
    from detkit.detector import Detector


def models(
    backend: Annotated[
        str | None, typer.Argument(metavar="BACKEND", help="List this backend's settings.")
    ] = None,
    as_json: AsJson = False,
    plugin: Plugin = None,
) -> None:
    """List backends, backbones and settings.

    With a BACKEND: its settings and where each default comes from.
    Every setting listed is a key of `detkit train --set key=value`.

    \b
    Examples:
      detkit models
      detkit models ssd
      detkit models --json | jq '.backends[].name'
    """
    from detkit.detectors import backend_names, load_backend, synopsis

    load_plugins(plugin)
    if backend is not None:
        nearest("BACKEND", backend, backend_names())
    console = Console()
    if backend is None and not as_json and not is_installed("torch"):
        console.table(
            ("backend", "what it is"), [(name, synopsis(name)) for name in backend_names()]
        )
        console.note('their papers, weights and settings need PyTorch: pip install "detkit[train]"')
        return
    from detkit.networks.backbones import backbone_names

    names = backend_names() if backend is None else [backend]
    backends = [load_backend(name) for name in names]
    if as_json:
        report = {
            "backends": [_described(one) for one in backends],
            "backbones": backbone_names(),
        }
        console.data(json.dumps(report, indent=2, ensure_ascii=False))
        return
    if backend is not None:
        _tell_settings(console, backends[0])
        return
    rows = [(one.name, one.paper, ", ".join(one.published) or "-") for one in backends]
    console.table(("backend", "paper", "weights ready to use"), rows)
    console.data(f"\nbackbones: {', '.join(backbone_names())}, and timm:NAME")
    console.data("`detkit models BACKEND` lists its settings and where each default comes from")


def _settings(backend: type[Detector]) -> list[tuple[str, str, Any, str]]:
    """Return (group, key, default, source) of every setting; short and paper recipes apart."""
    import dataclasses

    from detkit.config import THE_RECIPE, Recipe, describe

    rows = [("detector", *row) for row in describe(backend.config_class)]
    for group, recipe in (("short", backend.short_recipe), ("paper", backend.recipe)):
        for field in dataclasses.fields(Recipe):
            source = str(field.metadata["source"])
            value = getattr(recipe, field.name)
            if group == "short" and value != field.default:
                source = "ours: `--recipe short`"
            elif source == THE_RECIPE or value != field.default:
                source = backend.recipe_source
            rows.append((f"recipe {group}", field.name, value, source))
    return rows


def _described(backend: type[Detector]) -> dict[str, Any]:
    """Return what `models --json` says of a backend."""
    return {
        "name": backend.name,
        "paper": backend.paper,
        "published": list(backend.published),
        "settings": [
            {"group": group, "key": key, "default": default, "source": source}
            for group, key, default, source in _settings(backend)
        ],
    }


def _tell_settings(console: Console, backend: type[Detector]) -> None:
    """Write a backend's settings for people."""
    console.data(f"{backend.name}: {backend.paper}\n")
    rows = _settings(backend)
    detector = [row[1:] for row in rows if row[0] == "detector"]
    console.table(
        ("setting", "default", "where it comes from"),
        [(key, _shown(default), source) for key, default, source in detector],
    )
    short = {row[1]: row for row in rows if row[0] == "recipe short"}
    paper = [row for row in rows if row[0] == "recipe paper"]
    console.data("")
    console.table(
        ("training", "short", "paper", "where the paper's comes from"),
        [(key, _shown(short[key][2]), _shown(value), source) for _, key, value, source in paper],
    )


def _shown(value: Any) -> str:
    if value == "" or value == ():
        return "-"
    if isinstance(value, tuple):
        return ",".join(_shown(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
