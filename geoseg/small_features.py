"""Features that are too small to be shown: given to their neighbours, or taken out."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection

import numpy as np

from geoseg.chains import OUTSIDE, least_names
from geoseg.changes import Change, Generalised, Swept, feature_areas_m2, join_changes
from geoseg.choices import Connectivity, Small
from geoseg.components import added_up, class_of
from geoseg.legend import IGNORE
from geoseg.nearby import place_in
from geoseg.outlines import Coverage
from geoseg.pixel_areas import PixelAreas
from geoseg.sweep import Finished

_NOWHERE = (IGNORE, OUTSIDE)
_PARTS = 10_000
"""Areas are added up in cm2: whole numbers give the same sum in any order."""


def remove_small(
    swept: Swept,
    chosen: Collection[int],
    least_m2: float,
    areas: PixelAreas,
    *,
    small: Small,
    connectivity: Connectivity,
) -> Generalised:
    """Take away the features that are smaller than so much, measured by their pixels.

    `merge` gives a feature to the class that it shares the longest edge with, the smallest feature first, and what comes of
    it is measured anew. Nodata takes nothing in: what lies alone in it is dropped. `drop` makes nodata of all of them.

    Args:
        swept: the map.
        chosen: the class indices that are swept; what goes to another one leaves the layer.
        least_m2: area of the smallest feature that stays.
        areas: of the pixels.
        small: `merge` or `drop`.
        connectivity: 4, or 8 to measure pieces that touch at corners as one.
    """
    waiting, parts, merged, dropped = _Waiting(least_m2), [], 0, 0
    for finished in swept(connectivity):
        waiting.add(finished, feature_areas_m2(finished, areas), merging=small == "merge")
        settled, change = waiting.settle()
        parts.append(change)
        merged += int((settled != IGNORE).sum())
        dropped += int((settled == IGNORE).sum())
    change = join_changes(parts)

    def area_m2(which: np.ndarray) -> float:
        return round(Change(*(values[which] for values in change)).area_m2(areas), 3)

    gone = change.value == IGNORE
    counts = {
        "merged": {
            "polygons": merged, "area_m2": area_m2(~gone),
            "out_of_layer_m2": area_m2(~gone & ~np.isin(class_of(change.value), list(chosen))),
        },
        "dropped": {"polygons": dropped, "area_m2": area_m2(gone)},
    }  # fmt: skip
    return Generalised(change, counts)


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
        """Of those whose neighbours are all known the labels that differ now, 255 where nothing takes them in; and their pixels."""
        known, group = least_names(self._number, self._edges[:, :2])
        open_ = np.isin(group, group[np.searchsorted(known, self._open[:, 1])])
        done = ~open_[np.searchsorted(known, self._number)]
        label = self._decide(done)
        value = self._label.copy()
        value[done] = label  # one that others have joined keeps its own
        moved = value != self._label
        owner = np.searchsorted(self._number, self._runs[:, 0])
        _, row, begin, end = self._runs[moved[owner]].T
        change = Change(row, begin, end, value[owner[moved[owner]]])
        self._runs, self._shares, self._edges = (
            facts[~done[np.searchsorted(self._number, facts[:, 0])]]
            for facts in (self._runs, self._shares, self._edges)
        )
        self._number, self._label, self._place, self._area = (
            values[~done] for values in (self._number, self._label, self._place, self._area)
        )
        return value[moved], change

    def _decide(self, done: np.ndarray) -> np.ndarray:
        number = self._number[done]
        in_turn = np.isin(number, self._edges[:, :2])
        label = np.full(len(number), IGNORE)
        # Most lie in ground that stays: they go to whichever has the longest edge, the first class among equals.
        pair, total = added_up(self._shares[:, :2].T, self._shares[:, 2])
        order = np.lexsort((pair[1], -total, pair[0]))
        owner, longest = np.unique(pair[0, order], return_index=True)
        place = place_in(owner, number)
        label[place >= 0] = pair[1, order][longest[place[place >= 0]]]
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
