"""Proposals of very many images: taken up and read without loading them, and made as asked for."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from given_boxes import RECIPE, GivenBoxes, GivenBoxesConfig
from running import detkit
from runs import assert_same
from toy import CLASSES, write_images

from detkit.cache import FileCache
from detkit.data import images
from detkit.data.images import read_image
from detkit.errors import DetkitError
from detkit.proposals import proposer, reader
from detkit.proposals.cache import ProposalCache
from detkit.proposals.proposer import Proposer
from detkit.proposals.reader import line_of, read_proposals
from detkit.proposals.source import ComputedProposals, FileProposals
from detkit.proposals.writer import ProposalWriter, error_line
from detkit.structures import Proposals
from detkit.training import dataset
from detkit.training.dataset import TrainingDataset
from detkit.training.options import RunOptions
from detkit.training.resume import load_resume
from detkit.training.train import train

MADE = {"method": "edge-boxes", "max_boxes": 9}
ODD_NAMES = ['a "b" \\ c.jpg', "é\u2028.jpg", 'with ],"scores":[1.jpg', "\udcff.jpg", "z}.jpg"]


def boxes_of(count: int) -> Proposals:
    """Return so many boxes."""
    corners = np.arange(count * 2, dtype=np.float32).reshape(-1, 2)
    return Proposals(
        np.concatenate([corners, corners + 9.5], axis=1), np.linspace(1, 0, count, dtype=np.float32)
    )


def write_lines(path: Path, names: list[str], **made: object) -> None:
    """Write a line an image, with more boxes in each than in the one before."""
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for number, name in enumerate(names):
            file.write(f"{line_of(name, (50, 60), boxes_of(number), made or MADE)}\n")


def test_a_large_file_gives_what_a_small_one_does_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_lines(path, ODD_NAMES)
    with path.open("a", encoding="utf-8") as file:
        file.write('\n{"image": "spaced.jpg", "boxes": [[1, 2, 3, 4]]}\n')
        file.write(f"{error_line('broken.jpg', 'no image')}\n")
        file.write(f"{line_of('z}.jpg', (7, 8), boxes_of(2), MADE)}\n")  # again: the last holds
    plain = read_proposals(path)
    with mock.patch.object(reader, "MOST_AT_ONCE", 0):
        later = read_proposals(path)
    assert later.images == plain.images == (*ODD_NAMES, "spaced.jpg")
    assert later.sizes == plain.sizes and plain.sizes[4:] == ((7, 8), None)
    assert later.parameters == plain.parameters and len(later.found) == len(plain.found) == 6
    for index in range(6):
        for one in ("boxes", "scores"):
            np.testing.assert_array_equal(
                getattr(later.found[index], one), getattr(plain.found[index], one)
            )
    assert len(plain.found[4].boxes) == 2
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    with mock.patch.object(Path, "open", side_effect=AssertionError("read again")):
        assert FileProposals.of(later).identity == f"p.jsonl ({content[:12]})"
    assert FileProposals.of(plain).identity == FileProposals.of(later).identity


def test_a_large_file_keeps_places_and_not_boxes_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    line = line_of("NAME", (50, 60), boxes_of(2000), MADE)
    path.write_text("".join(line.replace("NAME", f"{at}.jpg") + "\n" for at in range(150)))
    assert path.stat().st_size > 5e6
    with mock.patch.object(reader, "MOST_AT_ONCE", 0):
        tracemalloc.start()
        try:
            file = read_proposals(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3e6 and len(file.images) == 150  # a buffer of 1 MiB twice; boxes alone are 6 MB
    assert file.found[149].boxes.shape == (2000, 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[[1,2,3]]", r"p.jsonl:2: boxes: expected a list of \[x1"),
        ("[[5,2,3,4]]", r"p.jsonl:2: box 1 \(5, 2, 3, 4\) encloses nothing"),
        ("[[1,2,3,4]x]", r"p.jsonl:2: not JSON"),
    ],
)
def test_a_line_of_a_large_file_that_is_wrong_is_named_when_it_is_asked_for(
    tmp_path: Path, body: str, message: str
) -> None:
    path = tmp_path / "p.jsonl"
    write_lines(path, ["a.jpg"])
    with path.open("a") as file:
        file.write(
            '{"image":"b.jpg","width":60,"height":50,"parameters":{"method":"x"},"boxes":'
            f'{body},"scores":[1]}}\n'
        )
    with mock.patch.object(reader, "MOST_AT_ONCE", 0):
        source = FileProposals.of(read_proposals(path))
    assert source.find("a.jpg", (50, 60)).boxes.shape == (0, 4)
    with pytest.raises(DetkitError, match=message):
        source.find("b.jpg", (50, 60))
    write_lines(path, ["b.jpg", "c.jpg"])
    with pytest.raises(DetkitError, match="was changed while it was in use"):
        source.find("a.jpg", (50, 60))


def test_going_on_keeps_whole_lines_drops_errors_and_counts_boxes(tmp_path: Path) -> None:
    path, partial = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    write_lines(partial, ODD_NAMES)
    kept = partial.read_bytes()
    with partial.open("ab") as file:
        file.write(f"{error_line('broken.jpg', 'no image')}\n".encode())
        file.write(line_of("last.jpg", (50, 60), boxes_of(3), MADE).encode() + b"\n")
        file.write(b'{"image":"cut')
    with pytest.raises(KeyError), ProposalWriter(path, MADE) as writer:
        assert writer.done == {*ODD_NAMES, "last.jpg"}
        assert (writer.num_images, writer.num_boxes) == (6, 0 + 1 + 2 + 3 + 4 + 3)
        raise KeyError
    assert partial.read_bytes().startswith(kept) and b"broken" not in partial.read_bytes()
    assert partial.read_bytes().endswith(b"]}\n")
    before = partial.stat().st_ino
    with ProposalWriter(path, MADE) as writer:  # now nothing is to be dropped: it is not copied
        assert partial.stat().st_ino == before
        writer.write("new.jpg", (50, 60), boxes_of(1))
    last = path.read_bytes().splitlines()[-1]
    assert json.loads(last)["image"] == "new.jpg"
    assert [one.name for one in tmp_path.iterdir()] == ["p.jsonl"]


def test_going_on_needs_no_memory_for_what_was_done(tmp_path: Path) -> None:
    path, partial = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    line = line_of("NAME", (50, 60), boxes_of(2000), MADE)
    partial.write_text("".join(line.replace("NAME", f"{at}.jpg") + "\n" for at in range(150)))
    tracemalloc.start()
    try:
        with ProposalWriter(path, MADE) as writer:
            _, peak = tracemalloc.get_traced_memory()
            assert (writer.num_images, writer.num_boxes) == (150, 300_000)
    finally:
        tracemalloc.stop()
    assert peak < 3e6  # the file has more than 5 MB


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Replace the methods by one box that is the whole image; return what they were asked for."""
    calls: list[int] = []

    def stand_in(method: str, image: Any, **parameters: object) -> Proposals:
        calls.append(int(image[0, 0, 0]))
        height, width = image.shape[:2]
        return Proposals(np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32))

    monkeypatch.setattr(proposer, "propose", stand_in)
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    return calls


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on a file's size")
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, asked: list[int]
) -> None:
    import resource

    write_images(tmp_path / "data", count=6)
    words = ("propose", tmp_path / "data", "-o", tmp_path / "p.jsonl", "--threads", "1")
    assert detkit(*words).returncode == 0
    lines = (tmp_path / "p.jsonl").read_bytes()
    (tmp_path / "p.jsonl").unlink()
    most = len(b"".join(lines.splitlines(keepends=True)[:2])) + 10
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        done = detkit(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith(
        "the disk is full; free some space, then the same command goes on: what was done is kept"
    )
    again = detkit(*words)
    assert again.returncode == 0 and "2 images are done, going on" in again.stderr
    assert (tmp_path / "p.jsonl").read_bytes() == lines


def test_training_on_very_many_images_begins_before_all_are_proposed(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = write_images(tmp_path / "data", count=30)
    options = RunOptions(device="cpu", precision="32-true", num_workers=0, max_steps=2)

    def trained(folder: str) -> list[str]:
        monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / f"cache of {folder}"))
        asked.clear()
        torch.manual_seed(0)
        detector = GivenBoxes(GivenBoxesConfig(), CLASSES)
        steps = train(detector, records, RECIPE, tmp_path / folder, options)
        return [note for step in steps for note in step.notes]

    trained("plain")
    assert len(asked) == 30
    monkeypatch.setattr(dataset, "MOST_BEFOREHAND", 29)
    monkeypatch.setattr(dataset, "MOST_LOOKED_AT", 3)
    notes = trained("large")
    assert len(asked) < 30
    ends = [load_resume(tmp_path / one / "resume.ckpt")["model"] for one in ("plain", "large")]
    assert_same(*ends)
    (said,) = [note for note in notes if "as they are asked for" in note]
    assert said.startswith("proposals of 30 images are made as they are asked for, and kept in")
    assert "`detkit propose` makes them beforehand" in said
    assert any(note.startswith("in a sample of the images, 0 of 4 objects") for note in notes)


