"""The bootstrap, against AP computed anew on each draw, and against what is known of chance."""

from __future__ import annotations

import numpy as np
import pytest
from test_error_breakdown import drawn, found, wanted

from detkit.errors import UsageError
from detkit.evaluation.bootstrap import (
    bootstrap_map,
    draw_images,
    interval_to_json,
    mean_of_classes,
    resampled,
    tail_share,
)
from detkit.evaluation.scores import score
from detkit.structures import Detections, Truth

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("metric", "iou", "samples"),
    [("voc07", None, 12), ("voc12", 0.3, 12), ("auc", None, 12), ("coco", 0.5, 3)],
)
def test_each_draw_has_the_ap_of_its_images_put_together(
    metric: str, iou: float | None, samples: int
) -> None:
    detections, truths = drawn(3, images=15)
    draws = draw_images(15, samples, seed=1)
    figures = resampled(detections, truths, NAMES, draws, metric=metric, iou_thresh=iou)
    for row, drawing in enumerate(draws):
        images = np.repeat(np.arange(15), drawing)
        scores = score(
            [detections[i] for i in images], [truths[i] for i in images], NAMES, metric, iou
        )
        expected = [np.nan if one.ap is None else one.ap for one in scores.classes]
        np.testing.assert_allclose(figures[row], expected, atol=1e-12)
        assert mean_of_classes(figures)[row] == pytest.approx(scores.mean)


def test_equal_scores_are_on_one_side_of_a_false_detection_in_every_draw() -> None:
    detections, truths = drawn(3, images=15)
    detections = [type(one)(one.boxes, one.scores.round(1), one.labels) for one in detections]
    draws = draw_images(15, 5)
    figures = resampled(detections, truths, NAMES, draws, metric="auc")
    for row, drawing in enumerate(draws):
        images = np.repeat(np.arange(15), drawing)
        scores = score([detections[i] for i in images], [truths[i] for i in images], NAMES, "auc")
        np.testing.assert_allclose(figures[row], [one.ap for one in scores.classes], atol=1e-12)


def test_a_draw_has_as_many_images_as_there_are_and_the_first_is_all_of_them() -> None:
    draws = draw_images(7, 50)
    assert (draws.sum(axis=1) == 7).all() and (draws[0] == 1).all()
    assert len(np.unique(draws, axis=0)) > 10
    assert (draw_images(7, 50) == draws).all() and (draw_images(7, 50, seed=1) != draws).any()


def test_a_class_without_objects_in_a_draw_is_left_out_of_its_mean() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    truths = [wanted((0, box)), wanted((1, box))]
    detections = [found((0.9, 0, box)), found()]
    draws = np.array([[1, 1], [2, 0], [0, 2]], np.int32)
    figures = resampled(detections, truths, ["a", "b"], draws)
    np.testing.assert_array_equal(figures, [[1, 0], [1, np.nan], [np.nan, 0]])
    np.testing.assert_array_equal(mean_of_classes(figures), [0.5, 1, 0])


def test_the_difference_of_like_detections_is_nothing_whatever_is_drawn() -> None:
    detections, truths = drawn(4)
    result = bootstrap_map(detections, truths, NAMES, samples=50, others=detections)
    assert interval_to_json(result.difference) == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert result.mean is not None and result.mean.low < result.mean.value < result.mean.high


def test_pairing_makes_the_difference_surer_than_the_means() -> None:
    detections, truths = drawn(5, images=40)
    others = [type(one)(one.boxes + 0.3, one.scores, one.labels) for one in detections]
    result = bootstrap_map(detections, truths, NAMES, samples=200, others=others)
    assert result.mean is not None and result.difference is not None
    assert result.difference.high - result.difference.low < result.mean.high - result.mean.low


def test_without_objects_there_is_no_interval() -> None:
    result = bootstrap_map([found()], [wanted()], ["a"], samples=5)
    assert result.mean is None and result.classes == [None]
    assert interval_to_json(None) is None


def test_no_samples_and_an_unknown_metric_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        bootstrap_map([], [], ["a"], samples=0)
    with pytest.raises(UsageError, match="choose from"):
        bootstrap_map([], [], ["a"], metric="map")


def test_images_of_a_group_are_drawn_together_and_as_many_groups_as_there_are() -> None:
    groups = [7, 3, 7, 7, 5]
    draws = draw_images(5, 300, groups=groups)
    assert (draws[0] == 1).all()
    assert (draws[:, 0] == draws[:, 2]).all() and (draws[:, 0] == draws[:, 3]).all()
    assert (draws[:, [0, 1, 4]].sum(axis=1) == 3).all()
    assert len(np.unique(draws, axis=0)) == 10  # all the ways to take 3 of 3, with replacement
    with pytest.raises(ValueError, match="4 groups' numbers for 5 images"):
        draw_images(5, 1, groups=groups[:4])


def test_groups_of_one_image_are_the_images_whatever_their_numbers() -> None:
    assert (draw_images(6, 40, groups=[9, 2, 4, 8, 0, 6])[:, :3].sum(axis=0) > 20).all()
    assert (draw_images(6, 40, groups=range(6)) == draw_images(6, 40)).all()


@pytest.mark.parametrize("num_groups", [4, 8, 20, 72, 1000])
def test_the_ends_lie_where_students_t_has_them_under_the_normal_curve(num_groups: int) -> None:
    scipy = pytest.importorskip("scipy.stats")
    far = scipy.t.ppf(0.975, num_groups - 1) * np.sqrt(num_groups / (num_groups - 1))
    assert tail_share(num_groups) == pytest.approx(scipy.norm.cdf(-far), abs=2e-5)


def test_one_group_has_no_interval() -> None:
    detections, truths = drawn(4, images=5)
    result = bootstrap_map(detections, truths, NAMES, samples=5, groups=[1] * 5, others=detections)
    assert (result.mean, result.difference, result.num_groups) == (None, None, 1)


def recorded(seed: int, recordings: int) -> tuple[list[Detections], list[Truth], list[int]]:
    """Return a test set of recordings of 8 images, of some of which most objects are found."""
    random = np.random.default_rng(seed)
    box, label = np.array([[0, 0, 10, 10]], np.float32), np.array([0])
    skills = np.repeat(random.beta(3, 2, recordings), 8)
    hits = random.random(len(skills)) < skills
    scores = np.where(hits, random.beta(4, 2, len(hits)), random.beta(2, 4, len(hits)))
    detections = [
        Detections(box if hit else box + 50, np.array([score], np.float32), label)
        for hit, score in zip(hits, scores)
    ]
    truths = [Truth(box, label, np.array([False])) for _ in skills]
    return detections, truths, np.repeat(np.arange(recordings), 8).tolist()


def test_drawn_by_group_intervals_hold_the_truth_and_drawn_by_image_they_do_not() -> None:
    detections, truths, _ = recorded(0, 6000)
    true = score(detections, truths, ["a"], "voc12").mean
    assert true is not None
    held = {"images": 0, "groups": 0}
    for number in range(1, 101):
        detections, truths, groups = recorded(number, 40)
        for way, given in (("images", None), ("groups", groups)):
            one = bootstrap_map(
                detections, truths, ["a"], metric="voc12", samples=200, groups=given
            ).mean
            assert one is not None
            held[way] += one.low <= true <= one.high
    assert held["images"] <= 88 and held["groups"] >= 91  # of 100; said to be 95
