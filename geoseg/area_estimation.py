"""Area and accuracy from a stratified random sample: what a map says, corrected by what people saw at points.

The estimators are those of Stehman (2014), "Estimating area and map accuracy for stratified random sampling when the
strata are different from the map classes", International Journal of Remote Sensing 35(13). Where the strata are the map's
classes they are those of Olofsson et al. (2014), "Good practices for estimating area and assessing accuracy of land
change", Remote Sensing of Environment 148, equations 5 to 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from geoseg.legend import Legend

_M2_PER_HA = 1e4
_Z = 1.96
"""Standard errors on each side of an estimate that make a 95 % interval."""


class Sample(NamedTuple):
    """A stratified random sample of pixels.

    Attributes:
        stratum: (n,) place of each in the list of strata.
        mapped: (n,) class index on the map.
        reference: (n,) class index that it is.
        strata_m2: (strata,) area of each stratum.
        size: (n,) area of each pixel over the mean of its stratum: pixels of a geographic CRS are not of one size, and
            each is drawn with the same probability. All 1 where they are.
    """

    stratum: np.ndarray
    mapped: np.ndarray
    reference: np.ndarray
    strata_m2: np.ndarray
    size: np.ndarray


class Estimate(NamedTuple):
    """An estimate and its standard error; NaN where it is not known."""

    value: np.ndarray
    error: np.ndarray


def total_area(sample: Sample, chosen: np.ndarray) -> Estimate:
    """Area of what is chosen of a sample, in m2 (Stehman 2014, equations 3 and 25; Olofsson et al. 2014, 9 to 11).

    There is no correction for finite strata: where a stratum is small, the error is too large rather than too small.

    Args:
        sample: the sample.
        chosen: (n, ...) bool, such as whether a point is of a class.

    Returns:
        (...); the error is NaN where a stratum has fewer than two points.
    """
    totals, errors = _by_stratum(sample, chosen * _along(sample.size, chosen))
    return Estimate(totals.sum(axis=0), np.sqrt(errors.sum(axis=0)))


def area_ratio(sample: Sample, numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Ratio of two areas, such as user's accuracy (Stehman 2014, equations 27 and 28).

    Args:
        sample: the sample.
        numerator: (n, ...) bool.
        denominator: likewise; all that is in the numerator is in it.

    Returns:
        (...); both are NaN where nothing is in the denominator.
    """
    size = _along(sample.size, numerator)
    above, _ = _by_stratum(sample, numerator * size)
    below, _ = _by_stratum(sample, denominator * size)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = above.sum(axis=0) / below.sum(axis=0)
        # The variance of the residuals is that of the numerator, of the denominator, and of what they share, in one.
        _, errors = _by_stratum(sample, np.nan_to_num(numerator * size - ratio * (denominator * size)))
        return Estimate(ratio, np.where(np.isnan(ratio), np.nan, np.sqrt(errors.sum(axis=0)) / below.sum(axis=0)))


