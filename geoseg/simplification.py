"""Simplify outlines within a distance, such that neighbours stay glued and nothing crosses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from geoseg.nearby import Nearby, place_in
from geoseg.outlines import Coverage, ragged
from geoseg.sweep import Finished

_SHIFT = 0.25
"""How far, in pixels, a straight line may lie from its corners on average, to one side.

Without a limit, distance alone takes a sixth of a road one pixel wide. What lies between two borders is 0.7 pixels wide on average or
more (a pixel seen from corner to corner), so with half of that, two borders cannot become the same line.
"""


def reach_of(tolerance: float) -> int:
    """How far off, in pixels, corners of other borders matter: what is within the tolerance on both sides of a line."""
    return max(int(2 * tolerance + 0.5), 1) if tolerance > 0 else 0


def simplify(finished: Finished, tolerance: float) -> Coverage:
    """Straighten every arc, such that no corner of it lies farther than `tolerance` pixels from the new line.

    Douglas and Peucker's method (Cartographica 10(2), 1973) on each arc, whose ends stay where they are, with more reasons
    to split: a line replaces some corners only if the convex hull of these holds no corner of another border, nor another
    one of its own. If two such lines crossed, their hulls would overlap, with no corner of one inside the other; then
    the borders themselves would cross, which they do not. So every ring stays simple, and what lies in it stays there.
    An arc depends on nothing but its own corners and those near it.

    Args:
        finished: swept with a reach of `reach_of(tolerance)`.
        tolerance: a maximum distance in pixels; 0 changes nothing.
    """
    outlines = finished.outlines
    if tolerance <= 0:
        return outlines
    corners, arcs = outlines.vertices, outlines.arcs
    arc_of = np.repeat(np.arange(len(arcs) - 1), np.diff(arcs))
    nearby = Nearby(finished)
    pairs = nearby.pairs(arc_of, corners)
    by_pair = np.argsort(pairs, kind="stable")
    kept = np.zeros(len(corners), bool)
    first, last = _begin(corners, arcs, kept)
    while len(first):
        far = _farthest(corners, first, last)[1] > tolerance**2
        split = far | (_shift(corners, first, last) > _SHIFT)
        open_ = np.flatnonzero(~split)
        line, point, pair, strange = nearby.inside(_hulls(corners, first[open_], last[open_]), arc_of[first[open_]])
        line = open_[line]
        one, other = first[line], last[line]
        place = place_in(pairs[by_pair], pair)
        index = by_pair[place]
        strange |= (place >= 0) & ((index < one) | (index > other))
        for end in (one, other):  # a closed arc has its first corner at both ends
            strange &= (nearby.points[point] != corners[end]).any(axis=1)
        split[line[strange]] = True
        first, last = _with_corners(*_split(corners, kept, first[split], last[split]))
    counts = np.add.reduceat(kept, arcs[:-1], dtype=np.int64)
    return replace(outlines, vertices=corners[kept], arcs=np.append(0, np.cumsum(counts)))


def _begin(corners: np.ndarray, arcs: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the ends of arcs, and of a closed one the corner farthest from them; return the lines between."""
    first, last = arcs[:-1], arcs[1:] - 1
    kept[first] = kept[last] = True
    closed = (corners[first] == corners[last]).all(axis=1)
    halves = _split(corners, kept, first[closed], last[closed])
    return _with_corners(*(np.append(end[~closed], half) for end, half in zip((first, last), halves, strict=True)))


def _with_corners(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of some lines that have corners between their ends."""
    longer = last - first > 1
    return first[longer], last[longer]


def _split(corners: np.ndarray, kept: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the farthest corner of each line, and return the two lines that this makes of it."""
    middle, _ = _farthest(corners, first, last)
    kept[middle] = True
    return np.concatenate((first, middle)), np.concatenate((middle, last))


def _farthest(corners: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the corners between the ends of each line, the first one farthest from it, and its distance squared.

    A line without any gives its own first corner, and 0.
    """
    middle, distance2 = first.copy(), np.zeros(len(first))
    some = np.flatnonzero(last - first > 1)
    if some.size:
        counts = last[some] - first[some] - 1
        index, line = ragged(first[some] + 1, counts), np.repeat(np.arange(some.size), counts)
        start = corners[first[some]]
        vector, offset = (corners[last[some]] - start)[line], corners[index] - start[line]
        squared_length = np.maximum((vector**2).sum(axis=1), 1)  # 0 where a closed arc begins and ends
        along = ((offset * vector).sum(axis=1) / squared_length).clip(0, 1)
        off2 = ((offset - along[:, None] * vector) ** 2).sum(axis=1)
        distance2[some] = np.maximum.reduceat(off2, np.cumsum(counts) - counts)
        reached = np.flatnonzero(off2 == distance2[some][line])
        middle[some] = index[reached[np.unique(line[reached], return_index=True)[1]]]
    return middle, distance2


def _shift(corners: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """How far the corners lie to one side of each line on average: the area between them over the length."""
    counts = last - first
    index, line = ragged(first, counts), np.repeat(np.arange(len(first)), counts)
    (x, y), (next_x, next_y) = (corners[index] - corners[first[line]]).T, (corners[index + 1] - corners[first[line]]).T
    doubled = np.add.reduceat(x * next_y - next_x * y, np.cumsum(counts) - counts)
    length = np.sqrt(((corners[last] - corners[first]) ** 2).sum(axis=1))
    return np.abs(doubled) / 2 / np.maximum(length, 1e-9)


def _hulls(corners: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    counts = last - first + 1
    lines = shapely.linestrings(corners[ragged(first, counts)], indices=np.repeat(np.arange(len(first)), counts))
    return shapely.convex_hull(lines)
