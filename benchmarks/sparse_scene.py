"""What a scene of 100,000 x 100,000 pixels takes of memory, of which nearly all was never written: each command in a process.

    python benchmarks/sparse_scene.py [SIDE]

Makes a scene, labels, a small model and what follows from them in a temporary folder, and prints peak memory and time.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

FIELDS = 64
"""Patches of 512 x 512 pixels that hold data."""


def write(path: Path, side: int, count: int, values: int, nodata: int, seed: int) -> None:
    """A raster that is empty but for patches along its diagonal and at random."""
    rng, places = np.random.default_rng(seed), np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": count, "dtype": "uint8", "nodata": nodata,
        "crs": "EPSG:32614", "transform": Affine(10, 0, 300_000, 0, -10, 5_000_000), "tiled": True, "blockxsize": 512,
        "blockysize": 512, "sparse_ok": True, "compress": "deflate", "photometric": "minisblack", "bigtiff": "if_safer",
    }  # fmt: skip
    cells = places.choice((side // 512) ** 2, FIELDS, replace=False)
    with rasterio.open(path, "w", **profile) as raster:
        for cell in cells:
            row, col = divmod(int(cell), side // 512)
            patches = np.kron(rng.integers(1, values + 1, (count, 16, 16)), np.ones((1, 32, 32), int)).astype(np.uint8)
            raster.write(patches, window=Window(512 * col, 512 * row, 512, 512))


def run(name: str, *arguments: object) -> None:
    """Run a command and say what it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.monotonic()
    command = [sys.executable, "-c", _MEASURED, *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    processor = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    peak = int(done.stderr.split()[-1]) / 1024
    print(f"{name:<12} {peak:>8,.0f} MiB   {time.monotonic() - began:>7.1f} s, {processor:>7.1f} CPU s", flush=True)


_MEASURED = """
import resource, sys
from geoseg.cli import cli
try:
    cli(sys.argv[1:], standalone_mode=False)
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "scene.tif", side, 3, 200, 0, 1)
        write(folder / "labels.tif", side, 1, 2, 0, 2)
        size = sum((folder / name).stat().st_size for name in ("scene.tif", "labels.tif")) / 2**20
        print(f"{side:,} x {side:,} pixels, {FIELDS} patches of 512 x 512 with data, {size:.0f} MiB on the disk")
        run("tile", "tile", folder / "scene.tif", "--labels", folder / "labels.tif", "-o", folder / "chips")
        run("train", "train", folder / "chips", "-o", folder / "model", "--width", 4, "--epochs", 1)
        run("predict", "predict", folder / "scene.tif", "-m", folder / "model", "-o", folder / "out", "--no-polygons")
        classes = folder / "out" / "scene_classes.tif"
        run("polygonize", "polygonize", classes, "-o", folder / "fields.gpkg")
        run("evaluate", "evaluate", classes, folder / "labels.tif", "-o", folder / "report")


if __name__ == "__main__":
    main()
