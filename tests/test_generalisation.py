"""Small features merged or dropped and holes filled: as a plain, slow search over the pixels would, in strips of any height."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_sweep import CORNERS, SIDES, components, label_maps, swept

from geoseg.changes import Change, Generalised
from geoseg.choices import Connectivity, Small
from geoseg.generalisation import fill_holes
from geoseg.legend import IGNORE
from geoseg.small_features import remove_small
from geoseg.sweep import Finished


class SquareMetres:
    """Pixels of one m2 each."""

    def at(self, col: np.ndarray, row: np.ndarray) -> np.ndarray:
        return np.ones(len(col))


def applied(found: Generalised, labels: np.ndarray) -> np.ndarray:
    """The map with what has changed, put together of single rows."""
    rows = [found.change.apply(labels[row : row + 1], row) for row in range(len(labels))]
    assert np.array_equal(np.concatenate(rows), found.change.apply(labels, 0))
    return np.concatenate(rows)


def removed(
    labels: np.ndarray, least: float, *, classes: tuple[int, ...] = (1, 2), small: Small = "merge",
    connectivity: Connectivity = 4, rows: int = 1000,
) -> Generalised:  # fmt: skip
    def sweep(connectivity: Connectivity) -> Iterator[Finished]:
        return iter(swept(labels, rows=rows, classes=classes, connectivity=connectivity))

    return remove_small(sweep, classes, least, SquareMetres(), small=small, connectivity=connectivity)  # type: ignore[arg-type]


def filled(labels: np.ndarray, least: float, *, classes: tuple[int, ...] = (1, 2), rows: int = 1000) -> Generalised:
    return fill_holes(lambda _: iter(swept(labels, rows=rows, classes=classes)), least, SquareMetres())  # type: ignore[arg-type]


def merged_plainly(labels: np.ndarray, least: float, classes: tuple[int, ...]) -> np.ndarray:
    """The smallest feature first, and among equals the first, until none is left: all of it measured anew each time."""
    labels = labels.copy()
    while True:
        numbers = components(labels, SIDES)
        sizes, first = np.bincount(numbers.ravel()), np.unique(numbers, return_index=True)[1]
        small = [n for n in range(len(sizes)) if sizes[n] < least and labels.flat[first[n]] in classes]
        if not small:
            return labels
        one = min(small, key=lambda n: (sizes[n], first[n]))
        around: Counter[int] = Counter()
        for row, col in np.argwhere(numbers == one).tolist():
            for down, right in SIDES:
                at = row + down, col + right
                inside = 0 <= at[0] < labels.shape[0] and 0 <= at[1] < labels.shape[1]
                if inside and numbers[at] != one and labels[at] != IGNORE:
                    around[int(labels[at])] += 1
        labels[numbers == one] = min(around, key=lambda label: (-around[label], label), default=IGNORE)


def filled_plainly(labels: np.ndarray, least: float, classes: tuple[int, ...]) -> np.ndarray:
    """Ground that a piece cuts off from the outside of the raster becomes part of it, the largest holes last."""
    numbers, found, holes = components(labels, SIDES), labels.copy(), []
    for number in range(numbers.max() + 1):
        label = labels[numbers == number][0]
        if label in classes:
            ground = components(np.pad((numbers == number).astype(np.uint8), 1), SIDES)
            for part in set(np.unique(ground)) - {ground[0, 0]}:
                inside = (ground == part)[1:-1, 1:-1]
                if not (inside & (numbers == number)).any() and inside.sum() < least:
                    holes.append((int(inside.sum()), label, inside))
    for _, label, inside in sorted(holes, key=lambda hole: hole[0]):
        found[inside] = label
    return found


def grains() -> np.ndarray:
    """A field of grains that are all too small, with a large piece on either side."""
    labels = np.random.default_rng(5).integers(0, 3, (12, 20)).astype(np.uint8)
    labels[:, :3], labels[:, 17:] = 1, 2
    return labels


@settings(max_examples=200)
@example(grains(), 9.0, (1, 2))
@example(grains(), 40.0, (0, 1, 2))
@given(label_maps(), st.sampled_from([1.5, 2, 3, 5, 9, 30, 2000]), st.sampled_from([(1, 2), (0, 1, 2), (2,)]))
def test_small_features_go_to_the_neighbour_with_the_longest_edge(
    labels: np.ndarray, least: float, classes: tuple[int, ...]
) -> None:
    found = removed(labels, least, classes=classes)
    after = applied(found, labels)
    assert np.array_equal(after, merged_plainly(labels, least, classes))
    gone, other = (after != labels) & (after == IGNORE), (after != labels) & (after != IGNORE)
    assert found.counts["dropped"]["area_m2"] == gone.sum()
    assert found.counts["merged"]["area_m2"] == other.sum()
    assert found.counts["merged"]["out_of_layer_m2"] == (other & ~np.isin(after, classes)).sum()
    moved = len(np.unique(components(labels, SIDES)[after != labels]))
    assert found.counts["merged"]["polygons"] + found.counts["dropped"]["polygons"] == moved
    assert ((after == IGNORE) >= (labels == IGNORE)).all()  # nodata takes nothing over but what lies in it alone


@settings(max_examples=100)
@example(grains(), 9.0, 4, "merge")
@given(label_maps(), st.sampled_from([2, 5, 30]), st.sampled_from([4, 8]), st.sampled_from(["merge", "drop"]))
def test_strips_of_any_height_change_the_same_pixels(
    labels: np.ndarray, least: float, connectivity: Connectivity, small: Small
) -> None:
    whole = removed(labels, least, connectivity=connectivity, small=small)
    holes = filled(labels, least)
    for rows in (1, 2, 3, 7):
        found = removed(labels, least, connectivity=connectivity, small=small, rows=rows)
        assert np.array_equal(applied(found, labels), applied(whole, labels))
        assert found.counts == whole.counts
        again = filled(labels, least, rows=rows)
        assert np.array_equal(applied(again, labels), applied(holes, labels))
        assert again.counts == holes.counts


@settings(max_examples=100)
@given(label_maps(), st.sampled_from([2, 5, 30]), st.sampled_from(["merge", "drop"]))
def test_nothing_small_is_left_where_corners_join(labels: np.ndarray, least: float, small: Small) -> None:
    after = applied(removed(labels, least, connectivity=8, small=small), labels)
    sizes = np.bincount(components(after, SIDES + CORNERS)[np.isin(after, (1, 2))])
    assert (sizes[sizes > 0] >= least).all()


@settings(max_examples=100)
@given(label_maps(), st.sampled_from([2, 5, 30]))
def test_dropping_leaves_what_is_large_as_it_is(labels: np.ndarray, least: float) -> None:
    found, numbers = removed(labels, least, small="drop"), components(labels, SIDES)
    gone = (np.bincount(numbers.ravel())[numbers] < least) & np.isin(labels, (1, 2))
    assert np.array_equal(applied(found, labels), np.where(gone, IGNORE, labels))
    assert found.counts["dropped"] == {"polygons": len(np.unique(numbers[gone])), "area_m2": gone.sum()}
    assert not any(found.counts["merged"].values())


@settings(max_examples=200)
@given(label_maps(), st.sampled_from([2, 5, 30, 2000]), st.sampled_from([(1, 2), (0, 1, 2), (2,)]))
def test_small_holes_are_filled_with_all_that_is_in_them(
    labels: np.ndarray, least: float, classes: tuple[int, ...]
) -> None:
    found = filled(labels, least, classes=classes)
    after = filled_plainly(labels, least, classes)
    assert np.array_equal(applied(found, labels), after)
    assert found.counts["filled"]["area_m2"] >= (after != labels).sum()


def test_a_filled_hole_absorbs_what_lies_in_it() -> None:
    labels = np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = 1
    labels[2:5, 2:5] = 2
    labels[3, 3] = IGNORE
    expected = labels.copy()
    expected[2:5, 2:5] = 1
    found = filled(labels, 9.5)
    assert np.array_equal(applied(found, labels), expected)
    assert found.counts == {"filled": {"holes": 2, "area_m2": 9}}
    assert not len(filled(labels, 1).change.row)


def test_a_change_counts_ground_once() -> None:
    change = Change(np.array([0, 0, 1]), np.array([2, 3, 0]), np.array([6, 5, 2]), np.array([1, 2, 1], np.uint8))
    assert change.area_m2(SquareMetres()) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize("least", [5, 7])
def test_what_comes_of_a_merger_is_measured_anew(least: int) -> None:
    labels = np.full((3, 9), IGNORE, np.uint8)
    labels[1, 1:4], labels[1, 4:8] = 1, 2  # an island of 7 in nodata
    after = applied(removed(labels, least), labels)
    assert (after[1, 1:8] == 2).all()
    assert (applied(removed(labels, 8), labels) == IGNORE).all()
