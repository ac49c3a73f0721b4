"""What the tests of several modules share: small scenes whose answers can be computed, and a closed network."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings
from rasterio.errors import NotGeoreferencedWarning

# Before anything imports huggingface_hub: a test that wants weights from the network shall fail, not fetch them.
os.environ["HF_HUB_OFFLINE"] = "1"

# Also before torch: several processes of tests with a thread per core each would wait for one another for minutes.
os.environ["OMP_NUM_THREADS"] = "1"

# Opening rasters and importing torch take longer than Hypothesis allows a property.
settings.register_profile("geoseg", settings(deadline=None))
settings.load_profile("geoseg")

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
"""10 m pixels on the central meridian of a UTM zone, at 40.6 degrees north where the zone is a northern one."""

_DRIVERS = {".png": "PNG", ".jpg": "JPEG", ".jp2": "JP2OpenJPEG"}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def write_scene(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a raster, by default a GeoTIFF in UTM 14N with 10 m pixels.

    `write_scene(path, pixels, crs="EPSG:32614", transform=TRANSFORM, nodata=None, names=(), mask=None, **profile)`

    `path` is relative to `tmp_path` (or absolute), `pixels` (rows, cols) or (bands, rows, cols), `names` the band
    descriptions, `mask` (rows, cols) bool an internal mask, and `profile` whatever else rasterio shall be told.
    """

    def write(
        path: str | Path,
        pixels: np.ndarray,
        *,
        crs: Any = "EPSG:32614",
        transform: Affine = TRANSFORM,
        nodata: float | None = None,
        names: Sequence[str] = (),
        mask: np.ndarray | None = None,
        **profile: Any,
    ) -> Path:
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        driver = _DRIVERS.get(path.suffix, "GTiff")
        # GDAL takes the fourth of four byte bands for alpha unless it is told otherwise.
        profile = ({"photometric": "minisblack"} if driver == "GTiff" else {}) | profile
        count, height, width = pixels.shape
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", driver=driver, count=count, height=height, width=width, dtype=pixels.dtype, crs=crs,
                transform=transform, nodata=nodata, **profile,
            ) as dataset:  # fmt: skip
                dataset.write(pixels)
                for band, name in enumerate(names, 1):
                    dataset.set_band_description(band, name)
                if mask is not None:
                    dataset.write_mask(mask)
        return path

    return write
