"""Simplified coverages: within the distance, valid, without gap or overlap, whatever the map."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_sweep import EVERY, PIXELS, label_maps, swept, whole

from geoseg.outlines import Coverage, meeting
from geoseg.simplification import reach_of, simplify


@st.composite
def rough_borders(draw: st.DrawFn) -> np.ndarray:
    """Two large pieces with a torn border and islands in it: the shapes that simplification gets wrong."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(8, 30)), draw(st.integers(8, 30))
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 :] = 1
    torn = np.s_[height // 2 - 3 : height // 2 + 3]
    labels[torn] = np.where(rng.random((6, width)) < 0.5, rng.integers(0, 3, (6, width)), labels[torn])
    return labels


def island_in_a_bay() -> np.ndarray:
    """A bay 3 pixels deep with an island, off a straight coast: closing the bay puts the island on the other side."""
    labels = np.zeros((30, 30), np.uint8)
    labels[15:] = 1
    labels[15:18, 10:15] = 0
    labels[16, 12] = 2
    return labels


def hook() -> np.ndarray:
    """A hook around an island that touches the outside at a corner: straightened, it lets go of the island."""
    labels = np.zeros((41, 20), np.uint8)
    labels[7:, :6] = 1
    labels[4:7, 4:7] = 1
    labels[5, 5], labels[6, 6] = 2, 0
    return labels


def mixed_up() -> np.ndarray:
    """Two classes and a third in a corner, of which lines within 5 pixels cross, unless they mind each other's corners."""
    rows = "22200101 00000001 20001111 00011011 11012111 00111121 01112222 11111222"
    return np.array([list(row) for row in rows.split()], np.uint8)


def arcs(coverage: Coverage) -> list[np.ndarray]:
    return np.split(coverage.vertices, coverage.arcs[1:-1])


@settings(max_examples=300)
@example(island_in_a_bay(), 4)
@example(hook(), 5)
@example(mixed_up(), 5)
@given(st.one_of(label_maps(), rough_borders()), st.sampled_from([0.3, 0.75, 1, 1.5, 2, 3, 5, 20]))
def test_what_is_promised_holds_on_any_map(labels: np.ndarray, tolerance: float) -> None:
    finished = whole(labels, reach=reach_of(tolerance))
    exact, simplified = finished.outlines, simplify(finished, tolerance)
    polygons = simplified.polygons(PIXELS)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == labels.size  # with no overlap, no gap either
    assert not meeting(simplified.lines()[0], np.zeros((0, 4), np.int64)).any()
    for before, after in zip(arcs(exact), arcs(simplified), strict=True):
        assert before[0].tolist() == after[0].tolist()
        assert before[-1].tolist() == after[-1].tolist()
        assert {tuple(v) for v in after.tolist()} <= {tuple(v) for v in before.tolist()}
        assert (after[1:] != after[:-1]).any(axis=1).all()
        distance = shapely.hausdorff_distance(shapely.linestrings(before), shapely.linestrings(after))
        assert distance <= tolerance + 1e-9


@settings(max_examples=150)
@example(hook(), 5, 4)
@example(mixed_up(), 5, 4)
@given(st.one_of(label_maps(), rough_borders()), st.sampled_from([0.75, 1.5, 3, 20]), st.sampled_from([4, 8]))
def test_strips_of_any_height_and_other_classes_change_no_line(
    labels: np.ndarray, tolerance: float, connectivity: int
) -> None:
    def polygons(rows: int, classes: list[int]) -> list[tuple[bytes, int]]:
        parts = swept(labels, rows, classes, reach=reach_of(tolerance), connectivity=connectivity)
        simplified = [simplify(part, tolerance) for part in parts]
        return [
            entry for part in simplified
            for entry in zip(shapely.to_wkb(part.polygons(PIXELS)).tolist(), part.classes.tolist(), strict=True)
        ]  # fmt: skip

    expected = polygons(1000, EVERY)
    for rows in (1, 3, 8):
        assert polygons(rows, EVERY) == expected
        assert polygons(rows, [1]) == [entry for entry in expected if entry[1] == 1]


def test_a_staircase_becomes_a_straight_line() -> None:
    finished = whole(np.triu(np.ones((40, 40), np.uint8)), reach=reach_of(1))
    lower, upper = sorted(simplify(finished, 1).polygons(PIXELS), key=shapely.get_num_coordinates)
    assert (
        len(lower.exterior.coords) - 1 <= 4
    )  # the ends of the line, a corner of the raster, and one where it goes from side to side
    assert len(upper.exterior.coords) - 1 <= 6
    assert len(simplify(finished, 0.3).vertices) == len(finished.outlines.vertices)


def test_no_tolerance_changes_nothing() -> None:
    finished = whole(np.eye(5, dtype=np.uint8))
    assert simplify(finished, 0) is finished.outlines


@pytest.mark.parametrize("tolerance", [1.5, 10])
def test_a_single_pixel_stays_a_pixel(tolerance: float) -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    simplified = simplify(whole(labels, reach=reach_of(tolerance)), tolerance)
    (pixel,) = simplified.polygons(PIXELS)[simplified.classes == 1]
    assert pixel.equals(shapely.box(4, 4, 5, 5))


def test_a_road_one_pixel_wide_keeps_its_area() -> None:
    labels = np.zeros((60, 60), np.uint8)
    for col in range(60):
        labels[10 + col // 2, col] = 1
        labels[10 + (col + 1) // 2, col] = 1
    finished = whole(labels, reach=reach_of(1.5))
    simplified = simplify(finished, 1.5)
    (road,) = np.flatnonzero(simplified.classes == 1)
    assert simplified.areas()[road] == pytest.approx(finished.pixels[road], rel=0.1)
    before, after = (
        shapely.get_num_coordinates(part.polygons(PIXELS)[road]) for part in (finished.outlines, simplified)
    )
    assert after < before / 4
