"""Which windows to label next: those which, once labelled, bring most of what the model doubts near to something labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MOST = 4000
"""Windows that are compared with one another; of more, the ones with the largest doubts."""


def doubt(shares: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much a model doubts what it says of a window, by the class that it says.

    The doubt of a pixel is 1 less the margin between its likeliest class and the next (Scheffer et al. 2001, "Active hidden
    Markov models for information extraction").

    Args:
        shares: probabilities (classes, rows, cols) of two classes or more.
        valid: bool (rows, cols).

    Returns:
        The sum over the valid pixels that are said to be of each class, and how many these are: (classes,) each.
    """
    told = shares[:, valid]
    second, first = np.partition(told, -2, axis=0)[-2:]
    likeliest, classes = told.argmax(axis=0), len(shares)
    amount = np.bincount(likeliest, weights=1.0 - (first - second), minlength=classes)
    return amount, np.bincount(likeliest, minlength=classes)


def describe_window(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """What a window looks like: mean and standard deviation of each band over the valid pixels, (2 x bands,).

    Args:
        image: normalised, (bands, rows, cols).
        valid: bool (rows, cols), somewhere True.
    """
    pixels = image[:, valid]
    return np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)])


class Survey(NamedTuple):
    """What is known of windows.

    Attributes:
        uncertainty: (n,) mean doubt of each, where a pixel counts for more the rarer its class is.
        features: (n, d) what each looks like, in standard deviations over all of them.
    """

    uncertainty: np.ndarray
    features: np.ndarray

    @classmethod
    def of(cls, windows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Survey:
        """Of the doubts and pixels of `doubt`, and the features of `describe_window`, of each window."""
        doubts, pixels, features = (np.stack(part) for part in zip(*windows, strict=True))
        share = np.maximum(pixels.sum(axis=0), 1) / pixels.sum()
        weights = 1 / np.sqrt(share)
        weights /= (weights * share).sum()
        uncertainty = (doubts * weights).sum(axis=1) / pixels.sum(axis=1)
        return cls(uncertainty, (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9))


def choose_windows(survey: Survey, labelled: np.ndarray, count: int) -> tuple[list[int], list[float | None]]:
    """Choose windows to label.

    How much a window brings is how far it lowers the sum, over all windows, of squared uncertainty times the distance to the
    nearest window that is labelled or chosen: the gain of a greedy solution of the median problem (Cornuejols et al. 1977,
    "Location of bank accounts to optimize float"; for active learning Wei et al. 2015, "Submodularity in data subset
    selection and active learning", ICML). Each choice has the largest product of that and its own uncertainty. So it is
    doubted itself, unlike what is labelled, unlike the other choices, and like much else. The rule knows no chance.

    Args:
        survey: of all windows.
        labelled: (n,) bool, those that are labelled already.
        count: windows to choose at most.

    Returns:
        Places in the survey, the first choice first; and how far each is, when it is chosen, from the nearest one labelled
        or chosen before it, in standard deviations; None where there is none.
    """
    looked_at = np.flatnonzero(~labelled)
    looked_at = looked_at[np.argsort(-survey.uncertainty[looked_at], kind="stable")[:_MOST]]
    own, known = survey.features[looked_at], survey.features[labelled]
    apart = _distances(own, own)
    nearest = np.full(len(own), np.inf)
    for start in range(0, len(known), _MOST):
        nearest = np.minimum(nearest, _distances(own, known[start : start + _MOST]).min(axis=1))
    uncertainty = survey.uncertainty[looked_at]
    chosen: list[int] = []
    novelty: list[float | None] = []
    free = np.ones(len(own), bool)
    for _ in range(min(count, len(own))):
        # Before anything is labelled all windows are as far from it as any two are from one another.
        saved = np.maximum(np.minimum(nearest, apart.max())[:, None] - apart, 0)
        best = int(np.where(free, uncertainty * (uncertainty**2 @ saved), -1).argmax())
        chosen.append(int(looked_at[best]))
        novelty.append(float(nearest[best]) if np.isfinite(nearest[best]) else None)
        nearest, free[best] = np.minimum(nearest, apart[best]), False
    return chosen, novelty


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) of (n, d) and (m, d), float32."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0)).astype(np.float32)
