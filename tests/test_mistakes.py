"""What one format's reader finds, its neighbours find, too: the table of format and mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled_folders import put
from mistakes import TABLE as TEXTS
from running import detkit
from tool_mistakes import EVERY as TABLE
from tool_mistakes import MISTAKES

from detkit.data import open_dataset
from detkit.data.checks.check import check
from detkit.data.formats.reading import FORMATS

PAGE = Path(__file__).parents[1] / "docs" / "data-formats.md"
WITHOUT_LINES = ("coco", "labelme", "label-studio", "createml", "via", "supervisely", "vott")
OF_OBJECTS = ("number", "class", "border", "swapped", "area", "flag")
CASES = [(name, mistake) for name, found in TABLE.items() for mistake in found]


@pytest.mark.parametrize(("name", "mistake"), CASES)
def test_a_reader_finds_the_mistake_and_says_where(tmp_path: Path, name: str, mistake: str) -> None:
    files, code = TABLE[name][mistake]
    data = open_dataset(put(tmp_path, files))
    assert data.format == name
    findings = check(data)
    if code == "read":
        assert [one.message for one in findings if one.severity == "error"] == []
        labelled = [one for part in data.splits.values() for one in part if one.objects]
        assert any(" " in one.image_id and one.path.is_file() for one in labelled)
        return
    found = next((one for one in findings if one.code == code), None)
    assert found is not None, [(one.code, one.message) for one in findings]
    # In MOT a mark that is no number ends the row, and boxes are of whole objects, as in DOTA.
    # VOC and CSV name the last pixel: a point is one pixel.
    mild = (
        (mistake == "flag" and name != "mot")
        or (mistake == "border" and name in ("mot", "dota"))
        or (mistake == "area" and name in ("voc", "csv"))
    )
    if mild or mistake in OF_OBJECTS:
        assert found.severity == ("warning" if mild else "error")
    assert found.file is not None
    if mistake in OF_OBJECTS:
        assert found.image_id is not None
        assert found.image_id.endswith(("a.png", "000001.png"))
        assert found.object_number == 1
        assert found.line is not None or name in WITHOUT_LINES  # JSON has none here


@pytest.mark.parametrize("name", TABLE)
def test_without_a_mistake_nothing_is_found_but_that_the_images_are_alike(
    tmp_path: Path, name: str
) -> None:
    files, code = TABLE[name].get("encoded") or TABLE[name]["swapped"]
    assert code in ("read", "swapped-box")
    findings = check(open_dataset(put(tmp_path, files)))
    assert {one.code for one in findings} <= {"duplicate-image", "unlisted-image", code}


def test_the_shell_refuses_to_copy_what_is_an_error_and_leaves_it_out_when_told_to(
    tmp_path: Path,
) -> None:
    for name in ("kitti", "openimages", "mot", "wider", "dota", "huggingface", "yolo"):
        files, _ = TABLE[name]["broken"]
        put(tmp_path / name, files)
        out = tmp_path / f"{name}-out"
        refused = detkit("convert", tmp_path / name, out, "--to", "coco", "-q")
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (3, "", 1)
        assert "mend" in refused.stderr and "--skip-bad leaves them out" in refused.stderr
        words = ("--to", "coco", "--skip-bad")
        assert detkit("convert", tmp_path / name, out, *words).returncode == 0
        assert open_dataset(out).findings == ()


def test_every_format_is_in_the_table_and_the_page_has_the_same() -> None:
    assert set(TABLE) == {form.name for form in FORMATS}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "| `" in line]
    told: dict[str, list[str]] = {}
    for line in rows:  # of two tables, one below the other
        title, *cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        told.setdefault(title, []).extend(cells)
    for mistake, words in MISTAKES.items():
        expected = [TABLE[name].get(mistake, ({}, "-"))[1] for name in TABLE]
        assert told.get(words) == expected, "\n".join(
            f"| {words} | " + " | ".join(f"`{one}`" if len(one) > 1 else one for one in part)
            for part in (expected[: len(TEXTS)], expected[len(TEXTS) :])
        )
