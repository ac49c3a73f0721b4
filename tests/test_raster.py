"""Rasters are what their bytes say, damaged ones are refused early, and the cache is bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from geoseg.errors import MissingFileError, RasterError
from geoseg.raster import bounded_cache, driver_of, open_raster, refuse_truncated

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
UTM = CRS.from_epsg(32614)


# --- reading


@pytest.mark.parametrize(
    ("name", "options", "driver"),
    [
        ("a.tif", {}, "GTiff"), ("b.tif", {"BIGTIFF": "YES"}, "GTiff"), ("c.tif", {"ENDIANNESS": "BIG"}, "GTiff"),
        ("d.tif", {"ENDIANNESS": "BIG", "BIGTIFF": "YES"}, "GTiff"), ("e.png", {}, "PNG"), ("f.jpg", {}, "JPEG"),
        ("g.jp2", {}, "JP2OpenJPEG"),
    ],
)  # fmt: skip
def test_the_first_bytes_decide_whatever_the_file_is_called(write_scene, rng, name, options, driver):
    pixels = rng.integers(0, 255, (3, 40, 30), np.uint8)
    path = write_scene(name, pixels, crs=None, **options)
    path = path.rename(path.with_suffix(".data"))
    assert driver_of(path) == driver
    with open_raster(path) as dataset:
        assert dataset.driver == driver
        assert dataset.shape == (40, 30)
        if driver in {"GTiff", "PNG"}:
            assert np.array_equal(dataset.read(), pixels)


def test_a_vrt_called_tif_is_refused(write_scene, tmp_path):
    inside = write_scene("inside.tif", np.ones((4, 4), np.uint8))
    path = tmp_path / "scene.tif"
    path.write_text(
        '\n  <VRTDataset rasterXSize="4" rasterYSize="4"><GeoTransform>5, 1, 0, 5, 0, -1</GeoTransform>'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{inside}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(path) as dataset:  # GDAL by itself follows it
        assert dataset.read(1).sum() == 16
    with pytest.raises(RasterError, match=r"scene\.tif.*a VRT, which may point anywhere"), open_raster(path):
        raise AssertionError("it must not open")


@pytest.mark.parametrize("content", [b"", b"II", b"<MRF_META>", b"hello, world", b"\x89PNG but not quite"])
def test_what_is_no_raster_is_refused_with_the_kinds_that_are(tmp_path, content):
    path = tmp_path / "scene.tif"
    path.write_bytes(content)
    with pytest.raises(RasterError, match=r"scene\.tif: a GeoTIFF, JPEG 2000, PNG or JPEG is needed"):
        driver_of(path)


def test_what_is_not_there_or_a_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"b\.tif: not found"):
        driver_of(tmp_path / "b.tif")
    with pytest.raises(RasterError, match="cannot be read"):
        driver_of(tmp_path)
    with pytest.raises(MissingFileError):
        driver_of(Path("/vsicurl/http://127.0.0.1/scene.tif"))


def test_a_name_that_gdal_would_take_for_a_connection_is_a_name(write_scene, monkeypatch, tmp_path):
    write_scene("GTIFF_DIR:1:x.tif", np.ones((4, 4), np.uint8))
    monkeypatch.chdir(tmp_path)
    with open_raster(Path("GTIFF_DIR:1:x.tif")) as dataset:
        assert dataset.read(1).sum() == 16


def test_a_picture_without_georeference_opens_without_a_warning(write_scene):
    with open_raster(write_scene("a.png", np.ones((3, 4, 4), np.uint8), crs=None)) as dataset:
        assert dataset.crs is None


def test_damage_found_while_reading_names_the_file_and_the_cause(write_scene, rng):
    path = write_scene("a.tif", rng.integers(0, 255, (64, 64), np.uint8), compress="deflate")
    content = bytearray(path.read_bytes())
    content[600:2000] = bytes(1400)
    path.write_bytes(content)
    with pytest.raises(RasterError, match=r"a\.tif: damaged.*(zip|ZIP|Decod|IReadBlock)"), open_raster(path) as dataset:
        dataset.read()


# --- truncation


@pytest.mark.parametrize(
    "layout",
    [
        {"compress": "deflate"}, {"tiled": True, "blockxsize": 64, "blockysize": 64}, {"interleave": "band"},
        {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "band", "compress": "lzw"},
        {"driver": "COG"},
    ],
)  # fmt: skip
def test_a_truncated_tiff_is_refused_without_reading_a_pixel(write_scene, rng, layout):
    pixels = rng.integers(0, 255, (3, 200, 150), np.uint8)
    if layout == {"driver": "COG"}:
        path = write_scene("plain.tif", pixels).with_name("a.tif")
        rasterio.shutil.copy(path.with_name("plain.tif"), path, driver="COG")
    else:
        path = write_scene("a.tif", pixels, **layout)
    with open_raster(path) as dataset:
        refuse_truncated(path, dataset)
    for missing in (100, 4000, path.stat().st_size // 2):
        cut = path.with_name("cut.tif")
        cut.write_bytes(path.read_bytes()[:-missing])
        with pytest.raises(RasterError, match=r"cut\.tif"), open_raster(cut) as dataset:
            refuse_truncated(cut, dataset)


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_truncated_tiff_is_refused_whatever_the_order_of_its_blocks(tmp_path, rng, interleave):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "count": 2, "height": 128, "width": 192, "dtype": "uint8", "crs": UTM}
    profile |= {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": interleave, "compress": "deflate"}
    with rasterio.open(path, "w", transform=TRANSFORM, **profile) as dataset, rasterio.Env(GDAL_CACHEMAX=0):
        for col, row in ((128, 64), (0, 64), (64, 64), (128, 0), (0, 0), (64, 0)):
            dataset.write(rng.integers(0, 255, (2, 64, 64), np.uint8), window=Window(col, row, 64, 64))
    with open_raster(path) as dataset:
        first = int(dataset.get_tag_item("BLOCK_OFFSET_1_0", "TIFF", bidx=1))
        last = int(dataset.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=2))
        assert first > last
        refuse_truncated(path, dataset)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RasterError, match="truncated"), open_raster(path) as dataset:
        refuse_truncated(path, dataset)


def test_blocks_that_were_never_written_are_no_truncation(write_scene, tmp_path):
    path = tmp_path / "sparse.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 200, "width": 200, "dtype": "uint8", "crs": UTM}
    with rasterio.open(
        path, "w", transform=TRANSFORM, tiled=True, blockxsize=64, blockysize=64, SPARSE_OK=True, **profile
    ):
        pass
    with open_raster(path) as dataset:
        assert dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1) is None
        refuse_truncated(path, dataset)
    with open_raster(write_scene("a.png", np.ones((3, 9, 9), np.uint8), crs=None)) as dataset:
        refuse_truncated(path, dataset)


# --- the cache


def test_the_block_cache_is_small_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    with bounded_cache(64):
        assert rasterio.env.getenv()["GDAL_CACHEMAX"] == 64 * 2**20
    monkeypatch.setenv("GDAL_CACHEMAX", "256")
    with bounded_cache(64):
        assert "GDAL_CACHEMAX" not in rasterio.env.getenv()
