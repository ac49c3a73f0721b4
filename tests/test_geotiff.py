"""What is written is what stands on the disk, and looks to other programs as it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from geoseg import geotiff
from geoseg.errors import DiskError
from geoseg.geotiff import write_geotiff
from geoseg.raster import open_raster

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
UTM = CRS.from_epsg(32614)


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

    monkeypatch.setattr(geotiff.rasterio, "open", open_damaged)
    with pytest.raises(DiskError, match=r"a\.tif: what was written cannot be read back"):
        write_geotiff(tmp_path / "a.tif", rng.integers(0, 9, (2, 30, 30), np.uint8), crs=UTM, transform=TRANSFORM)


# --- full disks


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from geoseg.errors import DiskError
from geoseg.files import publish, stage
from geoseg.geotiff import write_geotiff
sys.path.insert(0, sys.argv[2])
from test_geotiff import TRANSFORM, UTM
from test_strips import write_map

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
