"""Videos as sources of images: frames, their names, and what becomes of clips that are broken."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from running import detkit

from detkit.data.sources import find_images
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
