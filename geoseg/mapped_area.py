"""Area by class from a map and a reference that covers some of it: what the map says, and what the errors seen make of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geoseg.intervals import LEVEL, limits, resample
from geoseg.legend import Legend
from geoseg.metrics import tabulate

_M2_PER_HA = 1e4


def area_table(
    confusions: np.ndarray, mapped_m2: np.ndarray, covered: float, legend: Legend, *, samples: int, seed: int
) -> dict[str, Any]:
    """Mapped and error-adjusted area of each class, and how much too large the map shows it.

    Of the ground mapped as a class, the same shares are taken to be of each class as where there is a reference (Olofsson
    et al. 2014, equation 9, with the pixels of the reference for the sample). That holds where the ground with a reference
    is like the rest. Its pixels are no independent sample, so the limits come from a block bootstrap; they draw together
    as the reference covers more of the map, and where it covers all, the area is known.

    Args:
        confusions: (blocks, classes, classes), rows reference, columns map.
        mapped_m2: (classes,) area on the whole map.
        covered: share of the mapped pixels with a reference, 0 to 1.
        legend: the classes.
        samples: draws.
        seed: of the draws.

    Returns:
        `classes` with `mapped_ha`, `adjusted_ha`, its limits `adjusted_ha_interval`, `bias` (mapped over reference pixels,
        less 1, where there is a reference) and `bias_interval`; `covered`, `level`, and `unknown_ha`: ground mapped as
        classes that are mapped nowhere a reference is.
    """
    pooled = confusions.sum(axis=0)
    adjusted = _adjusted(pooled, pooled, mapped_m2)
    drawn = resample(confusions, samples=samples, seed=seed)
    spread = limits(_adjusted(drawn, pooled, mapped_m2)) - adjusted[:, None]
    single = len(confusions) < 2
    around = np.nan if single else math.sqrt(max(1 - covered, 0))
    bias = limits(_bias(drawn))
    figures = {"mapped_ha": mapped_m2 / _M2_PER_HA, "adjusted_ha": adjusted / _M2_PER_HA, "bias": _bias(pooled)}
    pairs = {
        "adjusted_ha_interval": np.maximum(adjusted[:, None] + around * spread, 0) / _M2_PER_HA,
        "bias_interval": np.full_like(bias, np.nan) if single else bias,
    }
    told = (tabulate(figures, legend)["classes"], tabulate(pairs, legend, pairs=True)["classes"])
    classes = [entry | limits for entry, limits in zip(*told, strict=True)]
    unknown = float(mapped_m2[pooled.sum(axis=0) == 0].sum()) / _M2_PER_HA
    return {"classes": classes, "covered": covered, "level": LEVEL, "unknown_ha": unknown}


def _adjusted(confusion: np.ndarray, pooled: np.ndarray, mapped: np.ndarray) -> np.ndarray:
    """Area of each class, (..., classes); a class that a draw has nowhere on the map errs as in all blocks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = confusion / confusion.sum(axis=-2, keepdims=True)
        fallback = np.nan_to_num(pooled / pooled.sum(axis=-2, keepdims=True))
    return np.where(np.isnan(shares), fallback, shares) @ mapped


def _bias(confusion: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = confusion.sum(axis=-2) / confusion.sum(axis=-1) - 1
    return np.where(np.isfinite(found), found, np.nan)
