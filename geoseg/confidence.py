"""What a confidence raster says of polygons: the mean over their pixels, and how low the least sure of them are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.windows import Window

from geoseg.errors import RasterError
from geoseg.outlines import Runs, ragged
from geoseg.raster import open_raster
from geoseg.scenes import Scene, describe_scene, same_grid
from geoseg.sweep import Finished

_PARTS = 2**24
"""Parts of 1 that a confidence stored as a share is counted in: whole numbers add up to the same sum in any order."""
_STEPS = 250
"""Steps from 0 to 1 that a percentile is told in."""
_LOW = 0.05
_FEATURES, _PIXELS = 4096, 2**22  # to be looked at together


class Confidence(NamedTuple):
    """Of features, (features,) each, from 0 to 1; NaN where no pixel's is known.

    Attributes:
        mean: over the valid pixels.
        low: their 5th percentile: the least value that is reached by a twentieth of them.
    """

    mean: np.ndarray
    low: np.ndarray


class ConfidenceRaster:
    """A confidence raster on the grid of a class raster.

    Args:
        path: the file.
        scene: the class raster.
        stack: keeps the file open.

    Raises:
        RasterError: it lies on another grid than the class raster, or does not hold values from 0 to 1.
    """

    def __init__(self, path: Path, scene: Scene, stack: ExitStack) -> None:
        other = describe_scene(path)
        if len(other.dtypes) != 1 or not same_grid(other, scene):
            found = f"{len(other.dtypes)} bands" if len(other.dtypes) != 1 else f"another grid ({_grid(other)})"
            raise RasterError(
                f"{path}: {found} found; one band on the grid of {scene.path.name} ({_grid(scene)}) is needed"
            )
        with open_raster(path) as dataset:
            scale, self._offset = dataset.scales[0], dataset.offsets[0]
        self._path, self._shares = path, other.dtypes[0].startswith("float")
        self._scale = scale / _PARTS if self._shares else scale
        self._reader = stack.enter_context(other.open())

    def of(self, finished: Finished) -> Confidence:
        """The confidence of features, in their order."""
        outlines, features = finished.outlines, int(finished.features.max(initial=-1)) + 1
        of_ring = np.repeat(finished.features, np.diff(outlines.pieces))
        parts = []
        for first in range(0, features, _FEATURES):
            some = np.where((of_ring >= first) & (of_ring < first + _FEATURES), of_ring - first, -1)
            parts.append(self._told(outlines.runs(some), min(_FEATURES, features - first)))
        return (
            Confidence(*(np.concatenate(told) for told in zip(*parts, strict=True)))
            if parts
            else Confidence(np.zeros(0), np.zeros(0))
        )

    def _told(self, runs: Runs, features: int) -> Confidence:
        sums, counts = np.zeros(features, np.int64), np.zeros((features, _STEPS + 1), np.int64)
        for part in _bands(runs):
            first, last = int(part.row.min()), int(part.row.max()) + 1
            left, right = int(part.begin.min()), int(part.end.max())
            stored, valid = self._read(Window(left, first, right - left, last - first))
            lengths = part.end - part.begin
            at = ragged((part.row - first) * (right - left) + part.begin - left, lengths)
            at, feature = at[valid[at]], np.repeat(part.name, lengths)[valid[at]]
            steps = np.rint((stored[at] * self._scale + self._offset) * _STEPS).astype(np.int64)
            keys = feature * (_STEPS + 1) + steps
            counts += np.bincount(keys, minlength=counts.size).reshape(counts.shape)
            sums += np.bincount(feature, stored[at], features).astype(np.int64)
        number = counts.sum(axis=1)
        with np.errstate(invalid="ignore"):
            mean = np.where(number > 0, sums / number * self._scale + self._offset, np.nan)
        reached = np.cumsum(counts, axis=1) >= np.maximum(np.ceil(_LOW * number), 1)[:, None]
        return Confidence(mean, np.where(number > 0, reached.argmax(axis=1) / _STEPS, np.nan))

    def _read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Stored whole numbers, 0 where not valid, and valid, pixel by pixel."""
        (stored,), valid = self._reader.read(window, [1])
        stored, valid = np.where(valid, stored, 0).ravel(), valid.ravel()
        stored = np.rint(stored * float(_PARTS)).astype(np.int64) if self._shares else stored.astype(np.int64)
        known = stored[valid]
        limits = (
            [int(value) * self._scale + self._offset for value in (known.min(), known.max())] if known.size else [0]
        )
        if not -1e-6 <= min(limits) <= max(limits) <= 1 + 1e-6:
            raise RasterError(
                f"{self._path}: values from {min(limits):g} to {max(limits):g} found; confidence goes from 0 to 1 "
                f"(set the band's scale with: gdal_edit.py -scale 0.004)"
            )
        return stored, valid


def _grid(scene: Scene) -> str:
    left, top = scene.transform @ (0, 0)
    crs = scene.crs.to_string() if scene.crs else "no CRS"
    return f"{scene.height} x {scene.width} pixels from {left:.10g}, {top:.10g}, {crs}"


def _bands(runs: Runs) -> Iterator[Runs]:
    """Runs of rows that lie together, a few megapixels at a time."""
    order = np.argsort(runs.row, kind="stable")
    runs = Runs(*(values[order] for values in runs))
    rows = max(1, _PIXELS // max(int(runs.end.max(initial=1) - runs.begin.min(initial=0)), 1))
    cuts = np.searchsorted(runs.row, np.unique(runs.row // rows) * rows)
    for first, last in zip(cuts, np.append(cuts[1:], len(order)), strict=True):
        yield Runs(*(values[first:last] for values in runs))
