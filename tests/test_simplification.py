"""Simplified coverages: within the distance, valid, without gap or overlap, whatever the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_outlines import label_maps

from geoseg.outlines import Coverage, trace
from geoseg.simplification import simplify_coverage

PIXELS = Affine.identity()


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


def arcs(coverage: Coverage) -> list[np.ndarray]:
    return np.split(coverage.vertices, coverage.arcs[1:-1])


@settings(max_examples=300)
@example(island_in_a_bay(), 4)
@example(hook(), 5)
@given(st.one_of(label_maps(), rough_borders()), st.sampled_from([0.3, 0.75, 1, 1.5, 2, 3, 5, 20]))
def test_what_is_promised_holds_on_any_map(labels: np.ndarray, tolerance: float) -> None:
    exact = trace(labels)
    simplified = simplify_coverage(exact, tolerance)
    polygons = simplified.polygons(PIXELS)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == labels.size  # with no overlap, no gap either
    # Neighbours are still neighbours, on the same sides: each hole encloses what it did.
    assert np.all(abs(simplified.ring_areas() - exact.ring_areas()) <= 0.1 * abs(exact.ring_areas()))
    for before, after in zip(arcs(exact), arcs(simplified), strict=True):
        assert before[0].tolist() == after[0].tolist()
        assert before[-1].tolist() == after[-1].tolist()
        assert {tuple(v) for v in after.tolist()} <= {tuple(v) for v in before.tolist()}
        distance = shapely.hausdorff_distance(shapely.linestrings(before), shapely.linestrings(after))
        assert distance <= tolerance + 1e-9


@given(rough_borders(), st.randoms(use_true_random=False))
def test_the_order_of_arcs_and_the_start_of_rings_have_no_influence(labels: np.ndarray, random: object) -> None:
    exact = trace(labels)
    order = np.arange(len(exact.arcs) - 1)
    random.shuffle(order)  # type: ignore[attr-defined]
    position = np.argsort(order)
    parts = [arcs(exact)[arc] for arc in order]
    ring_arcs = np.where(exact.ring_arcs < 0, ~position[~exact.ring_arcs], position[exact.ring_arcs])
    turned = np.concatenate([np.roll(ring, 1) for ring in np.split(ring_arcs, exact.rings[1:-1])])
    shuffled = replace(exact, vertices=np.concatenate(parts), arcs=np.cumsum([0, *map(len, parts)]), ring_arcs=turned)
    one, other = (simplify_coverage(coverage, 2).polygons(PIXELS) for coverage in (exact, shuffled))
    assert shapely.equals_exact(one, other).all()


def test_a_staircase_becomes_a_straight_line() -> None:
    labels = np.triu(np.ones((40, 40), np.uint8))
    upper, lower = simplify_coverage(trace(labels), 1).polygons(PIXELS)
    assert len(upper.exterior.coords) - 1 == 5  # three corners of the raster and the two ends of the line
    assert len(lower.exterior.coords) - 1 == 3
    exact = trace(labels)
    assert len(simplify_coverage(exact, 0.3).vertices) == len(exact.vertices)


def test_no_tolerance_changes_nothing() -> None:
    exact = trace(np.eye(5, dtype=np.uint8))
    assert simplify_coverage(exact, 0) is exact


@pytest.mark.parametrize("tolerance", [1.5, 10])
def test_a_single_pixel_stays_a_pixel(tolerance: float) -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    _, pixel = simplify_coverage(trace(labels), tolerance).polygons(PIXELS)
    assert pixel.equals(shapely.box(4, 4, 5, 5))


def test_a_road_one_pixel_wide_keeps_its_area() -> None:
    labels = np.zeros((60, 60), np.uint8)
    for col in range(60):
        labels[10 + col // 2, col] = 1
        labels[10 + (col + 1) // 2, col] = 1
    exact = trace(labels)
    road = simplify_coverage(exact, 1.5).polygons(PIXELS)[1]
    assert road.area == pytest.approx(exact.pixels()[1], rel=0.1)
    assert len(road.exterior.coords) < len(exact.polygons(PIXELS)[1].exterior.coords) / 4
