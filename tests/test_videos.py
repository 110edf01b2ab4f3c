"""Videos as sources of images: frames, their names, and what becomes of clips that are broken."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from running import detkit, process

from detkit.data.sources import find_images
from detkit.data.videos import Frame
from detkit.detectors.ssd import SSD, SSDConfig
from detkit.errors import DetkitError
from detkit.model_file import save_model
from detkit.predictions.readers import read_predictions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model that has learnt nothing, and so finds boxes in everything."""
    torch.manual_seed(0)
    path = tmp_path / "m.safetensors"
    save_model(path, SSD(SSDConfig(backbone="tiny", size=64), ("car", "dog")))
    return path


def write_video(path: Path, num_frames: int) -> None:
    """Write frames whose grey level is ten times their number."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    if not video.isOpened():
        pytest.skip("OpenCV cannot write videos here")
    for number in range(num_frames):
        video.write(np.full((48, 64, 3), 10 * number, np.uint8))
    video.release()


def test_every_kth_frame_of_a_video_is_an_image(folder: Path) -> None:
    write_video(folder / "clip.avi", 11)
    frames = list(find_images(["clip.avi"], every=4))
    assert [frame.name for frame in frames] == [
        "clip.avi#00000",
        "clip.avi#00004",
        "clip.avi#00008",
    ]
    for frame, level in zip(frames, (0, 40, 80), strict=True):
        pixels = frame.read()
        assert pixels.shape == (48, 64, 3)
        assert abs(float(pixels.mean()) - level) < 4
    assert len(list(find_images(["clip.avi"]))) == 11


def test_a_file_that_is_no_video_is_one_unreadable_image(folder: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"this is not a video")
    (image,) = find_images(["bad.mp4"])
    with pytest.raises(DetkitError, match="bad.mp4: not a video"):
        image.read()


def test_a_video_that_is_cut_off_is_named_and_the_decoder_says_nothing_of_its_own(
    folder: Path,
) -> None:
    write_video(folder / "clip.avi", 20)
    whole = (folder / "clip.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 7 // 10])
    code = """
        from detkit.data.sources import find_images
        print(len(list(find_images(["clip.avi"]))), len(list(find_images(["cut.avi"]))))
    """
    # A process of its own: the decoder asks once how much it may say.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    all_frames, frames = map(int, done.stdout.split())
    assert all_frames == 20 and 0 < frames < 18
    assert done.stderr == (
        f"cut.avi: ends after {frames} of the 20 frames that its header states; cut off?\n"
    )


def test_yolo_labels_of_a_video_are_a_file_a_frame_and_are_read_back_by_frame(
    folder: Path, model: Path
) -> None:
    write_video(folder / "clip.avi", 3)
    words = ("detect", model, "clip.avi", "--score", ".01", "-q")
    done = detkit(*words, "-f", "yolo", "-o", "out")
    assert done.returncode == 0, done.stderr
    labels = sorted(path.name for path in (folder / "out" / "labels").iterdir())
    assert labels == ["clip_000000.txt", "clip_000001.txt", "clip_000002.txt"]
    as_lines = [json.loads(line) for line in detkit(*words, "-f", "jsonl").stdout.splitlines()]
    back = read_predictions(folder / "out")
    assert [one.image for one in back] == [one["image"] for one in as_lines]
    assert [len(one.boxes) for one in back] == [len(one["detections"]) for one in as_lines]
    assert min(len(one.boxes) for one in back) > 0


def test_voc_results_of_a_video_name_its_frames(folder: Path, model: Path) -> None:
    write_video(folder / "clip.avi", 3)
    done = detkit("detect", model, "clip.avi", "--score", ".01", "-f", "voc", "-o", "out")
    assert done.returncode == 0, done.stderr
    text = (folder / "out" / "comp4_det_test_car.txt").read_text(encoding="utf-8")
    named = {line.split()[0] for line in text.splitlines()}
    assert named == {"clip_000000", "clip_000001", "clip_000002"}


def write_mp4(path: Path, num_frames: int, rate: int = 10) -> bytearray:
    """Write frames with a red upper left quarter; return the file's bytes."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    if not video.isOpened():
        pytest.skip("OpenCV cannot write MP4 here")
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32] = (0, 0, 255)
    for _ in range(num_frames):
        video.write(frame)
    video.release()
    return bytearray(path.read_bytes())


def places(data: bytes, *names: bytes) -> list[int]:
    """Return where boxes of an MP4 file begin, each inside the one before."""
    found, start, end = [], 0, len(data)
    for name in names:
        while data[start + 4 : start + 8] != name:
            start += int.from_bytes(data[start : start + 4], "big")
            assert start < end, f"no {name!r} in it"
        end = start + int.from_bytes(data[start : start + 4], "big")
        found.append(start)
        start += 8
    return found


