"""The outlines of a class raster: every border between two pieces once, so that neighbours share it.

A piece is a set of pixels of one class (or of nodata) that are joined by their sides. Its outline is cut into arcs at
the nodes: the pixel corners where more than two borders meet. An arc belongs to the pieces on both of its sides, so
whatever is done to arcs, neighbours keep one edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes


@dataclass(frozen=True)
class Coverage:
    """Pieces that fill a raster without gap or overlap, in whole pixel corners; laid out as TopoJSON does.

    Attributes:
        vertices: (n, 2) int64, column and row of pixel corners, arc after arc.
        arcs: (arcs + 1,) where each arc begins in `vertices`.
        ring_arcs: the arcs around each ring, in order; `~arc` is one that is walked backwards.
        rings: (rings + 1,) where each ring begins in `ring_arcs`.
        pieces: (pieces + 1,) where each piece begins in `rings`: its exterior, then its holes.
        classes: (pieces,) uint8 class index, 255 for nodata. Pieces are in the order of their first pixels.
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
        # Where a ring begins and which hole comes first is up to GDAL; now it follows from the shape.
        return shapely.orient_polygons(shapely.normalize(polygons))

    def ring_areas(self, kept: np.ndarray | None = None) -> np.ndarray:
        """Twice the area in pixels of each ring, negative for holes; of its `kept` vertices only, if given."""
        index = np.arange(len(self.vertices)) if kept is None else np.flatnonzero(kept)
        (col, row), (next_col, next_row) = self.vertices[index].T, self.vertices[np.roll(index, -1)].T
        return self._around(next_col * row - col * next_row, np.searchsorted(index, self.arcs))

    def pixels(self) -> np.ndarray:
        """Pixels of each piece; its area, if it is simplified."""
        return np.add.reduceat(self.ring_areas(), self.pieces[:-1]) / 2

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of a raster (rows, cols) over each piece; the outlines must be those of the pixels.

        They tell it alone (Green's theorem): from the sum over all that lies left of the right-hand edges, the sum over
        all that lies left of the left-hand edges is taken off.
        """
        table = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.result_type(values.dtype, np.int64))
        np.cumsum(np.cumsum(values, axis=0, dtype=table.dtype), axis=1, out=table[1:, 1:])
        (col, row), (next_col, next_row) = self.vertices.T, np.roll(self.vertices, -1, axis=0).T
        edges = np.where(col == next_col, table[row, col] - table[next_row, next_col], 0)
        return np.add.reduceat(self._around(edges, self.arcs), self.pieces[:-1])

    def _around(self, edges: np.ndarray, arcs: np.ndarray) -> np.ndarray:
        """Add up around each ring what is given per edge, with the other sign where an arc is walked backwards."""
        edges[arcs[1:] - 1] = 0  # no edge, but the way from the end of one arc to the start of the next
        per_arc = np.add.reduceat(edges, arcs[:-1])
        signed = np.where(self.ring_arcs < 0, -per_arc[~self.ring_arcs], per_arc[self.ring_arcs])
        return np.add.reduceat(signed, self.rings[:-1])

    def join_diagonals(self) -> np.ndarray:
        """For each piece, the first of those that it is joined to where pixels of its class touch at corners."""
        start = np.where(self.ring_arcs < 0, self.arcs[~self.ring_arcs + 1] - 1, self.arcs[self.ring_arcs])
        col, row = self.vertices[start].T
        piece = np.repeat(np.arange(len(self.classes)), np.diff(self.rings[self.pieces]))
        # Of the pixels around a node, two of one class are diagonal to each other, or of one piece anyway.
        meeting = np.column_stack((row, col, self.classes[piece]))
        order = np.lexsort(meeting.T)
        same = (meeting[order[1:]] == meeting[order[:-1]]).all(axis=1)
        one, other = piece[order[1:][same]], piece[order[:-1][same]]
        first = np.arange(len(self.classes))
        while (first[one] != first[other]).any():
            lowest = np.minimum(first[one], first[other])
            np.minimum.at(first, first[one], lowest)
            np.minimum.at(first, first[other], lowest)
            first = first[first]
        return first


def trace(indices: np.ndarray) -> Coverage:
    """Outline every piece of a class raster along the pixel edges.

    Args:
        indices: (rows, cols) uint8; every value counts as a class, nodata (255) too.
    """
    traced = []
    for geometry, value in shapes(indices, connectivity=4):
        rings = [np.array(ring[:-1], np.int64) for ring in geometry["coordinates"]]
        col, row = rings[0][np.lexsort(rings[0].T)[0]]
        traced.append(((row, col), int(value), rings))
    traced.sort(key=lambda piece: piece[0])
    nodes = _nodes(indices)
    corners = [ring for _, _, rings in traced for ring in rings]
    points, counts = _insert_nodes(np.concatenate(corners), np.array([len(ring) for ring in corners]), nodes)
    return Coverage(
        *_cut(points, counts, nodes),
        pieces=np.cumsum([0, *(len(rings) for _, _, rings in traced)]),
        classes=np.array([value for _, value, _ in traced], np.uint8),
    )


def _nodes(indices: np.ndarray) -> np.ndarray:
    """Which pixel corners (rows + 1, cols + 1) end arcs: where three or four borders meet, and the raster's corners."""
    padded = np.pad(indices.astype(np.int16), 1, constant_values=-1)
    upper_left, upper_right, lower_left, lower_right = (
        padded[:-1, :-1],
        padded[:-1, 1:],
        padded[1:, :-1],
        padded[1:, 1:],
    )
    borders = (upper_left != upper_right).astype(np.uint8)
    for one, other in ((upper_right, lower_right), (lower_right, lower_left), (lower_left, upper_left)):
        borders += one != other
    nodes = borders > 2
    nodes[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return nodes


def _insert_nodes(corners: np.ndarray, counts: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rings, one after another, with a vertex at each node they pass; and their vertex counts.

    GDAL leaves a node out where the ring runs straight through it. The polygons on the two sides of a border then have
    different vertices, and are no valid coverage.
    """
    ends = np.cumsum(counts)
    following = np.arange(1, len(corners) + 1)
    following[ends - 1] = ends - counts
    step = corners[following] - corners
    lengths = np.abs(step).sum(axis=1)
    corner = np.repeat(np.arange(len(corners)), lengths)
    along = ragged(np.zeros_like(lengths), lengths)
    points = corners[corner] + np.sign(step)[corner] * along[:, None]
    chosen = (along == 0) | nodes[points[:, 1], points[:, 0]]
    ring = np.repeat(np.arange(len(counts)), counts)[corner[chosen]]
    return points[chosen], np.bincount(ring)


def _cut(
    points: np.ndarray, counts: np.ndarray, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut rings at the nodes and keep each arc once: `vertices`, `arcs`, `ring_arcs` and `rings` of a coverage."""
    starts = np.cumsum(counts) - counts
    ring = np.repeat(np.arange(len(counts)), counts)
    key = points[:, 1] * nodes.shape[1] + points[:, 0]
    at_node = nodes[points[:, 1], points[:, 0]]
    # A ring without a node is cut at its first corner, which is also that of the ring on its other side.
    at_node |= (key == np.minimum.reduceat(key, starts)[ring]) & ~np.logical_or.reduceat(at_node, starts)[ring]

    cut = np.flatnonzero(at_node)
    ring = ring[cut]
    rings = np.append(0, np.cumsum(np.bincount(ring)))
    next_cut = np.append(cut[1:], 0)
    next_cut[rings[1:] - 1] = cut[rings[:-1]] + counts  # the last arc of a ring ends where the first begins
    lengths = next_cut - cut

    def vertex(arc: np.ndarray, along: np.ndarray) -> np.ndarray:
        start, count = starts[ring[arc]], counts[ring[arc]]
        return start + (cut[arc] - start + along) % count

    def edge_key(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return key[one] * 5 + (points[other] - points[one]).clip(-1, 1) @ (1, 2) + 2

    # An arc is known by its first pixel edge, seen from that end where the number of this edge is lower.
    every, zero = np.arange(len(cut)), np.zeros_like(cut)
    ahead = edge_key(vertex(every, zero), vertex(every, zero + 1))
    behind = edge_key(vertex(every, lengths), vertex(every, lengths - 1))
    forwards = ahead < behind
    _, chosen, arc = np.unique(np.minimum(ahead, behind), return_index=True, return_inverse=True)
    sizes = lengths[chosen] + 1
    which, along = np.repeat(chosen, sizes), ragged(np.zeros_like(sizes), sizes)
    along = np.where(forwards[which], along, lengths[which] - along)
    return points[vertex(which, along)], np.append(0, np.cumsum(sizes)), np.where(forwards, arc, ~arc), rings


def ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The whole numbers `starts[i]` to `starts[i] + counts[i] - 1` for each i, one after another."""
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
