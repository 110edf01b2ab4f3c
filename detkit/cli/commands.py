"""The table of commands, each read from its file when it is called: `detkit --help` reads none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from detkit.cli.guard import guarded

# Name, the function behind it, and the first line of its help: the order is the help's.
COMMANDS = {
    "demo": ("data:demo", "Write a small labelled folder to try everything on."),
    "check": ("check:check", "Find the mistakes in a labelled folder."),
    "train": ("train:train", "Train a detector on a labelled folder."),
    "eval": ("evaluate:evaluate", "Score a model, or any tool's detections."),
    "detect": ("detect:detect", "Find objects in images, videos and streams."),
    "compare": ("compare:compare", "Compare models on one labelled folder."),
    "enough": ("enough:enough", "Say what more images or minutes would bring."),
    "label": ("label:label", "Draw boxes on images, on a page in the browser."),
    "next": ("next:next_images", "List the images to label next."),
    "suspects": ("suspects:suspects", "List the labels that are probably wrong."),
    "convert": ("data:convert", "Write a labelled folder, or several as one, in another format."),
    "split": ("data:split", "Divide a labelled folder into train, val and test."),
    "propose": ("propose:propose", "Propose boxes that may hold an object."),
    "recall": ("propose:recall", "Measure how many objects proposals cover."),
    "anchors": ("anchors:anchors", "Estimate anchors for the objects of a labelled folder."),
    "merge": ("shards:merge", "Put the parts together that --shard I/N has written."),
    "export": ("export:export", "Write a model as ONNX, for programs without torch."),
    "compress": (
        "export:compress",
        "Make a model's fully connected layers shorter by truncated SVD.",
    ),
    "plot": ("plot:plot", "Draw the learning curve of a run."),
    "models": ("models:models", "List backends, backbones and settings."),
    "schema": ("schema:schema", "Print the JSON Schema of a command's output."),
}

# What `typer.Typer.command` is told besides, of commands that need it.
TRAITS: Mapping[str, Mapping[str, Any]] = {
    "compare": {"context_settings": {"allow_extra_args": True}},
}


class LazyCommands(Mapping[str, Any]):
    """Commands by name, made when they are asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return the command `name`. Raises KeyError for a name that is none."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the commands."""
        return iter(COMMANDS)

    def __len__(self) -> int:
        """Return how many commands there are."""
        return len(COMMANDS)

    def _make(self, name: str) -> Any:
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        traits = TRAITS.get(name, {})
        single.command(name, cls=NamingFormats, **traits)(guarded(function_of(name), name))
        return get_command(single)


def function_of(name: str) -> Any:
    """Return the function behind a command. Raises KeyError for a name that is none."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(f"detkit.cli.{module}"), function)


class NamingFormats(TyperCommand):
    """A command whose help names the label formats, asked for then: reading them takes time."""

    def format_help(self, *args: Any) -> None:
        """Write the help text, with the names of the formats instead of FORMATS."""
        for option in self.params:
            text = getattr(option, "help", None)
            if isinstance(option, TyperOption) and text and "FORMATS" in text:
                from detkit.data.formats.reading import FORMATS

                *names, last = [form.name for form in FORMATS if form.write is not None]
                option.help = text.replace("FORMATS", f"{', '.join(names)} or {last}")
        super().format_help(*args)


class CommandGroup(TyperGroup):
    """`detkit` itself."""

    def __init__(self, **attributes: Any) -> None:
        """Make a group of the commands in the table."""
        super().__init__(**attributes)
        self.commands: Any = LazyCommands()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the help."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with its line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])
