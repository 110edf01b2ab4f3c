"""Several processes of one command: on one machine, or begun by a launcher on several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import Done, detkit

from detkit.cli.processes import launch_of, words_of
from detkit.errors import UsageError

pytestmark = pytest.mark.usefixtures("beside_the_untrained")
NUM_IMAGES = 30
WORDS = ("detect", "m.safetensors", "demo/JPEGImages", "--device", "cpu", "--batch-size", "4")
# Found by Python on starting: the writer of part 2 is killed behind its third image, once.
KILLER = """
import os, signal
from pathlib import Path
from detkit.shards import writer

plain = writer.PartWriter.write

def write(self, line, **more):
    plain(self, line, **more)
    flag = Path(os.environ["KILL_ONE"])
    if self.turns.shard.number == 2 and self.num_lines > 3 and flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

writer.PartWriter.write = write
"""


@pytest.fixture
def one(untrained: Path) -> bytes:
    """Return what one process finds."""
    kept = untrained / "one.jsonl"
    if not kept.exists():
        assert detkit(*WORDS, "-o", kept).returncode == 0
    return kept.read_bytes()


def held(folder: str) -> list[str]:
    """Return the names in a folder, but that of the lock a killed process leaves behind."""
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix != ".lock")


def launched(*words: str, world: int = 2) -> list[Done]:
    """Run a command as so many processes of a launcher, each on a machine of its own."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", "detkit", *words],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=120) for process in begun]
    return [Done(process.returncode, *texts) for process, texts in zip(begun, said, strict=True)]


def test_two_processes_find_what_one_does_in_its_order(one: bytes) -> None:
    done = detkit(*WORDS, "--devices", "2", "-o", "out/two.jsonl")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert Path("out/two.jsonl").read_bytes() == one
    assert held("out") == ["two.jsonl"]


def test_what_cannot_be_read_is_the_same_line_of_two_processes_and_of_one() -> None:
    Path("bad.jpg").write_bytes(b"no picture")
    words = ("detect", "m.safetensors", "demo/JPEGImages", "bad.jpg", "--device", "cpu")
    alone = detkit(*words, "-o", "out/alone.jsonl")
    done = detkit(*words, "-o", "out/two.jsonl", "--devices", "2")
    assert (alone.returncode, done.returncode) == (3, 3)
    assert done.stderr.splitlines()[-1] == "detkit: error: 1 image could not be read"
    assert Path("out/two.jsonl").read_bytes() == Path("out/alone.jsonl").read_bytes()


