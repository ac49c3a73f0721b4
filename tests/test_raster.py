"""Rasters are what their bytes say, damaged ones are refused early, and the cache is bounded."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window
from scenery import named, one_line_each, write_vrt

from geoseg.errors import MissingFileError, RasterError
from geoseg.raster import bounded_cache, driver_of, open_raster, refuse_truncated
from geoseg.scenes import describe_scene

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


# Headers that lie


def write_header(path: Path, height: int, width: int, *, tile: int | None = None, strip: int = 1) -> Path:
    """A TIFF of some 200 bytes that says what it likes of its size, in tiles or in strips of so many rows."""
    blocks = [(322, tile), (323, tile), (324, 0), (325, 0)] if tile else [(273, 0), (278, strip), (279, 0)]
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (277, 1), (284, 1), *blocks]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(64))
    return path


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"height": 100_000, "width": 100_000, "tile": 99_984}, r"a\.tif: blocks of 99984 x 99984 pixels found, .* 9\.3 GiB"),
        ({"height": 2**31 - 1, "width": 1_000}, r"a\.tif: 2,147,483,647 x 1,000 pixels in 2,147,483,647 blocks found"),
        ({"height": 2**31 - 1, "width": 2**31 - 1}, r"a\.tif: blocks of 1 x 2147483647 pixels found"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_before_anything_is_read(tmp_path, lie, said):
    path = write_header(tmp_path / "a.tif", **lie)
    with pytest.raises(RasterError, match=said) as caught:
        describe_scene(path)
    one_line_each(caught.value)


@pytest.mark.parametrize("ending", [".msk", ".ovr", ".MSK"])
def test_what_stands_beside_a_raster_may_not_point_elsewhere(write_scene, tmp_path, ending):
    write_scene("secret.tif", np.zeros((64, 64), np.uint8))
    path = write_scene("a.tif", np.ones((64, 64), np.uint8))
    bands = "<Metadata><MDI key='INTERNAL_MASK_FLAGS_1'>2</MDI></Metadata><VRTRasterBand dataType='Byte' band='1'>{}</VRTRasterBand>"
    write_vrt(path.with_name(f"a.tif{ending}"), named(tmp_path / "secret.tif"), bands=bands)
    with pytest.raises(RasterError, match=rf"a\.tif: beside it stands a\.tif{ending}, which is no raster"):
        describe_scene(path)
    # GDAL would find this one too, if it looked at a list of what stands there.
    path.with_name(f"a.tif{ending}").rename(tmp_path / f"A.TIF{ending}")
    with describe_scene(path).open() as reader:
        assert reader.read(Window(0, 0, 64, 64), [1])[1].all()


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(RasterError, match=r"a\.tif: cannot be read \(no regular file\)"):
        describe_scene(tmp_path / "a.tif")
