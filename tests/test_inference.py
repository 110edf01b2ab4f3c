"""Detection over many images: order, batches, memory, errors, and threads that end."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from detkit.config import DetectorConfig
from detkit.data.images import write_image
from detkit.data.sources import ImageSource
from detkit.detector import Detector
from detkit.errors import UsageError
from detkit.inference.predict import detect_images, predict
from detkit.structures import Batch, Candidates


def _size(height: int, width: int, *, fixed: bool) -> tuple[int, int]:
    return (8, 8) if fixed else (8, 16 if width > height else 8)


class Colours(Detector):
    """Finds in each image the class "red" in its left half, "green" in the right half.

    Scores are the mean of that colour in [0, 1]. A second box for each lies almost upon it,
    for NMS to remove.
    """

    name = "colours"
    config_class = DetectorConfig

    def __init__(self, *, fixed: bool = True, delay: float = 0.0) -> None:
        config = DetectorConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), score_thresh=0.01)
        super().__init__(config, ["red", "green"])
        self.fixed = fixed
        self.delay = delay
        self.seen: list[tuple[int, ...]] = []
        self.modes: set[bool] = set()

    def network_size(self) -> Callable[[int, int], tuple[int, int]]:
        return functools.partial(_size, fixed=self.fixed)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def candidates(self, batch: Batch) -> list[Candidates]:
        time.sleep(self.delay)
        self.seen.append(tuple(batch.images.shape))
        self.modes.add(self.training)
        height, width = batch.images.shape[2:]
        halves = [[0, 0, width / 2, height], [width / 2, 0, width, height]]
        boxes = torch.tensor([*halves, [0, 0, width / 2, height * 0.9], halves[1]])
        results = []
        for image in batch.images:
            red, green = image[0].mean(), image[1].mean()
            zero = torch.zeros(())
            rows = [[red, zero], [zero, green], [red * 0.9, zero], [zero, green * 0.8]]
            results.append(Candidates(boxes, torch.stack([torch.stack(row) for row in rows])))
        return results


def picture(red: int, green: int = 0, size: tuple[int, int] = (20, 30)) -> NDArray[np.uint8]:
    image = np.zeros((*size, 3), np.uint8)
    image[:] = (red, green, 0)
    return image


def of(red: int, delay: float = 0.0) -> ImageSource:
    def read() -> NDArray[np.uint8]:
        time.sleep(delay)
        return picture(red)

    return ImageSource(f"image {red}", read)


def detkit_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("detkit-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while detkit_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert detkit_threads() == []


def test_results_come_in_the_order_of_the_images_however_long_each_takes_to_read() -> None:
    images = [of(10 + number, 0.002 * ((number * 7) % 5)) for number in range(40)]
    found = list(predict(Colours(), images, batch_size=4))
    assert [one.image for one in found] == [image.name for image in images]
    scores = [float(one.scores[0]) for one in found]
    assert np.allclose(scores, [(10 + number) / 255 for number in range(40)], atol=1e-4)


def test_boxes_are_in_the_images_own_pixels_with_class_names() -> None:
    (one,) = predict(Colours(), [ImageSource.of_pixels("x", picture(200, 100))])
    assert (one.image, one.width, one.height, one.error) == ("x", 30, 20, None)
    assert one.labels == ("red", "green")
    assert np.allclose(one.boxes, [[0, 0, 15, 20], [15, 0, 30, 20]], atol=1e-4)
    assert np.allclose(one.scores, [200 / 255, 100 / 255], atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_batches_find_what_single_images_do(batch_size: int) -> None:
    generator = np.random.default_rng(0)
    pixels = [
        picture(int(generator.integers(20, 250)), 60, (int(h), int(w)))
        for h, w in generator.integers(5, 40, (23, 2))
    ]
    images = [ImageSource.of_pixels(str(number), one) for number, one in enumerate(pixels)]
    detector = Colours(fixed=False)
    batched = list(predict(detector, images, batch_size=batch_size))
    for image, found in zip(images, batched, strict=True):
        (alone,) = predict(Colours(fixed=False), [image], batch_size=1)
        assert alone.image == found.image and alone.labels == found.labels
        assert np.allclose(alone.boxes, found.boxes) and np.allclose(alone.scores, found.scores)
    assert sum(shape[0] for shape in detector.seen) == 23


def test_images_of_one_network_size_share_a_batch_and_others_do_not() -> None:
    wide, high = picture(9, size=(10, 20)), picture(9, size=(20, 10))
    images = [
        ImageSource.of_pixels(str(number), wide if number % 2 else high) for number in range(8)
    ]
    detector = Colours(fixed=False)
    found = list(predict(detector, images, batch_size=8))
    assert sorted(detector.seen) == [(4, 3, 8, 8), (4, 3, 8, 16)]
    assert [one.image for one in found] == [str(number) for number in range(8)]


def test_one_unreadable_image_is_an_error_record_and_the_rest_go_on(tmp_path: Path) -> None:
    good, bad, missing = tmp_path / "gut ä.png", tmp_path / "bad.jpg", tmp_path / "missing.jpg"
    write_image(good, picture(100))
    bad.write_bytes(b"\xff\xd8\xff nonsense")
    found = list(detect_images(Colours(), [good, bad, str(missing), good], batch_size=2))
    assert [one.predictions.error is None for one in found] == [True, False, False, True]
    assert [one.pixels is None for one in found] == [False, True, True, False]
    assert found[1].predictions.image == str(bad)
    assert found[2].predictions.error == "no such image file"
    assert found[3].predictions.labels == ("red",)
    assert found[1].predictions.boxes.shape == (0, 4)


@pytest.mark.parametrize("number", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_images_are_never_in_memory_together(number: int) -> None:
    live: set[int] = set()
    most = 0
    lock = threading.Lock()

    def read(number: int) -> NDArray[np.uint8]:
        nonlocal most
        pixels = np.full((4, 4, 3), 50, np.uint8)
        with lock:
            live.add(number)
            most = max(most, len(live))
        weakref.finalize(pixels, live.discard, number)
        return pixels

    images = (ImageSource(str(n), functools.partial(read, n)) for n in range(number))
    count = sum(1 for _ in predict(Colours(), images, batch_size=8, score_thresh=1.0))
    assert count == number
    assert 8 < most <= 2 * 8 + 1


def test_a_slow_caller_stops_the_reading_ahead() -> None:
    asked = 0

    def endless() -> Iterator[ImageSource]:
        nonlocal asked
        while True:
            asked += 1
            yield of(50)

    found = predict(Colours(), endless(), batch_size=4)
    for _ in range(6):
        next(found)
        time.sleep(0.02)
    assert asked <= 6 + 2 * 4 + 1
    found.close()  # type: ignore[attr-defined]


def test_closing_early_ends_the_threads_at_once() -> None:
    found = detect_images(Colours(), (of(50, 0.01) for _ in itertools.count()), batch_size=4)
    next(found)
    assert detkit_threads()
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 30


def test_nothing_runs_before_the_first_result_is_asked_for() -> None:
    detect_images(Colours(), (of(50) for _ in itertools.count())).close()
    assert detkit_threads() == []


def test_reading_goes_on_while_the_network_works() -> None:
    """The network's first batch waits for an image of the second one to be read."""
    third_is_read = threading.Event()
    waited: list[bool] = []

    class Waiting(Colours):
        def candidates(self, batch: Batch) -> list[Candidates]:
            waited.append(third_is_read.wait(timeout=60))
            return super().candidates(batch)

    def third() -> NDArray[np.uint8]:
        third_is_read.set()
        return picture(50)

    images = [of(50), of(50), ImageSource("third", third), of(50)]
    assert len(list(predict(Waiting(), images, batch_size=2))) == 4
    assert waited == [True, True]


