"""Two models, or two maps, on the same ground: which is better, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from geoseg.intervals import LEVEL, known_draws, limits, resample
from geoseg.legend import IGNORE, Legend
from geoseg.metrics import Scores, tabulate


def count_disagreement(reference: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels that only `predicted` has right, those that only `other` has right, and all that are compared: (3,) int64.

    All are class indices of one shape; where one of them is 255, nothing is compared.
    """
    known = (reference != IGNORE) & (predicted != IGNORE) & (other != IGNORE)
    one, two = (known & (array == reference) for array in (predicted, other))
    return np.array([(one & ~two).sum(), (two & ~one).sum(), known.sum()], np.int64)


def score_differences(
    counts: np.ndarray, other: np.ndarray, score: Callable[[np.ndarray], Scores], legend: Legend, *, samples: int,
    seed: int, level: float = LEVEL,
) -> dict[str, Any]:  # fmt: skip
    """Differences of scores, and their intervals by a paired block bootstrap: the same ground is drawn for both.

    Args:
        counts: (blocks, ..., classes), as of `geoseg.intervals.score_intervals`.
        other: likewise, of the other map.
        score: sums of such counts to scores.
        legend: the classes.
        samples: draws.
        seed: of the draws.
        level: share of the draws between the limits.

    Returns:
        `difference` (the first less the other) and `intervals`, as `tabulate` has them.
    """
    found, compared = score(counts.sum(axis=0)), score(other.sum(axis=0))
    sums, other_sums = (resample(one, samples=samples, seed=seed) for one in (counts, other))
    drawn, drawn_other = score(sums), score(other_sums)
    leads = {name: drawn[name] - drawn_other[name] for name in found}
    intervals = {
        name: limits(values, level) for name, values in known_draws(leads, counts + other, sums + other_sums).items()
    }
    return {
        "difference": tabulate({name: found[name] - compared[name] for name in found}, legend),
        "intervals": {
            "level": level,
            "samples": samples,
            "blocks": len(counts),
            **tabulate(intervals, legend, pairs=True),
        },
    }


def mcnemar(disagreement: np.ndarray) -> dict[str, Any]:
    """McNemar's test of whether two maps are right equally often.

    Pixels of one field are right or wrong together, so the test of pixels (McNemar 1947, without correction) finds nearly
    every difference significant. That of blocks of ground lets the pixels of a block depend on one another (Obuchowski
    1998, "On the comparison of correlated proportions for clustered data", Statistics in Medicine 17, for one pair of
    maps): trust that one, where there are some ten blocks or more.

    Args:
        disagreement: (blocks, 3), see `count_disagreement`.

    Returns:
        `only_first` and `only_other` in pixels; `pixels` and `blocks`, each with `statistic` (chi-squared with one degree
        of freedom) and `p`, None where no pixel is right in one map only, or there is a single block.
    """
    first, other, _ = (int(count) for count in disagreement.sum(axis=0))
    blocks, lead = len(disagreement), (disagreement[:, 0] - disagreement[:, 1]).astype(float)
    # The variance under the hypothesis that is tested: that neither leads.
    spread = blocks / (blocks - 1) * (lead**2).sum() if blocks > 1 else 0.0
    return {
        "only_first": first,
        "only_other": other,
        "pixels": _test((first - other) ** 2, first + other),
        "blocks": _test((first - other) ** 2, float(spread)),
    }


def _test(square: float, variance: float) -> dict[str, float | None]:
    if variance <= 0:
        return {"statistic": None, "p": None}
    statistic = square / variance
    return {"statistic": statistic, "p": math.erfc(math.sqrt(statistic / 2))}
