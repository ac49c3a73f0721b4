"""Strips are joined to what a map is: one checked, cloud-optimised raster, wherever it was interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geoseg import geotiff
from geoseg.errors import DiskError, InputError, OutputExistsError
from geoseg.geotiff import BLOCK, write_geotiff
from geoseg.raster import open_raster
from geoseg.scenes import Scene
from geoseg.strips import MapLayer, Strips

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
UTM = CRS.from_epsg(32614)


CLASSES = MapLayer("classes", "uint8", 255, ("classes",), {"KEY": "value"})


def make_scene(height: int, width: int, crs: CRS | None = UTM, transform: Affine = TRANSFORM) -> Scene:
    """A scene of which only the grid is asked for."""
    return Scene("scene", (Path("scene.tif"),), height, width, ("band",), ("uint8",), (None,), crs, transform)


def write_map(path: Path, pixels: np.ndarray, *, rows: int = BLOCK, nodata: int = 255, **place) -> None:
    """Write (bands, rows, cols) block by block into strips of so many rows, and join them."""
    count, height, width = pixels.shape
    layer = CLASSES._replace(dtype=pixels.dtype.name, nodata=nodata, bands=tuple(f"band {i}" for i in range(count)))
    strips = Strips(path.with_suffix(".strips"), make_scene(height, width, **place), [layer])
    strips.begin({}, resume=False, overwrite=False)
    write_strips(strips, pixels, rows)
    strips.join(layer, path)
    strips.remove()


def write_strips(strips: Strips, pixels: np.ndarray, rows: int = BLOCK, numbers=None) -> None:
    """Write all strips, or some, of the classes (bands, rows, cols)."""
    _, height, width = pixels.shape
    for number, top in enumerate(range(0, height, rows)):
        if numbers is None or number in numbers:
            bottom = min(top + rows, height)
            strip = strips.open(number, top, bottom)
            for left in range(0, width, BLOCK):
                window = Window(left, top, min(BLOCK, width - left), bottom - top)
                strip.write(window, {"classes": pixels[(slice(None), *window.toslices())]})
            strip.finish({"number": number})


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
    layer = CLASSES._replace(dtype="uint16", nodata=65535)
    strips = Strips(tmp_path / "strips", make_scene(1700, 1100, None, Affine.identity()), [layer])
    strips.begin({}, resume=False, overwrite=False)
    strip = strips.open(1, 600, 1200)  # neither the first strip nor the last has anything in it
    strip.write(Window(20, 610, 90, 100), {"classes": np.full((1, 100, 90), 7, np.uint16)})
    strip.finish({})
    strips.join(layer, tmp_path / "map.tif")
    with open_raster(tmp_path / "map.tif") as dataset:
        found = dataset.read(1)
        assert dataset.crs is None
    assert (found[610:710, 20:110] == 7).all()
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


@pytest.mark.parametrize("rows", [64, 512, 700, 1300])
def test_the_height_of_the_strips_leaves_no_trace(tmp_path, rng, rows):
    pixels = blotches(rng, [0, 1, 2], 1300, 600)
    write_map(tmp_path / "a.tif", pixels)
    write_map(tmp_path / "b.tif", pixels, rows=rows)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_strips_that_a_killed_run_has_finished_are_taken_up(tmp_path, rng):
    pixels = blotches(rng, [0, 1, 2], 1300, 600)
    strips = Strips(tmp_path / "strips", make_scene(1300, 600), [CLASSES])
    strips.begin({"model": "a", "grid": [1]}, resume=False, overwrite=False)
    write_strips(strips, pixels, numbers={0, 2})
    strips.open(1, 512, 1024).write(Window(0, 512, 9, 9), {"classes": np.ones((1, 9, 9), np.uint8)})  # never finished

    with pytest.raises(OutputExistsError, match=r"2 finished strips.*--resume.*--overwrite"):
        strips.begin({"model": "a", "grid": [1]}, resume=False, overwrite=False)
    with pytest.raises(InputError, match="of another model; start anew"):
        strips.begin({"model": "b", "grid": [1]}, resume=True, overwrite=False)
    strips.begin({"model": "a", "grid": [1]}, resume=True, overwrite=False)
    assert [facts["number"] for facts in strips.finished().values()] == [0, 2]
    assert len(list((tmp_path / "strips").glob("strip_*.tif"))) == 2
    write_strips(strips, pixels, numbers={1})
    (tmp_path / "strips" / "strip_000002.json").write_text("")  # a power cut
    assert list(strips.finished()) == [0, 1]
    strips.begin({"model": "a", "grid": [1]}, resume=True, overwrite=False)
    assert len(list((tmp_path / "strips").glob("strip_*"))) == 4
    write_strips(strips, pixels, numbers={2})
    strips.join(CLASSES, tmp_path / "map.tif")
    with open_raster(tmp_path / "map.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels)
    strips.begin({"model": "b"}, resume=False, overwrite=True)
    assert strips.finished() == {}
    strips.begin({"model": "b"}, resume=True, overwrite=False)  # nothing to take up is no fault


def test_a_strip_that_was_changed_meanwhile_is_noticed(tmp_path, rng):
    strips = Strips(tmp_path / "strips", make_scene(1300, 600), [CLASSES])
    strips.begin({}, resume=False, overwrite=False)
    write_strips(strips, blotches(rng, [0, 1, 2], 1300, 600))
    with rasterio.open(next((tmp_path / "strips").glob("strip_000001_classes_*.tif")), "r+") as dataset:
        dataset.write(dataset.read(1, window=Window(3, 3, 1, 1)) + 1, 1, window=Window(3, 3, 1, 1))
    with pytest.raises(DiskError, match="rows 512-1024 are not what was written"):
        strips.join(CLASSES, tmp_path / "map.tif")


@pytest.mark.parametrize("damage", ["one pixel", "half a file"])
def test_a_copy_that_differs_from_what_was_written_is_noticed(tmp_path, rng, monkeypatch, damage):
    copy = rasterio.shutil.copy

    def copy_badly(source, target, **options):
        if options["driver"] == "COG" and damage == "one pixel":
            strip = next(source.parent.glob("strip_000001_classes_*.tif"))
            with rasterio.open(strip, "r+") as dataset:
                dataset.write(dataset.read(window=Window(600, 100, 1, 1)) + 1, window=Window(600, 100, 1, 1))
        copy(source, target, **options)
        if options["driver"] == "COG" and damage == "half a file":
            Path(target).write_bytes(Path(target).read_bytes()[: Path(target).stat().st_size // 2])

    monkeypatch.setattr(geotiff.rasterio.shutil, "copy", copy_badly)
    with pytest.raises(DiskError, match=r"map\.tif"):
        write_map(tmp_path / "map.tif", rng.integers(0, 9, (1, 700, 700), np.uint8))
