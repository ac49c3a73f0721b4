"""Round the corners of outlines, such that neighbours stay glued and nothing crosses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from geoseg.nearby import Nearby, place_in
from geoseg.outlines import Coverage
from geoseg.sweep import Finished

REACH = 3
"""How far from a corner, in pixels, its rounding may begin; a sweep must have at least this reach."""
_SHARES = (1.0, 0.5, 0.25)
_ALONG = np.linspace(0, 1, 5)[:, None]
_CURVE = np.stack(((1 - _ALONG) ** 2, 2 * _ALONG * (1 - _ALONG), _ALONG**2))  # quadratic Bezier: of start, corner, end


def smooth(finished: Finished, outlines: Coverage) -> Coverage:
    """Replace every corner by a quadratic Bezier curve between points on its two lines; nodes stay as they are.

    The points lie half-way to the next corners, or `REACH` pixels away where that is nearer. Where all are half-way, the
    curves are the quadratic B-spline that Chaikin's corner cutting tends to (Riesenfeld, Computer Graphics and Image
    Processing 4(3), 1975). A corner is rounded only if its triangle with the two points holds no other corner of its arc and
    none of another border, simplified or not; else less of it is, or nothing. No line can lead into such a triangle without
    ending in it, so none crosses the curve. An arc depends on nothing but its own corners and those near it.

    Args:
        finished: swept with a reach of `REACH` or more.
        outlines: its outlines, simplified.

    Returns:
        The same coverage with more vertices, (n, 2) float64.
    """
    corners, arcs = outlines.vertices.astype(np.float64), outlines.arcs
    index, arc = np.arange(len(corners)), np.repeat(np.arange(len(arcs) - 1), np.diff(arcs))
    first, last = index == arcs[arc], index == arcs[arc + 1] - 1
    around = finished.closed[arc]
    rounded = np.flatnonzero(~last & (~first | around))
    before = np.where(first, arcs[arc + 1] - 2, index - 1)[rounded]
    legs = [(corners[other] - corners[rounded]) for other in (before, rounded + 1)]
    reach = [np.minimum(0.5, REACH / np.hypot(*leg.T)) for leg in legs]
    share = _find_room(Nearby(finished), corners, arc, rounded, legs, reach)
    start, end = (corners[rounded] + leg * (part * share)[:, None] for leg, part in zip(legs, reach, strict=True))
    curves = np.einsum("kpi,knc->npc", _CURVE, np.stack((start, corners[rounded], end)))
    # A closed arc ends where it begins: in the middle of nothing, once its first corner is a curve.
    times = np.ones(len(corners), np.int64)
    times[rounded[share > 0]] = len(_ALONG)
    place = np.cumsum(times) - times
    vertices, owner = np.repeat(corners, times, axis=0), np.repeat(arc, times)
    inside = (place[rounded[share > 0], None] + np.arange(len(_ALONG))).ravel()
    vertices[inside] = curves[share > 0].reshape(-1, 2)
    begin = np.append(0, np.cumsum(np.bincount(owner, minlength=len(arcs) - 1)))
    ring = np.flatnonzero(finished.closed)
    vertices[begin[ring + 1] - 1] = vertices[begin[ring]]
    again = np.append(False, (vertices[1:] == vertices[:-1]).all(axis=1) & (owner[1:] == owner[:-1]))
    lengths = np.bincount(owner[~again], minlength=len(arcs) - 1)
    return replace(outlines, vertices=vertices[~again], arcs=np.append(0, np.cumsum(lengths)))


def _find_room(
    nearby: Nearby,
    corners: np.ndarray,
    arc: np.ndarray,
    rounded: np.ndarray,
    legs: list[np.ndarray],
    reach: list[np.ndarray],
) -> np.ndarray:
    """Which share of its reach each rounding can have, (rounded,)."""
    own = np.sort(nearby.pairs(arc, corners))
    share, open_ = np.zeros(len(rounded)), np.arange(len(rounded))
    for part in _SHARES:
        corner = corners[rounded[open_]]
        ends = [corner + leg[open_] * (part * far[open_])[:, None] for leg, far in zip(legs, reach, strict=True)]
        triangles = shapely.polygons(np.stack((ends[0], corner, ends[1]), axis=1))
        triangle, point, pair, strange = nearby.inside(triangles, arc[rounded[open_]])
        strange |= (place_in(own, pair) >= 0) & (nearby.points[point] != corner[triangle]).any(axis=1)
        free = np.ones(len(open_), bool)
        free[triangle[strange]] = False
        share[open_[free]] = part
        open_ = open_[~free]
    return share
