"""Outlines: polygons of pieces in any CRS, and lines that meet where they must not."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from test_sweep import PIXELS, whole

from geoseg.outlines import meeting

NONE = np.zeros((0, 4), np.int64)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(10, 0, 500_000, 0, -10, 4_500_000),
        Affine(10, 0, 500_000, 0, 10, 4_500_000),
        Affine.translation(7, 8) @ Affine.rotation(30) @ Affine.scale(2, -3),
    ],
    ids=["north up", "south up", "rotated"],
)
def test_any_transform_gives_counterclockwise_exteriors(transform: Affine) -> None:
    coverage = whole(np.array([[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], np.uint8)).outlines
    plain, placed = coverage.polygons(PIXELS), coverage.polygons(transform)
    assert shapely.is_ccw(shapely.get_exterior_ring(placed)).all()
    for before, after in zip(plain, placed, strict=True):
        expected = shapely.transform(before, lambda points: np.column_stack(transform @ tuple(points.T)))
        assert expected.symmetric_difference(after).area < 1e-6
    assert shapely.coverage_is_valid(placed)


def test_area_is_that_of_the_polygons() -> None:
    coverage = whole(np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)).outlines
    assert coverage.areas() == pytest.approx(shapely.area(coverage.polygons(PIXELS)))


def test_lines_are_those_of_the_arcs() -> None:
    coverage = whole(np.array([[0, 1], [0, 0]], np.uint8)).outlines
    lines, arc = coverage.lines()
    ends = lines[np.flatnonzero(np.diff(arc, prepend=-1)), :2]
    assert ends.tolist() == coverage.vertices[coverage.arcs[:-1]].tolist()
    assert len(lines) == len(coverage.vertices) - (len(coverage.arcs) - 1)
    inner = arc[(lines == [1, 1, 1, 0]).all(axis=1) | (lines == [1, 0, 1, 1]).all(axis=1)]
    assert coverage.with_arcs(inner).tolist() == [True, True]
    frame = arc[(lines == [2, 0, 2, 1]).all(axis=1) | (lines == [2, 1, 2, 0]).all(axis=1)]
    assert coverage.classes[coverage.with_arcs(frame)].tolist() == [1]


@pytest.mark.parametrize(
    ("one", "other", "met"),
    [
        ([0, 0, 4, 4], [0, 4, 4, 0], True),  # cross
        ([0, 0, 4, 0], [2, 0, 2, 3], True),  # one ends on the other
        ([0, 0, 4, 0], [2, 0, 6, 0], True),  # overlap
        ([0, 0, 4, 0], [0, 0, 4, 0], True),  # the same
        ([0, 0, 4, 0], [4, 0, 6, 3], False),  # a common end
        ([0, 0, 4, 0], [0, 1, 4, 1], False),
        ([0, 0, 9, 3], [4, 1, 9, 1], False),  # a third of a pixel apart
    ],
)
def test_lines_meet_elsewhere_than_at_common_ends(one: list[int], other: list[int], met: bool) -> None:
    lines = np.array([one, other])
    assert meeting(lines, NONE).tolist() == [met, met]
    if one != other:
        assert meeting(lines[:1], lines[1:]).tolist() == [met]


def test_a_line_that_comes_again_is_no_other_one() -> None:
    lines = np.array([[0, 0, 4, 0]])
    assert not meeting(lines, lines).any()
