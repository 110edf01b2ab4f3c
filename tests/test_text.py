"""Texts of other people's files as messages show them."""

from __future__ import annotations

import time

import pytest

from detkit.text import is_plain, nearest_hint, nearest_name, printable, short


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
