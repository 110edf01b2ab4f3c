"""The commands, their arguments and options as JSON values: for programs and shell tools."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from typer.core import TyperOption

from detkit import __version__

TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}


def tree_of(group: Any, callbacks: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """Return the command's own options, and every sub-command's arguments and options.

    `callbacks` are the functions behind the sub-commands, "" that of the command itself.
    """
    return {
        "name": group.name,
        "version": __version__,
        "help": inspect.cleandoc(group.help or ""),
        "options": _parameters(group, callbacks[""])[1],
        "commands": [_command(name, one, callbacks[name]) for name, one in group.commands.items()],
    }


def _command(name: str, command: Any, callback: Callable[..., Any]) -> dict[str, Any]:
    arguments, options = _parameters(command, callback)
    return {
        "name": name,
        "help": inspect.cleandoc((command.help or "").replace("\b", "")),
        "arguments": arguments,
        "options": options,
    }


def _parameters(
    command: Any, callback: Callable[..., Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a command's arguments and its options, `--help` left out."""
    hints = get_type_hints(callback, include_extras=True)
    arguments: list[dict[str, Any]] = []
    options: list[dict[str, Any]] = []
    for one in command.params:
        if one.name not in hints:  # what typer adds to the command
            continue
        is_option = isinstance(one, TyperOption)
        values = _parameter(one, command.name, hints[one.name], is_option)
        (options if is_option else arguments).append(values)
    return arguments, options


def _parameter(one: Any, command: str, hint: Any, is_option: bool) -> dict[str, Any]:
    """Return an option or argument; `type` is that of one of its values."""
    kind, info = _type_of(hint)
    choices = _choices(command, one.name)
    text = one.help or ""
    if "FORMATS" in text and choices:
        text = text.replace("FORMATS", f"{', '.join(choices[:-1])} or {choices[-1]}")
    default = one.default
    name = one.opts[0]
    if is_option:  # the first long one, before others of the same meaning
        name = next((opt for opt in one.opts if opt.startswith("--")), name)
    shown: dict[str, Any] = {
        "name": name,
        "type": TYPES[kind],
        "metavar": one.metavar,
        "required": bool(one.required),
        "repeatable": bool(getattr(one, "multiple", False)) or one.nargs == -1,
        "default": str(default) if isinstance(default, Path) else default,
        "choices": choices,
        "minimum": getattr(info, "min", None),
        "maximum": getattr(info, "max", None),
        "help": text,
    }
    if is_option:
        shown |= {"names": [*one.opts], "off": [*one.secondary_opts], "flag": bool(one.is_flag)}
    return shown


def _type_of(hint: Any) -> tuple[Any, Any]:
    """Return the type of one value of an annotated parameter, and what typer knows of it."""
    info = None
    if get_origin(hint) is Annotated:
        hint, info, *_ = get_args(hint)
    while get_origin(hint) in (Union, types.UnionType, list):
        hint = next(one for one in get_args(hint) if one is not type(None))
    return hint, info


def _choices(command: str, name: str) -> list[str] | None:
    """Return the values that an option takes, where it takes no others."""
    if name == "metric":
        from detkit.evaluation.metrics import METRICS

        return list(METRICS)
    if name == "to":
        from detkit.data.formats.reading import FORMATS

        return [one.name for one in FORMATS if one.write is not None]
    if (command, name) == ("detect", "form"):
        from detkit.predictions.writers import FORMATS as WRITTEN

        return ["table", *WRITTEN]
    return None
