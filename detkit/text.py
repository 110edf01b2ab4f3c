"""Texts out of other people's files as a message may show them, and hints at what was meant."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from pathlib import PurePath

# What no line of text can hold: control characters (a terminal obeys some), ends of lines,
# and surrogates: bytes of a file name that are not UTF-8, or half a character out of JSON.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_LONGEST = 60  # signs of a value in a message


def is_plain(text: str) -> bool:
    """Return whether a text is one line of UTF-8 without control characters."""
    return (text.isascii() and text.isprintable()) or _UNFIT.search(text) is None


def printable(text: str) -> str:
    r"""Return a text as one line, with `\n`, `\x1b` or `\xff` where a character is not plain."""
    return _UNFIT.sub(_escaped, text)


def short(value: object) -> str:
    """Return a value as Python writes it, cut where it is long; in no time however large it is."""
    # What a YAML file refers to again and again is small in memory and endless when written out.
    writer = reprlib.Repr()
    writer.maxlevel, writer.maxlist, writer.maxdict = 3, 6, 6
    writer.maxstring = writer.maxlong = writer.maxother = _LONGEST
    return cut(writer.repr(value))


def cut(text: str) -> str:
    """Return a text that fits into a line of a message, its end replaced by "..."."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def looks_like_a_path(word: str) -> bool:
    """Return whether a word that may be a name or a file has a folder or a suffix: is a file."""
    path = PurePath(word)
    return bool(path.suffix) or len(path.parts) > 1


def counted(number: int, noun: str, form: str = "") -> str:
    """Return a number with its noun, in the plural where it needs one: "2 boxes".

    `form` is how Python writes the number: "," parts its thousands.
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:{form}} {noun}{'es' if noun.endswith(('s', 'x')) else 's'}"


def agreed(number: int, one: str, many: str) -> str:
    """Return the word that goes with so many things: `one` of 1, else `many`."""
    return one if number == 1 else many


def nearest_name(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name most like this one, whatever its case; None where none is near.

    `cutoff` in [0, 1] is how alike they must be at least, as `difflib` counts it.
    """
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def nearest_hint(name: str, known: Iterable[str], otherwise: str, *, cutoff: float = 0.6) -> str:
    """Return "did you mean ...?" for the known name nearest to this one, or `otherwise`."""
    near = nearest_name(name, known, cutoff=cutoff)
    return f"did you mean {near}?" if near else otherwise


def _escaped(match: re.Match[str]) -> str:
    """Return a character as an escape; an undecoded byte as that byte."""
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
