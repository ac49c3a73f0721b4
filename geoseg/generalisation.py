"""What is too small to be shown: small features given to their neighbours, or taken out, and small holes filled.

Each is a sweep of its own over the class raster, which finds the pixels that change; the next one sees them changed. So
outlines are traced once the map is as it shall be, and neighbours keep one edge.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
from rasterio.windows import Window

from geoseg.chains import OUTSIDE, least_names
from geoseg.choices import Connectivity, Small
from geoseg.legend import IGNORE
from geoseg.nearby import place_in
from geoseg.outlines import Coverage, ragged
from geoseg.scenes import Scene
from geoseg.sweep import Finished

Read = Callable[[int, int], np.ndarray]
"""Gives rows first to last (exclusive) of class indices, (rows, width) uint8, 255 for nodata."""
Swept = Callable[[Connectivity], Iterator[Finished]]
"""Sweeps the map as it is, and gives what is finished."""
_NOWHERE = (IGNORE, OUTSIDE)
_BLOCK = 1024
_PARTS = 10_000
"""Areas are added up in cm2: whole numbers give the same sum in any order."""


class PixelAreas:
    """Area on the ground of pixels, taken to be the same over blocks of 1024 x 1024 of them.

    Args:
        scene: has them; without a CRS areas are NaN.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._known: dict[tuple[int, int], float] = {}

    def at(self, col: np.ndarray, row: np.ndarray) -> np.ndarray:
        """In m2, of the pixels at columns and rows (n,)."""
        last = (self._scene.height - 1) // _BLOCK, (self._scene.width - 1) // _BLOCK
        block = np.minimum(row // _BLOCK, last[0]) * (last[1] + 1) + np.minimum(col // _BLOCK, last[1])
        found, which = np.unique(block, return_inverse=True)
        return np.array([self._of(*divmod(number, last[1] + 1)) for number in found.tolist()])[which]

    def _of(self, block_row: int, block_col: int) -> float:
        if (block_row, block_col) not in self._known:
            top, left = block_row * _BLOCK, block_col * _BLOCK
            window = Window(left, top, min(_BLOCK, self._scene.width - left), min(_BLOCK, self._scene.height - top))
            self._known[block_row, block_col] = self._scene.pixel_area_m2(window) or math.nan
        return self._known[block_row, block_col]


NOTHING: dict[str, Any] = {
    "merged": {"polygons": 0, "area_m2": 0.0}, "dropped": {"polygons": 0, "area_m2": 0.0}, "filled": {"holes": 0, "area_m2": 0.0}
}  # fmt: skip
"""What is counted where nothing is changed."""


class Change(NamedTuple):
    """Pixels of a class raster that get another class, in runs; where several hold a pixel, the last one counts.

    Attributes:
        row: (runs,) ascending.
        begin: first column of each.
        end: the column after the last.
        value: (runs,) uint8 class index, 255 for nodata.
    """

    row: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    value: np.ndarray

    def apply(self, rows: np.ndarray, first: int) -> np.ndarray:
        """Rows of the raster from `first` on, (rows, width) uint8, with what of them changes."""
        some = slice(*np.searchsorted(self.row, (first, first + len(rows))))
        row, begin, length = self.row[some] - first, self.begin[some], (self.end - self.begin)[some]
        changed = rows.copy()
        changed.reshape(-1)[ragged(row * rows.shape[1] + begin, length)] = np.repeat(self.value[some], length)
        return changed

    def area_m2(self, areas: PixelAreas) -> float:
        """Of the ground that changes."""
        order = np.lexsort((self.begin, self.row))
        row, begin, end = self.row[order], self.begin[order], self.end[order]
        width = int(end.max(initial=0)) + 1
        so_far = np.maximum.accumulate(np.append(0, row * width + end))[:-1]
        length = np.maximum(row * width + end - np.maximum(row * width + begin, so_far), 0)
        return float((length * areas.at(begin, row)).sum())


@dataclass(frozen=True)
class Generalised:
    """What one step has found.

    Attributes:
        change: of the class raster.
        counts: for the run file.
    """

    change: Change
    counts: dict[str, Any]


def remove_small(
    swept: Swept, least_m2: float, areas: PixelAreas, *, small: Small, connectivity: Connectivity
) -> Generalised:
    """Take away the features that are smaller than so much, measured by their pixels.

    `merge` gives a feature to the class that it shares the longest edge with, the smallest feature first, and what comes of
    it is measured anew. Nodata takes nothing in: what lies alone in it is dropped. `drop` makes nodata of all of them.

    Args:
        swept: the map.
        least_m2: area of the smallest feature that stays.
        areas: of the pixels.
        small: `merge` or `drop`.
        connectivity: 4, or 8 to measure pieces that touch at corners as one.
    """
    waiting, parts, merged, dropped = _Waiting(least_m2), [], Counter[str](), Counter[str]()
    for finished in swept(connectivity):
        waiting.add(finished, _areas_m2(finished, areas), merging=small == "merge")
        settled, change = waiting.settle()
        parts.append(change)
        merged["polygons"] += int((settled != IGNORE).sum())
        dropped["polygons"] += int((settled == IGNORE).sum())
    change = _joined(parts)
    gone = change.value == IGNORE
    counts = {
        name: {
            "polygons": count["polygons"],
            "area_m2": round(Change(*(values[which] for values in change)).area_m2(areas), 3),
        }
        for name, count, which in (("merged", merged, ~gone), ("dropped", dropped, gone))
    }
    return Generalised(change, counts)


def fill_holes(swept: Swept, least_m2: float, areas: PixelAreas) -> Generalised:
    """Give holes that are smaller than so much to what is around them, with all that lies in them, nodata too."""
    parts, holes = [], 0
    for finished in swept(4):
        outlines = finished.outlines
        enclosed, start = -outlines.ring_areas(), outlines.first_corners()
        of_piece = np.repeat(np.arange(len(outlines.classes)), np.diff(outlines.pieces))
        filled = (enclosed > 0) & (enclosed * areas.at(*start.T) < least_m2)
        name, row, begin, end = outlines.runs(np.where(filled, np.arange(len(filled)), -1))
        holes += int(filled.sum())
        parts.append((enclosed[name], Change(row, begin, end, outlines.classes[of_piece[name]])))
    # What lies in a hole of a hole goes with the outer one.
    size = np.concatenate([sizes for sizes, _ in parts]) if parts else np.zeros(0)
    change = _joined([part for _, part in parts], size)
    return Generalised(change, {"filled": {"holes": holes, "area_m2": round(change.area_m2(areas), 3)}})


class Large:
    """Features that are larger than is asked for, measured by their pixels: left out, and counted.

    Args:
        most_m2: area of the largest feature that stays; None for any.
        areas: of the pixels.
    """

    def __init__(self, most_m2: float | None, areas: PixelAreas) -> None:
        self._most, self._areas = most_m2, areas
        self._polygons, self._area = 0, 0.0

    def leave_out(self, table: gpd.GeoDataFrame, finished: Finished) -> gpd.GeoDataFrame:
        """The rows that stay, numbered from the `id` of the first on."""
        if self._most is None or table.empty:
            return table
        area = _areas_m2(finished, self._areas)
        stays = area <= self._most
        self._polygons += int((~stays).sum())
        self._area += float(area[~stays].sum())
        return table[stays].assign(id=table["id"].iloc[0] + np.arange(int(stays.sum())))

    def counts(self) -> dict[str, Any]:
        """For the run file."""
        return {"too_large": {"polygons": self._polygons, "area_m2": round(self._area, 3)}}


def _joined(parts: Sequence[Change], rank: np.ndarray | None = None) -> Change:
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Change(nothing, nothing, nothing, np.zeros(0, np.uint8))
    change = Change(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    order = np.lexsort((np.zeros(len(change.row)) if rank is None else rank, change.row))
    return Change(*(values[order] for values in change))


def _areas_m2(finished: Finished, areas: PixelAreas) -> np.ndarray:
    """Of features, by their pixels."""
    outlines = finished.outlines
    start = outlines.first_corners()[outlines.pieces[:-1]]
    return np.bincount(finished.features, finished.pixels * areas.at(*start.T))


class _Waiting:
    """Small features whose neighbours are not all known, and what is known of them; each has a number."""

    def __init__(self, least_m2: float) -> None:
        self._least, self._count = round(least_m2 * _PARTS), 0
        nothing = np.zeros(0, np.int64)
        self._number, self._label, self._place, self._area = nothing, nothing, nothing, nothing
        self._runs = np.zeros((0, 4), np.int64)  # number, row, begin, end
        self._shares = np.zeros((0, 3), np.int64)  # number, label of ground that stays as it is, length of the edge
        self._edges = np.zeros((0, 3), np.int64)  # number, number, length of the edge
        self._open = np.zeros((0, 3), np.int64)  # key of an arc whose other side is still to come, number, length

    def add(self, finished: Finished, area: np.ndarray, *, merging: bool) -> None:
        """Take in what of some features is small, (features,) of so many m2, and what they tell of others."""
        outlines, area = finished.outlines, np.rint(area * _PARTS).astype(np.int64)
        small = area < self._least
        number = np.where(small, np.cumsum(small) - 1 + self._count, -1)
        self._count += int(small.sum())
        first = np.flatnonzero(np.diff(finished.features, prepend=-1))
        start = outlines.first_corners()[outlines.pieces[:-1]]
        place = np.full(len(area), np.iinfo(np.int64).max)
        np.minimum.at(place, finished.features, start[:, 1] * 2**32 + start[:, 0])
        self._number = np.append(self._number, number[small])
        self._label = np.append(self._label, outlines.classes[first][small])
        self._place, self._area = np.append(self._place, place[small]), np.append(self._area, area[small])
        runs = outlines.runs(np.repeat(number[finished.features], np.diff(outlines.pieces)))
        self._runs = np.concatenate((self._runs, np.column_stack(runs)))
        if merging:
            self._meet(finished, number)

    def _meet(self, finished: Finished, number: np.ndarray) -> None:
        outlines, labels = finished.outlines, finished.labels.astype(np.int64)
        feature = np.repeat(np.repeat(finished.features, np.diff(outlines.pieces)), np.diff(outlines.rings))
        backwards = (outlines.ring_arcs < 0).astype(np.int64)
        arc = np.maximum(outlines.ring_arcs, ~outlines.ring_arcs)
        beside = np.full(labels.shape, -1)
        beside[arc, backwards] = feature
        key, length = _keys_and_lengths(outlines)
        here = beside >= 0
        own = np.where(here, number[beside], -1)
        # Both sides are finished now: an edge between two that are small, or between one and what stays.
        both = np.all(here, axis=1)
        self._add_edges(own[both], labels[both], length[both])
        # The other side will come, or has come; of what came, small ones have left a word.
        arc, side = np.nonzero(here & ~both[:, None])
        later = finished.bordering[arc]
        self._open = np.concatenate(
            (self._open, np.column_stack((key[arc], own[arc, side], length[arc]))[later & (own[arc, side] >= 0)])
        )
        arc, side = arc[~later], side[~later]
        self._open = self._open[np.argsort(self._open[:, 0])]
        found = place_in(self._open[:, 0], key[arc])
        other = np.where(found >= 0, np.append(self._open[:, 1], -1)[found], -1)
        pair = np.column_stack((own[arc, side], other))
        self._add_edges(pair, np.column_stack((labels[arc, side], labels[arc, 1 - side])), length[arc])
        self._open = np.delete(self._open, found[found >= 0], axis=0)

    def _add_edges(self, pair: np.ndarray, labels: np.ndarray, length: np.ndarray) -> None:
        """Edges between two sides, each with a number if it is small, else -1, and a label."""
        both = (pair >= 0).all(axis=1)
        self._edges = np.concatenate((self._edges, np.column_stack((pair, length))[both]))
        for one in (0, 1):
            lone = (pair[:, one] >= 0) & ~both & ~np.isin(labels[:, 1 - one], _NOWHERE)
            self._shares = np.concatenate(
                (self._shares, np.column_stack((pair[:, one], labels[:, 1 - one], length))[lone])
            )

    def settle(self) -> tuple[np.ndarray, Change]:
        """The labels of those whose neighbours are all known, 255 where nothing takes them in, and the pixels that change."""
        known, group = least_names(self._number, self._edges[:, :2])
        open_ = np.isin(group, group[np.searchsorted(known, self._open[:, 1])])
        done = ~open_[np.searchsorted(known, self._number)]
        label = self._decide(done)
        value = np.full(len(done), IGNORE, np.uint8)
        value[done] = label
        owner = np.searchsorted(self._number, self._runs[:, 0])
        _, row, begin, end = self._runs[done[owner]].T
        change = Change(row, begin, end, value[owner[done[owner]]])
        self._runs, self._shares, self._edges = (
            facts[~done[np.searchsorted(self._number, facts[:, 0])]]
            for facts in (self._runs, self._shares, self._edges)
        )
        self._number, self._label, self._place, self._area = (
            values[~done] for values in (self._number, self._label, self._place, self._area)
        )
        return label, change

    def _decide(self, done: np.ndarray) -> np.ndarray:
        number = self._number[done]
        in_turn = np.isin(number, self._edges[:, :2])
        label = np.full(len(number), IGNORE)
        # Most lie in ground that stays: they go to whichever has the longest edge, the first class among equals.
        pair, which = np.unique(self._shares[:, 0] * 256 + self._shares[:, 1], return_inverse=True)
        total = np.bincount(which, self._shares[:, 2], len(pair))
        order = np.lexsort((pair % 256, -total, pair // 256))
        owner, longest = np.unique(pair[order] // 256, return_index=True)
        place = place_in(owner, number)
        label[place >= 0] = (pair[order] % 256)[longest[place[place >= 0]]]
        if in_turn.any():
            told = self._merge_in_turn(np.flatnonzero(done)[in_turn])
            label[in_turn] = [told[one] for one in number[in_turn].tolist()]
        return label

    def _merge_in_turn(self, some: np.ndarray) -> dict[int, int]:
        """Labels of small features that have small neighbours: the smallest goes first, and is part of what takes it in."""
        number = self._number[some].tolist()
        area, label, place = (
            dict(zip(number, values[some].tolist(), strict=True)) for values in (self._area, self._label, self._place)
        )
        shares: dict[int, Counter[int]] = defaultdict(Counter)
        beside: dict[int, Counter[int]] = defaultdict(Counter)
        for one, ground, length in self._shares[np.isin(self._shares[:, 0], number)].tolist():
            shares[one][ground] += length
        for one, other, length in self._edges[np.isin(self._edges[:, 0], number)].tolist():
            beside[one][other] += length
            beside[other][one] += length
        members, told = {one: [one] for one in number}, dict[int, int]()
        queue = [(area[one], place[one], one) for one in number]
        heapq.heapify(queue)
        while queue:
            size, _, one = heapq.heappop(queue)
            if area.get(one) != size:  # it has been taken in, or has grown
                continue
            around = shares[one] + Counter()
            for other, length in beside[one].items():
                around[label[other]] += length
            label[one] = min(around, key=lambda ground: (-around[ground], ground), default=IGNORE)
            stays = shares[one][label[one]] > 0 or not around
            for other in [other for other in beside[one] if label[other] == label[one]]:
                members[one] += members.pop(other)
                area[one] += area.pop(other)
                place[one] = min(place[one], place[other])
                shares[one] += shares.pop(other, Counter())
                for third, length in beside.pop(other).items():
                    del beside[third][other]
                    if third != one:
                        beside[one][third] += length
                        beside[third][one] += length
            if not stays and area[one] < self._least:
                heapq.heappush(queue, (area[one], place[one], one))
                continue
            for other, length in beside.pop(one, Counter()).items():
                shares[other][label[one]] += length
                del beside[other][one]
            told |= dict.fromkeys(members[one], label[one])
            del area[one]
        return told


def _keys_and_lengths(outlines: Coverage) -> tuple[np.ndarray, np.ndarray]:
    """Of each arc: a number that tells it from all others, and its length in pixels."""
    lines, arc = outlines.lines()
    length = np.bincount(arc, np.abs(lines[:, :2] - lines[:, 2:]).sum(axis=1), len(outlines.arcs) - 1).astype(np.int64)
    start, towards = outlines.vertices[outlines.arcs[:-1]], outlines.vertices[outlines.arcs[:-1] + 1]
    right, down = np.sign(towards - start).T
    return (start[:, 1] * 2**31 + start[:, 0]) * 8 + right + 2 * down + 2, length
