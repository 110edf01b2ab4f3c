"""Results as JUnit XML, the form in which every CI system shows tests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

# What XML 1.0 cannot hold, even escaped.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class TestCase:
    """One line of a CI system's list of tests."""

    __test__ = False  # not one of pytest's

    group: str  # "gates", "classes"
    name: str
    failure: str | None = None
    skipped: str | None = None  # why it says nothing
    output: str = ""


def junit_xml(suite: str, cases: Sequence[TestCase]) -> bytes:
    """Return the XML file of one suite of test cases, UTF-8."""
    counts = {
        "tests": len(cases),
        "failures": sum(case.failure is not None for case in cases),
        "errors": 0,
        "skipped": sum(case.skipped is not None for case in cases),
    }
    numbers = {key: str(count) for key, count in counts.items()}
    root = ET.Element("testsuites", numbers)
    listed = ET.SubElement(root, "testsuite", {"name": _clean(suite), **numbers})
    for case in cases:
        name = {"classname": _clean(f"{suite}.{case.group}"), "name": _clean(case.name)}
        element = ET.SubElement(listed, "testcase", {**name, "time": "0"})
        if case.failure is not None:
            failure = ET.SubElement(element, "failure", {"message": _clean(case.failure)})
            failure.text = _clean(case.failure)
        if case.skipped is not None:
            ET.SubElement(element, "skipped", {"message": _clean(case.skipped)})
        if case.output:
            ET.SubElement(element, "system-out").text = _clean(case.output)
    ET.indent(root)
    text = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
