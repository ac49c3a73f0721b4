"""Simplify outlines within a distance, all of them together, so that the pieces stay a valid coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from geoseg.outlines import Coverage, ragged

_AREA_CHANGE = 0.1
"""Share of its area that a ring may gain or lose. Without a limit, distance alone takes a sixth of a road one pixel wide."""


def simplify_coverage(coverage: Coverage, tolerance: float) -> Coverage:
    """Straighten every arc, such that no corner of it lies farther than `tolerance` pixels from the new line.

    Douglas and Peucker's method (Cartographica 10(2), 1973) on each arc, whose ends stay where they are. It goes on
    splitting, within the tolerance, a segment that meets another one, that has jumped over a fixed vertex, or whose ring
    has gained or lost more than a tenth of its area (let alone turned inside out). Where none of these is left, every
    ring is simple and encloses the same fixed vertices as before, so the pieces fill the raster as they did. The order
    of the arcs has no influence.

    Args:
        coverage: as traced.
        tolerance: a maximum distance in pixels; 0 changes nothing.
    """
    if tolerance <= 0:
        return coverage
    vertices, areas = coverage.vertices, coverage.ring_areas()
    kept = _fixed(coverage)
    fixed = shapely.STRtree(shapely.points(np.unique(vertices[kept], axis=0)))
    segment_end = np.arange(1, len(vertices) + 1)  # by first vertex; as traced, no segment is in conflict
    first, last = _segments(coverage, kept)
    while len(first):
        _straighten(vertices, kept, first, last, tolerance)
        first, last = _segments(coverage, kept)
        changed = segment_end[first] != last
        segment_end = np.full(len(vertices), -1)
        segment_end[first] = last
        bent = np.abs(coverage.ring_areas(kept) - areas) > _AREA_CHANGE * np.abs(areas)
        conflict = _of_rings(coverage, bent)[first] | _meeting(vertices, first, last, changed)
        conflict[changed] |= _jumping(vertices, first[changed], last[changed], fixed)
        conflict &= last - first > 1
        first, last = _split(vertices, kept, first[conflict], last[conflict])
    counts = np.add.reduceat(kept, coverage.arcs[:-1], dtype=np.int64)
    return replace(coverage, vertices=vertices[kept], arcs=np.append(0, np.cumsum(counts)))


def _fixed(coverage: Coverage) -> np.ndarray:
    """Which vertices stay: the ends of arcs and, so that it keeps an area, that of a closed arc farthest from them."""
    kept = np.zeros(len(coverage.vertices), bool)
    first, last = coverage.arcs[:-1], coverage.arcs[1:] - 1
    kept[first] = kept[last] = True
    closed = (coverage.vertices[first] == coverage.vertices[last]).all(axis=1)
    _split(coverage.vertices, kept, first[closed], last[closed])
    return kept


def _segments(coverage: Coverage, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first and of the last vertex of every segment between kept vertices."""
    index = np.flatnonzero(kept)
    ends = np.zeros(len(kept), bool)
    ends[coverage.arcs[1:] - 1] = True
    inside = ~ends[index[:-1]]
    return index[:-1][inside], index[1:][inside]


def _straighten(vertices: np.ndarray, kept: np.ndarray, first: np.ndarray, last: np.ndarray, tolerance: float) -> None:
    """Keep the farthest vertex of each segment, and of its parts, until none lies farther than the tolerance."""
    while len(first):
        longer = last - first > 1
        first, last = first[longer], last[longer]
        far = _farthest(vertices, first, last)[1] > tolerance**2
        first, last = _split(vertices, kept, first[far], last[far])


def _split(
    vertices: np.ndarray, kept: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the farthest vertex of each segment, and return the two segments that this makes of it."""
    middle, _ = _farthest(vertices, first, last)
    kept[middle] = True
    return np.concatenate((first, middle)), np.concatenate((middle, last))


def _farthest(vertices: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the vertices between the ends of each segment, the first one farthest from it, and its distance squared."""
    if not len(first):
        return first, np.zeros(0)
    counts = last - first - 1
    index, segment = ragged(first + 1, counts), np.repeat(np.arange(len(first)), counts)
    vector, offset = (vertices[last] - vertices[first])[segment], vertices[index] - vertices[first][segment]
    squared_length = np.maximum((vector**2).sum(axis=1), 1)  # 0 where a closed arc begins and ends
    along = ((offset * vector).sum(axis=1) / squared_length).clip(0, 1)
    distance2 = ((offset - along[:, None] * vector) ** 2).sum(axis=1)
    largest = np.maximum.reduceat(distance2, np.cumsum(counts) - counts)
    reached = np.flatnonzero(distance2 == largest[segment])
    return index[reached[np.unique(segment[reached], return_index=True)[1]]], largest


def _meeting(vertices: np.ndarray, first: np.ndarray, last: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Which segments meet another one elsewhere than at a common end, if one of the two has changed.

    Two that lie on each other from a common end on are not looked for: where the shorter one ends, another segment meets
    the longer one, or if they are equally long, a ring has lost its area.
    """
    lines = shapely.linestrings(np.stack((vertices[first], vertices[last]), axis=1))
    asked = np.flatnonzero(changed)
    one, other = shapely.STRtree(lines).query(lines[asked])
    one, shortcut = asked[one], last - first > 1
    pair = (one != other) & (shortcut[one] | shortcut[other])  # as traced, no two meet
    one, other = one[pair], other[pair]
    a, b, c, d = vertices[first[one]], vertices[last[one]], vertices[first[other]], vertices[last[other]]
    # The boxes touch, and all numbers are whole: this is exact.
    apart = (_turn(a, b, c) * _turn(a, b, d) > 0) | (_turn(c, d, a) * _turn(c, d, b) > 0)
    joined = np.any([(end == other_end).all(axis=1) for end in (a, b) for other_end in (c, d)], axis=0)
    meet = ~(apart | joined)
    found = np.zeros(len(first), bool)
    found[one[meet]] = found[other[meet]] = True
    return found


def _turn(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """On which side of the line p-q the point r lies: -1, 0 or 1."""
    (x, y), (u, v) = (q - p).T, (r - p).T
    return np.sign(x * v - y * u)


def _jumping(vertices: np.ndarray, first: np.ndarray, last: np.ndarray, fixed: shapely.STRtree) -> np.ndarray:
    """Which segments have a fixed vertex between themselves and the corners that they stand for."""
    found = np.zeros(len(first), bool)
    shortcut = np.flatnonzero(last - first > 1)
    counts = (last - first)[shortcut] + 1
    corners = vertices[ragged(first[shortcut], counts)]
    between = shapely.polygons(shapely.linearrings(corners, indices=np.repeat(np.arange(len(shortcut)), counts)))
    found[shortcut[fixed.query(between, predicate="contains")[0]]] = True
    return found


def _of_rings(coverage: Coverage, chosen: np.ndarray) -> np.ndarray:
    """Which vertices belong to arcs of the chosen rings."""
    arcs = coverage.ring_arcs[np.repeat(chosen, np.diff(coverage.rings))]
    marked = np.zeros(len(coverage.arcs) - 1, bool)
    marked[np.maximum(arcs, ~arcs)] = True
    return np.repeat(marked, np.diff(coverage.arcs))
