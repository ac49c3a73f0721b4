"""Changes of a chip that happen to scenes in use, and should leave their maps as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geoseg.spec import ImageSpec

Kind = Literal["shift", "scale", "gain", "haze", "noise", "offset"]


@dataclass(frozen=True)
class Disturbance:
    """A change of the input that should leave the map as it is.

    Attributes:
        name: for tables.
        kind: - `shift`: two windows of the chip, `strength` pixels apart in rows and in cols, told on the ground they
                share.
              - `scale`: the chip with pixels `strength` times as large, mapped and brought back to its own grid.
              - `gain`: values times `strength`.
              - `haze`: a share `strength` of each value replaced by the airlight, the 99th percentile of its band: the
                standard model of haze, of one thickness (He, Sun and Tang 2009, eq. 1,
                https://doi.org/10.1109/CVPR.2009.5206515). Real haze is thinner at longer waves; which waves the bands
                are of is not known here.
              - `noise`: normal noise on each pixel of each band, `strength` standard deviations of the band.
              - `offset`: each band moved up or down as a whole, by `strength` of its standard deviations; the mean over
                four draws of signs per chip.
        strength: see `kind`.
    """

    name: str
    kind: Kind
    strength: float


DISTURBANCES = (
    # 32 leaves the cells of every network where they were, so it shows the effect of the window's edge alone; 5, which is
    # odd, moves the finest of them too. 64 is the shift of PRUE's windows of 192 in chips of 256.
    *(Disturbance(f"windows shifted by {pixels} pixels", "shift", pixels) for pixels in (5, 32, 64)),
    *(Disturbance(f"pixels {times:g} times as large", "scale", times) for times in (0.5, 0.67, 1.5, 2.0)),
    *(Disturbance(f"gain of {factor:g}", "gain", factor) for factor in (0.8, 0.9, 1.1, 1.2)),
    *(Disturbance(f"haze of {100 * share:g} % airlight", "haze", share) for share in (0.1, 0.3)),
    *(Disturbance(f"noise of {share:g} std", "noise", share) for share in (0.1, 0.3)),
    *(Disturbance(f"bands offset by {share:g} std", "offset", share) for share in (0.1, 0.3)),
)
"""What `geoseg.robustness` tries; a table can only be compared with another one of the same list."""


def recolour(
    pixels: np.ndarray, valid: np.ndarray, disturbance: Disturbance, image: ImageSpec, rng: np.random.Generator
) -> np.ndarray:
    """Disturb the values of a chip by `gain`, `haze`, `noise` or `offset`.

    Args:
        pixels: raw, (bands, rows, cols).
        valid: bool (rows, cols). What is not valid is left as it is. What is valid stays so, whatever value it gets: the
            predictor is told which pixels are, and does not look for nodata again.
        disturbance: which, and how much.
        image: the statistics of the bands.
        rng: the source of all chance.

    Returns:
        As `pixels`, of the same dtype: rounded where that is of whole numbers, and kept within its range.
    """
    strength, values = disturbance.strength, pixels[:, valid].astype(np.float64)
    std, airlight = (
        np.array([getattr(band.statistics, name) for band in image.bands])[:, None] for name in ("std", "p99")
    )
    if disturbance.kind == "gain":
        values *= strength
    elif disturbance.kind == "haze":
        values += strength * (airlight - values)
    elif disturbance.kind == "noise":
        values += strength * std * rng.standard_normal(values.shape)
    else:
        values += strength * std * rng.choice([-1.0, 1.0], (len(values), 1))
    disturbed = pixels.copy()
    disturbed[:, valid] = _as_dtype(values, pixels.dtype)
    return disturbed


def resample(pixels: np.ndarray, valid: np.ndarray, times: float) -> tuple[np.ndarray, np.ndarray]:
    """A chip of the same ground with pixels `times` as large: averages where they are larger, else bilinear.

    Args:
        pixels: raw, (bands, rows, cols).
        valid: bool (rows, cols).
        times: above 0; met as nearly as whole pixels allow.

    Returns:
        Pixels, of the same dtype, and where they are valid: where all that has gone into them is.
    """
    rows, cols = (_weights(length, max(1, round(length / times))) for length in valid.shape)
    # What is not valid may be NaN, and would spread.
    values = rows @ np.where(valid, pixels, 0) @ cols.T
    return _as_dtype(values, pixels.dtype), rows @ ~valid @ cols.T < 1e-6  # of a weight of 1: rounding, no pixel


def _weights(length: int, size: int) -> np.ndarray:
    """How much each of `length` pixels of an axis counts in each of `size` that take their place, (size, length)."""
    edges, pixels = np.linspace(0, length, size + 1)[:, None], np.arange(length)
    if size <= length:
        covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
        return covered.clip(min=0) * size / length
    centres = ((edges[1:] + edges[:-1]) / 2 - 0.5).clip(0, length - 1)
    return (1 - abs(centres - pixels)).clip(min=0)


def _as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    whole = dtype.kind in "iu"
    limits = np.iinfo(dtype) if whole else np.finfo(dtype)
    return (np.rint(values) if whole else values).clip(limits.min, limits.max).astype(dtype)
