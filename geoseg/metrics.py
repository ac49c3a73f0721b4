"""Pixel accuracy: confusion matrices, the scores read off them, and how far those scores can be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from geoseg.legend import IGNORE, Legend

_CLASS_SCORES = ("iou", "precision", "recall", "f1")
_OVERALL_SCORES = ("miou", "pixel_accuracy", "mean_pixel_accuracy", "fw_iou", "kappa")
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


def scores(confusion: np.ndarray, legend: Legend) -> dict[str, Any]:
    """Scores of one confusion matrix, as they stand in `metrics.json`; all lie in 0..1, kappa in -1..1.

    Per class IoU, precision, recall, F1, `support` (reference pixels) and `predicted` (predicted pixels). Overall the
    mean IoU, pixel accuracy, mean pixel accuracy (mean of the recalls) and frequency-weighted IoU of Long, Shelhamer
    and Darrell (2015, section 5), and Cohen's kappa (1960).

    What would divide by zero is None and left out of the means. So a class without reference and without predicted
    pixels has no score at all; one that is predicted but not in the reference has IoU and F1 0 and counts in the mean
    IoU, while its recall is None; one that is never predicted has no precision. Kappa is None where both maps are all
    of one class.

    Args:
        confusion: (classes, classes), rows reference, columns predicted.
        legend: as many classes, in the same order.

    Raises:
        ValueError: the matrix is not of the legend's size.
    """
    margins = _margins(confusion, legend)
    return _document(legend, margins, _ratios(margins)) | {"confusion": confusion.tolist()}


def chip_mean(confusions: np.ndarray, legend: Legend) -> dict[str, Any]:
    """The scores of every chip, averaged over the chips.

    Other than over the pooled pixels, a small chip weighs as much as a full one. A chip in which a score is None stays
    out of the mean of this score; pixels are totals.

    Args:
        confusions: (chips, classes, classes).
        legend: the classes.

    Returns:
        The keys of `scores`, without `confusion`.

    Raises:
        ValueError: the matrices are not of the legend's size.
    """
    margins = _margins(confusions, legend)
    means = {name: _mean(values, axis=0) for name, values in _ratios(margins).items()}
    return _document(legend, margins.sum(axis=0), means)


def bootstrap_intervals(
    confusions: np.ndarray, legend: Legend, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Confidence intervals of the pooled scores by a spatial block bootstrap.

    Neighbouring pixels err together, so whole blocks of ground are drawn with replacement, as many as there are, and
    the scores are computed anew from each draw (Hall 1985, "Resampling a coverage pattern"; Lahiri 2003, "Resampling
    Methods for Dependent Data", chapter 12). The limits are percentiles of the draws (Efron 1981). They cover what the
    choice of test ground brings about, not another training run, and are too narrow where blocks are few.

    Args:
        confusions: (blocks, classes, classes), one per block of ground; blocks without a counted pixel do not count.
        legend: the classes.
        samples: draws.
        seed: of the draws.
        level: share of the draws between the limits, within 0..1.

    Returns:
        The keys of `scores` without pixel counts, each score a pair [low, high]; also `level`, `samples` and `blocks`.
        None stands for a pair where fewer than two blocks hold the class, or, overall, any counted pixel.

    Raises:
        ValueError: the matrices are not of the legend's size, or `samples` or `level` is out of range.
    """
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples={samples}, level={level}: at least 1 sample and a level between 0 and 1 are needed")
    margins = _margins(confusions, legend)
    margins = margins[margins.any(axis=(1, 2))]
    blocks = len(margins)
    rng = np.random.default_rng(seed)
    drawn = np.zeros((samples, *margins.shape[1:]))
    if blocks > 1:
        for draw in drawn:  # one at a time: all counts at once are samples x blocks large
            draw[:] = np.tensordot(rng.multinomial(blocks, np.full(blocks, 1 / blocks)), margins, axes=1)
    ratios = _ratios(drawn)
    alone = margins.any(axis=1).sum(axis=0) < 2
    for name in _CLASS_SCORES:
        ratios[name][:, alone] = np.nan
    tails = ((1 - level) / 2, (1 + level) / 2)

    def interval(values: np.ndarray) -> list[float] | None:
        known = values[~np.isnan(values)]
        return np.quantile(known, tails).tolist() if known.size else None

    classes = [
        {"value": entry.value, "name": entry.name} | {name: interval(ratios[name][:, i]) for name in _CLASS_SCORES}
        for i, entry in enumerate(legend)
    ]
    overall = {name: interval(ratios[name]) for name in _OVERALL_SCORES}
    return {"level": level, "samples": samples, "blocks": blocks, "classes": classes, **overall}


def _margins(confusion: np.ndarray, legend: Legend) -> np.ndarray:
    """Hits, reference pixels and predicted pixels of every class, (..., 3, classes): all that a score needs.

    Floats, because products of pixel counts overflow integers on large maps.
    """
    if confusion.shape[-2:] != (len(legend), len(legend)):
        raise ValueError(f"confusion matrix of shape {confusion.shape} found, the legend has {len(legend)} classes")
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(axis=-1), confusion.sum(axis=-2)], axis=-2).astype(np.float64)


def _ratios(margins: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of (..., 3, classes), NaN where it is not defined: per class (..., classes), overall (...)."""
    hits, support, predicted = np.moveaxis(margins, -2, 0)
    total = support.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = hits / (support + predicted - hits)
        recall = hits / support
        agreement = hits.sum(axis=-1) / total
        chance = (support * predicted).sum(axis=-1) / total**2
        return {
            "iou": iou,
            "precision": hits / predicted,
            "recall": recall,
            "f1": 2 * hits / (support + predicted),
            "miou": _mean(iou, axis=-1),
            "pixel_accuracy": agreement,
            "mean_pixel_accuracy": _mean(recall, axis=-1),
            "fw_iou": np.nansum(support * iou, axis=-1) / total,
            "kappa": (agreement - chance) / (1 - chance),
        }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN, without numpy's warning, where nothing is left."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=axis) / (~np.isnan(values)).sum(axis=axis)


def _document(legend: Legend, margins: np.ndarray, ratios: dict[str, np.ndarray]) -> dict[str, Any]:
    classes = [
        {
            "value": entry.value,
            "name": entry.name,
            **{name: _number(ratios[name][index]) for name in _CLASS_SCORES},
            "support": int(margins[1, index]),
            "predicted": int(margins[2, index]),
        }
        for index, entry in enumerate(legend)
    ]
    return {"classes": classes, **{name: _number(ratios[name]) for name in _OVERALL_SCORES}}


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
