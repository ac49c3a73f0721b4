"""Pixel accuracy: confusion matrices, and the scores read off them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geoseg.legend import IGNORE, Legend

Scores = dict[str, np.ndarray]
"""Scores by name, NaN where one is not defined: per class (..., classes), overall (...)."""

_CHUNK = 2**18  # pixels counted at a time: np.bincount widens its input to int64, and 2 MiB stay in the cache


def confusion_matrix(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of every pair of classes.

    Args:
        reference: class indices, uint8, of any shape; 255 is left out.
        predicted: likewise, of the same shape.
        classes: how many there are.

    Returns:
        (classes, classes) int64; rows are the reference, columns the prediction.

    Raises:
        ValueError: the shapes differ, an array is not uint8, or an index lies between `classes` and 254.
    """
    if reference.shape != predicted.shape or not reference.dtype == predicted.dtype == np.uint8:
        raise ValueError(
            f"two uint8 arrays of one shape are needed, found {reference.dtype} {reference.shape} "
            f"and {predicted.dtype} {predicted.shape}"
        )
    reference, predicted = reference.reshape(-1), predicted.reshape(-1)
    # Counting all 256 x 256 pairs is as fast as masking 255 out first, and finds stray indices at no cost.
    counts = np.zeros(2**16, np.int64)
    for start in range(0, reference.size, _CHUNK):
        codes = reference[start : start + _CHUNK].astype(np.uint16) << 8
        codes |= predicted[start : start + _CHUNK]
        counts += np.bincount(codes, minlength=2**16)
    pairs = counts.reshape(256, 256)
    if pairs[classes:IGNORE].any() or pairs[:, classes:IGNORE].any():
        raise ValueError(f"class indices of {classes} or more found; 0 to {classes - 1} and {IGNORE} are possible")
    return pairs[:classes, :classes].copy()


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Hits, reference pixels and predicted pixels of every class: all that a score needs.

    Args:
        confusion: (..., classes, classes), rows reference, columns predicted.

    Returns:
        (..., 3, classes) float64, because products of pixel counts overflow integers on large maps.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(axis=-1), confusion.sum(axis=-2)], axis=-2).astype(np.float64)


def pixel_scores(counts: np.ndarray) -> Scores:
    """All scores of the `class_counts` of a map, or of many; see `scores`."""
    hits, support, predicted = np.moveaxis(counts, -2, 0)
    total = support.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = hits / (support + predicted - hits)
        recall = hits / support
        agreement = hits.sum(axis=-1) / total
        chance = (support * predicted).sum(axis=-1) / total**2
        spread = (1 - ((part / total[..., None]) ** 2).sum(axis=-1) for part in (support, predicted))
        return {
            "iou": iou,
            "accuracy": 1 - (support + predicted - 2 * hits) / total[..., None],
            "precision": hits / predicted,
            "recall": recall,
            "f1": 2 * hits / (support + predicted),
            "miou": mean_known(iou, axis=-1),
            "pixel_accuracy": agreement,
            "mean_pixel_accuracy": mean_known(recall, axis=-1),
            "fw_iou": np.nansum(support * iou, axis=-1) / total,
            "kappa": (agreement - chance) / (1 - chance),
            "mcc": (agreement - chance) / np.sqrt(next(spread) * next(spread)),
        }


def scores(confusion: np.ndarray, legend: Legend) -> dict[str, Any]:
    """Scores of one confusion matrix, as they stand in `metrics.json`; all lie in 0..1, kappa and MCC in -1..1.

    Per class IoU, accuracy (of the class against all others), precision, recall, F1, `support` (reference pixels) and
    `predicted` (predicted pixels). Overall the mean IoU, pixel accuracy, mean pixel accuracy (mean of the recalls) and
    frequency-weighted IoU of Long, Shelhamer and Darrell (2015, section 5), Cohen's kappa (1960), and Matthews'
    correlation coefficient for many classes (Gorodkin 2004, "Comparing two K-category assignments by a K-category
    correlation coefficient", Computational Biology and Chemistry 28, equation 8).

    What would divide by zero is None and left out of the means. So a class without reference and without predicted
    pixels has no score but its accuracy; one that is predicted but not in the reference has IoU and F1 0 and counts in
    the mean IoU, while its recall is None; one that is never predicted has no precision. Kappa is None where both maps
    are all of one class, MCC where one of them is.

    Args:
        confusion: (classes, classes), rows reference, columns predicted.
        legend: as many classes, in the same order.

    Raises:
        ValueError: the matrix is not of the legend's size.
    """
    if confusion.shape != (len(legend), len(legend)):
        raise ValueError(f"confusion matrix of shape {confusion.shape} found, the legend has {len(legend)} classes")
    counts = class_counts(confusion)
    return tabulate(pixel_scores(counts), legend, support=counts[1], predicted=counts[2]) | {
        "confusion": confusion.tolist()
    }


def chip_mean(counts: np.ndarray, legend: Legend) -> dict[str, Any]:
    """The scores of every chip, averaged over the chips.

    Other than over the pooled pixels, a small chip weighs as much as a full one. A chip in which a score is None stays
    out of the mean of this score; pixels are totals.

    Args:
        counts: (chips, 3, classes), see `class_counts`.
        legend: the classes.

    Returns:
        The keys of `scores`, without the confusion matrix.
    """
    means = {name: mean_known(values, axis=0) for name, values in pixel_scores(counts).items()}
    _, support, predicted = counts.sum(axis=0)
    return tabulate(means, legend, support=support, predicted=predicted)


def tabulate(
    found: Mapping[str, np.ndarray], legend: Legend, *, pairs: bool = False, **columns: np.ndarray
) -> dict[str, Any]:
    """Scores as they stand in JSON: those per class in the list `classes`, the others by name; None where not defined.

    Args:
        found: arrays (classes,) or ().
        legend: the classes.
        pairs: whether they are pairs of limits, (classes, 2) or (2,).
        columns: whole numbers per class, (classes,), which come after the scores.
    """
    per_class = {name: values for name, values in found.items() if values.ndim > pairs}
    classes = [
        {"value": entry.value, "name": entry.name}
        | {name: _number(values[index]) for name, values in per_class.items()}
        | {name: int(values[index]) for name, values in columns.items()}
        for index, entry in enumerate(legend)
    ]
    return {"classes": classes} | {name: _number(values) for name, values in found.items() if name not in per_class}


def mean_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN, without numpy's warning, where nothing is left."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=axis) / (~np.isnan(values)).sum(axis=axis)


def _number(value: np.ndarray) -> float | list[float] | None:
    return None if np.isnan(value).any() else value.tolist()
