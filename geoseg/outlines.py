"""The outlines of a class raster: every border between two pieces once, so that neighbours share it.

A piece is a set of pixels of one class (or of nodata) that are joined by their sides. Its outline is cut into arcs at
the nodes: the pixel corners where more than two borders meet. An arc belongs to the pieces on both of its sides, so
whatever is done to arcs, neighbours keep one edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from affine import Affine


class Runs(NamedTuple):
    """Pixels side by side in a row, (runs,) each, ordered by name, row and column.

    Attributes:
        name: what they belong to.
        row: of the raster.
        begin: first column.
        end: the column after the last.
    """

    name: np.ndarray
    row: np.ndarray
    begin: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class Coverage:
    """Pieces that fill a raster without gap or overlap, in whole pixel corners; laid out as TopoJSON does.

    Attributes:
        vertices: (n, 2) int64, column and row of pixel corners, arc after arc.
        arcs: (arcs + 1,) where each arc begins in `vertices`.
        ring_arcs: the arcs around each ring, in order; `~arc` is one that is walked backwards.
        rings: (rings + 1,) where each ring begins in `ring_arcs`.
        pieces: (pieces + 1,) where each piece begins in `rings`: its exterior, then its holes.
        classes: (pieces,) label of `geoseg.components`: class index, 255 for nodata, or that of a field.
    """

    vertices: np.ndarray
    arcs: np.ndarray
    ring_arcs: np.ndarray
    rings: np.ndarray
    pieces: np.ndarray
    classes: np.ndarray

    def polygons(self, transform: Affine) -> np.ndarray:
        """Every piece as a shapely polygon, in CRS coordinates, its exterior counterclockwise."""
        arc = np.maximum(self.ring_arcs, ~self.ring_arcs)
        backwards = self.ring_arcs < 0
        counts = np.diff(self.arcs)[arc] - 1  # the last vertex of an arc is the first of the next
        counts[self.rings[1:] - 1] += 1  # but closes the ring at its end
        start = np.where(backwards, self.arcs[arc + 1] - 1, self.arcs[arc])
        step = np.where(backwards, -1, 1)
        index = np.repeat(start, counts) + ragged(np.zeros_like(counts), counts) * np.repeat(step, counts)
        col, row = self.vertices[index].T.astype(float)
        t = transform
        coordinates = np.column_stack((t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f))
        ends = np.append(0, np.cumsum(np.add.reduceat(counts, self.rings[:-1])))
        polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, (ends, self.pieces))
        return shapely.orient_polygons(shapely.normalize(polygons))

    def ring_areas(self) -> np.ndarray:
        """Area inside each ring, in pixels: below 0 for holes."""
        per_arc = areas_beside(self.vertices, self.arcs)
        around = np.where(self.ring_arcs < 0, -per_arc[~self.ring_arcs], per_arc[self.ring_arcs])
        return np.add.reduceat(around, self.rings[:-1])

    def areas(self) -> np.ndarray:
        """Area of each piece, in pixels."""
        return np.add.reduceat(self.ring_areas(), self.pieces[:-1])

    def first_corners(self) -> np.ndarray:
        """Of each ring the first corner in reading order, (rings, 2) column and row: of whole pixel corners."""
        (col, row), width = self.vertices.T, self.vertices[:, 0].max(initial=0) + 1
        arc = np.maximum(self.ring_arcs, ~self.ring_arcs)
        first = np.minimum.reduceat(np.minimum.reduceat(row * width + col, self.arcs[:-1])[arc], self.rings[:-1])
        return np.column_stack((first % width, first // width))

    def middles(self) -> np.ndarray:
        """Of each ring the middle of its extent, (rings, 2) column and row."""
        arc = np.maximum(self.ring_arcs, ~self.ring_arcs)
        low, high = (
            part.reduceat(part.reduceat(self.vertices, self.arcs[:-1])[arc], self.rings[:-1])
            for part in (np.minimum, np.maximum)
        )
        return (low + high) // 2

    def runs(self, names: np.ndarray) -> Runs:
        """The pixels inside rings, where these follow the sides of pixels.

        Args:
            names: (rings,) what each ring is an outline of; rings of one name are an exterior and its holes. -1 leaves one out.
        """
        chosen = np.flatnonzero(names >= 0)
        arcs_in = np.diff(self.rings)[chosen]
        arc = self.ring_arcs[ragged(self.rings[chosen], arcs_in)]
        arc = np.maximum(arc, ~arc)
        lines_in = np.diff(self.arcs)[arc] - 1
        at = ragged(self.arcs[arc], lines_in)
        name = np.repeat(np.repeat(names[chosen], arcs_in), lines_in)
        (col, row), (next_col, next_row) = self.vertices[at].T, self.vertices[at + 1].T
        upright = col == next_col
        length = np.abs(next_row - row)[upright]
        rows = ragged(np.minimum(row, next_row)[upright], length)
        height, width = rows.max(initial=0) + 1, col.max(initial=0) + 1
        # From left to right, a row goes in and out by turns.
        keys = (np.repeat(name[upright], length) * height + rows) * width + np.repeat(col[upright], length)
        keys.sort()
        (line, begin), end = np.divmod(keys[::2], width), keys[1::2] % width
        return Runs(line // height, line % height, begin, end)

    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        """From vertex to vertex: column and row, twice, (lines, 4) int64; and the arc of each, (lines,)."""
        lines = np.column_stack((self.vertices[:-1], self.vertices[1:]))
        arc = np.repeat(np.arange(len(self.arcs) - 1), np.diff(self.arcs))
        inside = arc[:-1] == arc[1:]
        return lines[inside], arc[:-1][inside]

    def with_arcs(self, chosen: np.ndarray) -> np.ndarray:
        """Which pieces have one of the chosen arcs, (pieces,) bool."""
        arc = np.maximum(self.ring_arcs, ~self.ring_arcs)
        return np.add.reduceat(np.isin(arc, chosen), self.rings[self.pieces[:-1]]) > 0


def areas_beside(vertices: np.ndarray, arcs: np.ndarray) -> np.ndarray:
    """What each arc adds to the area of a ring that it is walked along by, in pixels; see `Coverage`."""
    (col, row), (next_col, next_row) = vertices.T, np.roll(vertices, -1, axis=0).T
    doubled = next_col * row - col * next_row
    doubled[arcs[1:] - 1] = 0  # no edge, but the way from the end of one arc to the start of the next
    return np.add.reduceat(doubled, arcs[:-1]) / 2


def meeting(lines: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some lines (n, 4) meet another one, or one of the others (m, 4), elsewhere than at a common end.

    Among the lines themselves, two that are the same meet; one of the others that is the same is the line itself.
    """
    every = np.concatenate((lines, others))
    tree = shapely.STRtree(shapely.linestrings(every.reshape(-1, 2, 2)))
    one, other = tree.query(tree.geometries[: len(lines)])
    same = (every[one] == every[other]).all(axis=1)
    apart = (one != other) & ~(same & (other >= len(lines)))
    one, other, same = one[apart], other[apart], same[apart]
    (a, b), (c, d) = (every[which].reshape(-1, 2, 2).swapaxes(0, 1) for which in (one, other))
    # The boxes touch, and all numbers are whole: this is exact.
    disjoint = (_turn(a, b, c) * _turn(a, b, d) > 0) | (_turn(c, d, a) * _turn(c, d, b) > 0)
    joined = np.any([(end == other_end).all(axis=1) for end in (a, b) for other_end in (c, d)], axis=0)
    found = np.zeros(len(every), bool)
    found[one[same | ~(disjoint | joined)]] = True
    return found[: len(lines)]


def _turn(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """On which side of the line p-q the point r lies: -1, 0 or 1."""
    (x, y), (u, v) = (q - p).T, (r - p).T
    return np.sign(x * v - y * u)


def distinct(values: np.ndarray) -> np.ndarray:
    """Whole numbers in ascending order, each once: `np.unique` hashes them (numpy 2.3), which takes ten times as long."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The whole numbers `starts[i]` to `starts[i] + counts[i] - 1` for each i, one after another."""
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
