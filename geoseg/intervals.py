"""How far scores can be trusted: a spatial block bootstrap over what was counted in each block of ground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from geoseg.legend import Legend
from geoseg.metrics import Scores, tabulate

LEVEL = 0.95
"""Share of the draws between the limits of an interval."""


def resample(counts: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Sums over blocks of ground that are drawn with replacement, as many as there are.

    Neighbouring pixels err together, so whole blocks are drawn (Hall 1985, "Resampling a coverage pattern"; Lahiri 2003,
    "Resampling Methods for Dependent Data", chapter 12).

    Args:
        counts: (blocks, ...), what was counted in each block; at least one.
        samples: draws.
        seed: with the same seed and number of blocks, the same blocks are drawn whatever was counted.

    Returns:
        (samples, ...) float64.
    """
    blocks, rng = len(counts), np.random.default_rng(seed)
    flat = counts.reshape(blocks, -1).astype(np.float64)
    drawn = np.empty((samples, flat.shape[1]))
    for draw in drawn:  # one at a time: all draws at once are samples x blocks large
        draw[:] = rng.multinomial(blocks, np.full(blocks, 1 / blocks)) @ flat
    return drawn.reshape(samples, *counts.shape[1:])


def limits(draws: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Percentiles of draws (samples, ...) that hold `level` of them (Efron 1981): (..., 2), NaN where none is known."""
    known = ~np.isnan(draws).all(axis=0)
    found = np.full((*draws.shape[1:], 2), np.nan)
    if known.any():
        found[known] = np.nanquantile(draws[:, known], ((1 - level) / 2, (1 + level) / 2), axis=0).T
    return found


def intervals_of(
    counts: np.ndarray, score: Callable[[np.ndarray], Scores], *, samples: int, seed: int, level: float = LEVEL
) -> Scores:
    """Limits of scores by a spatial block bootstrap; see `resample` and `limits`.

    They cover what the choice of test ground brings about, not another training run, and are too narrow where blocks are
    few.

    Args:
        counts: (blocks, ...), what was counted in each block that holds a counted pixel; (blocks, ..., classes) where there
            are scores per class.
        score: sums of such counts to scores.
        samples: draws.
        seed: of the draws.
        level: share of the draws between the limits, within 0..1.

    Returns:
        Pairs, (classes, 2) or (2,); NaN where nothing is known, see `known_draws`.

    Raises:
        ValueError: `samples` or `level` is out of range.
    """
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples={samples}, level={level}: at least 1 sample and a level between 0 and 1 are needed")
    sums = resample(counts, samples=samples, seed=seed)
    return {name: limits(values, level) for name, values in known_draws(score(sums), counts, sums).items()}


def known_draws(drawn: Scores, counts: np.ndarray, sums: np.ndarray) -> Scores:
    """Scores of draws, NaN where they tell nothing of other ground.

    That is where fewer than two blocks hold anything of the class, or there are fewer than two, so that all draws are the
    same; and, of a score over all classes, draws that have missed one: their means are of other classes.

    Args:
        drawn: (samples,), or (samples, classes) where there are scores per class.
        counts: (blocks, ...), or (blocks, ..., classes) where there are scores per class.
        sums: (samples, ...), what was drawn of these.
    """
    enough, whole = np.array(len(counts) >= 2), np.ones(len(sums), bool)
    per_class = enough
    if any(values.ndim > 1 for values in drawn.values()):
        held, found = (array.reshape(len(array), -1, array.shape[-1]).any(axis=1) for array in (counts, sums))
        per_class, whole = held.sum(axis=0) >= 2, (found == held.any(axis=0)).all(axis=1)
    return {
        name: np.where(per_class if values.ndim > 1 else enough & whole, values, np.nan)
        for name, values in drawn.items()
    }


def score_intervals(
    counts: np.ndarray, score: Callable[[np.ndarray], Scores], legend: Legend, *, samples: int, seed: int,
    level: float = LEVEL,
) -> dict[str, Any]:  # fmt: skip
    """`intervals_of` as they stand in JSON: pairs [low, high], or None; also `level`, `samples` and `blocks`."""
    found = intervals_of(counts, score, samples=samples, seed=seed, level=level)
    return {"level": level, "samples": samples, "blocks": len(counts), **tabulate(found, legend, pairs=True)}
