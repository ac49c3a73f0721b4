"""The borders in a strip of a class raster, as chains; `sweep` joins the chains of many strips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geoseg.chains import OUTSIDE, Chains, closed_sectors, line_up
from geoseg.outlines import distinct, ragged

_UP, _RIGHT, _DOWN, _LEFT, _NODE = 1, 2, 4, 8, 16  # what leaves a pixel corner, and that it is a node in any case
_EAST, _NORTH, _WEST, _SOUTH = range(4)  # counterclockwise
_LEAVING = np.array([[flags & side > 0 for side in (_RIGHT, _UP, _LEFT, _DOWN)] for flags in range(2 * _NODE)])
_IS_NODE = (_LEAVING.sum(axis=1) > 2) | (np.arange(2 * _NODE) >= _NODE)
_CLOCKWISE = np.array(
    [
        [next((d - k) % 4 for k in range(1, 5) if leaving[(d - k) % 4] or k == 4) for d in range(4)]
        for leaving in _LEAVING
    ]
)  # by flags and direction, the next border clockwise


class Strip(NamedTuple):
    """Rows of a class raster, with what surrounds them.

    Attributes:
        labels: (rows, width + 2) of `geoseg.components`, with a column of `OUTSIDE` on either side. Rows above and
            below are there to be seen; those above or below the raster are `OUTSIDE` too.
        top: row of the raster that the strip begins with.
        begin: index of that row in `labels`, at least 1.
        end: index of the row after the strip.
        height: rows of the raster.
    """

    labels: np.ndarray
    top: int
    begin: int
    end: int
    height: int

    @property
    def lines(self) -> tuple[int, int]:
        """The lines between rows whose corners the strip tells: those above its rows, and the raster's last one.

        Line i lies above row i of `labels`, less 1.
        """
        last = self.top + self.end - self.begin == self.height
        return self.begin - 1, self.end - 1 + last


class Traced(NamedTuple):
    """What a strip holds.

    Attributes:
        chains: with names of pieces and features from 0.
        same_piece: (p, 2) names of pieces that are the same.
        same_feature: (f, 2) sectors whose ground touches at a corner and has one label.
    """

    chains: Chains
    same_piece: np.ndarray
    same_feature: np.ndarray


class _Corners(NamedTuple):
    """In reading order; or, of a strip, between those where borders come in from above and those where they go on below."""

    line: np.ndarray
    col: np.ndarray
    flags: np.ndarray


class _Sides(NamedTuple):
    """Straight stretches of border from corner to corner: those along rows first, then those along columns.

    Attributes:
        upper: index of the corner where it begins, to the left or above.
        lower: index of the other one.
        labels: left and right of its direction.
        forwards: whether its direction goes right or down.
        level: how many go along rows.
    """

    upper: np.ndarray
    lower: np.ndarray
    labels: np.ndarray
    forwards: np.ndarray
    level: int

    @property
    def tail(self) -> np.ndarray:
        return np.where(self.forwards, self.upper, self.lower)

    @property
    def head(self) -> np.ndarray:
        return np.where(self.forwards, self.lower, self.upper)

    @property
    def direction(self) -> np.ndarray:
        upright = np.arange(len(self.upper)) >= self.level
        return np.where(upright, np.where(self.forwards, _SOUTH, _NORTH), np.where(self.forwards, _EAST, _WEST))


def trace(strip: Strip, *, reach: int = 0) -> Traced:
    """Trace the borders in a strip.

    Args:
        strip: with `reach` + 1 rows above and below it.
        reach: how far off, in pixels, a corner is still a neighbour of a border; 0 looks for none.
    """
    labels, (begin, end) = strip.labels, strip.lines
    upright, every = _find_corners(strip)
    first, last = np.searchsorted(every.line, (begin, end))
    upper, lower = np.flatnonzero(upright[begin]), np.flatnonzero(upright[end])
    corners = _Corners(
        np.concatenate((np.full(len(upper), begin), every.line[first:last], np.full(len(lower), end))),
        np.concatenate((upper, every.col[first:last], lower)),
        np.concatenate((np.full(len(upper), _DOWN), every.flags[first:last], np.full(len(lower), _UP))),
    )  # fmt: skip
    at_edge = np.ones(len(corners.line), bool)
    at_edge[len(upper) : len(corners.line) - len(lower)] = False
    by_column = _by_column(corners)
    sides = _find_sides(labels, corners, by_column, len(upper), begin)
    node = _IS_NODE[corners.flags] | at_edge

    leaving = np.full(len(corners.line), -1)
    leaving[sides.tail] = np.arange(len(sides.tail))
    order, offsets = line_up(np.where(node[sides.head], -1, leaving[sides.head]), sides.tail)
    chain_of = np.empty(len(order), np.int64)
    chain_of[order] = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ends = sides.tail[order[offsets[:-1]]], sides.head[order[offsets[1:] - 1]]
    closed = (ends[0] == ends[1]) & ~node[ends[0]]

    # The corners of a chain are the tails of its sides and the head of the last.
    where = np.insert(sides.tail[order], offsets[1:], ends[1])
    owner = np.insert(chain_of[order], offsets[1:], np.arange(len(ends[1])))
    kept = ~at_edge[where]
    kept[offsets[1:] + np.arange(len(closed))] &= ~closed
    where, owner = where[kept], owner[kept]
    row = corners.line - begin + strip.top
    key = row * upright.shape[1] + corners.col
    key_of, no_key = key[where], np.iinfo(np.int64).max
    first_key, lowest = np.full(len(closed), no_key), np.full(len(closed), strip.top)
    np.minimum.at(first_key, owner, key_of)
    np.maximum.at(lowest, owner, row[where])

    outward = sides.direction[order[offsets[:-1]]], (sides.direction[order[offsets[1:] - 1]] + 2) % 4
    sectors = np.where(
        np.stack([at_edge[end] for end in ends])[[0, 1, 1, 0]], -1, _find_sectors(ends, outward, corners.flags, key)
    ).T
    sectors[closed] = closed_sectors(first_key[closed])
    cut = [np.where(at_edge[end], corners.col[end], -1) for end in ends]
    above, below = (
        np.stack([np.where(corners.flags[end] == flag, col, -1) for end, col in zip(ends, cut, strict=True)], axis=1)
        for flag in (_DOWN, _UP)
    )
    pieces = np.arange(2 * len(closed)).reshape(-1, 2)
    neighbours = (
        _find_neighbours(
            every, corners, sides, chain_of, (first - len(upper), where, owner, node), reach, upright.shape
        )
        if reach
        else np.zeros((2, 0), np.int64)
    )
    line, col = np.divmod(neighbours[1], upright.shape[1])
    chains = Chains(
        np.append(0, np.cumsum(np.bincount(owner, minlength=len(closed)))), np.column_stack((corners.col[where], row[where])),
        sides.labels[order[offsets[:-1]]], pieces, pieces, sectors, above, below, first_key, lowest,
        np.zeros(pieces.shape, bool), neighbours[0], (line - begin + strip.top) * upright.shape[1] + col,
    )  # fmt: skip
    lead = np.zeros(len(closed), np.int64)
    lead[owner[key_of == first_key[owner]]] = where[key_of == first_key[owner]]
    roofs = np.flatnonzero((first_key < no_key) & (corners.flags[lead] == (_RIGHT | _DOWN)))
    beside = _side_left_of(lead[roofs], corners, by_column, sides, upright[begin + 1 : end + 1], len(upper), begin)
    ground = labels[corners.line[lead[roofs]] + 1, corners.col[lead[roofs]]]
    same = [
        np.where(found == ground, pieces[chain, 0], pieces[chain, 1])
        for found, chain in ((chains.labels[roofs, 0], roofs), (sides.labels[beside, 0], chain_of[beside]))
    ]
    return Traced(chains, np.column_stack(same)[ground != OUTSIDE], _touching(labels, corners, key))


def _find_sectors(
    ends: tuple[np.ndarray, np.ndarray], outward: tuple[np.ndarray, np.ndarray], flags: np.ndarray, key: np.ndarray
) -> np.ndarray:
    """Sectors where chains begin and end, (4, n), from the directions in which they leave their two ends."""
    (start, end), (from_start, from_end) = ends, outward
    return np.stack([
        4 * key[start] + from_start,
        4 * key[end] + _CLOCKWISE[flags[end], from_end],
        4 * key[end] + from_end,
        4 * key[start] + _CLOCKWISE[flags[start], from_start],
    ])  # fmt: skip


def _find_corners(strip: Strip) -> tuple[np.ndarray, _Corners]:
    """Whether each row changes between two columns, (rows, width + 1), and the corners on each line between rows."""
    labels = strip.labels
    upright = (labels[:, :-1] != labels[:, 1:]).view(np.uint8)
    level = (labels[:-1] != labels[1:]).view(np.uint8)
    flags = upright[1:] * np.uint8(_DOWN)
    flags |= upright[:-1] * np.uint8(_UP)
    flags |= level[:, 1:] * np.uint8(_RIGHT)
    flags |= level[:, :-1] * np.uint8(_LEFT)
    for row in (0, strip.height):
        line = row - strip.top + strip.begin - 1
        if 0 <= line < len(flags):
            flags[line, [0, -1]] |= np.uint8(_NODE)  # so that the corners of the raster stay
    found = np.flatnonzero((flags != 0) & (flags != (_UP | _DOWN)) & (flags != (_LEFT | _RIGHT)))
    return upright, _Corners(*np.divmod(found, flags.shape[1]), flags.ravel()[found])


def _by_column(corners: _Corners) -> np.ndarray:
    """Their order by columns, and from top to bottom within one; short numbers are sorted in linear time."""
    short = len(corners.col) == 0 or corners.col.max() < 2**16
    return np.argsort(corners.col.astype(np.uint16 if short else np.int64), kind="stable")


def _find_sides(labels: np.ndarray, corners: _Corners, by_column: np.ndarray, from_above: int, begin: int) -> _Sides:
    # What follows a corner on its right, or below it, is the next one in the order of rows, or of columns.
    left = np.flatnonzero(corners.flags & _RIGHT)
    place = np.flatnonzero(corners.flags[by_column] & _DOWN)
    upper, lower = by_column[place], by_column[place + 1]
    row, col = corners.line[left], corners.col[left] + 1
    north, south = labels[row, col], labels[row + 1, col]
    row, col = corners.line[upper] + (upper >= from_above), corners.col[upper]
    west, east = labels[row, col], labels[row, col + 1]
    one, other = np.concatenate((north, east)), np.concatenate((south, west))
    return _Sides(
        np.concatenate((left, upper)), np.concatenate((left + 1, lower)),
        np.column_stack((np.maximum(one, other), np.minimum(one, other))), one > other, len(left),
    )  # fmt: skip


def _side_left_of(
    corner: np.ndarray, corners: _Corners, by_column: np.ndarray, sides: _Sides, upright: np.ndarray, from_above: int,
    begin: int,
) -> np.ndarray:  # fmt: skip
    """The upright side that bounds, on the left, the run of pixels that ends at a corner with a side below it.

    A hole begins, at its first corner in reading order, right of ground that belongs to what is around it: so each hole
    is tied to a border further left, and in the end to the exterior.
    """
    crossings, width = np.flatnonzero(upright), upright.shape[1]
    place = np.searchsorted(crossings, (corners.line[corner] - begin) * width + corners.col[corner]) - 1
    row, col = np.divmod(crossings[np.maximum(place, 0)], width)
    lines = len(upright) + 2
    line = np.where(by_column < from_above, 0, corners.line[by_column] - begin + 1)
    place = np.searchsorted(corners.col[by_column] * lines + line, col * lines + row + 1, side="right") - 1
    side_below = np.full(len(corners.line), -1)
    side_below[sides.upper[sides.level :]] = np.arange(sides.level, len(sides.upper))
    return side_below[by_column[place]]


def _touching(labels: np.ndarray, corners: _Corners, key: np.ndarray) -> np.ndarray:
    """Pairs of sectors across a node that have one label and do not meet along a side."""
    node = np.flatnonzero((corners.flags & (_NODE - 1)) == _NODE - 1)
    line, col, sector = corners.line[node], corners.col[node], 4 * key[node, None]
    falling, rising = labels[line, col] == labels[line + 1, col + 1], labels[line, col + 1] == labels[line + 1, col]
    return np.concatenate((sector[falling] + [_NORTH, _SOUTH], sector[rising] + [_EAST, _WEST]))


def _find_neighbours(
    every: _Corners, corners: _Corners, sides: _Sides, chain_of: np.ndarray,
    own: tuple[int, np.ndarray, np.ndarray, np.ndarray], reach: int, shape: tuple[int, ...],
) -> np.ndarray:  # fmt: skip
    """Chains, and the places of corners near them that are not known to be their own, (2, q): each pair once."""
    shift, where, owner, node = own
    of = np.full(len(every.line), -1)
    inner = ~node[where]
    of[where[inner] + shift] = owner[inner]
    pairs = []
    by_column = _by_column(every)
    for order, sides_along, along, across, length in (
        (np.arange(len(every.line)), np.s_[: sides.level], "col", "line", shape[1]),
        (by_column, np.s_[sides.level :], "line", "col", shape[0]),
    ):
        places = getattr(every, across)[order] * length + getattr(every, along)[order]
        begin = np.maximum(getattr(corners, along)[sides.upper[sides_along]] - reach, 0)
        end = np.minimum(getattr(corners, along)[sides.lower[sides_along]] + reach, length - 1)
        for off in range(-reach, reach + 1):
            row = (getattr(corners, across)[sides.upper[sides_along]] + off) * length
            from_, to = np.searchsorted(places, row + begin), np.searchsorted(places, row + end, side="right")
            found = order[ragged(from_, to - from_)]
            chain = np.repeat(chain_of[sides_along], to - from_)
            other = of[found] != chain
            pairs.append(chain[other] * len(every.line) + found[other])
    chain, found = np.divmod(distinct(np.concatenate(pairs)), max(len(every.line), 1))
    return np.stack((chain, every.line[found] * shape[1] + every.col[found]))
