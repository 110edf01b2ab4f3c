"""What the commands refuse: with which exit code, in which line, and before anything is read."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from running import detkit

from detkit.errors import ExitCode


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with labelled images in `demo` and a run's folder, its model empty."""
    folder = tmp_path_factory.mktemp("plätze")
    done = detkit("demo", folder / "demo", "--num-images", "6", "-q")
    assert done.returncode == 0, done.stderr
    (folder / "run").mkdir()
    (folder / "run" / "best.safetensors").touch()
    (folder / "run" / "last.safetensors").touch()
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in that folder."""
    monkeypatch.chdir(place)
    return place


def refused(words: str, code: ExitCode) -> str:
    """Return the one line in which a command is refused with this exit code."""
    done = detkit(*words.split())
    assert (done.returncode, done.stdout) == (code, "")
    *notes, line = done.stderr.splitlines()
    assert line.startswith("detkit: error: ")
    assert not any("error" in note for note in notes)
    return line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "words",
    [
        "check gone",
        "anchors gone",
        "convert gone out --to coco",
        "detect gone.safetensors demo",
        "detect gone.onnx demo",
        "detect run gone.jpg",
        "detect run demo/*.gif",
        "detect run @gone.txt",
        "propose gone.jpg -o out.npz",
        "recall gone.npz demo",
        "eval gone.safetensors demo",
        "eval --predictions gone.jsonl demo",
        "eval --predictions gone.jsonl demo --baseline gone.json",
        "export gone.safetensors -o out.onnx",
        "compress gone.safetensors --svd 1,1 -o out.safetensors",
        "plot gone -o out.png",
        "compare demo --run gone -o out",
        "train demo --model ssd -o out --weights gone.pth",
        "train demo --model ssd -o out --val gone/labels",
        "train demo --model ssd -o out --plugin gone.py",
        "train demo --model fast-rcnn -o out --proposals gone.npz",
        "train --config gone.json -o out",
        "train --resume -o gone",
    ],
)
def test_a_file_to_be_read_that_is_not_there_is_bad_input_and_named(words: str) -> None:
    assert "gone" in refused(words, ExitCode.BAD_INPUT) or "*.gif" in words


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train demo --model sdd -o out", "did you mean ssd?"),
        ("train demo --model ssd -o out --val tset", "--val tset: neither a split"),
        (
            "train demo --model fast-rcnn -o out --proposals slective",
            "--proposals slective: no such file, nor a method",
        ),
        ("train demo --model ssd -o out --set size=abc", "--set size=abc: expected a whole number"),
        ("export run -o m.foo", "-o m.foo: an ONNX file's name ends in .onnx"),
        ("models --plugin ..", "--plugin ..: neither a Python file (.py) nor a module"),
        ("eval run demo --plugin a/b", "--plugin a/b: neither a Python file (.py) nor a module"),
    ],
)
def test_a_wrong_name_or_value_is_wrong_usage(words: str, told: str) -> None:
    assert told in refused(words, ExitCode.USAGE)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("folder", [".", "..", "/", "demo"])
def test_a_folder_is_no_part_to_be_merged(folder: str) -> None:
    told = refused(f"merge {folder} gone -o out.jsonl", ExitCode.BAD_INPUT)
    assert told.endswith(f"{folder}: is a folder; name the files in it")


@pytest.mark.parametrize(
    ("code", "told"),
    [("moon", "NameError: name 'moon'"), ("def f(", "SyntaxError"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_plugin_whose_code_fails_is_no_defect_of_ours(here: Path, code: str, told: str) -> None:
    (here / "broken.py").write_text(code)
    line = refused("models --plugin broken.py", ExitCode.BAD_INPUT)
    assert line.startswith(f"detkit: error: --plugin broken.py: ended with {told}")
    assert "defect" not in line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("convert demo out --to foo", "--to foo: no such format; choose from voc, coco, "),
        ("convert demo run --to coco", "run: is not empty"),
        ("split demo out --val -1", "--val -1 --test 0: must lie between 0 and 1"),
        ("split demo out --val .5 --test .5", "leave some to train on"),
        ("split demo out --to foo", "--to foo: no such format"),
        ("split demo run", "run: is not empty"),
    ],
)
def test_a_wrong_option_of_a_copy_is_refused_before_the_folder_is_read(
    words: str, told: str
) -> None:
    with mock.patch("detkit.data.open_dataset", side_effect=AssertionError("it was read")):
        assert told in refused(words, ExitCode.USAGE)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("m.onnx demo", "demo --run m.onnx -o compared"),
        ("demo m.onnx", "demo --run m.onnx -o compared"),
        ("run demo", "demo --run run -o compared"),
        ("ssd yolov1 demo", "demo --models ssd,yolov1 --max-minutes 20 -o compared"),
        ("m.onnx other.onnx", "DATA --run m.onnx --run other.onnx -o compared"),
    ],
)
def test_models_beside_the_folder_of_compare_are_answered_with_what_to_type(
    words: str, typed: str
) -> None:
    line = refused(f"compare {words}", ExitCode.USAGE)
    assert line.endswith(f"trained models to --run: detkit compare {typed}")


@pytest.mark.usefixtures("here")
def test_an_unknown_option_of_compare_is_still_refused() -> None:
    assert "--rn" in refused("compare demo --rn run -o out", ExitCode.USAGE)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("model", "advice"),
    [
        ("gone.onnx", "`detkit export RUN_DIR -o gone.onnx` writes one"),
        ("gone.safetensors", "`detkit train` writes RUN_DIR/best.safetensors"),
    ],
)
@pytest.mark.parametrize("command", ["detect", "eval"])
def test_a_model_that_is_not_there_is_answered_with_what_writes_one(
    command: str, model: str, advice: str
) -> None:
    assert refused(f"{command} {model} demo", ExitCode.BAD_INPUT).endswith(advice)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", ["foo", "jsnl", "xml"])
def test_an_unknown_format_of_detect_is_answered_with_all_there_are(form: str) -> None:
    line = refused(f"detect run demo -f {form}", ExitCode.USAGE)
    for name in ("table", "jsonl", "json", "coco", "voc", "yolo", "csv"):
        assert name in line.partition("choose from")[2]


@pytest.mark.usefixtures("here")
def test_one_argument_of_eval_is_one() -> None:
    assert refused("eval demo", ExitCode.USAGE).endswith("detkit eval MODEL DATA; got 1 argument")
