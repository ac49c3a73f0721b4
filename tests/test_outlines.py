"""Outlines of class rasters: every pixel in one polygon, every border once."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize

from geoseg.outlines import trace

PIXELS = Affine.identity()
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Blocks of classes and nodata, with single pixels strewn over them: holes, bridges and diagonals come by themselves."""
    classes = st.sampled_from([0, 1, 2, 255])
    blocks = draw(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=classes))
    labels = np.kron(blocks, np.ones(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), np.uint8))
    for row, col, value in draw(st.lists(st.tuples(st.integers(0, 31), st.integers(0, 31), classes), max_size=12)):
        labels[row % labels.shape[0], col % labels.shape[1]] = value
    return labels


def components(labels: np.ndarray, neighbours: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Number of the component of each pixel, in the order of first pixels; a flood fill, slow and plain."""
    numbers = np.full(labels.shape, -1)
    for start in np.ndindex(labels.shape):
        if numbers[start] >= 0:
            continue
        queue, number = deque([start]), numbers.max() + 1
        numbers[start] = number
        while queue:
            row, col = queue.popleft()
            for down, right in neighbours:
                at = row + down, col + right
                inside = 0 <= at[0] < labels.shape[0] and 0 <= at[1] < labels.shape[1]
                if inside and numbers[at] < 0 and labels[at] == labels[row, col]:
                    numbers[at] = number
                    queue.append(at)
    return numbers


@given(label_maps())
def test_polygons_rasterise_to_the_map_they_were_traced_from(labels: np.ndarray) -> None:
    coverage = trace(labels)
    polygons = coverage.polygons(PIXELS)
    back = rasterize(zip(polygons, range(1, len(polygons) + 1), strict=True), labels.shape, dtype="int32")
    numbers = components(labels, SIDES)
    assert np.array_equal(back - 1, numbers)
    assert np.array_equal(coverage.classes[numbers], labels)


@given(label_maps())
def test_polygons_are_valid_and_share_every_edge(labels: np.ndarray) -> None:
    polygons = trace(labels).polygons(PIXELS)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == labels.size


@given(label_maps(), st.integers(0, 2**32 - 1))
def test_sums_and_pixel_counts_are_those_of_the_pixels(labels: np.ndarray, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, labels.shape).astype(np.uint8)
    coverage, numbers = trace(labels), components(labels, SIDES)
    assert np.array_equal(coverage.pixels(), np.bincount(numbers.ravel()))
    assert np.array_equal(coverage.sums(values), np.bincount(numbers.ravel(), values.ravel()))
    assert np.allclose(coverage.sums(values / 255), np.bincount(numbers.ravel(), values.ravel() / 255))


@given(label_maps())
def test_pieces_that_touch_at_corners_are_joined(labels: np.ndarray) -> None:
    joined = trace(labels).join_diagonals()
    by_side, by_corner = components(labels, SIDES), components(labels, SIDES + CORNERS)
    expected = [by_side[by_corner == by_corner[by_side == piece][0]].min() for piece in range(by_side.max() + 1)]
    assert joined.tolist() == expected


def test_a_long_diagonal_is_one_group() -> None:
    labels = np.eye(300, dtype=np.uint8)
    coverage = trace(labels)
    assert len(set(coverage.join_diagonals()[coverage.classes == 1])) == 1


def test_a_ring_has_a_vertex_where_two_neighbours_meet_on_its_straight_side() -> None:
    polygons = trace(np.array([[1, 2], [3, 3]], np.uint8)).polygons(PIXELS)
    assert [1, 1] in shapely.get_coordinates(polygons[2]).tolist()


def test_a_piece_that_touches_itself_at_a_corner_encloses_a_hole() -> None:
    ring, hole, outside = trace(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)).polygons(PIXELS)
    assert ring.is_valid
    assert len(ring.interiors) == 1
    assert shapely.Polygon(ring.interiors[0]).equals(hole)
    assert ring.touches(outside)


def test_a_straight_side_has_no_more_vertices_than_it_needs() -> None:
    (polygon,) = trace(np.zeros((7, 9), np.uint8)).polygons(PIXELS)
    assert polygon.equals_exact(shapely.normalize(shapely.box(0, 0, 9, 7)).reverse(), 0)


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
    coverage = trace(np.array([[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], np.uint8))
    plain, placed = coverage.polygons(PIXELS), coverage.polygons(transform)
    assert shapely.is_ccw(shapely.get_exterior_ring(placed)).all()
    for before, after in zip(plain, placed, strict=True):
        expected = shapely.transform(before, lambda points: np.column_stack(transform @ tuple(points.T)))
        assert expected.symmetric_difference(after).area < 1e-6
    assert shapely.coverage_is_valid(placed)
