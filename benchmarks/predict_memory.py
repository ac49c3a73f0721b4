"""Peak memory of `geoseg predict` on scenes of several shapes: it must not grow with the height.

Usage: python benchmarks/predict_memory.py [ROWSxCOLS[:sparse] ...] [--OPTION of geoseg predict ...]

Each scene (3 bands uint8, made here) is predicted in a process of its own by a tiny network with random weights, without
polygons; printed are the seconds and the peak resident memory of that process. Of a sparse scene one block in 200 holds
data; the others are not in the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from geoseg.bundle import write_bundle
from geoseg.grid import grid
from geoseg.legend import make_legend
from geoseg.models import Architecture
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

SHAPES = ("4096x4096", "65536x4096", "4096x65536", "4096x4096")
ONE_IN = 200


def write_scene(path: Path, rows: int, cols: int, sparse: bool) -> None:
    """Noise on a slow gradient, in blocks of 512; 0 is nodata."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "height": rows, "width": cols, "count": 3, "dtype": "uint8", "crs": "EPSG:32614",
               "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000), "tiled": True, "blockxsize": 512,
               "blockysize": 512, "compress": "deflate", "zlevel": 1, "photometric": "minisblack", "nodata": 0,
               "sparse_ok": True, "bigtiff": "if_safer"}  # fmt: skip
    with rasterio.open(path, "w", **profile) as scene:
        for number, tile in enumerate(grid(rows, cols, 512)):
            if not sparse or number % ONE_IN == 0:
                window = tile.core
                noise = rng.integers(1, 30, (3, window.height, window.width), dtype=np.uint8)
                scene.write(noise + np.uint8(200 * window.row_off / rows), window=window)


def write_model(folder: Path) -> None:
    """A U-Net of width 4 with random weights."""
    facts = BandStatistics(mean=100, std=50, min=0, max=255, p1=1, p99=250)
    names = ["red", "green", "blue"]
    bands = scale_bands([facts] * 3, names=names, sources=[1, 2, 3], dtypes=["uint8"] * 3, nodata=[None] * 3)
    architecture = Architecture("unet", in_channels=3, classes=2, width=4)
    folder.mkdir()
    write_bundle(
        folder, architecture.build().state_dict(), architecture=architecture, image=ImageSpec(bands, 3, 10.0, 256),
        legend=make_legend([0, 1]), training={"best_epoch": 0, "epochs_run": 0}, metrics={},
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """Print a line per shape."""
    first = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    shapes, options = arguments[:first] or list(SHAPES), arguments[first:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        for number, shape in enumerate(shapes):
            size, _, kind = shape.partition(":")
            rows, cols = map(int, size.split("x"))
            write_scene(folder / "scene.tif", rows, cols, kind == "sparse")
            command = [sys.executable, "-m", "geoseg", "predict", str(folder / "scene.tif"), "-m", str(folder / "model"),
                       "-o", str(folder / f"out{number}"), "--no-polygons", "-q", *options]  # fmt: skip
            started = time.monotonic()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            print(
                f"{shape:>20}  {time.monotonic() - started:7.1f} s  peak {usage.ru_maxrss / 1024:8.0f} MiB  exit {status}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
