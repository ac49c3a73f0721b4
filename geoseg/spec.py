"""What a network is fed: bands, their scaling, pixel size. Measured once by `tile`, carried in every file after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import numpy as np

from geoseg.choices import Scaling
from geoseg.errors import InputError
from geoseg.files import from_json

# Red, green and blue of the pictures that encoders are pretrained on, as shares of full brightness
# (Krizhevsky et al. 2012; the figures that torchvision and timm publish with their weights).
_IMAGENET_MEANS, _IMAGENET_STDS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_DTYPES = (*(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")), "float16", "float32", "float64")


@dataclass(frozen=True)
class BandStatistics:
    """Raw statistics of one band over the valid pixels of the training chips, in the units of the scene."""

    mean: float
    std: float
    min: float
    max: float
    p1: float
    p99: float


@dataclass(frozen=True)
class Band:
    """One band of the network's input.

    Attributes:
        name: the band's description in the scene, or `band_<source>`.
        source: its number in the scene, from 1.
        dtype: numpy name of the scene's dtype.
        nodata: the scene's nodata value, if it has one.
        offset: network input = (clip(x) - offset) / scale.
        scale: see `offset`; never 0.
        clip: lowest and highest raw value that is told apart.
        statistics: raw statistics of the training data.
    """

    name: str
    source: int
    dtype: str
    nodata: float | None
    offset: float
    scale: float
    clip: tuple[float, float]
    statistics: BandStatistics

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise InputError(f"band '{self.name}': dtype {self.dtype} found, known are {', '.join(_DTYPES)}")
        if self.source < 1 or not self.scale:
            raise InputError(
                f"band '{self.name}': source {self.source} and scale {self.scale} found, of which one is impossible"
            )
        if self.clip[0] > self.clip[1]:
            raise InputError(f"band '{self.name}': clipped to {self.clip[0]} to {self.clip[1]}, which leaves nothing")


@dataclass(frozen=True)
class ImageSpec:
    """What a network expects of an image.

    Attributes:
        bands: in the order in which the network takes them.
        source_count: how many bands the scene had.
        pixel_size_m: side of a pixel on the ground in metres; None for a picture without a CRS.
        chip_size: rows and columns of a chip.
        scaling: what the offsets and scales were called.
        map_pixel_size_m: side of a pixel in the map's own metres, see `Scene.map_pixel_size_m`; None where it is not known.
    """

    bands: tuple[Band, ...]
    source_count: int
    pixel_size_m: float | None
    chip_size: int
    scaling: Scaling = "dataset"
    map_pixel_size_m: float | None = None

    def __post_init__(self) -> None:
        if not self.bands or self.chip_size < 1 or self.source_count < 1:
            raise InputError(
                f"{len(self.bands)} bands of {self.source_count}, chips of {self.chip_size} pixels found; none of these can be 0"
            )
        if self.pixel_size_m is not None and self.pixel_size_m <= 0:
            raise InputError(f"pixels of {self.pixel_size_m} m found")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(band.source for band in self.bands)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(band.dtype for band in self.bands)

    def scaled(self, scaling: Scaling) -> ImageSpec:
        """The same bands, scaled in another way from the same statistics.

        Raises:
            InputError: `imagenet` for other than three bands.
        """
        bands = scale_bands(
            [band.statistics for band in self.bands], names=self.names, sources=self.sources, dtypes=self.dtypes,
            nodata=[band.nodata for band in self.bands], scaling=scaling,
        )  # fmt: skip
        return replace(self, bands=bands, scaling=scaling)

    def normalise(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Raw pixels (bands, rows, cols) to the network's input, float32 of the same shape.

        Pixels that are not valid (rows, cols) become 0, the mean of the training data under the `dataset` scaling.
        """
        low, high, offset, scale = (
            np.array(column, np.float32)[:, None, None]
            for column in zip(*((*band.clip, band.offset, band.scale) for band in self.bands), strict=True)
        )
        with np.errstate(invalid="ignore", over="ignore"):  # NaN, inf, -1.8e308 stand only where a pixel is not valid
            scaled = pixels.astype(np.float32)
            np.clip(scaled, low, high, out=scaled)
            scaled -= offset
            scaled /= scale
        if not valid.all():
            scaled[:, ~valid] = 0
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> ImageSpec:
        """From JSON; keys that this version does not know are left alone.

        Raises:
            FormatError: one that it knows is missing, or not as it should be.
        """
        return from_json(cls, entries)


