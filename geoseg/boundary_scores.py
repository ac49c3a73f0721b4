"""Boundary accuracy: how well the borders between classes are met, whatever lies between them.

Classes are handled all at once. Whether there is another one near a pixel is told by the least and the greatest label around it;
which classes have an edge near it, by bits: a class is one bit, and those around a pixel are joined by "or".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from geoseg.components import class_of
from geoseg.legend import IGNORE
from geoseg.metrics import Scores, mean_known

_GROUP = 64  # classes that one integer has bits for

_IN_BAND, _EDGE, _MET = 1, 2, 4
"""What `_describe` notes of a pixel."""


def boundary_margin(tolerance: float) -> int:
    """Pixels around some ground that decide about the boundaries in it."""
    return math.floor(tolerance) + 1


class BoundaryCounter:
    """The boundaries of two maps of the same ground, to be counted window by window.

    A pixel is an edge pixel of its class where a pixel of another class, or of another field where fields are told apart,
    lies at one of its sides, and in the band of its class where one lies within the tolerance. Ground that either map does
    not tell, and the edge of the arrays, is no other class. Boundary IoU is the IoU of the bands (Cheng et al. 2021,
    "Boundary IoU", CVPR, equation 2); precision and recall are the shares of the edge pixels that have one of the same class
    in the other map within the tolerance (Csurka et al. 2013, "What is a good evaluation measure for semantic
    segmentation?", BMVC, section 3).

    Args:
        reference: labels (rows, cols) of `geoseg.components`; 255 where either map does not tell.
        predicted: likewise, with 255 in the same pixels.
        classes: how many there are.
        tolerance: distance between pixel centres, in pixels, 1 or more.
    """

    def __init__(self, reference: np.ndarray, predicted: np.ndarray, classes: int, tolerance: float) -> None:
        self._maps, self._classes = (class_of(reference), class_of(predicted)), classes
        self._notes = [np.zeros(reference.shape, np.uint8) for _ in self._maps]
        for labels, notes in zip((reference, predicted), self._notes, strict=True):
            notes[_near_others(labels, tolerance)] |= _IN_BAND
            notes[_near_others(labels, 1)] |= _EDGE
        for group in _groups(classes):
            edges = [
                np.where(notes & _EDGE, group[array], 0) for array, notes in zip(self._maps, self._notes, strict=True)
            ]
            for own, other, notes in zip(edges, reversed(edges), self._notes, strict=True):
                notes[_spread(other, tolerance, np.bitwise_or) & own != 0] |= _MET

    def count(self, window: tuple[slice, slice] = (slice(None), slice(None))) -> np.ndarray:
        """What `boundary_scores` needs of a window: (7, classes) int64.

        Pixels in both bands, in the reference's, in the prediction's; edge pixels of the reference and those that are
        met; edge pixels of the prediction and those that are met.
        """
        (reference, predicted), (true, found) = (
            [part[window] for part in parts] for parts in (self._maps, self._notes)
        )
        both = (true & found & _IN_BAND != 0) & (reference == predicted)
        chosen = [
            (reference, both), (reference, true & _IN_BAND), (predicted, found & _IN_BAND), (reference, true & _EDGE),
            (reference, true & _MET), (predicted, found & _EDGE), (predicted, found & _MET),
        ]  # fmt: skip
        counts = [np.bincount(array[where != 0], minlength=self._classes) for array, where in chosen]
        return np.stack(counts).astype(np.int64)


def boundary_scores(counts: np.ndarray) -> Scores:
    """Boundary IoU, precision, recall and F1 per class and their means, of sums of `BoundaryCounter.count`.

    A class without an edge in either map has no score. One with edges in one map only has IoU and F1 0.
    """
    both, true_band, found_band, true, true_met, found, found_met = np.moveaxis(counts, -2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = both / (true_band + found_band - both)
        precision, recall = found_met / found, true_met / true
        f1 = 2 * precision * recall / (precision + recall)
    f1 = np.where((true + found > 0) & ((true_met == 0) | (found_met == 0)), 0.0, f1)
    return {
        "iou": iou, "precision": precision, "recall": recall, "f1": f1,
        "miou": mean_known(iou, axis=-1), "mean_f1": mean_known(f1, axis=-1),
    }  # fmt: skip


def _groups(classes: int) -> Iterator[np.ndarray]:
    """Tables from class index to a bit, 0 for what is not in the group; one for each group of classes."""
    dtype = next(kind for kind in ("u1", "u2", "u4", "u8") if 8 * np.dtype(kind).itemsize >= min(classes, _GROUP))
    for first in range(0, classes, _GROUP):
        members = np.arange(first, min(first + _GROUP, classes))
        table = np.zeros(IGNORE + 1, dtype)
        table[members] = np.uint64(1) << (members - first).astype(np.uint64)
        yield table


def _near_others(labels: np.ndarray, distance: float) -> np.ndarray:
    """Where a label is known, and another one lies within a distance."""
    known = labels != IGNORE
    least = _spread(np.where(known, labels, np.iinfo(labels.dtype).max), distance, np.minimum)
    return known & ((least != labels) | (_spread(np.where(known, labels, 0), distance, np.maximum) != labels))


def _spread(values: np.ndarray, distance: float, join: np.ufunc) -> np.ndarray:
    """For each pixel what all within a distance are joined to; each row of the disc is a run that widens."""
    found, run, half = values.copy(), values.copy(), 0
    for down in range(math.floor(distance), -1, -1):
        while half < math.floor(math.sqrt(distance**2 - down**2)):
            half += 1
            join(run[:, half:], values[:, :-half], out=run[:, half:])
            join(run[:, :-half], values[:, half:], out=run[:, :-half])
        rows = max(len(values) - down, 0)
        join(found[down:], run[:rows], out=found[down:])
        join(found[:rows], run[down:], out=found[:rows])
    return found
