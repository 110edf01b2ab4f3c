"""The lists "Where the equations are": every line is readable and leads to code that exists."""

from __future__ import annotations

import pytest
from equations import (
    HEADING,
    PACKAGE,
    PAGE,
    Entry,
    ListError,
    Paper,
    entries_of,
    entry_of,
    page,
    papers,
    place_of,
    resolve,
)

# How many equations each paper numbers.
NUMBERED = {
    "R-CNN": 9,
    "Fast R-CNN": 5,
    "Faster R-CNN": 2,
    "YOLOv1": 3,
    "SSD": 4,
    "Selective search": 8,
    "Graph segmentation": 5,
    "Edge Boxes": 4,
    "Pascal VOC": 3,
}


def test_every_paper_has_a_list() -> None:
    assert {paper.name for paper in papers()} == set(NUMBERED)
    detectors = {file.stem for file in (PACKAGE / "detectors").glob("[!_]*.py")}
    with_list = {paper.module.rpartition(".")[2] for paper in papers()}
    assert detectors and detectors <= with_list


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.name)
def test_every_name_of_a_list_is_a_function_or_class(paper: Paper) -> None:
    for entry in paper.entries:
        assert place_of(resolve(entry.name, paper.module)).startswith("detkit/")


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.name)
def test_every_numbered_equation_of_a_paper_is_in_its_list(paper: Paper) -> None:
    numbers = {number for entry in paper.entries for number in entry.equations}
    assert numbers == set(range(1, NUMBERED[paper.name] + 1))


def test_the_page_of_equations_is_what_the_lists_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "`make equations` writes it anew"


def test_a_line_says_section_equations_name_and_what() -> None:
    assert entry_of("- sec. 2.2, eqs. 1-3: `a.b`, both losses") == Entry(
        "sec. 2.2", (1, 2, 3), "a.b", "both losses"
    )
    assert entry_of("- appendix C, eq. 5: `a`, ridge") == Entry("appendix C", (5,), "a", "ridge")
    assert entry_of("- sec. 3: `test`, NMS") == Entry("sec. 3", (), "test", "NMS")


@pytest.mark.parametrize(
    "line",
    [
        "1-3 `multibox_loss`",
        "- sec. 2.2, eq. 1: multibox_loss, the loss",
        "- sec. 2.2, eq. 1-3: `multibox_loss`, the loss",
        "- sec. 2.2, eqs. 3-1: `multibox_loss`, the loss",
        "- sec. 2.2, eq. 1: `multibox_loss`",
        "- sec. 2.2, eq. 1: `multibox_loss`, the loss, `encode`, the targets",
        "- section 2.2: `multibox_loss`, the loss",
        "  of a line before",
    ],
)
def test_a_line_of_another_form_is_an_error(line: str) -> None:
    good = "- sec. 2: `one`, as it should be"
    assert len(entries_of(f"Title\n\n{HEADING}:\n{good}\n\nProse.")) == 1
    with pytest.raises(ListError):
        entries_of(f"Title\n\n{HEADING}:\n{good}\n{line}\n\nProse.")


def test_a_list_without_lines_or_heading_is_an_error() -> None:
    for text in (f"{HEADING}:", f"{HEADING}:\n\n- sec. 2: `one`, two", f"{HEADING}: `one`"):
        with pytest.raises(ListError):
            entries_of(text)


@pytest.mark.parametrize(
    "name", ["no_such_loss", "boxes.no_such", "Detector.no_such", "torch", "MIN_SIZE", "nn.Module"]
)
def test_a_name_that_leads_to_no_code_of_ours_is_an_error(name: str) -> None:
    with pytest.raises(ListError, match=name):
        resolve(name, "detkit.detectors.ssd")


@pytest.mark.parametrize("name", ["multibox_loss", "Detector.detect", "boxes.encode"])
def test_a_name_is_known_in_the_file_or_in_a_module_of_that_name(name: str) -> None:
    assert resolve(name, "detkit.detectors.ssd").__name__ == name.rpartition(".")[2]