@dataclass
class StatisticsSum:
    """Streams the statistics of bands over any number of chips, in memory that does not grow with them.

    Mean and variance are merged chip by chip (Chan, Golub and LeVeque 1979, eq. 2.1). Percentiles come from pixels drawn at
    random, one in `sample_step` of each chip, thinned whenever there are more than `sample_limit`.
    """

    sample_limit: int = 1_000_000
    sample_step: int = 16
    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    samples: list[np.ndarray] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        """Count the valid pixels of one chip: pixels (bands, rows, cols), valid (rows, cols) bool."""
        values = pixels[:, valid].astype(
            np.float64, order="C"
        )  # the mask leaves them band by pixel the other way round
        count = values.shape[1]
        if count == 0:
            return
        mean, low, high = values.mean(axis=1), values.min(axis=1), values.max(axis=1)
        squares = ((values - mean[:, None]) ** 2).sum(axis=1)
        if self.count == 0:
            self.count, self.mean, self.squares, self.low, self.high = count, mean, squares, low, high
        else:
            total = self.count + count
            delta = mean - self.mean
            self.squares = self.squares + squares + delta**2 * self.count * count / total
            self.mean = self.mean + delta * count / total
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            self.count = total
        drawn = self.rng.choice(count, -(-count // self.sample_step), replace=False, shuffle=False)
        self.samples.append(values[:, drawn].astype(np.float32))
        if sum(sample.shape[1] for sample in self.samples) > self.sample_limit:
            self.samples = [np.concatenate(self.samples, axis=1)[:, ::2]]
            self.sample_step *= 2

    def result(self) -> list[BandStatistics]:
        """Statistics per band; call it after at least one valid pixel."""
        p1, p99 = np.percentile(np.concatenate(self.samples, axis=1), [1, 99], axis=1)
        std = np.sqrt(self.squares / self.count)
        columns = (self.mean, std, self.low, self.high, p1, p99)
        return [BandStatistics(*(float(value) for value in row)) for row in zip(*columns, strict=True)]


def refuse_odd_scaling(scaling: Scaling, bands: int) -> None:
    """Raise `InputError` where bands cannot be scaled so."""
    if scaling not in (known := get_args(Scaling)):
        raise InputError(f"--scale {scaling}: known are {', '.join(known)}")
    if scaling == "imagenet" and bands != 3:
        raise InputError(f"--scale imagenet: three bands are needed, red, green and blue; found are {bands}")


def scale_bands(
    statistics: Sequence[BandStatistics],
    *,
    names: Sequence[str],
    sources: Sequence[int],
    dtypes: Sequence[str],
    nodata: Sequence[float | None],
    scaling: Scaling = "dataset",
) -> tuple[Band, ...]:
    """Bands whose offset, scale and clip bring raw values near -1..1 (`dataset`) or to 0..1 (`unit`, `percentile`).

    `dataset`: mean and standard deviation of the training pixels, clipped at their lowest and highest value widened by
    a standard deviation, so that one wild pixel in a new scene does not drown its surroundings.
    `unit`: the range of the dtype (integers), or lowest to highest (floats). `percentile`: 1st to 99th, clipped there.
    `imagenet`: as encoders pretrained on pictures expect red, green and blue; full brightness is 255 in 8-bit bands, and
    the 99th percentile (darkness the 1st) in others.

    Raises:
        InputError: `imagenet` for other than three bands, or a word that is not known.
    """
    refuse_odd_scaling(scaling, len(statistics))
    bands: list[Band] = []
    for facts, name, source, dtype, missing in zip(statistics, names, sources, dtypes, nodata, strict=True):
        clip = (facts.min - facts.std, facts.max + facts.std)
        if scaling == "dataset":
            offset, scale = facts.mean, facts.std
        elif scaling == "percentile":
            offset, scale, clip = facts.p1, facts.p99 - facts.p1, (facts.p1, facts.p99)
        elif scaling == "imagenet":
            low, high = (0.0, 255.0) if dtype == "uint8" else (facts.p1, facts.p99)
            color = len(bands)
            offset, scale = low + _IMAGENET_MEANS[color] * (high - low), _IMAGENET_STDS[color] * (high - low)
        else:
            whole = np.issubdtype(np.dtype(dtype), np.integer)
            low, high = (0.0, float(np.iinfo(dtype).max)) if whole else (facts.min, facts.max)
            offset, scale = low, high - low
        # A constant band carries nothing: it becomes 0 rather than a division by 0.
        bands.append(Band(name, source, dtype, missing, offset, scale or 1.0, clip, facts))
    return tuple(bands)
