"""Whatever a raster is like, its pixels without data are in no chip, statistic, class, polygon or score, and its grid is kept."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.windows import Window

import geoseg
from geoseg.bundle import write_bundle
from geoseg.chips import open_chips
from geoseg.errors import GeosegError
from geoseg.legend import IGNORE, make_legend
from geoseg.models import Architecture
from geoseg.scenes import describe_scene
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
PLACES = (
    {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000)},
    {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10, 0, -1e-4, 50)},
    {"crs": "EPSG:3857", "transform": Affine(12, 5, 1e6, 5, -12, 5e6)},  # turned
    {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, 10, 4_500_000)},  # south up
    {"crs": None, "transform": Affine.identity()},
)


class Raster(NamedTuple):
    """A raster that may come from anywhere."""

    pixels: np.ndarray
    empty: np.ndarray
    how: str
    place: dict[str, Any]
    profile: dict[str, Any]


@st.composite
def rasters(draw: st.DrawFn) -> Raster:
    """A few bands of any dtype and any size, with pixels without data that any of the usual ways tells of."""
    height, width = draw(st.integers(1, 600)), draw(st.integers(1, 120))
    if draw(st.booleans()):
        height, width = width, height
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pixels = rng.integers(1, 100, (draw(st.integers(1, 3)), height, width)).astype(dtype)
    empty = np.kron(rng.random((height // 8 + 1, width // 8 + 1)) < 0.3, np.ones((8, 8), bool))[:height, :width]
    ways = ["nodata", "mask", "none"] + ["nan"] * dtype.startswith("float") + ["alpha"] * (dtype in ("uint8", "uint16"))
    profile = draw(
        st.sampled_from(
            [
                {}, {"tiled": True, "blockxsize": 64, "blockysize": 16, "compress": "deflate"}, {"interleave": "band"},
                {"compress": "lzw", "BIGTIFF": "YES"}, {"blockysize": 7}, {"ENDIANNESS": "BIG"},
            ]
        )
    )  # fmt: skip
    return Raster(pixels, empty, draw(st.sampled_from(ways)), draw(st.sampled_from(PLACES)), profile)


def write(path: Path, raster: Raster) -> np.ndarray:
    """Write it, and say where it holds data."""
    pixels, nodata = raster.pixels.copy(), None
    if raster.how in ("nodata", "nan"):
        nodata = 120 if raster.how == "nodata" else None
        pixels[0, raster.empty] = 120 if raster.how == "nodata" else np.nan
    if raster.how == "alpha":
        pixels = np.concatenate([pixels, np.where(raster.empty, 0, 255)[None].astype(pixels.dtype)])
    count, height, width = pixels.shape
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, nodata=nodata,
            photometric="minisblack", **raster.place, **raster.profile,
        ) as dataset:  # fmt: skip
            if raster.how == "alpha":  # the option ALPHA of GDAL would make the second band one
                others = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 2)]
                dataset.colorinterp = [*others, ColorInterp.alpha]
            dataset.write(pixels)
            if raster.how == "mask":
                dataset.write_mask(~raster.empty)
    return np.ones_like(raster.empty) if raster.how == "none" else ~raster.empty


def write_model(folder: Path, bands: int, dtype: str) -> None:
    facts = BandStatistics(mean=50, std=30, min=1, max=99, p1=2, p99=98)
    names = [f"band_{number + 1}" for number in range(bands)]
    spec = scale_bands(
        [facts] * bands, names=names, sources=range(1, bands + 1), dtypes=[dtype] * bands, nodata=[None] * bands
    )
    torch.manual_seed(1)
    architecture = Architecture("unet", in_channels=bands, classes=2, width=2)
    write_bundle(
        folder, architecture.build().state_dict(), architecture=architecture, image=ImageSpec(spec, bands, None, 64),
        legend=make_legend([7, 9]), training={}, metrics={},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rasters())
def test_nodata_is_never_a_class_and_the_grid_is_kept(raster):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        valid = write(folder / "scene.tif", raster)
        scene = describe_scene(folder / "scene.tif")
        bands, height, width = raster.pixels.shape
        with scene.open() as reader:
            pixels, found = reader.read(Window(0, 0, width, height), range(1, bands + 1))
        assert np.array_equal(found, valid)
        assert np.array_equal(pixels[:, valid], raster.pixels[:, valid])

        (folder / "model").mkdir()
        write_model(folder / "model", bands, raster.pixels.dtype.name)
        (made,) = geoseg.predict(
            folder / "scene.tif",
            model=folder / "model",
            out=folder / "out",
            window=96,
            simplify=0,
            precision="fp32",
        )
        with rasterio.open(made) as classes, rasterio.open(folder / "scene.tif") as source:
            assert (classes.crs, classes.transform, classes.shape) == (source.crs, source.transform, source.shape)
            assert np.array_equal(classes.read(1) != 255, valid)
        assert sum(entry["pixels"] for entry in made.classes) == valid.sum()
        polygons = gpd.read_file(made.outputs["polygons"], layer="polygons")
        assert polygons["pixels"].sum() == valid.sum()

        labels = np.where(np.arange(width) % 16 < 8, 7, 9)[None].repeat(height, 0).astype(np.uint8)
        with rasterio.open(
            folder / "labels.tif",
            "w",
            driver="GTiff",
            count=1,
            height=height,
            width=width,
            dtype="uint8",
            **raster.place,
        ) as dataset:
            dataset.write(labels, 1)
        cutting = {
            "labels": folder / "labels.tif",
            "out": folder / "chips",
            "chip_size": 16,
            "split": "1:0:0",
            "max_nodata": 1,
        }
        if not valid.any():
            with pytest.raises(GeosegError, match="no labelled pixel"):
                geoseg.tile(folder / "scene.tif", **cutting)
            return
        geoseg.tile(folder / "scene.tif", **cutting)
        chips = open_chips(folder / "chips")
        seen = np.zeros((height, width), bool)
        for chip in chips.chips:
            pixels, usable, mask = chips.read(chip)
            part = np.s_[chip.row : chip.row + 16, chip.col : chip.col + 16]
            rows, cols = valid[part].shape
            assert np.array_equal(usable[:rows, :cols], valid[part])
            assert np.array_equal(mask[:rows, :cols] != IGNORE, valid[part])
            assert (mask[rows:] == IGNORE).all()
            assert (mask[:, cols:] == IGNORE).all()
            seen[part] = True
        assert (seen | ~valid).all()
        for number, band in enumerate(chips.image.bands):
            assert band.statistics.min == raster.pixels[number, valid].min()
            assert band.statistics.max == raster.pixels[number, valid].max()
