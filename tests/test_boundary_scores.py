"""Boundary scores against plain definitions, pixel by pixel, and maps whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.boundary_scores import BoundaryCounter, boundary_margin, boundary_scores
from geoseg.legend import IGNORE


def plain_counts(reference: np.ndarray, predicted: np.ndarray, classes: int, tolerance: float) -> np.ndarray:
    """By the definitions, with loops."""
    height, width = reference.shape
    rows, cols = np.mgrid[:height, :width]

    def near(row: int, col: int, distance: float) -> np.ndarray:
        return (rows - row) ** 2 + (cols - col) ** 2 <= distance**2

    def beside(array: np.ndarray, distance: float) -> np.ndarray:
        """Whether another class is within a distance."""
        found = np.zeros(array.shape, bool)
        for row, col in np.argwhere(array != IGNORE):
            found[row, col] = (near(row, col, distance) & (array != IGNORE) & (array != array[row, col])).any()
        return found

    def met(own: np.ndarray, edge: np.ndarray, other: np.ndarray, other_edge: np.ndarray) -> np.ndarray:
        found = np.zeros(own.shape, bool)
        for row, col in np.argwhere(edge):
            found[row, col] = (near(row, col, tolerance) & other_edge & (other == own[row, col])).any()
        return found

    bands = [beside(array, tolerance) for array in (reference, predicted)]
    edges = [beside(array, 1) for array in (reference, predicted)]
    true_met = met(reference, edges[0], predicted, edges[1])
    found_met = met(predicted, edges[1], reference, edges[0])
    counts = []
    for index in range(classes):
        true, found = reference == index, predicted == index
        counts.append([
            (true & found & bands[0] & bands[1]).sum(), (true & bands[0]).sum(), (found & bands[1]).sum(),
            (true & edges[0]).sum(), (true & true_met).sum(), (found & edges[1]).sum(), (found & found_met).sum(),
        ])  # fmt: skip
    return np.array(counts).T


@settings(max_examples=60)
@given(
    st.sampled_from([2, 3, 8, 9, 70, 140]),
    st.sampled_from([1, 1.5, 2, 3.7, 9]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32 - 1),
)
def test_counts_equal_the_plain_definitions(classes, tolerance, shape, seed):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, classes, shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.6, reference, rng.integers(0, classes, shape)).astype(np.uint8)
    unknown = rng.random(shape) < 0.15
    reference[unknown] = predicted[unknown] = IGNORE
    counted = BoundaryCounter(reference, predicted, classes, tolerance).count()
    np.testing.assert_array_equal(counted, plain_counts(reference, predicted, classes, tolerance))


@given(arrays(np.uint8, (24, 7), elements=st.sampled_from([0, 1, 2, IGNORE])), st.sampled_from([1, 2, 3.5]))
def test_strips_with_their_margin_count_as_the_whole(array, tolerance):
    predicted = np.where(array == IGNORE, IGNORE, (array + (np.arange(24) % 5 == 0)[:, None]) % 3).astype(np.uint8)
    margin, total = boundary_margin(tolerance), 0
    for top in range(0, 24, 8):
        first, last = max(top - margin, 0), min(top + 8 + margin, 24)
        counter = BoundaryCounter(array[first:last], predicted[first:last], 3, tolerance)
        total = total + counter.count(np.s_[top - first : top - first + 8, :])
    np.testing.assert_array_equal(total, BoundaryCounter(array, predicted, 3, tolerance).count())


def test_a_border_that_is_moved_by_the_tolerance_is_met_and_by_more_is_not():
    reference = np.zeros((10, 20), np.uint8)
    reference[:, 10:] = 1
    for shift, expected in ((0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0)):
        predicted = np.zeros_like(reference)
        predicted[:, 10 + shift :] = 1
        found = boundary_scores(BoundaryCounter(reference, predicted, 2, 2).count())
        assert found["f1"].tolist() == found["precision"].tolist() == found["recall"].tolist() == [expected] * 2
    # The bands of 2 pixels on each side, of which the shift takes as many from both.
    predicted = np.roll(reference, 1, axis=1)
    predicted[:, 0] = 0
    found = boundary_scores(BoundaryCounter(reference, predicted, 2, 2).count())
    assert found["iou"].tolist() == [pytest.approx(1 / 3)] * 2


def test_what_has_no_edge_has_no_score_and_an_edge_in_one_map_scores_0():
    plain, split = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    split[:, 3:] = 1
    found = boundary_scores(BoundaryCounter(plain, plain, 3, 2).count())
    assert np.isnan(found["iou"]).all()
    assert np.isnan(found["mean_f1"])
    found = boundary_scores(BoundaryCounter(plain, split, 3, 2).count())
    assert found["iou"][:2].tolist() == found["f1"][:2].tolist() == [0, 0]
    assert np.isnan(found["f1"][2])
    assert found["mean_f1"] == 0


def test_ground_that_is_not_known_makes_no_edge():
    array = np.zeros((6, 6), np.uint8)
    array[2:4] = IGNORE
    assert BoundaryCounter(array, array, 2, 2).count().sum() == 0
