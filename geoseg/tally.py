"""All that is counted while a map is held against a reference: ground by ground, in memory that does not grow with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geoseg.boundary_scores import BoundaryCounter
from geoseg.calibration import count_confidence, count_shares
from geoseg.comparison import count_disagreement
from geoseg.components import FIELD
from geoseg.ground import Ground, Place
from geoseg.legend import IGNORE, Legend
from geoseg.metrics import class_counts, confusion_matrix, pixel_scores
from geoseg.object_scores import ObjectMatcher, count_objects
from geoseg.predictor import SHARE_STEPS

_FEW = 0.1
"""Share of labelled pixels below which the score of a place says little."""


class Confusion(NamedTuple):
    """What is most often taken for what: class indices, and pixels."""

    reference: int
    predicted: int
    pixels: int


class Visit(NamedTuple):
    """A place, and what was found there.

    Attributes:
        place: where.
        counts: (3, classes), see `geoseg.metrics.class_counts`.
        worst: the most frequent error; None where there is none.
    """

    place: Place
    counts: np.ndarray
    worst: Confusion | None

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that are there."""
        return float(pixel_scores(self.counts)["miou"])

    @property
    def pixels(self) -> int:
        """Counted pixels."""
        return int(self.counts[1].sum())

    @property
    def wrong(self) -> int:
        """Counted pixels that are not what the map says."""
        return self.pixels - int(self.counts[0].sum())


class View(NamedTuple):
    """A place with its pixels, for a picture: class indices (rows, cols) uint8."""

    visit: Visit
    reference: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Tallied:
    """What was counted. Arrays by block of ground hold the blocks that have a counted pixel, in the same order.

    Attributes:
        visits: the places with a counted pixel.
        confusions: (blocks, classes, classes), rows reference, columns predicted.
        boundaries: (blocks, 7, classes), see `BoundaryCounter.count`.
        objects: (blocks, rows, classes), see `count_objects`; 0 for the background.
        confidence: (blocks, 2, steps + 1), see `count_confidence`; None where no confidence is known.
        shares: (blocks, 2, steps + 1, classes), see `count_shares`; None likewise.
        other: (blocks, 2, 3, classes), as `class_counts`, of the map and of the other one, on the ground that both tell;
            None without another one.
        disagreement: (blocks, 3), see `count_disagreement`; None likewise.
        mapped_m2: (classes,) area of each class on the map, with or without a reference; None where it is not known.
        unlabelled: pixels of the map without a reference.
        unmapped: pixels of the reference without a map.
        best, worst: places to look at, the best and the worst ones first.
    """

    visits: list[Visit]
    confusions: np.ndarray
    boundaries: np.ndarray
    objects: np.ndarray
    confidence: np.ndarray | None
    shares: np.ndarray | None
    other: np.ndarray | None
    disagreement: np.ndarray | None
    mapped_m2: np.ndarray | None
    unlabelled: int
    unmapped: int
    best: list[View]
    worst: list[View]


