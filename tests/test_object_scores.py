"""Object scores against scipy's labels and plain loops, whatever the strips, and maps whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from geoseg.legend import IGNORE
from geoseg.object_scores import THRESHOLDS, ObjectMatcher, count_objects, object_scores


def match(reference: np.ndarray, predicted: np.ndarray, rows: int = 100):
    """The objects of two maps, read in strips."""
    matcher = ObjectMatcher(reference.shape[1])
    for top in range(0, len(reference), rows):
        matcher.add(reference[top : top + rows], predicted[top : top + rows])
    return matcher.finish()


def score(reference: np.ndarray, predicted: np.ndarray, classes: int = 3, threshold: float = 0.5):
    true, found, overlaps = match(reference, predicted)
    blocks = [np.zeros(len(objects.names), int) for objects in (true, found)]
    return object_scores(count_objects(true, found, overlaps, classes, threshold, 1, *blocks)[0])


def plain_objects(array: np.ndarray) -> dict[int, np.ndarray]:
    """First pixel and mask of every object."""
    found = {}
    for index in np.unique(array[array != IGNORE]):
        labels, count = ndimage.label(array == index)
        masks = [labels == number for number in range(1, count + 1)]
        found |= {int(np.flatnonzero(mask)[0]): mask for mask in masks}
    return found


def plain_quality(reference: np.ndarray, predicted: np.ndarray, index: int, threshold: float) -> tuple[float, float]:
    """F1 and panoptic quality of one class, by the definitions."""
    true, found = (
        [mask for mask in plain_objects(array).values() if array[mask][0] == index] for array in (reference, predicted)
    )
    ious = [(one & two).sum() / (one | two).sum() for one in true for two in found]
    hits = [iou for iou in ious if iou > threshold]
    half = (len(true) + len(found)) / 2
    return (len(hits) / half, sum(hits) / half) if half else (np.nan, np.nan)


maps = arrays(
    np.uint8, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, IGNORE])
)


def _known(pair: np.ndarray) -> np.ndarray:
    return np.where((pair == IGNORE).any(axis=0), IGNORE, pair).astype(np.uint8)


@given(maps, st.integers(1, 5))
def test_objects_and_overlaps_equal_scipy_whatever_the_strips(pair, rows):
    reference, predicted = _known(pair)
    true, found, overlaps = match(reference, predicted, rows)
    for objects, array in ((true, reference), (found, predicted)):
        plain = plain_objects(array)
        assert objects.names.tolist() == sorted(plain)
        assert objects.pixels.tolist() == [plain[name].sum() for name in objects.names.tolist()]
        assert objects.classes.tolist() == [array.ravel()[name] for name in objects.names.tolist()]
    expected = {
        (one, two): int((mask & other).sum())
        for one, mask in plain_objects(reference).items()
        for two, other in plain_objects(predicted).items()
        if (mask & other).any() and reference.ravel()[one] == predicted.ravel()[two]
    }
    names = zip(true.names[overlaps.reference].tolist(), found.names[overlaps.predicted].tolist(), strict=True)
    assert dict(zip(names, overlaps.pixels.tolist(), strict=True)) == expected


@given(maps, st.sampled_from([0.5, 0.7]))
def test_quality_equals_the_plain_definitions(pair, threshold):
    reference, predicted = _known(pair)
    scores = score(reference, predicted, threshold=threshold)
    for index in range(3):
        f1, quality = plain_quality(reference, predicted, index, threshold)
        assert scores["f1"][index] == pytest.approx(f1, nan_ok=True)
        assert scores["pq"][index] == pytest.approx(quality, nan_ok=True)
        several = [plain_quality(reference, predicted, index, least) for least in THRESHOLDS]
        assert scores["f1_50_95"][index] == pytest.approx(np.mean([one for one, _ in several]), nan_ok=True)
        assert scores["pq_50_95"][index] == pytest.approx(np.mean([one for _, one in several]), nan_ok=True)


def test_a_field_that_is_cut_in_two_and_two_that_are_one():
    whole, cut = np.zeros((6, 21), np.uint8), np.zeros((6, 21), np.uint8)
    whole[1:5, 1:20] = 1
    cut[1:5, 1:13] = cut[1:5, 14:20] = 1
    over = score(whole, cut)
    assert over["over_segmentation"][1] == pytest.approx(1 - 48 / 76)
    assert over["under_segmentation"][1] == pytest.approx(0)
    # 48 of 76 pixels are more than half: the larger part is found, its area too small by 28 of 76.
    assert (over["recall"][1], over["precision"][1]) == (1, 0.5)
    assert over["area_bias"][1] == pytest.approx(-28 / 76)
    assert over["area_error"][1] == pytest.approx(28 / 76)
    assert over["sq"][1] == pytest.approx(48 / 76)
    under = score(cut, whole)
    assert under["over_segmentation"][1] == pytest.approx(0)
    assert under["under_segmentation"][1] == pytest.approx(1 - (48 * 48 / 76 + 24 * 24 / 76) / 72)
    assert (under["recall"][1], under["precision"][1]) == (0.5, 1)


def test_objects_count_in_the_block_of_their_first_pixel():
    array = np.zeros((8, 8), np.uint8)
    array[0:2, 0:2] = array[5:8, 4:8] = 1
    true, found, overlaps = match(array, array, rows=3)
    blocks = [objects.names // 8 // 4 for objects in (true, found)]
    counts = count_objects(true, found, overlaps, 2, 0.5, 2, *blocks)
    assert counts[:, 0, 1].tolist() == counts[:, 1, 1].tolist() == [1, 1]
    assert counts[:, 0, 0].tolist() == [1, 0]


def test_a_class_without_objects_has_no_score():
    scores = score(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8))
    assert scores["f1"][0] == 1
    assert np.isnan(scores["f1"][1])
    assert scores["mean_f1"] == 1
