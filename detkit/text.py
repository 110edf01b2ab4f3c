"""Texts out of other people's files and folders as a message may show them: short, on one line."""

from __future__ import annotations

import re
import reprlib

# What no line of text can hold: control characters (a terminal obeys some), ends of lines,
# and surrogates: bytes of a file name that are not UTF-8, or half a character out of JSON.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_LONGEST = 60  # signs of a value in a message


def is_plain(text: str) -> bool:
    """Return whether a text is one line of UTF-8 without control characters."""
    return _UNFIT.search(text) is None


def printable(text: str) -> str:
    r"""Return a text as one line, with `\n`, `\x1b` or `\xff` where a character is not plain."""
    return _UNFIT.sub(_escaped, text)


def short(value: object) -> str:
    """Return a value as Python writes it, cut where it is long; in no time however large it is."""
    # What a YAML file refers to again and again is small in memory and endless when written out.
    writer = reprlib.Repr()
    writer.maxlevel, writer.maxlist, writer.maxdict = 3, 6, 6
    writer.maxstring = writer.maxlong = writer.maxother = _LONGEST
    text = writer.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _escaped(match: re.Match[str]) -> str:
    """Return a character as an escape; an undecoded byte as that byte."""
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