class Tally:
    """Counts ground by ground.

    Args:
        legend: the classes.
        tolerance: of boundaries, in pixels.
        threshold: IoU from which on objects are matched.
        views: how many of the best and of the worst places to keep for pictures.
    """

    def __init__(self, legend: Legend, *, tolerance: float, threshold: float, views: int) -> None:
        self._legend, self._tolerance, self._threshold = legend, tolerance, threshold
        self._blocks: dict[str, dict[int, np.ndarray]] = {}
        self._visits: list[Visit] = []
        self._best, self._worst = _Ranking(views, 1), _Ranking(views, -1)
        self._mapped: np.ndarray | None = np.zeros(len(legend))
        self._unlabelled = self._unmapped = 0
        self._matcher: ObjectMatcher | None = None
        self._ground: Ground | None = None

    def add(self, ground: Ground) -> None:
        """Count what is in the rows that count."""
        classes = len(self._legend)
        rows, counted = ground.rows, (ground.reference != IGNORE) & (ground.predicted != IGNORE)
        self._unlabelled += int((ground.predicted[rows] != IGNORE).sum() - counted[rows].sum())
        self._unmapped += int((ground.reference[rows] != IGNORE).sum() - counted[rows].sum())
        reference, predicted = (
            np.where(counted, a, IGNORE).astype(np.uint8) for a in (ground.reference, ground.predicted)
        )
        labels = _labels(reference, ground.reference_fields), _labels(predicted, ground.predicted_fields)
        boundaries = BoundaryCounter(*labels, classes, self._tolerance) if counted.any() else None
        for place, at in ground.places:
            self._measure(place, ground.predicted[at])
            if boundaries is not None and counted[at].any():
                confusion = confusion_matrix(reference[at], predicted[at], classes)
                self._visit(place, confusion, reference[at], predicted[at])
                self._count("confusions", place.block, confusion)
                self._count("boundaries", place.block, boundaries.count(at))
                self._count_extras(place.block, ground, at, reference[at], predicted[at])
        if ground.begins:
            self._finish_objects()
            self._matcher = ObjectMatcher(reference.shape[1])
        assert self._matcher is not None
        self._matcher.add(*(part[rows] for part in labels))
        self._ground = ground

    def finish(self) -> Tallied:
        """What was counted; at least one pixel must have been."""
        self._finish_objects()
        order = sorted(self._blocks["confusions"])
        stacked = {
            name: np.stack([found.get(block, np.zeros_like(next(iter(found.values())))) for block in order])
            for name, found in self._blocks.items()
        }
        return Tallied(
            self._visits, stacked["confusions"], stacked["boundaries"], stacked["objects"], stacked.get("confidence"),
            stacked.get("shares"), stacked.get("other"), stacked.get("disagreement"), self._mapped, self._unlabelled,
            self._unmapped, self._best.views, self._worst.views,
        )  # fmt: skip

    def is_empty(self) -> bool:
        """Whether no pixel has been counted."""
        return not self._visits

    def _count(self, what: str, block: int, counts: np.ndarray) -> None:
        found = self._blocks.setdefault(what, {})
        found[block] = found[block] + counts if block in found else counts

    def _measure(self, place: Place, predicted: np.ndarray) -> None:
        if place.pixel_m2 is None:
            self._mapped = None
        elif self._mapped is not None:
            pixels = np.bincount(predicted.ravel(), minlength=IGNORE + 1)[: len(self._legend)]
            self._mapped += pixels * place.pixel_m2

    def _visit(self, place: Place, confusion: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> None:
        errors = confusion * ~np.eye(len(confusion), dtype=bool)
        at = np.unravel_index(errors.argmax(), errors.shape)
        worst = Confusion(int(at[0]), int(at[1]), int(errors[at])) if errors.any() else None
        visit = Visit(place, class_counts(confusion), worst)
        self._visits.append(visit)
        for ranking in (self._best, self._worst):
            ranking.offer(View(visit, reference.copy(), predicted.copy()))  # not the strips that they are cut from

    def _count_extras(
        self, block: int, ground: Ground, at: tuple[slice, slice], reference: np.ndarray, predicted: np.ndarray
    ) -> None:
        if ground.confidence is not None:
            counts = count_confidence(reference, predicted, ground.confidence[at], SHARE_STEPS)
            self._count("confidence", block, counts)
        if ground.shares is not None:
            self._count("shares", block, count_shares(reference, ground.shares[:, *at], SHARE_STEPS))
        if ground.other is not None:
            other = ground.other[at]
            both = np.where(other == IGNORE, IGNORE, reference).astype(np.uint8)
            pair = [class_counts(confusion_matrix(both, one, len(self._legend))) for one in (predicted, other)]
            self._count("other", block, np.stack(pair))
            self._count("disagreement", block, count_disagreement(both, predicted, other))

    def _finish_objects(self) -> None:
        if self._matcher is None or self._ground is None:
            return
        width, block_of = self._ground.reference.shape[1], self._ground.block_of
        true, found, overlaps = self._matcher.finish()
        placed = [block_of(*np.divmod(objects.names, width)) for objects in (true, found)]
        blocks = np.unique(np.concatenate(placed))
        counts = count_objects(
            true, found, overlaps, len(self._legend), self._threshold, len(blocks),
            *(np.searchsorted(blocks, numbers) for numbers in placed),
        )  # fmt: skip
        counts[..., [index for index in range(len(self._legend)) if index not in self._legend.ground]] = 0
        for block, own in zip(blocks.tolist(), counts, strict=True):
            self._count("objects", block, own)
        self._matcher = None


def _labels(indices: np.ndarray, fields: np.ndarray | None) -> np.ndarray:
    """Labels of `geoseg.components`."""
    return indices if fields is None else np.where(indices == IGNORE, IGNORE, indices + FIELD * fields.astype(np.int64))


class _Ranking:
    """The places with the highest mean IoU, or the lowest where `sign` is -1; those with few labels come last."""

    def __init__(self, size: int, sign: int) -> None:
        self._size, self._sign = size, sign
        self.views: list[View] = []

    def offer(self, view: View) -> None:
        self.views.append(view)
        self.views.sort(key=self._key)
        del self.views[self._size :]

    def _key(self, view: View) -> tuple[bool, float]:
        return view.visit.pixels < _FEW * view.reference.size, -self._sign * view.visit.miou
