"""A run in shares: which images are whose, what a part says of itself, and one file of them all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from running import detkit

from detkit.errors import DetkitError, UsageError
from detkit.predictions.image import ImagePredictions
from detkit.predictions.texts import json_line, of_json_line
from detkit.proposals import proposer
from detkit.shards.merge import merge
from detkit.shards.shard import Shard
from detkit.shards.writer import PartWriter
from detkit.structures import Proposals

pytestmark = pytest.mark.usefixtures("beside_the_untrained")
NUM_IMAGES = 60
NAMES = [f"image-{number}.jpg" for number in range(11)]


def write(number: int, of: int, *, names: list[str] = NAMES, block: int = 2, **more: Any) -> Path:
    """Write the part of a run over these names, whose lines hold nothing else."""
    path = Path(f"out/{number}.jsonl")
    asked = more.pop("asked", {"score": 0.5})
    with PartWriter(path, Shard(number, of, block), "detect", asked, **more) as part:
        if not part.is_done:
            for name in names:
                if part.turns(name):
                    part.write(json.dumps({"image": name}))
    return path


def shown(path: Path) -> list[str]:
    return [json.loads(line)["image"] for line in path.read_text("utf-8").splitlines()]


@given(num_sources=st.integers(0, 60), of=st.integers(1, 7), block=st.integers(1, 5))
def test_every_source_is_of_one_share_and_blocks_go_round(
    num_sources: int, of: int, block: int
) -> None:
    owners = []
    while len(owners) < num_sources:  # deal out the blocks as cards
        for number in range(1, of + 1):
            owners += [number] * block
    owners = owners[:num_sources]
    for number in range(1, of + 1):
        shard = Shard(number, of, block)
        mine = [place for place in range(num_sources) if shard.holds(place)]
        assert mine == [place for place, owner in enumerate(owners) if owner == number]
        assert shard.size(num_sources) == len(mine)


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_parts_in_any_order_become_the_list_of_the_sources(of: int) -> None:
    parts = [write(number, of) for number in range(1, of + 1)]
    assert merge(parts[::-1], Path("out/all.jsonl")) == (11, 0)
    assert shown(Path("out/all.jsonl")) == NAMES


def test_parts_of_no_images_are_parts_all_the_same() -> None:
    merge([write(number, 2, names=[]) for number in (1, 2)], Path("out/all.jsonl"))
    assert Path("out/all.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"of": 3}, "parts 3, not 2"),
        ({"block": 4}, "batch size 4, not 2"),
        ({"asked": {"score": 0.4}}, r"score 0\.4, not 0\.5"),
        ({"asked": {}}, r"score none, not 0\.5"),
        ({"names": NAMES[:-1]}, "of 10 images and 11 images"),
        ({"names": NAMES[::-1]}, "not the same ones in the same order"),
    ],
)
def test_parts_of_different_runs_are_not_mixed(second: dict[str, Any], said: str) -> None:
    parts = [write(1, 2), write(2, **{"of": 2, **second})]
    with pytest.raises(DetkitError, match=said):
        merge(parts, Path("out/all.jsonl"))
    assert not Path("out/all.jsonl").exists()


def test_missing_and_doubled_parts_are_named() -> None:
    parts = [write(number, 4) for number in (1, 2, 4)]
    with pytest.raises(DetkitError, match="one of 4 parts: part 3 is missing"):
        merge(parts, Path("out/all.jsonl"))
    twin = Path("out/twin.jsonl")
    shutil.copy(parts[1], twin)
    with pytest.raises(DetkitError, match=r"2\.jsonl and .*twin\.jsonl are both part 2 of 4"):
        merge([*parts, twin], Path("out/all.jsonl"))


def test_a_part_that_was_cut_off_or_changed_is_refused() -> None:
    one, two = write(1, 2), write(2, 2)
    lines = two.read_bytes().splitlines(keepends=True)
    for changed, said in (
        (lines[:-1], "last line is missing"),
        ([*lines[:-1], lines[-1][:-3]], "last line is missing"),
        ([lines[0], *lines[2:]], "holds fewer images"),
        ([lines[0], lines[1], *lines[1:]], "holds more images"),
        (lines[1:], "is no part of a run"),
        ([], "is no part of a run"),
    ):
        two.write_bytes(b"".join(changed))
        with pytest.raises(DetkitError, match=said):
            merge([one, two], Path("out/all.jsonl"))
        assert not Path("out/all.jsonl").exists()
    two.unlink()
    with pytest.raises(DetkitError, match="no such file"):
        merge([one, two], Path("out/all.jsonl"))


def test_a_share_that_was_interrupted_goes_on_behind_its_last_whole_line() -> None:
    whole = write(1, 2).read_bytes()
    shutil.rmtree("out")
    Path("out").mkdir()
    path = Path("out/1.jsonl")
    with (
        pytest.raises(RuntimeError),
        PartWriter(path, Shard(1, 2, 2), "detect", {"score": 0.5}) as part,
    ):
        for name in NAMES[:6]:
            if part.turns(name):
                part.write(json.dumps({"image": name}))
        raise RuntimeError
    assert not path.exists()
    partial = Path("out/1.jsonl.partial")
    partial.write_bytes(partial.read_bytes() + b'{"image": "half')
    with pytest.raises(UsageError, match="--resume goes on"):
        write(1, 2)
    with pytest.raises(UsageError, match=r"score 0\.5, not 0\.1"):
        write(1, 2, asked={"score": 0.1}, resume=True)
    with pytest.raises(UsageError, match="begun on other images"):
        write(1, 2, names=["other.jpg", *NAMES], resume=True)
    with pytest.raises(UsageError, match="begun on other images"):
        write(1, 2, names=NAMES[:2], resume=True)
    write(1, 2, resume=True)
    assert path.read_bytes() == whole and not partial.exists()
    write(1, 2, resume=True)  # nothing is left to do
    with pytest.raises(UsageError, match="--force begins anew"):
        write(1, 2)
    assert path.read_bytes() == whole


def test_two_writers_do_not_work_on_one_part() -> None:
    with PartWriter(Path("out/1.jsonl"), Shard(1, 2), "detect", {}) as part:
        with pytest.raises(DetkitError, match="another process is writing it"):
            write(1, 2, resume=True)
        part.turns("a")


def test_force_does_not_delete_a_file_that_is_no_part() -> None:
    Path("out/1.jsonl.partial").write_text("a diary", "utf-8")
    with pytest.raises(DetkitError, match="is no part of a run"):
        write(1, 2, force=True)
    assert Path("out/1.jsonl.partial").read_text("utf-8") == "a diary"


@pytest.mark.parametrize(
    "word", ["0/2", "3/2", "1", "1/", "/2", "a/b", "1/2/3", "-1/2", "1/0", "²/3"]
)
def test_what_names_no_share_is_wrong_usage(word: str) -> None:
    done = detkit("detect", "m.safetensors", "demo", "--shard", word, "-o", "out/p.jsonl")
    assert done.returncode == 2 and f"--shard {word}" in done.stderr


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=5, max_size=5))
def test_a_line_gives_back_the_same_bits(numbers: list[float]) -> None:
    score, *box = np.array(numbers, np.float32)
    one = ImagePredictions("ä/\udcff.jpg", 3, 4, ("ü",), np.array([score]), np.array([box]))
    back = of_json_line(json_line(one))
    assert back.image == one.image and back.labels == one.labels
    assert back.scores.tobytes() == one.scores.tobytes()
    assert back.boxes.tobytes() == one.boxes.tobytes()


def test_detections_of_all_shares_are_those_of_one_run_byte_for_byte(untrained: Path) -> None:
    shutil.copytree("demo/JPEGImages", "out/images")
    Path("out/images/000007.jpg").write_bytes(b"no image")
    words = ("detect", "m.safetensors", "out/images", "--device", "cpu", "--batch-size", "4")
    assert detkit(*words, "-o", "out/one.jsonl").returncode == 3
    codes = [
        detkit(*words, "--shard", f"{number}/3", "-o", f"out/{number}.jsonl").returncode
        for number in (1, 2, 3)
    ]
    assert codes == [0, 3, 0]  # the seventh image is in the second block of four
    done = detkit("merge", "out/2.jsonl", "out/1.jsonl", "out/3.jsonl", "-o", "out/all.jsonl")
    assert done.returncode == 0 and done.stdout == "" and "1 image could not be read" in done.stderr
    assert Path("out/all.jsonl").read_bytes() == Path("out/one.jsonl").read_bytes()


def test_the_merged_parts_of_eval_give_the_number_of_one_run_to_the_last_digit() -> None:
    words = ("eval", "m.safetensors", "demo", "--split", "train", "--device", "cpu")
    words += ("--set", "score_thresh=0.001")
    one = json.loads(detkit(*words, "--json").stdout)
    assert 0 < one["mAP"] < 1
    for number in range(1, 4):
        done = detkit(*words, "--shard", f"{number}/3", "-o", f"out/{number}.jsonl")
        assert done.returncode == 0 and done.stdout == ""
    detkit("merge", *(f"out/{number}.jsonl" for number in (1, 2, 3)), "-o", "out/all.jsonl")
    found = ("eval", "--predictions", "out/all.jsonl", "demo", "--split", "train")
    merged = json.loads(detkit(*found, "--json").stdout)
    for key in ("mAP", "classes", "ECE", "best_f1", "best_threshold", "num_images"):
        assert merged[key] == one[key]
    kept = detkit(*words, "-o", "out/kept.jsonl")
    assert kept.returncode == 0
    assert Path("out/kept.jsonl").read_bytes() == Path("out/all.jsonl").read_bytes()


def test_a_part_is_not_scored_as_if_it_were_the_whole() -> None:
    words = ("eval", "m.safetensors", "demo", "--device", "cpu", "--shard", "1/2")
    assert detkit(*words, "-o", "out/1.jsonl").returncode == 0
    done = detkit("eval", "--predictions", "out/1.jsonl", "demo")
    assert done.returncode == 2 and done.stdout == ""
    assert "out/1.jsonl: is part 1 of 2; put all together first: detkit merge" in done.stderr
    done = detkit("recall", "out/1.jsonl", "demo")
    assert done.returncode == 2 and "is part 1 of 2" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fail-under", "mAP=.5"), "--fail-under: cannot be had with --shard"),
        (("--json",), "--json: cannot be had with --shard"),
        (("--tile", "compare=64"), "--tile compare: cannot be had with --shard"),
        (("--devices", "2"), "--devices: cannot be had with --shard"),
        (("-o", "out/p.csv"), "JSON Lines"),
    ],
)
def test_what_a_share_cannot_do_is_wrong_usage(words: tuple[str, ...], said: str) -> None:
    share = ("eval", "m.safetensors", "demo", "--shard", "1/2", "-o", "out/p.jsonl")
    done = detkit(*share, *words)
    assert done.returncode == 2 and said in done.stderr
    assert not list(Path("out").iterdir())


def test_proposals_of_all_shares_are_those_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(method: str, image: NDArray[np.uint8], **parameters: object) -> Proposals:
        height, width = image.shape[:2]
        boxes = np.array([(0, 0, width, height), (1, 1, 9.5, 9)], np.float32)
        return Proposals(boxes, np.array([image.mean() / 255, 0.1], np.float32))

    monkeypatch.setattr(proposer, "propose", stand_in)
    shutil.copytree("demo/JPEGImages", "out/images")
    Path("out/images/000002.jpg").write_bytes(b"no image")
    words = ("propose", "out/images", "--threads", "2")
    assert detkit(*words, "-o", "out/one.jsonl").returncode == 3
    codes = [
        detkit(*words, "--shard", f"{number}/2", "-o", f"out/{number}.jsonl").returncode
        for number in (1, 2)
    ]
    assert codes == [0, 3]
    assert detkit("merge", "out/1.jsonl", "out/2.jsonl", "-o", "out/all.jsonl").returncode == 0
    assert Path("out/all.jsonl").read_bytes() == Path("out/one.jsonl").read_bytes()
