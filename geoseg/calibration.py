"""Calibration: whether a probability means what it says, and what a threshold on it would bring.

Probabilities are counted in the steps in which maps tell them (`geoseg.predictor.SHARE_STEPS`), so nothing more than a
histogram is kept, whatever the number of pixels.
"""

from __future__ import annotations

import numpy as np

from geoseg.legend import IGNORE
from geoseg.metrics import Scores

BINS = 15
"""Bins of the reliability curve, as in Guo et al. 2017."""


def count_confidence(reference: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, steps: int) -> np.ndarray:
    """Pixels per step of confidence, and of these the ones that are right: (2, steps + 1) int64.

    Args:
        reference: class indices uint8, 255 where either map does not tell.
        predicted: likewise, with 255 in the same pixels.
        confidence: probability of the class chosen, uint8 in `steps` steps; 255 where it is not known.
        steps: that make up a probability of 1.
    """
    known = (reference != IGNORE) & (confidence <= steps)
    right = known & (reference == predicted)
    return np.stack([np.bincount(confidence[which], minlength=steps + 1) for which in (known, right)]).astype(np.int64)


def count_shares(reference: np.ndarray, shares: np.ndarray, steps: int) -> np.ndarray:
    """Pixels per step of the probability of each class, and of these the ones that are of it.

    Args:
        reference: class indices (rows, cols) uint8, 255 where either map does not tell.
        shares: probabilities (classes, rows, cols), uint8 in `steps` steps.
        steps: that make up a probability of 1.

    Returns:
        (2, steps + 1, classes) int64.
    """
    known = reference != IGNORE
    labels, columns = reference[known], shares[:, known]
    counts = [
        [np.bincount(column[which], minlength=steps + 1) for which in (slice(None), labels == index)]
        for index, column in enumerate(columns)
    ]
    return np.moveaxis(np.array(counts, np.int64), 0, -1)


def reliability(counts: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """The reliability curve of `count_confidence`, in bins of equal width.

    Args:
        counts: (..., 2, steps + 1).
        bins: at most as many as there are steps.

    Returns:
        `pixels` (..., bins), and `confidence` and `accuracy`, the means in each bin, NaN where it is empty.
    """
    steps = counts.shape[-1] - 1
    bin_of = np.minimum(np.arange(steps + 1) * bins // steps, bins - 1)
    member = (bin_of[:, None] == np.arange(bins)).astype(float)
    pixels, right = np.moveaxis(counts @ member, -2, 0)
    told = (counts[..., 0, :] * np.arange(steps + 1) / steps) @ member
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"pixels": pixels, "confidence": told / pixels, "accuracy": right / pixels}


def calibration_scores(counts: np.ndarray, bins: int = BINS) -> Scores:
    """Expected calibration error, and mean confidence less accuracy, of sums of `count_confidence`.

    The first is the mean over all pixels of the distance between confidence and accuracy in their bin (Guo et al. 2017,
    "On calibration of modern neural networks", ICML, equation 3). The second is above 0 where the model is too sure.
    """
    curve = reliability(counts, bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = curve["pixels"] / curve["pixels"].sum(axis=-1, keepdims=True)
    gap = curve["confidence"] - curve["accuracy"]
    empty = curve["pixels"].sum(axis=-1) == 0
    return {
        "ece": np.where(empty, np.nan, np.nansum(weight * np.abs(gap), axis=-1)),
        "overconfidence": np.where(empty, np.nan, np.nansum(weight * gap, axis=-1)),
    }


def threshold_curves(counts: np.ndarray) -> dict[str, np.ndarray]:
    """What it would bring to call a pixel of a class where the class is at least so probable.

    Args:
        counts: of `count_shares`, (..., 2, steps + 1, classes).

    Returns:
        `precision`, `recall` (also called true positive rate) and `false_positive_rate`, (..., steps + 1, classes), for
        thresholds 0, 1 / steps, ... 1; NaN where not defined.
    """
    positive = np.flip(np.cumsum(np.flip(counts, -2), axis=-2), -2)  # pixels at or above each threshold
    said, hits = np.moveaxis(positive, -3, 0)
    total, true = said[..., :1, :], hits[..., :1, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "precision": hits / said,
            "recall": hits / true,
            "false_positive_rate": (said - hits) / (total - true),
        }


def curve_scores(counts: np.ndarray) -> Scores:
    """Average precision, and area under the ROC curve, per class, of sums of `count_shares`.

    Average precision is the sum of the precisions at each threshold, weighted by what it adds to the recall; the area is
    by trapezoids, which is exact where equal probabilities count half (Hanley and McNeil 1982). Both are as in
    scikit-learn; both are NaN for a class of which there is no pixel, or nothing else.
    """
    curves = threshold_curves(counts)
    recall, rate = (_closed(curves[name]) for name in ("recall", "false_positive_rate"))
    precision = np.nan_to_num(curves["precision"])  # where nothing is said, the recall does not grow either
    gained = recall[..., :-1, :] - recall[..., 1:, :]
    width = rate[..., :-1, :] - rate[..., 1:, :]
    return {
        "average_precision": (precision * gained).sum(axis=-2),
        "auc": ((recall[..., :-1, :] + recall[..., 1:, :]) / 2 * width).sum(axis=-2),
    }


def _closed(rates: np.ndarray) -> np.ndarray:
    """With the rate of 0 above every threshold."""
    none = np.where(np.isnan(rates[..., :1, :]), np.nan, 0.0)
    return np.concatenate([rates, none], axis=-2)