TO_STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
TURNS = {  # the matrix of a track's header, ISO/IEC 14496-12 sec. 8.3.2: a, b, c, d
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


@pytest.mark.parametrize("degrees", TURNS)
def test_frames_are_turned_as_the_video_s_rotation_flag_asks(folder: Path, degrees: int) -> None:
    data = write_mp4(folder / "clip.mp4", 2)
    *_, header = places(data, b"moov", b"trak", b"tkhd")
    a, b, c, d = (value * 65536 for value in TURNS[degrees])
    # After the version, two times, the track's number, the duration, the layer and the volume.
    data[header + 48 : header + 84] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (folder / "clip.mp4").write_bytes(data)
    (frame, _) = find_images(["clip.mp4"])
    pixels = frame.read()
    red = pixels[:, :, 0].astype(int) - pixels[:, :, 1] > 100
    rows, columns = (np.flatnonzero(red.any(axis)) for axis in (1, 0))
    expected = np.rot90(np.array([[1, 0], [0, 0]]), -degrees // 90)  # clockwise
    assert pixels.shape[:2] == ((48, 64) if degrees in (0, 180) else (64, 48))
    corner = rows.mean() > pixels.shape[0] / 2, columns.mean() > pixels.shape[1] / 2
    assert corner == tuple(bool(one[0]) for one in np.nonzero(expected))


def test_the_time_of_a_frame_is_the_container_s_also_where_frames_are_unevenly_apart(
    folder: Path, model: Path
) -> None:
    data = write_mp4(folder / "clip.mp4", 6)
    *above, table = places(data, *TO_STBL)
    step = int.from_bytes(data[table + 20 : table + 24], "big")
    data[table + 12 : table + 24] = struct.pack(">5I", 2, 3, step, 3, 4 * step)
    for box in (*above, table):
        length = int.from_bytes(data[box : box + 4], "big")
        data[box : box + 4] = (length + 8).to_bytes(4, "big")
    *_, edits = places(data, b"moov", b"trak", b"edts", b"elst")
    data[edits + 16 : edits + 20] = (60_000).to_bytes(4, "big")
    (folder / "clip.mp4").write_bytes(data)
    expected = [0.0, 0.1, 0.2, 0.3, 0.7, 1.1]  # three frames of a tenth, the rest of four tenths
    seconds = [frame.seconds for frame in find_images(["clip.mp4"])]
    assert seconds == pytest.approx(expected, abs=2e-3)
    done = detkit("detect", model, "clip.mp4", "--every", "2", "-q", "-f", "jsonl")
    told = [json.loads(line)["seconds"] for line in done.stdout.splitlines()]
    assert told == pytest.approx(expected[::2], abs=2e-3)
    (folder / "found.jsonl").write_text(done.stdout, encoding="utf-8")
    assert len(read_predictions(folder / "found.jsonl")) == 3


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Return the address of the current folder, as a web server gives it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_stream_from_an_address_is_looked_at_and_its_password_is_told_nobody(
    folder: Path, model: Path, address: str
) -> None:
    write_video(folder / "clip.avi", 4)
    url = f"http://me:secret@{address}/clip.avi"
    words = ("detect", model, url, "--every", "2", "-q", "-f", "jsonl")
    done = detkit(*words, "--draw", folder / "drawn")
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    names = [json.loads(line)["image"] for line in done.stdout.splitlines()]
    assert names == [f"http://{address}/clip.avi#00000", f"http://{address}/clip.avi#00002"]
    drawn = sorted(path.name for path in (folder / "drawn").iterdir())
    assert drawn == ["clip.avi#00000.jpg", "clip.avi#00002.jpg"]


@pytest.mark.parametrize(
    "source", ["camera:97", "rtsp://me:secret@127.0.0.1:9/live", "http://ADDRESS/no.mp4"]
)
def test_a_stream_that_does_not_open_is_one_line_and_nothing_else_is_said(
    folder: Path, model: Path, address: str, source: str
) -> None:
    source = source.replace("ADDRESS", address)
    done = process("detect", model, source, "-q", "-f", "jsonl", "--device", "cpu")
    (line,) = done.stderr.splitlines()
    name = source.replace("me:secret@", "")
    assert (done.returncode, done.stdout) == (3, "")
    assert line.startswith(f"detkit: error: {name}: cannot be opened; is ")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_stream_and_what_was_found_is_kept(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)

    def endless(source: str, every: int) -> Iterator[Frame]:
        for number in itertools.count():
            if number == 12:
                signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)
            yield Frame(f"{source}#{number:05d}", pixels, number / 100)

    monkeypatch.setattr("detkit.data.sources.frames_of_stream", endless)
    out = folder / "found.jsonl"
    words = ("detect", model, "camera:0", "-q", "-f", "jsonl", "-o", out, "--batch-size", "1")
    done = detkit(*words)
    assert (done.returncode, done.stderr) == (130, "")
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [one["image"] for one in lines] == [f"camera:0#{n:05d}" for n in range(len(lines))]
    assert len(lines) > 0
    assert sorted(path.name for path in folder.iterdir()) == ["found.jsonl", model.name]
