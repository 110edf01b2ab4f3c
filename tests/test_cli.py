"""The `detkit` command itself, in a process of its own: exit codes, stdout and stderr apart."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import detkit, process

from detkit import __version__
from detkit.errors import ExitCode
from detkit.networks import precision

COMMANDS = (
    "demo",
    "check",
    "train",
    "eval",
    "detect",
    "merge",
    "convert",
    "split",
    "propose",
    "recall",
    "anchors",
    "export",
    "compress",
    "next",
    "compare",
    "enough",
    "suspects",
    "label",
    "plot",
    "models",
    "schema",
)
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small demo data set."""
    folder = tmp_path_factory.mktemp("data") / "demo"
    done = detkit("demo", folder, "--num-images", "12")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def run_dir(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two steps, too short to learn anything."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ("--max-steps", "2", "--batch-size", "2", "--num-workers", "0", "--device", "cpu")
    done = detkit("train", demo, "--model", "ssd", "-o", out, *words, "--set", "size=128")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return out


def assert_same_weights(run: Path, other: Path) -> None:
    from safetensors.numpy import load_file

    mine, others = (load_file(folder / "last.safetensors") for folder in (run, other))
    assert mine.keys() == others.keys()
    for name, values in mine.items():
        assert values.tobytes() == others[name].tobytes(), name


def hash_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_version_is_the_packages() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"detkit {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself_with_an_example(command: str, flag: str) -> None:
    done = detkit(command, flag)
    assert done.returncode == 0
    assert f"detkit {command}" in done.stdout.partition("Example")[2]


def test_every_option_and_argument_has_a_help_text() -> None:
    from typer.main import get_command

    from detkit.cli import app

    group = get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert name in COMMANDS
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"detkit {name}: {parameter.name}"


def test_the_list_of_commands_has_the_first_line_of_each_help_text() -> None:
    from detkit.cli.commands import COMMANDS as TABLE
    from detkit.cli.commands import function_of

    for name, (_, line) in TABLE.items():
        assert line == (function_of(name).__doc__ or "").strip().partition("\n")[0]


def test_the_list_of_commands_is_printed_without_reading_a_command() -> None:
    code = (
        "import sys; from detkit.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('detkit.cli.train' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_imports_neither_torch_nor_opencv_nor_rich() -> None:
    code = (
        "import sys; from detkit.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'cv2', 'rich.console', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_scoring_predictions_never_imports_torch(demo: Path, tmp_path: Path) -> None:
    names = (demo / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split()
    lines = [json.dumps({"image": f"{name}.jpg", "detections": []}) for name in names]
    found = tmp_path / "found.jsonl"
    found.write_text("\n".join(lines), encoding="utf-8")
    code = (
        "import sys; from detkit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["eval", "--predictions", str(found), str(demo)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "mAP 0.000  VOC 2007 11-point AP, IoU >= 0.5" in done.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "train"),
        (["train", "--modle", "ssd"], "--model"),
        (["train", "DATA", "--model", "sdd", "-o", "OUT"], "did you mean ssd?"),
        (["train", "DATA", "--model", "ssd", "-o", "OUT", "--set", "sise=128"], "size"),
        (["train", "DATA", "--model", "ssd", "-o", "OUT", "--recipe", "papr"], "paper"),
        (["train", "DATA", "--model", "ssd", "-o", "OUT", "--backbone", "mobilenet_v3"], "_v2"),
        (["train", "DATA", "--model", "ssd"], "-o RUN_DIR"),
        (["train", "DATA", "-o", "OUT"], "--model"),
        (["eval", "DATA"], "MODEL DATA"),
        (["check", "DATA", "--classes", "Car"], "did you mean"),
        (["convert", "DATA", "OUT", "--to", "voc2"], "voc"),
        (["models", "ssdd"], "did you mean ssd?"),
        (["split", "DATA", "OUT", "--seed", "-1"], "Invalid value for '--seed'"),
        (["anchors", "DATA", "--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_meant(
    words: list[str], hint: str, demo: Path, tmp_path: Path
) -> None:
    places = {"DATA": str(demo), "OUT": str(tmp_path / "out")}
    done = detkit(*(places.get(word, word) for word in words))
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["chekc", "."], "No such command 'chekc'. Did you mean 'check'?"),
        (["check"], "Missing argument 'DATA'; `detkit check -h` explains"),
        (["check", ".", "--jsn"], "No such option: --jsn (Possible options: --json, --set); "),
        (["detect", "m", "i.jpg", "--every", "x"], "Invalid value for '--every'"),
        (["check", ".", "--json=1"], "Option '--json' does not take a value"),
    ],
)
def test_words_that_are_not_understood_are_one_line_like_every_error(
    words: list[str], line: str
) -> None:
    done = detkit(*words)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"detkit: error: {line}")


def test_no_words_at_all_are_answered_by_the_help_text() -> None:
    done = detkit()
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == detkit("--help").stdout


def test_an_error_is_one_line_and_a_traceback_comes_only_with_debug(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.safetensors"
    image = tmp_path / "a.jpg"
    image.write_bytes(b"")
    done = process("detect", missing, image)
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr.startswith("detkit: error: ")
    assert len(done.stderr.splitlines()) == 1
    debugged = detkit("detect", missing, image, "--debug")
    assert debugged.returncode == ExitCode.BAD_INPUT
    assert "Traceback" in debugged.stderr


def test_demo_does_not_overwrite_without_force(demo: Path) -> None:
    before = hash_of(demo)
    assert detkit("demo", demo).returncode == ExitCode.USAGE
    assert hash_of(demo) == before
    assert detkit("demo", demo, "--num-images", "12", "--force").returncode == 0
    assert hash_of(demo) == before  # the same seed draws the same images


def test_check_of_a_sound_folder_exits_0_and_json_is_the_whole_of_stdout(demo: Path) -> None:
    assert detkit("check", demo).returncode == 0
    done = detkit("check", demo, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["errors"] == 0
    assert set(report["splits"]) == {"train", "val", "test"}


@pytest.fixture
def spoilt(demo: Path, tmp_path: Path) -> Path:
    """Return the demo data set with one box of swapped corners in it."""
    import re
    import shutil

    folder = tmp_path / "spoilt"
    shutil.copytree(demo, folder)
    first = (demo / "ImageSets" / "Main" / "train.txt").read_text(encoding="utf-8").split()[0]
    path = folder / "Annotations" / f"{first}.xml"
    text = path.read_text(encoding="utf-8")
    number = re.search(r"<xmin>(.*?)</xmin>", text)
    assert number is not None
    swapped = f"<xmax>{float(number[1]) - 1:g}</xmax>"
    path.write_text(re.sub(r"<xmax>.*?</xmax>", swapped, text, count=1), encoding="utf-8")
    return folder


def test_check_names_file_line_and_object_of_an_error_and_exits_1(spoilt: Path) -> None:
    done = detkit("check", spoilt)
    assert done.returncode == ExitCode.NOT_MET
    assert "Annotations/0" in done.stdout
    assert "object 1" in done.stdout
    finding = json.loads(detkit("check", spoilt, "--json").stdout)["findings"][0]
    assert finding["line"] > 1


def test_train_refuses_bad_labels_naming_them_and_skip_bad_drops_just_those(
    spoilt: Path, tmp_path: Path
) -> None:
    words = ("train", spoilt, "--model", "ssd", "-o", tmp_path / "run", "--max-steps", "1")
    words += ("--batch-size", "2", "--num-workers", "0", "--set", "size=128", "--device", "cpu")
    done = detkit(*words)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "object 1" in done.stderr
    assert "--skip-bad" in done.stderr
    assert not (tmp_path / "run").exists()
    done = detkit(*words, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "--skip-bad: 1 " in done.stderr


def test_train_writes_the_run_folder_and_says_what_to_type_next(run_dir: Path) -> None:
    held = {path.name for path in run_dir.iterdir()}
    expected = {"config.json", "metrics.jsonl", "log.txt", "samples"}
    expected |= {"best.safetensors", "last.safetensors", "resume.ckpt"}
    assert expected <= held
    plan = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["plan"]
    assert (plan["model"], plan["max_steps"], plan["detector"]["size"]) == ("ssd", 2, 128)


def test_a_second_run_into_the_same_folder_is_refused(run_dir: Path, demo: Path) -> None:
    before = hash_of(run_dir)
    done = detkit("train", demo, "--model", "ssd", "-o", run_dir, "--max-steps", "1")
    assert done.returncode == ExitCode.USAGE
    assert "--resume" in done.stderr
    assert hash_of(run_dir) == before


@pytest.mark.parametrize("gain", [0.1, 10.0])
def test_config_repeats_a_run_bit_for_bit_however_fast_bf16_seems_now(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda device: gain)
    again = tmp_path / "again"
    done = detkit("train", "--config", run_dir / "config.json", "-o", again)
    assert done.returncode == 0, done.stderr
    assert_same_weights(again, run_dir)


def test_detect_into_a_pipe_is_one_json_line_an_image(run_dir: Path, demo: Path) -> None:
    images = sorted((demo / "JPEGImages").iterdir())[:3]
    done = process("detect", run_dir / "last.safetensors", *images)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in images]
    for line in lines:
        for one in line["detections"]:
            x1, y1, x2, y2 = one["box"]
            assert 0 <= x1 <= x2 <= line["width"]
            assert 0 <= y1 <= y2 <= line["height"]


def test_one_bad_image_among_many_is_an_error_line_and_exit_code_3(
    run_dir: Path, demo: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bäd.jpg"
    bad.write_bytes(b"no image")
    images = sorted((demo / "JPEGImages").iterdir())
    paths = "\n".join(map(str, [images[0], bad, images[1]]))
    done = detkit("detect", run_dir / "last.safetensors", "-", stdin=paths)
    assert done.returncode == ExitCode.BAD_INPUT
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, True, False]
    assert lines[1]["image"] == str(bad)


def test_a_closed_pipe_ends_quietly(run_dir: Path, demo: Path) -> None:
    words = ["detect", str(run_dir / "last.safetensors"), str(demo / "JPEGImages")]
    words += ["--batch-size", "1", "--score", "0"]
    running = subprocess.Popen(
        [sys.executable, "-m", "detkit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert running.stdout is not None and running.stderr is not None
    assert running.stdout.readline().startswith("{")
    running.stdout.close()
    errors = running.stderr.read()
    assert running.wait(timeout=600) == 0, errors
    assert "Error" not in errors


def test_detect_draws_and_writes_files_and_overwrites_nothing(
    run_dir: Path, demo: Path, tmp_path: Path
) -> None:
    image = sorted((demo / "JPEGImages").iterdir())[0]
    words = ("detect", run_dir / "last.safetensors", image, "--draw", tmp_path / "drawn")
    words += ("-o", tmp_path / "found.csv")
    done = detkit(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == [image.name]
    assert (tmp_path / "found.csv").read_text(encoding="utf-8").startswith("image,label,score,")
    assert detkit(*words).returncode == ExitCode.USAGE
    assert detkit(*words, "--force").returncode == 0


def test_a_gate_that_is_not_met_exits_1_and_says_by_how_much(run_dir: Path, demo: Path) -> None:
    words = ("eval", run_dir / "last.safetensors", demo, "--json")
    done = detkit(*words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["split"], report["metric"]) == ("test", "voc07")
    done = detkit(*words, "--fail-under", "mAP=.999")
    assert done.returncode == ExitCode.NOT_MET
    assert "VOC 2007 11-point" in done.stderr
    assert json.loads(done.stdout) == report
    assert detkit(*words, "--fail-under", "mAP=0").returncode == 0
    assert detkit(*words, "--fail-under", "moon=.1").returncode == ExitCode.USAGE


def test_detections_written_and_read_back_score_as_the_model_does(
    run_dir: Path, demo: Path, tmp_path: Path
) -> None:
    names = (demo / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split()
    images = [demo / "JPEGImages" / f"{name}.jpg" for name in names]
    model = run_dir / "last.safetensors"
    found = tmp_path / "found.jsonl"
    assert detkit("detect", model, *images, "-o", found).returncode == 0
    by_model = json.loads(detkit("eval", model, demo, "--json").stdout)
    by_file = json.loads(detkit("eval", "--predictions", found, demo, "--json").stdout)
    assert by_file["mAP"] == pytest.approx(by_model["mAP"], abs=1e-9)


@pytest.mark.parametrize("form", ["jsonl", "coco", "voc", "yolo"])
def test_chosen_classes_score_as_they_do_among_all(
    form: str, run_dir: Path, demo: Path, tmp_path: Path
) -> None:
    names = (demo / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split()
    images = [demo / "JPEGImages" / f"{name}.jpg" for name in names]
    found = tmp_path / "found"
    model = run_dir / "last.safetensors"
    assert detkit("detect", model, *images, "-f", form, "-o", found).returncode == 0
    words = ["eval", "--predictions", found, demo, "--json"]
    *_, last = json.loads(detkit(*words).stdout)["classes"]
    chosen = detkit(*words, "--classes", last["name"])
    assert chosen.returncode == 0, chosen.stderr
    assert json.loads(chosen.stdout)["classes"] == [last]


def test_labels_that_cannot_be_read_are_never_left_out_silently(demo: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(demo, spoilt)
    name = (demo / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split()[0]
    (spoilt / "Annotations" / f"{name}.xml").write_text(
        "<annotation><object></annotation>", encoding="utf-8"
    )
    found = tmp_path / "found.jsonl"
    found.write_text(json.dumps({"image": f"{name}.jpg", "detections": []}), encoding="utf-8")
    done = detkit("eval", "--predictions", found, spoilt)
    assert done.returncode == 0, done.stderr
    assert f"{name}.xml:1" in done.stderr
    assert "1 label could not be read and is left out" in done.stderr
    for words in (
        ["convert", spoilt, tmp_path / "coco", "--to", "coco"],
        ["split", spoilt, tmp_path / "split"],
    ):
        done = detkit(*words)
        assert done.returncode == 3, done.stderr
        assert done.stderr.splitlines()[-1].startswith("detkit: error: ")
        assert f"{name}.xml:1" in done.stderr
        assert not Path(words[2]).exists()
        skipped = detkit(*words, "--skip-bad")
        assert skipped.returncode == 0, skipped.stderr
        assert "--skip-bad: 1 label or image that cannot be read left out" in skipped.stderr
        assert not list(Path(words[2]).rglob(f"{name}.jpg"))


@pytest.mark.parametrize("lost", ["Annotations", "JPEGImages"])
def test_a_conversion_refuses_what_it_would_lose(demo: Path, tmp_path: Path, lost: str) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(demo, spoilt)
    (gone, *_) = sorted((spoilt / lost).iterdir())
    gone.unlink()
    words = ["convert", spoilt, tmp_path / "coco", "--to", "coco"]
    done = detkit(*words)
    assert done.returncode == 3, done.stderr
    assert gone.stem in done.stderr and not (tmp_path / "coco").exists()
    done = detkit(*words, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "--skip-bad: 1 label or image that" in done.stderr
    assert not list((tmp_path / "coco").rglob(f"{gone.stem}.jpg"))


def test_no_command_writes_to_the_data_set(demo: Path, run_dir: Path, tmp_path: Path) -> None:
    before = hash_of(demo)
    for command in (
        ("check", demo),
        ("convert", demo, tmp_path / "coco", "--to", "coco"),
        ("split", demo, tmp_path / "split", "--val", ".3"),
        ("eval", run_dir / "last.safetensors", demo),
        ("detect", run_dir / "last.safetensors", demo / "JPEGImages", "-o", tmp_path / "a.jsonl"),
    ):
        done = detkit(*command)
        assert done.returncode == 0, done.stderr
        assert hash_of(demo) == before, command


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_exits_130_keeps_the_run_and_resume_ends_as_if_never_stopped(
    demo: Path, tmp_path: Path
) -> None:
    words = ["train", str(demo), "--model", "ssd", "--max-steps", "30", "--batch-size", "2"]
    words += ["--num-workers", "0", "--set", "size=128", "--device", "cpu", "--precision"]
    words += ["32-true", "-o"]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    running = subprocess.Popen(
        [sys.executable, "-m", "detkit", *words, str(stopped)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    metrics = stopped / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        metrics.exists() and metrics.read_text(encoding="utf-8")
    ):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=600)
    assert running.returncode == ExitCode.INTERRUPTED, errors
    assert "--resume" in errors
    assert (stopped / "resume.ckpt").exists()
    done = detkit("train", "--resume", "-o", stopped)
    assert done.returncode == 0, done.stderr
    done = detkit(*words, whole)
    assert done.returncode == 0, done.stderr
    assert_same_weights(stopped, whole)


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="needs the shared data")
def test_check_finds_the_two_boxes_of_one_pixel_of_bccd() -> None:
    done = detkit("check", SHARED / "bccd", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)["findings"]
    images = {Path(one["image"]).stem for one in found if one["code"] == "one-pixel"}
    assert images == {"BloodImage_00338", "BloodImage_00343"}


def test_an_exception_nobody_thought_of_is_still_one_line_and_asks_for_a_report(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("detkit.data.open_dataset", fail)
    done = detkit("check", demo)
    assert done.returncode == ExitCode.BAD_INPUT
    assert len(done.stderr.splitlines()) == 1
    assert "report" in done.stderr


def test_config_of_a_run_gives_way_to_what_the_command_line_says(run_dir: Path) -> None:
    from detkit.cli.train_plan import merge, read_plan

    plan = read_plan(run_dir / "config.json")
    assert (plan.max_steps, plan.seed) == (2, 0)
    changed = merge(plan, {"seed": 3, "max_minutes": 1.5, "model": None})
    assert (changed.max_steps, changed.max_minutes, changed.seed) == (None, 1.5, 3)
    assert changed.model == plan.model
    assert "backbone" not in merge(plan, {"backbone": "resnet18"}).detector


def test_drawings_of_images_with_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    import numpy as np

    from detkit.cli.drawings import Drawings
    from detkit.predictions.image import ImagePredictions

    drawings = Drawings(tmp_path / "drawn", ["car"], {"car": 0.5})
    for image in ("a/1.jpg", "b/1.jpg", "../b/1.jpg", "b/1.jpg", "clip.mp4#00010", "c/1.JPG"):
        nothing = np.zeros((0, 4), np.float32)
        found = ImagePredictions(image, 8, 8, (), np.zeros(0, np.float32), nothing)
        drawings.add(found, np.zeros((8, 8, 3), np.uint8))
    written = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    # One name in another case is one file on macOS and Windows.
    assert len({name.casefold() for name in written}) == drawings.count == 6
    assert "1.jpg" in written
    assert "clip.mp4#00010.jpg" in written


def test_models_names_the_backends_own_paper_as_the_source_of_its_recipe() -> None:
    report = json.loads(detkit("models", "fast-rcnn", "--json").stdout)
    recipe = {
        one["key"]: one
        for one in report["backends"][0]["settings"]
        if one["group"] == "recipe paper"
    }
    for key in ("batch_size", "max_steps", "lr", "milestones", "bias_lr_factor"):
        assert recipe[key]["source"].startswith("sec. 2.3: 2 images a batch"), key
