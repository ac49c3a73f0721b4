"""Object accuracy: whether fields and other features are found as what they are, one by one.

An object is a connected component of a map on the ground that both maps tell: what one class covers without a break or, where
a map tells fields apart, what one field covers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geoseg.components import Labeller, Objects, added_up, class_of
from geoseg.legend import IGNORE
from geoseg.metrics import Scores, mean_known

THRESHOLDS = np.arange(50, 100, 5) / 100
"""IoU that objects must pass to be one and the same: those of COCO (Lin et al. 2014)."""


class Overlaps(NamedTuple):
    """Ground that objects of two maps, of the same class, have in common.

    Attributes:
        reference: (n,) place of one in the reference's `Objects`.
        predicted: (n,) place of the other in the prediction's.
        pixels: (n,) how many.
    """

    reference: np.ndarray
    predicted: np.ndarray
    pixels: np.ndarray


class ObjectMatcher:
    """Finds the objects of two maps of the same ground, and what they have in common, strip by strip.

    Args:
        width: columns of the maps.
    """

    def __init__(self, width: int) -> None:
        self._width, self._rows = width, 0
        self._labellers = [Labeller(width), Labeller(width)]
        self._shared: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Take the next rows of both maps: labels (rows, width) of `geoseg.components`, with 255 in the same pixels."""
        first = self._rows * self._width
        self._rows += len(reference)
        runs = [labeller.add(array) for labeller, array in zip(self._labellers, (reference, predicted), strict=True)]
        (true_starts, true_names), (found_starts, found_names) = runs
        starts = np.union1d(true_starts, found_starts)
        pixels = np.diff(starts, append=reference.size + first)
        true, told = (class_of(labels.reshape(-1)[starts - first]) for labels in (reference, predicted))
        hit = (true == told) & (true != IGNORE)
        starts, pixels = starts[hit], pixels[hit]
        pairs = [
            names[np.searchsorted(begins, starts, side="right") - 1]
            for begins, names in ((true_starts, true_names), (found_starts, found_names))
        ]
        self._shared.append(added_up(np.stack(pairs), pixels))

    def finish(self) -> tuple[Objects, Objects, Overlaps]:
        """The objects of the reference, those of the prediction, and what they have in common."""
        (true, true_of), (found, found_of) = (labeller.finish() for labeller in self._labellers)
        pairs, pixels = (np.concatenate(parts, axis=-1) for parts in zip(*self._shared, strict=True))
        (reference, predicted), shared = added_up(np.stack([true_of(pairs[0]), found_of(pairs[1])]), pixels)
        return true, found, Overlaps(reference, predicted, shared)


def count_objects(
    true: Objects, found: Objects, overlaps: Overlaps, classes: int, threshold: float, blocks: int,
    true_block: np.ndarray, found_block: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """What `object_scores` needs of each block of ground; an object counts in the block of its first pixel.

    A true object and a found one are matched where their IoU is above the threshold, of 0.5 or more, so that no object
    can have two matches (Kirillov et al. 2019, "Panoptic segmentation", CVPR, section 4.1).

    Args:
        true: objects of the reference.
        found: objects of the prediction.
        overlaps: what they have in common.
        classes: how many there are.
        threshold: 0.5 to below 1.
        blocks: how many there are.
        true_block: the block of each object of the reference, from 0.
        found_block: likewise of the prediction.

    Returns:
        (blocks, rows, classes) float64, for the rows see `object_scores`.
    """
    counts = np.zeros((7 + 2 * (1 + len(THRESHOLDS)), blocks, classes))

    def add(row: int, block: np.ndarray, kind: np.ndarray, amounts: np.ndarray | int = 1) -> None:
        np.add.at(counts[row], (block, kind), amounts)

    add(0, true_block, true.classes)
    add(1, found_block, found.classes)
    own, other = true.pixels[overlaps.reference], found.pixels[overlaps.predicted]
    iou = overlaps.pixels / (own + other - overlaps.pixels)
    largest = _largest(overlaps)
    at = overlaps.reference[largest]
    add(2, true_block[at], true.classes[at], own[largest])
    add(3, true_block[at], true.classes[at], overlaps.pixels[largest])
    add(4, true_block[at], true.classes[at], own[largest] * overlaps.pixels[largest] / other[largest])
    for number, least in enumerate((threshold, *THRESHOLDS)):
        matched = iou > least
        at = overlaps.reference[matched]
        add(7 + 2 * number, true_block[at], true.classes[at])
        add(8 + 2 * number, true_block[at], true.classes[at], iou[matched])
        if number == 0:
            error = other[matched] / own[matched] - 1
            add(5, true_block[at], true.classes[at], error)
            add(6, true_block[at], true.classes[at], np.abs(error))
    return counts.swapaxes(0, 1)


def _largest(overlaps: Overlaps) -> np.ndarray:
    """For each object of the reference that has any, its largest overlap, the first of equal ones."""
    order = np.lexsort((-overlaps.pixels, overlaps.reference))
    of = overlaps.reference[order]
    return order[np.append(True, of[1:] != of[:-1])] if len(of) else order


def object_scores(counts: np.ndarray) -> Scores:
    """Object scores per class and their means, of sums of `count_objects`, (..., rows, classes).

    - `precision`, `recall`, `f1`: of objects, matched at the threshold. `pq` is panoptic quality (Kirillov et al. 2019,
      equation 1), the product of F1 and of `sq`, the mean IoU of matched objects.
    - `f1_50_95`, `pq_50_95`: means over thresholds 0.5, 0.55, ... 0.95.
    - `over_segmentation`, `under_segmentation`: shares of the ground of true objects that is not in the found object
      with which each has most in common, and of that one's ground which is not in the true one (Clinton et al. 2010,
      "Accuracy assessment measures for object-based image segmentation goodness", PE&RS 76(3), Table 1). Larger objects
      weigh more; those with nothing in common with any are left out.
    - `area_bias`, `area_error`: mean of the relative error of the area of matched objects, with and without its sign.

    A class without an object in either map has no score.
    """
    true, found, met, common, within, bias, error, *matches = np.moveaxis(counts, -2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        quality = [
            (hits / (0.5 * (true + found)), total / (0.5 * (true + found)))
            for hits, total in zip(matches[::2], matches[1::2], strict=True)
        ]
        hits, total = matches[0], matches[1]
        scores = {
            "precision": hits / found,
            "recall": hits / true,
            "f1": quality[0][0],
            "sq": total / hits,
            "pq": quality[0][1],
            "f1_50_95": np.mean([f1 for f1, _ in quality[1:]], axis=0),
            "pq_50_95": np.mean([pq for _, pq in quality[1:]], axis=0),
            "over_segmentation": 1 - common / met,
            "under_segmentation": 1 - within / met,
            "area_bias": bias / hits,
            "area_error": error / hits,
        }
    means = {f"mean_{name}": mean_known(scores[name], axis=-1) for name in ("f1", "pq", "f1_50_95", "pq_50_95")}
    return scores | means
