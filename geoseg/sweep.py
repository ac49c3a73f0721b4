"""From strips of a class raster to whole pieces: a sweep from top to bottom that keeps what is not finished.

A piece is a set of pixels of one label (a class, nodata, or a field) that are joined by their sides; a feature is a piece or, with
connectivity 8, all pieces of a class that touch at corners. As soon as a feature is finished it is given out, and what
no other feature needs is forgotten. Nothing that is given out depends on where strips begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geoseg.chains import OUTSIDE, Chains, closed_sectors, least_names, line_up
from geoseg.choices import Connectivity
from geoseg.components import class_of
from geoseg.outlines import Coverage, areas_beside, distinct, ragged
from geoseg.tracing import Strip, trace


@dataclass(frozen=True)
class Finished:
    """Features that no further row can change.

    Attributes:
        outlines: their pieces, feature by feature, in the order of the features' last rows, then of their first pixels.
        features: (pieces,) number of the feature of each piece, from 0.
        labels: (arcs, 2) of `geoseg.components`, what lies left and right of each arc.
        closed: (arcs,) whether an arc is a whole ring, with no node on it.
        neighbour_of: (q,) arc of `outlines` that each of `neighbours` is near to.
        neighbours: (q, 2) column and row of corners of other borders.
        bordering: (arcs,) whether the ground on its other side is not finished yet; the arc will come once more.
    """

    outlines: Coverage
    features: np.ndarray
    labels: np.ndarray
    closed: np.ndarray
    neighbour_of: np.ndarray
    neighbours: np.ndarray
    bordering: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """(pieces,) how many there are in each."""
        return self.outlines.areas().astype(np.int64)

    @classmethod
    def none(cls) -> Finished:
        """No features."""
        nothing = np.zeros(0, np.int64)
        begin = np.zeros(1, np.int64)
        outlines = Coverage(np.zeros((0, 2), np.int64), begin, nothing, begin, begin, np.zeros(0, np.uint8))
        return cls(
            outlines, nothing, np.zeros((0, 2), np.uint8), np.zeros(0, bool), nothing, np.zeros((0, 2), np.int64),
            np.zeros(0, bool),
        )  # fmt: skip


class Sweep:
    """Joins the borders of strips.

    Args:
        height: rows of the raster.
        width: columns.
        classes: the class indices that are asked for; pieces of others are not given out.
        connectivity: 4, or 8 to make one feature of pieces that touch at corners.
        reach: how far off, in pixels, a corner is still a neighbour of a border.
    """

    def __init__(
        self, height: int, width: int, classes: Sequence[int], *, connectivity: Connectivity = 4, reach: int = 0
    ) -> None:
        self._height, self._width, self._reach, self._connectivity = height, width, reach, connectivity
        self._asked = np.zeros(256, bool)
        self._asked[list(classes)] = True
        self._held = Chains.none()
        self._named = 0

    def add(self, strip: Strip) -> Finished | None:
        """Take the next rows.

        Args:
            strip: with `reach` + 1 rows above and below it.

        Returns:
            What is finished by now, if anything is.
        """
        traced = trace(strip, reach=self._reach)
        new = replace(
            traced.chains, pieces=traced.chains.pieces + self._named, features=traced.chains.features + self._named
        )
        same_piece = traced.same_piece + self._named
        self._named += 2 * len(new)
        chains, joined = _join(self._held, new, self._width + 1)
        chains = self._name_ground(chains, [joined, same_piece], traced.same_feature)
        complete = np.all(chains.below < 0, axis=1)
        asked = self._asked[class_of(chains.labels)] & ~chains.told
        done = asked & ~np.isin(chains.features, distinct(chains.features[~complete[:, None] & asked]))
        chains = replace(chains, told=chains.told | done)
        wanted = (asked & ~done).any(axis=1)
        chain, side = np.nonzero(done)
        finished = self._finish(chains, chain, side, wanted) if len(chain) else None
        self._held = chains.forget(~wanted).take(np.flatnonzero(wanted | ~complete))
        return finished

    def _name_ground(self, chains: Chains, same_piece: list[np.ndarray], same_feature: np.ndarray) -> Chains:
        """Give all ground of one piece one name, and all pieces of one feature."""
        names = chains.pieces[:, [0, 0, 1, 1]].ravel()
        order = np.argsort(chains.sectors.ravel(), kind="stable")
        sectors, in_sector = chains.sectors.ravel()[order], names[order]
        meeting = np.flatnonzero((sectors[1:] == sectors[:-1]) & (sectors[1:] >= 0))
        same_piece.append(np.column_stack((in_sector[meeting], in_sector[meeting + 1])))
        known, least = least_names(chains.pieces, np.concatenate(same_piece))
        pieces = least[np.searchsorted(known, chains.pieces)]
        if self._connectivity == 4:
            return replace(chains, pieces=pieces, features=pieces)
        touching = least[np.searchsorted(known, in_sector[np.searchsorted(sectors, same_feature)])]
        held = least[np.searchsorted(known, self._held.pieces)]
        so_far = np.column_stack((held.ravel(), self._held.features.ravel()))
        known, least = least_names(pieces, np.concatenate((touching, so_far)))
        return replace(chains, pieces=pieces, features=least[np.searchsorted(known, pieces)])

    def _finish(self, chains: Chains, chain: np.ndarray, side: np.ndarray, wanted: np.ndarray) -> Finished:
        """Lay out the features that some sides of chains go around."""
        order, rings = _find_rings(chains, chain, side)
        chain, side = chain[order], side[order]
        used, arc = np.unique(chain, return_inverse=True)
        corners, arcs = self._close(chains, used)
        enclosed = np.add.reduceat(np.where(side, -1, 1) * areas_beside(corners, arcs)[arc], rings[:-1])
        lead, lead_side = chain[rings[:-1]], side[rings[:-1]]
        piece, feature = chains.pieces[lead, lead_side], chains.features[lead, lead_side]
        lowest = np.maximum.reduceat(chains.lowest[chain], rings[:-1])
        first = np.minimum.reduceat(chains.first[chain], rings[:-1])
        start = chains.sectors[lead, 2 * lead_side]
        place = np.lexsort((start, enclosed < 0, _ranked(piece, lowest, first), _ranked(feature, lowest, first)))
        counts = np.diff(rings)[place]
        inside = ragged(rings[place], counts)
        arc, side = arc[inside], side[inside]
        pieces = np.flatnonzero(np.diff(piece[place], prepend=-1))
        of, neighbours = self._foreign(chains.take(used), corners, arcs)
        outlines = Coverage(
            corners, arcs, np.where(side, ~arc, arc), np.append(0, np.cumsum(counts)), np.append(pieces, len(place)),
            chains.labels[lead, lead_side][place][pieces],
        )  # fmt: skip
        features = np.cumsum(np.diff(feature[place][pieces], prepend=-1) != 0) - 1
        return Finished(outlines, features, chains.labels[used], chains.closed[used], of, neighbours, wanted[used])

    def _foreign(self, chains: Chains, corners: np.ndarray, arcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the corners near chains those that are not their own, (q, 2), and the chain of each."""
        of, columns = np.repeat(np.arange(len(chains)), np.diff(arcs)), self._width + 1
        corner_keys = self._height * columns + columns
        own = of * corner_keys + corners[:, 1] * columns + corners[:, 0]
        foreign = ~np.isin(chains.neighbour_of * corner_keys + chains.neighbours, own)
        row, col = np.divmod(chains.neighbours[foreign], columns)
        return chains.neighbour_of[foreign], np.column_stack((col, row))

    def _close(self, chains: Chains, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners of chains, and where each begins; a closed one goes from its first corner back to it."""
        counts = np.diff(chains.offsets)[used]
        closed = chains.closed[used]
        index, owner = ragged(chains.offsets[used], counts), np.repeat(np.arange(len(used)), counts)
        key = chains.corners[index, 1] * (self._width + 1) + chains.corners[index, 0]
        leads = np.flatnonzero(closed[owner] & (key == chains.first[used][owner]))
        shift = np.zeros(len(used), np.int64)
        shift[owner[leads]] = index[leads] - chains.offsets[used][owner[leads]]
        lengths = counts + closed
        owner, along = np.repeat(np.arange(len(used)), lengths), ragged(np.zeros_like(lengths), lengths)
        place = chains.offsets[used][owner] + (along + shift[owner]) % counts[owner]
        return chains.corners[place], np.append(0, np.cumsum(lengths))


def _join(held: Chains, new: Chains, columns: int) -> tuple[Chains, np.ndarray]:
    """Join what a strip's upper edge has cut: the chains, and pairs of names of pieces that are the same."""
    chains, following = held.and_(new), np.full(len(held) + len(new), -1)
    start_in = np.full(columns, -1)
    for ends, before, starts, after in (
        (held.below[:, 1], 0, new.above[:, 0], len(held)), (new.above[:, 1], len(held), held.below[:, 0], 0),
    ):  # fmt: skip
        cut, ending = np.flatnonzero(starts >= 0), np.flatnonzero(ends >= 0)
        start_in[starts[cut]] = cut + after
        following[ending + before] = start_in[ends[ending]]
    joined = np.flatnonzero(following >= 0)
    same = np.stack((chains.pieces[joined], chains.pieces[following[joined]]), axis=2).reshape(-1, 2)
    order, offsets = line_up(following, chains.first)
    start, end = order[offsets[:-1]], order[offsets[1:] - 1]
    counts = np.diff(chains.offsets)[order]
    first = np.minimum.reduceat(chains.first[order], offsets[:-1])
    sectors = np.stack([chains.sectors[at, side] for at, side in ((start, 0), (end, 1), (end, 2), (start, 3))], axis=1)
    closed = following[end] >= 0
    sectors[closed] = closed_sectors(first[closed])
    below = chains.below.copy()
    below[: len(held)] = -1
    place = np.empty(len(chains), np.int64)
    place[order] = np.repeat(np.arange(len(start)), np.diff(offsets))
    return Chains(
        np.append(0, np.cumsum(np.add.reduceat(counts, offsets[:-1]))), chains.corners[ragged(chains.offsets[order], counts)],
        chains.labels[start], chains.pieces[start], chains.features[start], sectors, np.full((len(start), 2), -1),
        np.stack((below[start, 0], below[end, 1]), axis=1), first, np.maximum.reduceat(chains.lowest[order], offsets[:-1]),
        chains.told[start], place[chains.neighbour_of], chains.neighbours,
    ), same  # fmt: skip


def _find_rings(chains: Chains, chain: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put sides of chains in the order in which they go around the ground: (order, where each ring begins)."""
    starts, ends = chains.sectors[chain, 2 * side], chains.sectors[chain, 2 * side + 1]
    order = np.argsort(starts)
    following = order[np.searchsorted(starts[order], ends)]
    # A ring that comes by a node twice is two rings which touch there: the exterior, and a hole.
    piece = chains.pieces[chain, side]
    order = np.lexsort((starts, piece))
    node, of = starts[order] // 4, piece[order]
    twice = np.flatnonzero((node[1:] == node[:-1]) & (of[1:] == of[:-1]))
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    one, other = order[twice], order[twice + 1]
    following[before[one]], following[before[other]] = other, one
    return line_up(following, starts)


def _ranked(group: np.ndarray, lowest: np.ndarray, first: np.ndarray) -> np.ndarray:
    """For members of groups, the rank of their group: by its lowest row, then by its first corner."""
    names, member = np.unique(group, return_inverse=True)
    low, lead = np.zeros(len(names), np.int64), np.full(len(names), np.iinfo(np.int64).max)
    np.maximum.at(low, member, lowest)
    np.minimum.at(lead, member, first)
    rank = np.empty(len(names), np.int64)
    rank[np.lexsort((lead, low))] = np.arange(len(names))
    return rank[member]


def sweep(
    read: Callable[[int, int], np.ndarray], height: int, width: int, classes: Sequence[int], *, rows: int = 256,
    connectivity: Connectivity = 4, reach: int = 0,
) -> Iterator[tuple[int, Finished | None]]:  # fmt: skip
    """Find the features of a class raster, from top to bottom.

    Args:
        read: gives rows first to last (exclusive) of class indices, (rows, width) uint8, 255 for nodata; or of labels, int64.
        height: rows of the raster.
        width: columns.
        classes: those that are asked for.
        rows: rows at a time.
        connectivity: 4, or 8 to make one feature of pieces that touch at corners.
        reach: how far off, in pixels, a corner is still a neighbour of a border.

    Yields:
        The row after a strip, and what that strip has finished.
    """
    found = Sweep(height, width, classes, connectivity=connectivity, reach=reach)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        before, after = top - reach - 1, bottom + reach + 1
        first, last = max(before, 0), min(after, height)
        rows_read = read(first, last)
        labels = np.full((after - before, width + 2), OUTSIDE, rows_read.dtype)
        labels[first - before : last - before, 1:-1] = rows_read
        strip = Strip(labels, top, top - before, bottom - before, height)
        yield bottom, found.add(strip)
