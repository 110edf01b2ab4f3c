"""Texts of other people's files as messages show them."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

import detkit
from detkit.text import agreed, counted, is_plain, nearest_hint, nearest_name, printable, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b.jpg", "a b.jpg"),
        ("Straße\u00a0車 👩‍🚒", "Straße\u00a0車 👩‍🚒"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2Jred\x9b", r"\x1b[2Jred\x9b"),
        (b"\xff\xfe.jpg".decode("utf-8", "surrogateescape"), r"\xff\xfe.jpg"),
        ("\ud800x", r"\ud800x"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_a_line_cannot_hold_is_shown_as_an_escape_and_the_rest_as_it_is(
    text: str, shown: str
) -> None:
    assert printable(text) == shown
    assert is_plain(text) == (text == shown)
    assert is_plain(shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("car", "'car'"),
        ([1, 2.5, "3", None], "[1, 2.5, '3', None]"),
        ("c\x01", r"'c\x01'"),
        ({"id": 3, "name": ""}, "{'id': 3, 'name': ''}"),
    ],
)
def test_a_small_value_is_shown_whole(value: object, shown: str) -> None:
    assert short(value) == shown


def test_a_value_that_is_endless_when_written_out_is_shown_short_and_at_once() -> None:
    nested: object = ["a"]
    for _ in range(40):
        nested = [nested] * 9
    began = time.monotonic()
    for value in (nested, {"a": nested}, "x" * 10**7, 10**4000, [10**400] * 9, {1: "y" * 999}):
        assert len(short(value)) <= 60
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cra", "did you mean car?"),
        ("CAR", "did you mean car?"),
        ("stret", "did you mean Street?"),
        ("zebra crossing", "choose from car, Street"),
    ],
)
def test_the_nearest_name_is_named_whatever_its_case_or_what_else_to_do(
    name: str, hint: str
) -> None:
    assert nearest_hint(name, ("car", "Street"), "choose from car, Street") == hint


def test_how_alike_a_name_must_be_can_be_asked_for() -> None:
    assert nearest_name("tree", ["street"]) == "street"
    assert nearest_name("tree", ["street"], cutoff=0.9) is None
    assert nearest_name("tree", []) is None


@pytest.mark.parametrize(
    ("number", "noun", "told"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "image", "2 images"),
        (1, "box", "1 box"),
        (2, "box", "2 boxes"),
        (2, "class", "2 classes"),
    ],
)
def test_a_number_stands_with_its_noun_in_the_right_form(number: int, noun: str, told: str) -> None:
    assert counted(number, noun) == told


def test_the_word_after_a_number_agrees_with_it() -> None:
    assert [agreed(number, "is", "are") for number in (0, 1, 2)] == ["are", "is", "are"]


# Numbers that are never 1: what comes before them sees to it, or there is no such network.
MANY = {
    "{number} boxes",
    "{number} images",  # of `train`, more than MOST_COMPARED
    "{MAX_CLASSES} classes",
    "{to} calls images",  # no number
    "{self._form.name} finds images",
    "{image} has labels",
    "{record.image_id} has labels",
    "{self.split} images",
    "{_listed(images)} images",  # "10, 20 and 40"
    "{', '.join(map(str, ends))} images",
    "{images} images",  # a range, of `folds`
    "{counted(spare, 'described class')} without objects",
    "{num_images} labelled images",  # of `demo`
    "{len(records)} labelled images",
    "{len(objects)} boxes",
    "{len(shares)} splits",
    "{len(arguments)} values",
    "{min(whole.weight.shape)} singular values",
    "{num_maps + 1} values",
    "{groups} values",
    "{LIMITS[-1]} detections",
    "{len(ranked)} classes",
    "{number} objects",
    "{sum(counts)} tiles",
    "{makes} no tiles",
    "{samples} bootstrap samples",
    "{empty} without objects",
    "{form.name.upper()} labels",  # no number at all
}
NOUNS = "image|object|box|label|class|detection|argument|model|split|field|value|cell|tensor"
NOUNS += "|tile|sample"
COUNT = re.compile(rf"\{{[^{{}}:]+\}} ([a-z]+ )?(more )?({NOUNS})(e?s)\b(?!/)")


def as_written(text: ast.JoinedStr) -> str:
    """Return an f-string as it stands in the source; "{:}" for what may be a fraction."""
    parts = []
    for part in text.values:
        if isinstance(part, ast.FormattedValue):
            form = "" if part.format_spec is None else ast.unparse(part.format_spec)
            value = ":" if form not in ("", "f','") else ast.unparse(part.value)
            parts.append(f"{{{value}}}")
        elif isinstance(part, ast.Constant):
            parts.append(str(part.value))
    return "".join(parts)


def test_no_message_counts_one_thing_in_the_plural() -> None:
    """Words like "{number} images" in an f-string; `counted` writes them."""
    wrong = []
    for path in sorted(Path(detkit.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = as_written(node)
                found = [match[0] for match in COUNT.finditer(text)]
                wrong += [f"{path.name}:{node.lineno}: {one}" for one in found if one not in MANY]
    assert not wrong, "\n".join(wrong)
