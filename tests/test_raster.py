"""Rasters are what their bytes say, damaged ones are refused early, and what is written is what stands on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geoseg import raster
from geoseg.errors import DiskError, MissingFileError, RasterError
from geoseg.grid import grid
from geoseg.raster import BLOCK, RasterWriter, bounded_cache, driver_of, open_raster, refuse_truncated, write_geotiff

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
        refuse_truncated(path, dataset)
    with open_raster(write_scene("a.png", np.ones((3, 9, 9), np.uint8), crs=None)) as dataset:
        refuse_truncated(path, dataset)


# --- small rasters


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_small_raster_comes_back_as_it_was(tmp_path, rng, dtype, count):
    pixels, valid = rng.integers(0, 255, (count, 20, 30)).astype(dtype), rng.random((20, 30)) > 0.5
    if dtype == "float32":
        pixels[0, 0, 0] = np.nan
    names = [f"b{i}" for i in range(count)]
    write_geotiff(tmp_path / "a.tif", pixels, crs=UTM, transform=TRANSFORM, valid=valid, band_names=names)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.dtypes == (dtype,) * count
        assert np.array_equal(dataset.read(), pixels, equal_nan=True)
        assert all(np.array_equal(mask > 0, valid) for mask in dataset.read_masks())
        assert (dataset.crs, dataset.transform, dataset.descriptions) == (UTM, TRANSFORM, tuple(names))
        assert ColorInterp.alpha not in dataset.colorinterp
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_small_raster_with_nodata_and_without_a_place(tmp_path):
    pixels = np.array([[[0, 9]]], np.uint8)
    write_geotiff(tmp_path / "a.tif", pixels, crs=None, transform=Affine.identity(), nodata=9)
    with open_raster(tmp_path / "a.tif") as dataset:
        assert (dataset.nodata, dataset.crs) == (9, None)
        assert dataset.read_masks(1).tolist() == [[255, 0]]


@pytest.mark.parametrize("damage", ["one pixel", "half a file"])
def test_a_small_raster_that_stands_otherwise_on_the_disk_is_noticed(tmp_path, rng, monkeypatch, damage):
    really_open = rasterio.open

    def open_damaged(path, *mode, **options):
        if not mode and damage == "half a file":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif not mode:
            with really_open(path, "r+") as dataset:
                dataset.write(dataset.read(window=Window(3, 4, 1, 1)) + 1, window=Window(3, 4, 1, 1))
        return really_open(path, *mode, **options)

    monkeypatch.setattr(raster.rasterio, "open", open_damaged)
    with pytest.raises(DiskError, match=r"a\.tif: what was written cannot be read back"):
        write_geotiff(tmp_path / "a.tif", rng.integers(0, 9, (2, 30, 30), np.uint8), crs=UTM, transform=TRANSFORM)


# --- large rasters, window by window


def write_map(path: Path, pixels: np.ndarray, **options) -> None:
    """Write (bands, rows, cols) block by block, and finish."""
    count, height, width = pixels.shape
    writer = RasterWriter(
        path, height=height, width=width, dtype=pixels.dtype.name, count=count,
        **({"crs": UTM, "transform": TRANSFORM, "nodata": 255} | options),
    )  # fmt: skip
    try:
        for tile in grid(height, width, BLOCK):
            writer.write(pixels[(slice(None), *tile.core.toslices())], tile.core)
        writer.finish(resampling=Resampling.mode, predictor=False, tags={"KEY": "value"})
    finally:
        writer.close()


def blotches(rng: np.random.Generator, values: list[int], height: int, width: int) -> np.ndarray:
    coarse = rng.choice(values, (height // 7 + 1, width // 7 + 1)).astype(np.uint8)
    return np.kron(coarse, np.ones((7, 7), np.uint8))[None, :height, :width]


def test_a_map_is_a_cloud_optimised_geotiff_whose_overviews_hold_only_its_classes(tmp_path, rng):
    pixels = blotches(rng, [3, 40, 200], 1300, 1100)
    write_map(tmp_path / "map.tif", pixels)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.block_shapes == [(BLOCK, BLOCK)]
        assert (dataset.compression.name, dataset.nodata, dataset.tags()["KEY"]) == ("deflate", 255, "value")
        assert (dataset.crs, dataset.transform, dataset.tags()["AREA_OR_POINT"]) == (UTM, TRANSFORM, "Area")
        levels = dataset.overviews(1)
    assert len(levels) >= 2
    for level in range(len(levels)):
        with rasterio.open(tmp_path / "map.tif", overview_level=level) as dataset:
            assert set(np.unique(dataset.read())) <= {3, 40, 200}
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_overviews_show_the_majority(tmp_path):
    pixels = np.full((1, 1024, 1024), 1, np.uint8)
    pixels[:, ::2, ::2] = 2  # one pixel of four
    write_map(tmp_path / "map.tif", pixels)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as dataset:
        assert np.unique(dataset.read()).tolist() == [1]


def test_pixels_that_no_window_covers_are_nodata(tmp_path):
    writer = RasterWriter(
        tmp_path / "map.tif",
        height=700,
        width=1100,
        dtype="uint16",
        crs=None,
        transform=Affine.identity(),
        nodata=65535,
    )
    writer.write(np.full((1, 100, 90), 7, np.uint16), Window(20, 10, 90, 100))
    writer.finish(resampling=Resampling.mode, predictor=True)
    with open_raster(tmp_path / "map.tif") as dataset:
        found = dataset.read(1)
        assert dataset.crs is None
    assert (found[10:110, 20:110] == 7).all()
    assert (found == 7).sum() == 100 * 90
    assert set(np.unique(found)) == {7, 65535}


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_raster_of_one_pixel_and_of_several_bands(tmp_path, count):
    pixels = np.arange(1, count + 1, dtype=np.uint8).reshape(count, 1, 1)
    write_map(tmp_path / "map.tif", pixels)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels)
        assert ColorInterp.alpha not in dataset.colorinterp


def test_a_picture_gets_no_geotransform(tmp_path):
    # QGIS shows a raster with the identity written down upside down.
    pixels = np.ones((1, 3, 3), np.uint8)
    write_geotiff(tmp_path / "chip.tif", pixels, crs=None, transform=Affine.identity())
    write_map(tmp_path / "map.tif", pixels, crs=None, transform=Affine.identity())
    for name in ("chip.tif", "map.tif"):
        with pytest.warns(NotGeoreferencedWarning), rasterio.open(tmp_path / name) as dataset:
            assert dataset.transform.is_identity


def test_the_same_pixels_give_the_same_bytes(tmp_path, rng):
    pixels = blotches(rng, [0, 1], 600, 600)
    for name in ("a.tif", "b.tif"):
        write_map(tmp_path / name, pixels)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_raster_that_is_given_up_leaves_no_file(tmp_path):
    writer = RasterWriter(
        tmp_path / "map.tif", height=9, width=9, dtype="uint8", crs=UTM, transform=TRANSFORM, nodata=255
    )
    writer.write(np.zeros((1, 9, 9), np.uint8), Window(0, 0, 9, 9))
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["one pixel", "half a file"])
def test_a_copy_that_differs_from_what_was_written_is_noticed(tmp_path, rng, monkeypatch, damage):
    copy = rasterio.shutil.copy

    def copy_badly(source, target, **options):
        if damage == "one pixel":
            with rasterio.open(source, "r+") as dataset:
                dataset.write(dataset.read(window=Window(600, 600, 1, 1)) + 1, window=Window(600, 600, 1, 1))
        copy(source, target, **options)
        if damage == "half a file":
            Path(target).write_bytes(Path(target).read_bytes()[: Path(target).stat().st_size // 2])

    monkeypatch.setattr(raster.rasterio.shutil, "copy", copy_badly)
    with pytest.raises(DiskError, match=r"map\.tif"):
        write_map(tmp_path / "map.tif", rng.integers(0, 9, (1, 700, 700), np.uint8))


# --- full disks


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from geoseg.errors import DiskError
from geoseg.files import publish, stage
from geoseg.raster import write_geotiff
sys.path.insert(0, sys.argv[2])
from test_raster import TRANSFORM, UTM, write_map

out, rng = Path(sys.argv[1]), np.random.default_rng(0)
chip, valid = rng.integers(0, 255, (3, 128, 128), np.uint8), rng.random((128, 128)) > 0.5
tall = rng.integers(0, 5, (1, 700, 700), np.uint8)

def write_chip():
    with publish(out / "a" / "chip.tif") as path:
        write_geotiff(path, chip, crs=UTM, transform=TRANSFORM, valid=valid)

def write_tall():
    with stage(out / "b", last="map.tif") as staging:
        write_map(staging / "map.tif", tall)

for write, folder, step in ((write_chip, out / "a", 1_000), (write_tall, out / "b", 10_000)):
    refused = 0
    while not folder.exists():
        resource.setrlimit(resource.RLIMIT_FSIZE, (refused * step, resource.RLIM_INFINITY))
        try:
            write()
        except DiskError:
            refused += 1
            assert not folder.exists(), list(folder.rglob("*"))
    assert refused > 10, refused
"""


def test_a_disk_that_fills_at_any_point_is_said_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("resource")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    written = [path.name for path in tmp_path.rglob("*.tif")]
    assert sorted(written) == ["chip.tif", "map.tif"]
    # What was written at the first limit that was not refused is whole, the mask of the chip included.
    rng = np.random.default_rng(0)
    chip, valid = rng.integers(0, 255, (3, 128, 128), np.uint8), rng.random((128, 128)) > 0.5
    with rasterio.open(tmp_path / "a" / "chip.tif") as dataset:
        assert np.array_equal(dataset.read(), chip)
        assert np.array_equal(dataset.read_masks(1) > 0, valid)
    with rasterio.open(tmp_path / "b" / "map.tif") as dataset:
        assert np.array_equal(dataset.read(), rng.integers(0, 5, (1, 700, 700), np.uint8))


# --- the cache


def test_the_block_cache_is_small_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    with bounded_cache(64):
        assert rasterio.env.getenv()["GDAL_CACHEMAX"] == 64 * 2**20
    monkeypatch.setenv("GDAL_CACHEMAX", "256")
    with bounded_cache(64):
        assert "GDAL_CACHEMAX" not in rasterio.env.getenv()
