"""Real exports of many tools, where they are: each object and size as their documents state it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from labelled_folders import SHARED

from detkit.data import open_dataset

FOLDERS = sorted((SHARED / "formats").glob("*/*/")) if SHARED.is_dir() else []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda one: f"{one.parent.name}-{one.name}")
def test_a_real_export_holds_the_objects_that_its_documents_say(folder: Path) -> None:
    expected = json.loads((folder / "EXPECTED.json").read_text("utf-8"))
    records = {one.image_id: one for part in open_dataset(folder).splits.values() for one in part}
    assert set(records) == {one["image"] for one in expected}
    for one in expected:
        record = records[one["image"]]
        found = sorted((thing.name, thing.box) for thing in record.objects if not thing.region)
        stated = sorted((thing["label"], tuple(thing["box"])) for thing in one["objects"])
        assert [name for name, _ in found] == [name for name, _ in stated]
        for (_, box), (_, other) in zip(found, stated):
            assert box == pytest.approx(other, abs=1e-3)
        if record.width is not None:
            assert (record.width, record.height) == (one["width"], one["height"])
