"""Where a command's words go, and what becomes of it when nobody takes them."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from running import detkit

from detkit.cli.console import Console
from detkit.errors import ExitCode


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small demo data set."""
    folder = tmp_path_factory.mktemp("data") / "demo"
    assert detkit("demo", folder, "--num-images", "12").returncode == 0
    return folder


def closed_early(number: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdout (1) or stderr (2), or both (3), is a pipe nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", "detkit", *map(str, words)],
            stdout=writer if number & 1 else subprocess.PIPE,
            stderr=writer if number & 2 else subprocess.PIPE,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_gate_is_judged_though_nobody_reads_the_output(
    demo: Path, tmp_path: Path, number: int
) -> None:
    names = (demo / "ImageSets" / "Main" / "test.txt").read_text(encoding="utf-8").split()
    lines = [json.dumps({"image": f"{name}.jpg", "detections": []}) for name in names]
    found = tmp_path / "found.jsonl"
    found.write_text("\n".join(lines), encoding="utf-8")
    words = ("eval", "--predictions", found, demo, "--with-detections", "--json")
    assert closed_early(number, *words).returncode == 0
    assert closed_early(number, *words, "--fail-under", "mAP=.9").returncode == ExitCode.NOT_MET


def test_a_comparison_that_failed_says_so_though_nobody_reads_its_table(
    demo: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no model")
    done = closed_early(1, "compare", demo, "--run", bad, "-o", tmp_path / "out", "--json")
    assert done.returncode == ExitCode.BAD_INPUT
    assert "not a detkit model" in done.stderr.splitlines()[-1]


def test_a_training_goes_on_when_nobody_reads_its_notes(demo: Path, tmp_path: Path) -> None:
    words = ("--max-steps", "2", "--batch-size", "2", "--num-workers", "0", "--device", "cpu")
    out = tmp_path / "run"
    done = closed_early(2, "train", demo, "--model", "ssd", "-o", out, *words, "--set", "size=64")
    assert done.returncode == 0
    assert len((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) >= 2
    assert (out / "best.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="a Unix shell closes streams")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_defect(demo: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m detkit check "$1" {closed}'
    done = subprocess.run(["sh", "-c", command, "sh", demo], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "models ssd",
        "check -h",
        "check -q DATA --json",
        "next -q DATA --paths",
    ],
)
def test_results_that_do_not_fit_on_the_disk_exit_3_in_one_line(
    demo: Path, tmp_path: Path, words: str
) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    with (tmp_path / "out.txt").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "detkit", *words.replace("DATA", str(demo)).split()],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            preexec_fn=limit,
        )
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    start = "detkit: error: standard output: cannot be written: "
    *warnings, error = done.stderr.splitlines()  # of a cache that cannot be written, for one
    assert error.startswith(start) and "free some space" in error
    assert all(line.startswith("detkit: warning: ") for line in warnings)


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    name = "a\x1b[2Jb\nc\u202ed\udcff"
    console.note(name)
    console.warn(name)
    console.error(name)
    console.table((name,), [(name,)], title="")
    console.data(json.dumps({"name": name, "more": "ä\x9b"}, indent=2, ensure_ascii=False))
    out, errors = capsys.readouterr()
    assert "\x1b" not in out + errors and "\u202e" not in out + errors
    assert errors.splitlines()[:2] == [
        "a\\u001b[2Jb\\u000ac\\u202ed\\udcff",
        "detkit: warning: a\\u001b[2Jb\\u000ac\\u202ed\\udcff",
    ]
    assert json.loads(out[out.index("{") :]) == {"name": name, "more": "ä\x9b"}


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_table_on_a_narrow_terminal_loses_no_letter_and_breaks_no_number(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    header = ("class", "classification", "localisation", "false positive", "seen in")
    row = ("traffic sign", "0.125", "0.375", "12345678", "a street of many a word")
    Console().table(header, [row], right=(1, 2, 3))
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in out
    assert all(cell in out for cell in row[:4])
    letters = "".join(sorted("".join((*header, *row)).replace(" ", "")))
    assert "".join(sorted("".join(out.split()))) == letters


def test_a_table_in_a_pipe_has_one_whole_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    row = [f"{number:05d}" for number in range(300)]
    Console().table(row, [row, ["猫" * 700, *row[1:]]], right=range(1, 300))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [row, row, ["猫" * 700, *row[1:]]]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        type("_ArrayMemoryError", (MemoryError,), {})("Unable to allocate 1 TiB"),
        RuntimeError("OpenCV(4) alloc.cpp: error: (-4:Insufficient memory) Failed to allocate"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("Storage size calculation overflowed with sizes=[1, 3, 1000000000]"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_no_memory_is_no_defect(
    demo: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("detkit.data.open_dataset", mock.Mock(side_effect=error))
    done = detkit("check", demo)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "out of memory; lower --batch-size" in done.stderr


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("CUDA error: no kernel image is available for execution on the device", "the GPU failed"),
        ("The NVIDIA driver on your system is too old (found version 11040)", "the GPU failed"),
        ("The operator 'aten::x' is not currently implemented for the MPS device", "Apple's GPU"),
        ("CUDA error: device-side assert triggered", "this is a defect in detkit"),
        ("an index is out of bounds", "this is a defect in detkit"),
    ],
)
def test_a_gpu_that_fails_is_no_defect_but_what_we_did_to_it_is(
    demo: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    error = RuntimeError(f"{said}\nFor debugging consider passing")
    monkeypatch.setattr("detkit.data.open_dataset", mock.Mock(side_effect=error))
    done = detkit("check", demo)
    assert done.returncode == ExitCode.BAD_INPUT
    assert told in done.stderr and said in " ".join(done.stderr.split())
    assert ("--device cpu" in done.stderr) == ("defect" not in told)
