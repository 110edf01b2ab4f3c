"""Tests of `detkit propose` and `detkit recall`, and of --proposals in the other commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from running import detkit, process

from detkit.data.demo.pictures import write_demo
from detkit.proposals import proposer
from detkit.proposals.reader import read_proposals
from detkit.proposals.writer import ProposalWriter
from detkit.structures import Proposals

QUICK = ("--num-workers", "0", "--precision", "32-true", "--device", "cpu")
ANY_BOX = ("--set", "positive_thresh=0.05")  # the few boxes of these tests lie on no object
COLUMNS = ["proposals", "boxes", "recall@0.5", "recall@0.7", "recall@0.9", "MABO"]
PLUGIN = Path(__file__).parent / "given_boxes.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dëmo"
    write_demo(folder, num_images=12)
    return folder


@pytest.fixture(autouse=True)
def no_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the methods by a few boxes; return which were asked for, an image a time."""
    calls: list[str] = []

    def stand_in(method: str, image: NDArray[np.uint8], **parameters: object) -> Proposals:
        calls.append(method)
        height, width = image.shape[:2]
        boxes = [(0, 0, width, height), (0, 0, width // 2, height), (2, 2, 40, 40)]
        return Proposals(np.array(boxes, np.float32), np.array([0.9, 0.5, 0.1], np.float32))

    monkeypatch.setattr(proposer, "propose", stand_in)
    return calls


def test_a_folder_is_proposed_into_a_file_as_the_methods_do_it(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    images = sorted((demo / "JPEGImages").iterdir())[:3]
    done = process("propose", *images, "-o", out, "--max-boxes", "50", "--max-side", "100")
    assert done.returncode == 0 and done.stdout == ""
    assert "3 images, 50 boxes each" in done.stderr and "of at most 2 GiB" in done.stderr
    file = read_proposals(out)
    assert file.images == tuple(map(str, images))
    assert file.parameters["method"] == "selective-search"
    from detkit.data.images import read_image

    expected = proposer.propose(
        "selective-search", read_image(images[0]), max_boxes=50, max_side=100
    )
    np.testing.assert_array_equal(file.found[0].boxes, expected.boxes)
    assert not (tmp_path / "p.jsonl.partial").exists()
    again = detkit("propose", images[0], "-o", out)
    assert again.returncode == 2 and "exists already; add --force" in again.stderr


def test_an_interrupted_file_is_taken_up_again(
    demo: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial = tmp_path / "p.jsonl", tmp_path / "p.jsonl.partial"
    stand_in = proposer.propose

    def interrupted(method: str, image: NDArray[np.uint8], **parameters: object) -> Proposals:
        if len(asked) == 5:
            raise KeyboardInterrupt
        return stand_in(method, image)

    monkeypatch.setattr(proposer, "propose", interrupted)
    stopped = detkit("propose", demo, "-o", out)
    assert stopped.returncode == 130
    assert "the same command goes on" in stopped.stderr and str(partial) in stopped.stderr
    assert partial.exists() and not out.exists()
    kept = len(partial.read_text(encoding="utf-8").splitlines())
    assert kept >= 1
    with partial.open("a", encoding="utf-8") as file:  # as a kill would leave it
        file.write('{"image": "cut')
    monkeypatch.setattr(proposer, "propose", stand_in)
    asked.clear()
    other = detkit("propose", demo, "-o", out, "--seed", "1")
    assert other.returncode == 2 and "was begun with" in other.stderr and not asked
    done = detkit("propose", demo, "-o", out)
    assert done.returncode == 0 and f"{kept} images are done, going on" in done.stderr
    assert len(asked) <= 12 - kept
    assert f": 12 images, 3 boxes each ({kept} done before" in done.stderr
    names = read_proposals(out).images
    assert len(names) == len(set(names)) == 12 and not partial.exists()


def test_a_second_command_on_the_same_file_is_refused_and_the_first_ends_whole(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "p.jsonl"
    image = next((demo / "JPEGImages").iterdir())
    with ProposalWriter(out, {}) as first:
        for options in ((), ("--force",)):
            second = detkit("propose", image, "-o", out, *options)
            assert second.returncode == 3 and "another `detkit propose` is writing" in second.stderr
        first.write("a.jpg", (9, 9), Proposals(np.ones((0, 4), np.float32), np.ones(0, np.float32)))
    assert not asked and read_proposals(out).images == ("a.jpg",)
    assert [path.name for path in tmp_path.glob("*p.*")] == ["p.jsonl"]
    assert detkit("propose", image, "-o", out, "--force").returncode == 0


@pytest.mark.parametrize("notes", ["my notes\n", "my notes", '{"mine": 1}\n', "[" * 100_000, "\0"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_file_of_the_users_where_unfinished_proposals_go_is_left_alone(
    demo: Path, tmp_path: Path, asked: list[str], notes: str, force: tuple[str, ...]
) -> None:
    partial = tmp_path / "p.jsonl.partial"
    partial.write_text(notes, encoding="utf-8")
    refused = detkit("propose", demo, "-o", tmp_path / "p.jsonl", *force)
    assert refused.returncode == 3 and f"{partial}: " in refused.stderr
    assert "something else" in refused.stderr and not asked
    assert partial.read_text(encoding="utf-8") == notes
    assert [path.name for path in tmp_path.glob("*p.*")] == [partial.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_pipe_is_written_to_and_never_replaced(
    demo: Path, tmp_path: Path, asked: list[str], force: tuple[str, ...]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as reader:
        done = detkit("propose", demo, "-o", pipe, *force)
        assert done.returncode == 0, done.stderr
        assert len(reader.read().splitlines()) == 12
    assert pipe.is_fifo() and [path.name for path in tmp_path.glob("*p*")] == ["pipe"]


def test_an_image_that_cannot_be_read_is_a_line_and_exit_code_3(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    good = next((demo / "JPEGImages").iterdir())
    out = tmp_path / "p.jsonl"
    done = detkit("propose", "-", "-o", out, stdin=f"{bad}\n{good}\n")
    assert done.returncode == 3 and "1 image could not be read" in done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["image"] == str(bad) and "error" in lines[0]
    assert read_proposals(out).images == (str(good),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "edgeboxes", "-o", "p.jsonl"], "did you mean edge-boxes?"),
        ([], "-o FILE is missing"),
        (["-o", "p.mat"], "JSON Lines are written"),
        (["-o", "-"], "-o -: proposals go to a file"),
        (["-o", ".", "--force"], "-o .: is a folder; name a file"),
        (["-o", "nowhere/p.jsonl"], "-o nowhere/p.jsonl: there is no folder nowhere"),
        (["--max-boxes", "0", "-o", "p.jsonl"], "Invalid value for '--max-boxes'"),
        (["--max-side", "-1", "-o", "p.jsonl"], "Invalid value for '--max-side'"),
        (["--seed", "-1", "-o", "p.jsonl"], "Invalid value for '--seed'"),
        (["--min-area", "400", "-o", "p.jsonl"], "--min-area: is for edge-boxes; add --method"),
        (
            ["--method", "edge-boxes", "--max-aspect-ratio", "0", "-o", "p.jsonl"],
            "--max-aspect-ratio 0: must lie between 1 and 1000",
        ),
        (["--edge-model", "m.yml", "-o", "p.jsonl"], "--edge-model: is for edge-boxes"),
        (["--alpha", ".7", "-o", "p.jsonl"], "--alpha: is for edge-boxes; add --method"),
        (["--method", "edge-boxes", "--eta", "0", "-o", "p.jsonl"], "--eta 0: must be above 0"),
        (
            ["--method", "edge-boxes", "--min-side", "20", "-o", "p.jsonl"],
            "--min-side: is for selective-search; add --method",
        ),
        (["--min-side", "-1", "-o", "p.jsonl"], "--min-side -1: must be at least 0"),
        (["--scaling", "up", "-o", "p.jsonl"], "--scaling up: choose from longer, width"),
    ],
)
def test_wrong_usage_of_propose_is_told(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = detkit("propose", demo, *words)
    assert done.returncode == 2 and message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == []


def test_recall_compares_files_and_methods_in_one_table(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    out, plot = tmp_path / "p.jsonl", tmp_path / "r.png"
    detkit("propose", demo, "-o", out)
    words = ("recall", out, demo, "--method", "edge-boxes", "--split", "train", "--plot", plot)
    done = detkit(*words)
    assert done.returncode == 0
    header, *rows = done.stdout.splitlines()
    assert header.split() == COLUMNS
    assert [row.split()[:2] for row in rows[:8]] == [
        [name, count]
        for name in (str(out), "edge-boxes")
        for count in ("100", "300", "1000", "2000")
    ]
    assert rows[0].split()[1:] == rows[4].split()[1:]  # the same boxes
    assert "difficult objects left out" in rows[-1] and "train" in rows[-1]
    assert plot.read_bytes().startswith(b"\x89PNG")
    report = json.loads(detkit(*words, "--json", "--force").stdout)
    assert [one["name"] for one in report["proposals"]] == [str(out), "edge-boxes"]
    assert report["proposals"][0]["all"]["num_objects"] > 0


def test_recall_counts_no_more_boxes_than_are_asked_for(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "p.jsonl"
    detkit("propose", demo, "-o", out)
    words = ("recall", out, demo, "--method", "edge-boxes", "--split", "train")
    done = detkit(*words, "--max-boxes", "300")
    rows = done.stdout.splitlines()
    assert [row.split()[1] for row in rows[1:5]] == ["100", "300"] * 2 and not rows[5]
    assert rows[6].startswith("first 300 boxes ")
    one = json.loads(detkit(*words, "--max-boxes", "1", "--json").stdout)["proposals"][0]
    assert [count["boxes"] for count in one["all"]["counts"]] == [1]
    assert one["boxes_per_image"] == 1


def test_recall_replaces_a_plot_only_by_force(demo: Path, tmp_path: Path, asked: list[str]) -> None:
    plot = tmp_path / "r.png"
    plot.write_text("a picture of mine", encoding="utf-8")
    words = ("recall", demo, "--method", "edge-boxes", "--split", "train", "--plot", plot)
    refused = detkit(*words)
    assert refused.returncode == 2 and f"{plot}: exists already; add --force" in refused.stderr
    assert plot.read_text(encoding="utf-8") == "a picture of mine" and not asked
    other = detkit(*words[:-1], tmp_path / "r.txt")
    assert other.returncode == 2 and "written as one of" in other.stderr and not asked
    assert detkit(*words, "--force").returncode == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_parameters_of_the_shell_stand_in_the_file(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "p.jsonl"
    edges = {"alpha": 0.6, "beta": 0.7, "eta": 0.9, "min_score": 0.02}
    edges |= {"min_area": 300.0, "max_aspect_ratio": 4.0}
    for method, options in (
        ("selective-search", {"min_side": 20.0, "scaling": "width"}),
        ("edge-boxes", edges),
    ):
        words = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
        flat = [word for pair in words for word in pair]
        done = detkit("propose", demo, "--method", method, *flat, "-o", out, "--force")
        assert done.returncode == 0, done.stderr
        made = read_proposals(out).parameters
        assert {name: made[name] for name in options} == options
    # Both methods take their own of one command.
    both = detkit(
        *("recall", demo, "--split", "train", "--method", "edge-boxes", "--alpha", ".7"),
        *("--method", "selective-search", "--min-side", "9"),
    )
    assert both.returncode == 0, both.stderr


@pytest.mark.parametrize("proposals", [("--method", "selective-search"), ("p.jsonl",)])
def test_recall_takes_no_options_of_edge_boxes_without_it(
    demo: Path, tmp_path: Path, asked: list[str], proposals: tuple[str, ...]
) -> None:
    model = tmp_path / "model.yml.gz"
    model.write_bytes(b"")
    for option, value in (("--edge-model", model), ("--min-area", "100")):
        done = detkit("recall", *proposals, demo, "--split", "train", option, value)
        assert done.returncode == 2 and f"{option}: is for edge-boxes" in done.stderr


def test_an_edge_model_that_cannot_be_used_is_told_once_and_nothing_is_written(
    demo: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model.yml.gz", tmp_path / "p.jsonl"
    model.write_bytes(b"words")
    done = detkit("propose", demo, "--method", "edge-boxes", "--edge-model", model, "-o", out)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert str(model) in done.stderr and not list(tmp_path.glob("*p.jsonl*"))


def test_recall_needs_proposals_of_every_image(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "p.jsonl"
    detkit("propose", next((demo / "JPEGImages").iterdir()), "-o", out)
    done = detkit("recall", out, demo, "--split", "train")
    assert done.returncode == 3 and "holds no proposals for" in done.stderr
    nothing = detkit("recall", demo)
    assert nothing.returncode == 2 and "detkit recall FILE... DATA" in nothing.stderr


def test_train_detect_and_eval_take_proposals_of_a_file(
    demo: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "p.jsonl", tmp_path / "run"
    detkit("propose", demo, "--method", "edge-boxes", "--max-boxes", "7", "-o", out)
    asked.clear()
    plugin = ("--plugin", PLUGIN)
    begun = ("train", demo, "--model", "given-boxes", *plugin, *QUICK, *ANY_BOX, "-o", run)
    assert detkit(*begun, "--proposals", out, "--max-steps", "2").returncode == 0
    more = detkit("train", "--resume", "-o", run, "--max-steps", "3")
    assert more.returncode == 0, more.stderr
    assert not asked
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))["plan"]
    assert settings["proposals"] == str(out)
    assert settings["detector"]["proposals"] == "edge-boxes"  # the file says how it was made
    assert settings["detector"]["max_proposals"] == 7
    model = run / "last.safetensors"
    image = next((demo / "JPEGImages").iterdir())
    found = detkit("detect", model, image, *plugin, "--timing")
    assert found.returncode == 0 and json.loads(found.stdout)["detections"]
    assert not asked  # the cache knows it by its content and by how the file was made
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "empty"))
    assert detkit("detect", model, image, *plugin).stdout == found.stdout
    assert asked == ["edge-boxes"]  # a new image: as in training
    for stage in ("reading", "proposals", "resizing", "network", "features", "selection"):
        assert f"{stage} 0." in found.stderr
    of_file = detkit("detect", model, image, *plugin, "--proposals", out)
    assert of_file.returncode == 0 and len(asked) == 1
    scored = detkit("eval", model, demo, *plugin, "--proposals", out, "--json")
    assert scored.returncode == 0 and len(asked) == 1
    assert json.loads(scored.stdout)["mAP"] is not None


def test_a_model_of_a_foreign_file_asks_for_one_or_a_method(
    demo: Path, tmp_path: Path, asked: list[str]
) -> None:
    out, run = tmp_path / "p.jsonl", tmp_path / "run"
    images = sorted((demo / "JPEGImages").iterdir())
    lines = [{"image": str(one), "boxes": [[0, 0, 50, 50], [9, 9, 60, 70]]} for one in images]
    out.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    plugin = ("--plugin", PLUGIN)
    words = ("train", demo, "--model", "given-boxes", *plugin, *QUICK, *ANY_BOX, "-o", run)
    assert detkit(*words, "--proposals", out, "--max-steps", "1").returncode == 0
    model = run / "last.safetensors"
    refused = detkit("detect", model, images[0], *plugin)
    assert refused.returncode == 2 and "give those of these images by --proposals" in refused.stderr
    assert detkit("detect", model, images[0], *plugin, "--proposals", "edge-boxes").returncode == 0
    assert asked == ["edge-boxes"]