def test_a_pipe_that_pauses_does_not_hold_back_what_has_come(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    write_image(tmp_path / "one.png", picture(80))

    def paths() -> Iterator[Path]:
        with os.fdopen(reading) as lines:
            for line in lines:
                yield Path(line.strip())

    os.write(writing, f"{tmp_path / 'one.png'}\n".encode() * 3)
    found = predict(Colours(), paths(), batch_size=8)
    start = time.monotonic()
    assert [next(found).labels for _ in range(3)] == [("red",)] * 3
    assert time.monotonic() - start < 30
    start = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 30
    os.close(writing)


def test_a_program_can_end_while_stdin_is_still_open(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", picture(80))
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_inference import Colours
        from detkit.inference.predict import predict
        from detkit.data.sources import find_images
        found = predict(Colours(), find_images(["-"], stdin=sys.stdin))
        print(next(found).labels)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(Path(__file__).parent)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(f"{tmp_path / 'one.png'}\n")
        process.stdin.flush()
        assert process.wait(timeout=300) == 0  # stdin is not closed before
        assert process.stdout.read() == "('red',)\n"
        assert process.stderr.read() == ""


def test_what_the_source_raises_comes_after_the_images_before_it() -> None:
    def broken() -> Iterator[ImageSource]:
        yield from (of(50), of(60), of(70))
        raise OSError("the disk is gone")

    found = predict(Colours(), broken(), batch_size=2)
    assert [next(found).image for _ in range(3)] == ["image 50", "image 60", "image 70"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_a_bug_in_preparing_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Colours()
    monkeypatch.setattr(detector, "prepare", lambda samples: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(predict(detector, [of(50)] * 5))


def test_thresholds_hold_for_all_and_for_single_classes() -> None:
    image = ImageSource.of_pixels("x", picture(200, 100))  # red .78, green .39
    detector = Colours()

    def labels(score: float | None, **of_class: float) -> tuple[str, ...]:
        (one,) = predict(detector, [image], score_thresh=score, thresholds=of_class)
        return one.labels

    assert labels(None) == ("red", "green")
    assert labels(0.5) == ("red",)
    assert labels(0.5, green=0.3) == ("red", "green")
    assert labels(0.1, red=0.8) == ("green",)
    assert labels(0.9, red=0.5) == ("red",)
    assert detector.config.score_thresh == 0.01


def test_soft_nms_keeps_what_it_lowers_below_the_default_but_not_below_an_asked_threshold() -> None:
    image = ImageSource.of_pixels("x", picture(200))  # red .78; beside it .71, lowered to .15
    detector = Colours()
    detector.config = dataclasses.replace(
        detector.config, nms_method="soft", nms_sigma=0.5, score_thresh=0.3
    )

    def scores(score: float | None) -> list[float]:
        (one,) = predict(detector, [image], score_thresh=score)
        return one.scores.tolist()

    lowered = 0.9 * 200 / 255 * math.exp(-(0.9**2) / 0.5)
    assert scores(None) == pytest.approx([200 / 255, lowered], abs=1e-3)
    assert scores(0.3) == pytest.approx([200 / 255], abs=1e-3)


def test_the_nms_threshold_can_be_set() -> None:
    image = ImageSource.of_pixels("x", picture(200))  # two boxes of IoU .9
    for nms_thresh, count in ((None, 1), (0.85, 1), (0.95, 2)):
        (one,) = predict(Colours(), [image], nms_thresh=nms_thresh)
        assert len(one.labels) == count


def test_wrong_settings_are_told_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match="did you mean green"):
        detect_images(Colours(), [], thresholds={"gren": 0.5})
    with pytest.raises(UsageError, match=r"^--score green=1\.5: must lie between 0 and 1"):
        detect_images(Colours(), [], thresholds={"green": 1.5})
    with pytest.raises(UsageError, match="^--nms -1: must lie between 0 and 1"):
        detect_images(Colours(), [], nms_thresh=-1)
    with pytest.raises(UsageError, match="^--score nan: must lie between 0 and 1"):
        detect_images(Colours(), [], score_thresh=float("nan"))
    with pytest.raises(UsageError, match="batch-size"):
        detect_images(Colours(), [], batch_size=0)


def test_the_detector_works_in_eval_mode_and_gets_its_own_mode_back() -> None:
    detector = Colours()
    detector.train()
    list(predict(detector, [of(50)] * 3, batch_size=2))
    assert detector.modes == {False}
    assert detector.training


def test_no_images_give_no_results() -> None:
    assert list(predict(Colours(), [])) == []


def test_the_time_of_each_stage_is_added_up() -> None:
    timing: dict[str, float] = {"network": 100.0}
    list(
        predict(Colours(delay=0.01), [of(50, 0.01) for _ in range(6)], batch_size=3, timing=timing)
    )
    assert timing["decode"] >= 0.06
    assert 100.02 <= timing["network"] < 101
    assert 0 < timing["prepare"] < 1


def test_read_only_and_mirrored_pixels_in_memory_are_taken() -> None:
    pixels = picture(120)[:, ::-1]
    pixels.flags.writeable = False
    (one,) = predict(Colours(), [ImageSource.of_pixels("x", pixels)])
    assert one.labels == ("red",)