def _by_stratum(sample: Sample, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimated total of values per stratum, and the variance of that estimate: (strata, ...)."""
    count = np.bincount(sample.stratum, minlength=len(sample.strata_m2))
    sums = np.zeros((2, len(count), *values.shape[1:]))
    np.add.at(sums[0], sample.stratum, values)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums[0] / _along(count, sums[0])
        np.add.at(sums[1], sample.stratum, (values - mean[sample.stratum]) ** 2)
        spread = sums[1] / _along(count - 1.0, sums[1])
        spread[count < 2] = np.nan
        weight = _along(sample.strata_m2, mean)
        return weight * mean, weight**2 * spread / _along(count, spread)


def _along(values: np.ndarray, shape_of: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (shape_of.ndim - 1))


def estimate(sample: Sample, mapped_m2: np.ndarray, legend: Legend) -> dict[str, Any]:
    """All that a sample tells of a map, as it stands in `metrics.json`.

    Args:
        sample: with at least one point in every stratum.
        mapped_m2: (classes,) area of each class on the map.
        legend: the classes.

    Returns:
        `classes`, each with `mapped_ha`, `area_ha`, `users_accuracy` and `producers_accuracy`; `overall_accuracy`;
        `counts`, points by reference class (rows) and class on the map; and `matrix_ha`, the area that these stand for. Each
        estimate has `value`, `error` (its
        standard error) and `half_width` (of its 95 % interval), None where it is not known: the error where a stratum has
        a single point, an accuracy of a class that no point is of.

    Raises:
        ValueError: a stratum without a point.
    """
    if (np.bincount(sample.stratum, minlength=len(sample.strata_m2)) == 0).any():
        raise ValueError("a stratum without a point: nothing can be said of its ground")
    every = np.arange(len(legend))
    mapped, true = sample.mapped[:, None] == every, sample.reference[:, None] == every
    area = total_area(sample, true)
    figures = {
        "area_ha": Estimate(area.value / _M2_PER_HA, area.error / _M2_PER_HA),
        "users_accuracy": area_ratio(sample, mapped & true, mapped),
        "producers_accuracy": area_ratio(sample, mapped & true, true),
    }
    whole = np.ones(len(sample.mapped), bool)
    counts = np.zeros((len(legend), len(legend)), int)
    np.add.at(counts, (sample.reference, sample.mapped), 1)
    both = total_area(sample, true[:, :, None] & mapped[:, None, :]).value / _M2_PER_HA
    classes = [
        {"value": entry.value, "name": entry.name, "mapped_ha": float(mapped_m2[index]) / _M2_PER_HA}
        | {name: _told(found.value[index], found.error[index]) for name, found in figures.items()}
        for index, entry in enumerate(legend)
    ]
    return {
        "points": len(sample.mapped),
        "classes": classes,
        "overall_accuracy": _told(*area_ratio(sample, sample.mapped == sample.reference, whole)),
        "counts": counts.tolist(),
        "matrix_ha": both.tolist(),
    }


def _told(value: np.ndarray, error: np.ndarray) -> dict[str, float | None]:
    known = [None if np.isnan(number) else float(number) for number in (value, error, _Z * error)]
    return dict(zip(("value", "error", "half_width"), known, strict=True))


def sample_size(strata_m2: Sequence[float], expected: Sequence[float], standard_error: float) -> int:
    """Points that a stratified sample needs for an overall accuracy with a standard error that is aimed at.

    Cochran (1977), "Sampling Techniques", equation 5.25, without the correction for finite strata; Olofsson et al. 2014,
    equation 13.

    Args:
        strata_m2: area of each stratum.
        expected: user's accuracy that is guessed for each, 0 to 1.
        standard_error: of the overall accuracy, above 0.
    """
    shares = np.array(strata_m2) / np.sum(strata_m2)
    guess = np.array(expected)
    spread = float((shares * np.sqrt(guess * (1 - guess))).sum())
    return max(math.ceil((spread / standard_error) ** 2 - 1e-9), 1)


def allocate(size: int, strata_m2: Sequence[float], strata_pixels: Sequence[int], minimum: int) -> np.ndarray:
    """Points for each stratum: at least so many, the others in proportion to area (Olofsson et al. 2014, section 5.1.2).

    Rare strata get the minimum, so that something can be said of their user's accuracy; proportion keeps the errors of
    areas small. No stratum gets more points than it has pixels; their sum is above `size` where the minimum asks for it.

    Args:
        size: points in all.
        strata_m2: area of each stratum.
        strata_pixels: pixels of each.
        minimum: points for each.
    """
    areas, most = np.array(strata_m2, float), np.array(strata_pixels)
    least = np.minimum(minimum, most)
    size = min(max(size, int(least.sum())), int(most.sum()))
    low, high = 0.0, float((most / areas).max())  # points per m2 that are too few, and enough
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * areas, least, most).sum() < size else (low, middle)
    wanted = np.clip(high * areas, least, most)
    points = np.floor(wanted + 1e-9).astype(int)
    points[np.argsort(points - wanted, kind="stable")[: size - points.sum()]] += 1  # the largest remainders
    return points
