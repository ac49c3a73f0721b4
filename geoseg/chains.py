"""Borders of a class raster as chains of corners, whole or cut at the edge of a strip.

A border runs along pixel sides, between two labels. Its corners are the pixel corners where it turns, and its nodes those where
more than two borders meet. A chain is a stretch of border with no node inside. It is walked such that the greater of its
labels is on the left: its direction follows from the raster, wherever a strip begins.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from geoseg.outlines import ragged

OUTSIDE = 254
"""The label of the ground outside the raster: no class index, and not nodata (255)."""


@dataclass(frozen=True)
class Chains:
    """Stretches of border, of n chains with m corners.

    The ground beside a border meets a node in a sector, between two borders that leave it. A sector is known by the key
    of the node, times 4, plus the direction of the border that it lies counterclockwise of. Where the left side of one
    chain ends in a sector, that of another one begins: its outline goes on there.

    Attributes:
        offsets: (n + 1,) where each begins in `corners`.
        corners: (m, 2) int64, column and row; that of a closed chain comes only once.
        labels: (n, 2) of `geoseg.components`, left and right.
        pieces: (n, 2) int64 names of the ground left and right; equal where it is known to be one piece.
        features: (n, 2) int64, likewise, where pieces that touch at corners are one.
        sectors: (n, 4) int64: where the left side begins and ends, and the right side, walked the other way; -1 at a cut.
        above: (n, 2) int64, the column where its start and its end are cut by the strip's upper edge, else -1.
        below: (n, 2) int64, likewise by the lower edge.
        first: (n,) int64, key of its first corner in reading order.
        lowest: (n,) int64, row of its lowest corner.
        told: (n, 2) bool, whether the ground beside it has been given out.
        neighbour_of: (q,) int64, the chain of each of `neighbours`.
        neighbours: (q,) int64, keys of corners near the chain, mostly of other borders.
    """

    offsets: np.ndarray
    corners: np.ndarray
    labels: np.ndarray
    pieces: np.ndarray
    features: np.ndarray
    sectors: np.ndarray
    above: np.ndarray
    below: np.ndarray
    first: np.ndarray
    lowest: np.ndarray
    told: np.ndarray
    neighbour_of: np.ndarray
    neighbours: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def closed(self) -> np.ndarray:
        """(n,) which are rings without a node; one that ends at the node where it begins meets other sectors there."""
        return (self.sectors[:, 0] == self.sectors[:, 1]) & (self.sectors[:, 2] == self.sectors[:, 3])

    @classmethod
    def none(cls) -> Chains:
        """No chains."""
        shapes = {
            "offsets": (1,), "first": (0,), "lowest": (0,), "neighbour_of": (0,), "neighbours": (0,), "sectors": (0, 4),
        }  # fmt: skip
        empty = {field.name: np.zeros(shapes.get(field.name, (0, 2)), np.int64) for field in fields(cls)}
        return cls(**empty | {"labels": np.zeros((0, 2), np.uint8), "told": np.zeros((0, 2), bool)})

    def and_(self, other: Chains) -> Chains:
        """These, then others."""
        joined = {name: np.concatenate((own, getattr(other, name))) for name, own in vars(self).items()}
        joined["offsets"] = np.append(self.offsets, other.offsets[1:] + self.offsets[-1])
        joined["neighbour_of"][len(self.neighbour_of) :] += len(self)
        return Chains(**joined)

    def take(self, index: np.ndarray) -> Chains:
        """Some of them."""
        counts = np.diff(self.offsets)[index]
        place = np.full(len(self), -1)
        place[index] = np.arange(len(index))
        kept = place[self.neighbour_of] >= 0
        per_chain = ("labels", "pieces", "features", "sectors", "above", "below", "first", "lowest", "told")
        return replace(
            self, **{name: getattr(self, name)[index] for name in per_chain}, offsets=np.append(0, np.cumsum(counts)),
            corners=self.corners[ragged(self.offsets[index], counts)], neighbours=self.neighbours[kept],
            neighbour_of=place[self.neighbour_of[kept]],
        )  # fmt: skip

    def forget(self, chosen: np.ndarray) -> Chains:
        """Without the corners and neighbours of chosen chains, which stay for the sake of what they join."""
        counts = np.where(chosen, 0, np.diff(self.offsets))
        kept = ~chosen[self.neighbour_of]
        return replace(
            self, offsets=np.append(0, np.cumsum(counts)), corners=self.corners[ragged(self.offsets[:-1], counts)],
            neighbour_of=self.neighbour_of[kept], neighbours=self.neighbours[kept],
        )  # fmt: skip


def closed_sectors(first: np.ndarray) -> np.ndarray:
    """Sectors of closed chains, by the keys of their first corners: each side ends where it begins."""
    return 4 * first[:, None] + [0, 0, 1, 1]


def line_up(following: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put elements in the order in which they follow one another, by pointer jumping (Wyllie 1979).

    Args:
        following: (n,) index of the next element, -1 after the last; no two have the same next one.
        rank: (n,) a loop is opened before its element of least rank.

    Returns:
        The elements, line after line, and where each line begins among them, (lines + 1,).
    """
    count, last = len(following), following < 0
    jump, steps = np.where(last, np.arange(count), following), (~last).astype(np.int64)
    active, before = np.flatnonzero(~last & ~last[jump]), -1
    while active.size != before:  # at each turn some come to the end of their line; in a loop, none do
        before, to = active.size, jump[active]
        further, more = jump[to], steps[to]
        jump[active], steps[active] = further, steps[active] + more
        active = active[~last[further]]
    if active.size:
        return line_up(_open_loops(following, rank, active), rank)
    first = np.ones(count, bool)
    first[following[~last]] = False
    starts = np.flatnonzero(first)
    offsets = np.append(0, np.cumsum(steps[starts] + 1))
    end = np.zeros(count, np.int64)
    end[jump[starts]] = offsets[1:]
    order = np.empty(count, np.int64)
    order[end[jump] - 1 - steps] = np.arange(count)
    return order, offsets


def _open_loops(following: np.ndarray, rank: np.ndarray, looped: np.ndarray) -> np.ndarray:
    place = np.zeros(len(following), np.int64)
    place[looped] = np.arange(looped.size)
    onwards = to = place[following[looped]]
    least, reach = rank[looped], 1
    while reach < looped.size:
        least, to, reach = np.minimum(least, least[to]), to[to], 2 * reach
    opened = following.copy()
    opened[looped[rank[looped[onwards]] == least[onwards]]] = -1
    return opened


def least_names(names: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All names, ascending, and for each the least name of the same thing, given (n, 2) pairs of names for one thing."""
    known, place = np.unique(np.append(names, same), return_inverse=True)
    pairs = place[names.size :]
    one, other = pairs.reshape(-1, 2).T
    least = np.arange(len(known))
    while True:
        of_one, of_other = least[one], least[other]
        differ = of_one != of_other
        if not differ.any():
            return known, known[least]
        one, other, of_one, of_other = one[differ], other[differ], of_one[differ], of_other[differ]
        np.minimum.at(least, np.maximum(of_one, of_other), np.minimum(of_one, of_other))
        while not np.array_equal(further := least[least], least):
            least = further
