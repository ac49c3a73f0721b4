"""A class raster swept strip by strip: every pixel in one piece, every border once, wherever strips begin."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize

from geoseg.chains import OUTSIDE, line_up
from geoseg.sweep import Finished, sweep

PIXELS = Affine.identity()
EVERY = [label for label in range(256) if label != OUTSIDE]
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def swept(
    labels: np.ndarray,
    rows: int = 1000,
    classes: Sequence[int] = EVERY,
    **options: int,
) -> list[Finished]:
    """What each strip has finished."""
    found = sweep(lambda first, last: labels[first:last], *labels.shape, classes, rows=rows, **options)
    return [finished for _, finished in found if finished is not None]


def whole(labels: np.ndarray, **options: object) -> Finished:
    """All features of a raster, swept in one go."""
    (finished,) = swept(labels, **options)  # type: ignore[arg-type]
    return finished


def described(parts: Sequence[Finished]) -> list[tuple[bytes, int, int, int]]:
    """Each piece: its polygon, class and pixels, and the number of its feature."""
    pieces, before = [], 0
    for part in parts:
        polygons = shapely.to_wkb(part.outlines.polygons(PIXELS)).tolist()
        features = (part.features + before).tolist()
        pieces += zip(polygons, part.outlines.classes.tolist(), part.pixels.tolist(), features, strict=True)
        before += int(part.features.max()) + 1
    return pieces


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
    """Number of the component of each pixel, in the order of last rows, then of first pixels; a flood fill, slow and plain."""
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
    last = [np.flatnonzero((numbers == number).any(axis=1)).max() for number in range(numbers.max() + 1)]
    return np.argsort(np.argsort(last, kind="stable"))[numbers]


# --- one strip


@given(label_maps())
def test_polygons_rasterise_to_the_map_they_were_swept_from(labels: np.ndarray) -> None:
    outlines = whole(labels).outlines
    polygons = outlines.polygons(PIXELS)
    back = rasterize(zip(polygons, range(1, len(polygons) + 1), strict=True), labels.shape, dtype="int32")
    numbers = components(labels, SIDES)
    assert np.array_equal(back - 1, numbers)
    assert np.array_equal(outlines.classes[numbers], labels)


@given(label_maps())
def test_polygons_are_valid_and_share_every_edge(labels: np.ndarray) -> None:
    polygons = whole(labels).outlines.polygons(PIXELS)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == labels.size


@given(label_maps())
def test_pixels_and_runs_are_those_of_the_pieces(labels: np.ndarray) -> None:
    found, numbers = whole(labels), components(labels, SIDES)
    assert np.array_equal(found.pixels, np.bincount(numbers.ravel()))
    runs = found.outlines.runs(np.repeat(np.arange(len(found.features)), np.diff(found.outlines.pieces)))
    back = np.full(labels.shape, -1)
    for piece, row, begin, end in zip(*runs, strict=True):
        assert (back[row, begin:end] == -1).all()
        back[row, begin:end] = piece
    assert np.array_equal(back, numbers)
    assert all((np.diff(runs.row)[np.diff(runs.name) == 0] >= 0).tolist())


@given(label_maps())
def test_an_arc_tells_what_lies_on_both_of_its_sides(labels: np.ndarray) -> None:
    found, around = whole(labels), np.pad(labels, 1, constant_values=OUTSIDE)
    for arc, pair in zip(np.split(found.outlines.vertices, found.outlines.arcs[1:-1]), found.labels, strict=True):
        (col, row), (next_col, next_row) = arc[:2].tolist()
        down, right = np.sign(next_row - row), np.sign(next_col - col)
        # The pixels beside the first step, in a raster with a border of one pixel.
        left_of = (row + (1 - right + down) // 2 + 0, col + (1 + right + down) // 2)
        right_of = (row + (1 + right + down) // 2, col + (1 + right - down) // 2)
        assert pair.tolist() == [around[left_of], around[right_of]]


@given(label_maps())
def test_a_closed_arc_has_no_node(labels: np.ndarray) -> None:
    found = whole(labels)
    around = np.pad(labels, 1, constant_values=OUTSIDE)
    for arc, closed in zip(np.split(found.outlines.vertices, found.outlines.arcs[1:-1]), found.closed, strict=True):
        col, row = arc[0]
        (a, b), (c, d) = around[row : row + 2, col : col + 2].tolist()
        borders = (a != b) + (c != d) + (a != c) + (b != d)
        corner = row in (0, labels.shape[0]) and col in (0, labels.shape[1])
        assert closed == (arc[0].tolist() == arc[-1].tolist() and borders == 2 and not corner)


@given(label_maps())
def test_pieces_that_touch_at_corners_are_one_feature(labels: np.ndarray) -> None:
    found = whole(labels, connectivity=8)
    by_corner = components(labels, SIDES + CORNERS)
    polygons = found.outlines.polygons(PIXELS)
    back = rasterize(zip(polygons, found.features + 1, strict=True), labels.shape, dtype="int32")
    assert np.array_equal(back - 1, by_corner)


def test_a_long_diagonal_is_one_feature() -> None:
    found = whole(np.eye(300, dtype=np.uint8), connectivity=8)
    assert len(set(found.features[found.outlines.classes == 1])) == 1


def test_a_ring_has_a_vertex_where_two_neighbours_meet_on_its_straight_side() -> None:
    outlines = whole(np.array([[1, 2], [3, 3]], np.uint8)).outlines
    (below,) = outlines.polygons(PIXELS)[outlines.classes == 3]
    assert [1, 1] in shapely.get_coordinates(below).tolist()


def test_a_piece_that_touches_itself_at_a_corner_encloses_a_hole() -> None:
    outlines = whole(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)).outlines
    (ring,), (hole, outside) = (outlines.polygons(PIXELS)[outlines.classes == label] for label in (1, 0))
    assert ring.is_valid
    assert len(ring.interiors) == 1
    assert shapely.Polygon(ring.interiors[0]).equals(hole)
    assert ring.touches(outside)


def test_a_straight_side_has_no_more_vertices_than_it_needs() -> None:
    (polygon,) = whole(np.zeros((7, 9), np.uint8)).outlines.polygons(PIXELS)
    assert polygon.equals_exact(shapely.normalize(shapely.box(0, 0, 9, 7)).reverse(), 0)


# --- many strips


@settings(max_examples=150)
@example(np.array([[1, 0, 0, 1, 2], [0, 1, 2, 2, 1], [1, 1, 2, 1, 0], [1, 2, 1, 1, 1]], np.uint8), 8, 1)
@given(label_maps(), st.sampled_from([4, 8]), st.integers(0, 4))
def test_strips_of_any_height_finish_the_same_features(labels: np.ndarray, connectivity: int, reach: int) -> None:
    options = {"connectivity": connectivity, "reach": reach}
    expected = described(swept(labels, **options))  # type: ignore[arg-type]
    for rows in (1, 2, 5, 17):
        assert described(swept(labels, rows, **options)) == expected  # type: ignore[arg-type]


@given(label_maps(), st.sampled_from([4, 8]))
def test_a_class_that_is_not_asked_for_changes_nothing_in_the_others(labels: np.ndarray, connectivity: int) -> None:
    def of_class_1(pieces: list[tuple[bytes, int, int, int]]) -> list[tuple[bytes, int]]:
        return [(polygon, pixels) for polygon, label, pixels, _ in pieces if label == 1]

    every = described(swept(labels, connectivity=connectivity))
    for rows in (1, 5, 1000):
        assert of_class_1(described(swept(labels, rows, [1], connectivity=connectivity))) == of_class_1(every)


def test_what_is_finished_is_given_out_at_once_and_forgotten() -> None:
    labels = np.zeros((60, 8), np.uint8)
    labels[2:58:8, 2:6] = 1  # islands, a row high, in a piece that lasts to the end
    given_out = {
        bottom: [] if finished is None else finished.outlines.classes.tolist()
        for bottom, finished in sweep(lambda first, last: labels[first:last], 60, 8, EVERY, rows=4)
    }
    assert [bottom for bottom, classes in given_out.items() if 1 in classes] == [4, 12, 20, 28, 36, 44, 52]
    assert [bottom for bottom, classes in given_out.items() if 0 in classes] == [60]


def test_an_arc_comes_once_more_for_the_ground_on_its_other_side() -> None:
    labels = np.zeros((40, 8), np.uint8)
    labels[2:5, 2:6] = 1
    island, rest = swept(labels, 10)
    assert island.bordering.tolist() == [True]
    assert not rest.bordering.any()
    assert any(
        np.array_equal(part, island.outlines.vertices)
        for part in np.split(rest.outlines.vertices, rest.outlines.arcs[1:-1])
    )


# --- elements in a line


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_lines_and_loops_are_put_in_order(count: int) -> None:
    rng = np.random.default_rng(count)
    order = rng.permutation(count)
    cuts = np.unique(np.append(rng.integers(0, count, count // 5), [0, count]))
    following, loops = np.full(count, -1), set()
    for number, (first, last) in enumerate(pairwise(cuts)):
        following[order[first : last - 1]] = order[first + 1 : last]
        if number % 2:
            following[order[last - 1]] = order[first]
            loops.add(frozenset(order[first:last].tolist()))
    rank = rng.permutation(count)
    found, offsets = line_up(following, rank)
    assert sorted(found) == list(range(count))
    for first, last in pairwise(offsets):
        line = found[first:last]
        assert np.array_equal(following[line[:-1]], line[1:])
        if frozenset(line.tolist()) in loops:
            assert following[line[-1]] == line[0]
            assert rank[line[0]] == rank[line].min()
        else:
            assert following[line[-1]] == -1
