"""Rounded corners: within their distance, valid, without gap or overlap, whatever the map and the strips."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from test_simplification import rough_borders
from test_sweep import EVERY, PIXELS, label_maps, swept, whole

from geoseg.outlines import Coverage, meeting
from geoseg.simplification import reach_of, simplify
from geoseg.smoothing import REACH, smooth
from geoseg.sweep import Finished


def reach(tolerance: float) -> int:
    return max(reach_of(tolerance), REACH)


def smoothed(finished: Finished, tolerance: float) -> Coverage:
    return smooth(finished, simplify(finished, tolerance))


@settings(max_examples=200)
@given(st.one_of(label_maps(), rough_borders()), st.sampled_from([0, 0.75, 1.5, 3, 20]))
def test_what_is_promised_holds_on_any_map(labels: np.ndarray, tolerance: float) -> None:
    finished = whole(labels, reach=reach(tolerance))
    straight = simplify(finished, tolerance)
    rounded = smooth(finished, straight)
    polygons = rounded.polygons(PIXELS)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == pytest.approx(labels.size)
    assert not meeting(rounded.lines()[0], np.zeros((0, 4))).any()
    for before, after, closed in zip(
        *(np.split(each.vertices, each.arcs[1:-1]) for each in (straight, rounded)), finished.closed, strict=True
    ):
        if not closed:
            assert before[0].tolist() == after[0].tolist()
            assert before[-1].tolist() == after[-1].tolist()
        lines = shapely.linestrings(before), shapely.linestrings(after)
        assert shapely.hausdorff_distance(*lines) <= REACH / 2


@settings(max_examples=100)
@given(st.one_of(label_maps(), rough_borders()), st.sampled_from([0, 1.5, 5]), st.sampled_from([4, 8]))
def test_strips_of_any_height_give_the_same_curves(labels: np.ndarray, tolerance: float, connectivity: int) -> None:
    def described(rows: int) -> list[bytes]:
        parts = swept(labels, rows=rows, classes=EVERY, connectivity=connectivity, reach=reach(tolerance))
        return [wkb for part in parts for wkb in shapely.to_wkb(smoothed(part, tolerance).polygons(PIXELS)).tolist()]

    expected = described(1000)
    for rows in (1, 3, 7):
        assert described(rows) == expected


def test_a_square_becomes_a_spline() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[8:12, 8:12] = 1
    rounded = smoothed(whole(labels, classes=(1,), reach=REACH), 0)
    (polygon,) = rounded.polygons(PIXELS)
    # Beyond a parabola lies a third of the triangle of a corner, and an eighth more beyond its four chords.
    assert polygon.area == 16 - 4 * 2 / 3 * 9 / 8
    assert len(polygon.exterior.coords) == 17
    assert polygon.bounds == (8, 8, 12, 12)


def test_a_corner_beside_another_border_stays_sharp() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[1:9, 1:9] = 1
    labels[2, 2] = 2
    finished = whole(labels, reach=REACH)
    assert shapely.coverage_is_valid(smoothed(finished, 0).polygons(PIXELS))
    moved = Finished(
        **{**vars(finished), "neighbours": np.zeros((0, 2), np.int64), "neighbour_of": np.zeros(0, np.int64)}
    )
    assert not np.array_equal(smoothed(moved, 0).vertices, smoothed(finished, 0).vertices)