def test_a_process_that_is_killed_is_one_line_and_the_run_goes_on(
    one: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLER, encoding="utf-8")
    (tmp_path / "flag").touch()
    monkeypatch.setenv("KILL_ONE", str(tmp_path / "flag"))
    paths = [str(tmp_path), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    words = (*WORDS, "--devices", "2", "-o", "out/two.jsonl")
    done = detkit(*words)
    assert done.returncode == 3 and not Path("out/two.jsonl").exists()
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("detkit: error: process 2 of 2 was killed by signal 9 (SIGKILL)")
    assert "kept in out/two.jsonl.parts: the same command with --resume goes on" in line
    assert held("out/two.jsonl.parts") == ["part-1.jsonl", "part-2.jsonl.partial"]
    done = detkit(*words)
    assert done.returncode == 2 and "--resume goes on" in done.stderr
    begun = Path("out/two.jsonl.parts/part-2.jsonl.partial").read_bytes()
    assert begun.count(b"\n") == 5  # the line that opens it, and four images
    assert detkit(*words, "--resume").returncode == 0
    assert Path("out/two.jsonl").read_bytes() == one


def test_processes_of_two_machines_write_one_file_without_a_word_between_them(one: bytes) -> None:
    done = launched(*WORDS, "--nodes", "2", "-o", "out/two.jsonl")
    assert [each.returncode for each in done] == [0, 0], done
    assert [each.stdout for each in done] == ["", ""]
    assert sum("detections: out/two.jsonl" in each.stderr for each in done) == 1
    assert Path("out/two.jsonl").read_bytes() == one
    assert held("out") == ["two.jsonl"]


def test_eval_in_two_processes_gives_the_number_of_one_and_its_gate(one: bytes) -> None:
    words = ("eval", "m.safetensors", "demo", "--device", "cpu", "--json")
    words += ("--set", "score_thresh=0.001", "--errors")  # for its misses the model is opened
    words += ("--set", "tile=128")  # as of a model that was trained on tiles
    alone = detkit(*words)
    done = detkit(*words, "--devices", "2", "--fail-under", "mAP=.99")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == json.loads(alone.stdout)
    assert "misses" in json.loads(done.stdout)
    said = [
        [line for line in one.stderr.splitlines() if "looking at" in line] for one in (alone, done)
    ]
    assert said[0] == said[1] == ["looking at whole images and tiles of 128 px that overlap by 0.2"]


def test_who_puts_the_shares_of_eval_together_does_not_load_torch_for_it() -> None:
    words = ("eval", "m.safetensors", "demo", "--device", "cpu", "--devices", "2")
    begun = [sys.executable, "-X", "importtime", "-m", "detkit", *words]  # of this process alone
    done = subprocess.run(begun, capture_output=True, encoding="utf-8", check=False)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "mAP" in done.stdout
    assert "detkit.evaluation.scores" in loaded and "torch" not in loaded


@pytest.mark.parametrize(
    ("source", "stdin"), [("-", ""), ("-", "a.jpg\0b.jpg"), ("nowhere", ""), ("out", "")]
)
def test_sources_without_an_image_are_told_as_by_one_process_and_leave_nothing(
    source: str, stdin: str
) -> None:
    alone, done = (
        detkit("propose", source, "-o", "out/p.jsonl", *more, stdin=stdin)
        for more in ((), ("--devices", "2"))
    )
    errors = [one.stderr.splitlines()[-1] for one in (alone, done)]
    assert errors[0] == errors[1] and errors[0].startswith(f"detkit: error: {source}: ")
    assert alone.returncode == done.returncode == 3
    assert held("out") == []


def test_processes_look_at_the_paths_on_stdin_that_one_would() -> None:
    images = sorted(map(str, Path("demo/JPEGImages").iterdir()))[:4]
    stdin = "\n".join(["# the best", f" {images[3]} ", "", *images[:3]])
    for more in ((), ("--devices", "2")):
        done = detkit("propose", "-", "-o", f"out/{len(more)}.jsonl", *more, stdin=stdin)
        assert done.returncode == 0, done.stderr
    assert Path("out/2.jsonl").read_bytes() == Path("out/0.jsonl").read_bytes()
    assert held("out") == ["0.jsonl", "2.jsonl"]


def test_images_that_stdin_names_are_drawn_by_two_processes_as_by_one() -> None:
    stdin = "demo/JPEGImages/000001.jpg\ndemo/JPEGImages/000002.jpg\n"
    words = ("detect", "m.safetensors", "-", "--device", "cpu", "--score", ".2")
    drawn = []
    for more in ((), ("--devices", "2")):
        place = Path("out", f"drawn{len(more)}")
        done = detkit(*words, "-o", "out/f.jsonl", "--force", "--draw", place, *more, stdin=stdin)
        assert done.returncode == 0, done.stderr
        drawn.append({path.name: path.read_bytes() for path in place.iterdir()})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    assert held("out") == ["drawn0", "drawn2", "f.jsonl"]


@pytest.mark.slow
def test_what_all_processes_say_is_said_once() -> None:
    words = ("detect", "m.safetensors", "-", "--device", "cpu", "--set", "foo=1")
    done = detkit(*words, "--devices", "2", "-o", "out/two.jsonl", stdin="demo/JPEGImages/1.jpg")
    assert done.returncode == 2
    assert done.stderr.count("no setting of ssd") == 1
    assert held("out") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "2", "--timing"), "--timing: cannot be had with --devices"),
        (("--resume",), "--resume: goes on with a run of --shard or --devices"),
        (("--nodes", "2", "-o", "out/x.jsonl"), "begin it by torchrun or srun"),
        (("--shard", "1/2", "-o", "nowhere/x.jsonl"), "-o nowhere/x.jsonl: there is no folder"),
        (("--devices", "2", "--resume"), "--resume: goes on with the parts beside -o FILE"),
        (
            ("--devices", "2", "--resume", "-o", os.devnull, "-f", "jsonl"),
            "--resume: goes on with the parts beside -o FILE",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_wrong_usage(words: tuple[str, ...], said: str) -> None:
    done = detkit(*WORDS, *words)
    assert done.returncode == 2 and said in done.stderr


def test_a_launcher_is_known_by_what_it_tells_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    assert launch_of(4, 1) is None
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of a batch script, which srun has not begun
    assert launch_of(4, 1) is None
    for name, value in {"STEP_ID": "0", "PROCID": "3", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    launch = launch_of(2, 2)
    assert launch is not None and (launch.rank, launch.world_size, launch.local_rank) == (3, 4, 1)
    with pytest.raises(UsageError, match="these are 6 processes, but the launcher has begun 4"):
        launch_of(3, 2)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    launch = launch_of(2, 1)
    assert launch is not None and (launch.rank, launch.world_size, launch.local_rank) == (1, 2, 1)


def test_the_words_of_a_process_are_the_options_that_were_given() -> None:
    values = {
        "model": "m",
        "sources": ["-a.jpg", "b"],
        "score": [".5", "car=.6"],
        "form": None,
        "quiet": True,
        "force": False,
        "every": 2,
        "out": Path("o"),
    }
    words = words_of("detect", values)
    assert words[0] == "detect" and words[-4:] == ["--", "m", "-a.jpg", "b"]
    assert set(words[1:-4]) == {
        "--threshold=.5",
        "--threshold=car=.6",
        "--quiet",
        "--every=2",
        "--out=o",
    }