def test_the_proposals_of_a_sample_are_the_same_whenever_they_are_made(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = write_images(tmp_path / "data", count=6)
    source = ComputedProposals(Proposer("edge-boxes"), ProposalCache())
    first, later = (TrainingDataset(records, CLASSES, proposals=source) for _ in range(2))
    first.fill_proposals()
    monkeypatch.setattr(dataset, "MOST_BEFOREHAND", 5)
    later.fill_proposals()
    for index in range(6):
        one, other = first[index].proposals, later[index].proposals
        assert one is not None and other is not None and one.tolist() == other.tolist()
    every, some = first.proposal_overlaps(), later.proposal_overlaps()
    assert [one.tolist() for one in every] == [one.tolist() for one in some]  # 64 hold all of six


def test_what_a_small_cache_cannot_keep_is_said_with_the_size_that_can(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path, max_bytes=2 << 30)
    assert cache.room_for(50_000, 2000) == f"kept in {tmp_path / 'proposals'}"
    said = cache.room_for(118_000, 2000)  # 118,000 x 2000 boxes of 20 bytes are 4.4 GiB
    assert said.startswith("those of some 53,687 are kept") and "DETKIT_CACHE_GIB=5 keeps" in said


def test_proposals_of_a_file_are_had_without_decoding_the_image(tmp_path: Path) -> None:
    (record,) = write_images(tmp_path / "data", count=1)
    height, width = read_image(record.path).shape[:2]
    path = tmp_path / "p.jsonl"
    path.write_text(f"{line_of(str(record.path), (height, width), boxes_of(2), MADE)}\n")
    source = FileProposals.of(read_proposals(path))
    expected = source(str(record.path), read_image(record.path)).boxes
    with mock.patch.object(images, "decode", side_effect=AssertionError):
        np.testing.assert_array_equal(source.of_file(record.path).boxes, expected)


def test_a_cache_of_many_files_is_measured_less_often(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, "things", max_bytes=1 << 30)
    for number in range(3):
        cache.write(f"{number:02}x", b"1")
    with mock.patch.object(cache, "_files", return_value=[(Path("a.npy"), 1, 0.0)] * 50_000):
        cache.trim()
    with mock.patch.object(cache, "trim") as trim:
        for _ in range(5_000):
            cache._until_look -= 1
        assert cache._until_look == 0
        cache.write("00y", b"1")
        assert trim.call_count == 1


WRITES = """
import sys, time
from pathlib import Path
import numpy as np
from detkit.proposals.writer import ProposalWriter
from detkit.structures import Proposals
boxes = np.arange(8000, dtype=np.float32).reshape(-1, 4)
found = Proposals(boxes, np.ones(2000, np.float32))
with ProposalWriter(Path(sys.argv[1]), {"method": "x"}) as writer:
    for number in range(10**6):
        writer.write(f"{number}.jpg", (50, 60), found)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_killed_writer_has_kept_every_line_and_the_next_goes_on(tmp_path: Path) -> None:
    path, partial = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    begun = subprocess.Popen([sys.executable, "-c", WRITES, str(path)])
    until = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size > 500_000):
        assert begun.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(DetkitError, match="another `detkit propose` is writing it"):
        ProposalWriter(path, {"method": "x"})
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    kept = partial.read_bytes()
    whole = kept[: kept.rfind(b"\n") + 1]
    with ProposalWriter(path, {"method": "x"}) as writer:
        number = whole.count(b"\n")
        assert writer.done == {f"{at}.jpg" for at in range(number)}
        assert writer.num_boxes == 2000 * number
    assert path.read_bytes() == whole
