"""Scores of a pair of large class rasters: geoseg's whole report beside plain numpy passes that count pixels alone.

Usage: python benchmarks/evaluate.py [--size 16384] [--rounds 2] [--methods geoseg,whole,windows]

The reference is parcels of five classes (see `polygonize.py`), the map the same moved by a pixel, with 1 % of the pixels at
random. Each run is a process of its own, in turn; start-up is not counted. The methods:

    geoseg    `geoseg.evaluate`: pixels, boundaries, objects, areas, 1,000 draws over squares of 256 pixels, report and layer
    whole     both rasters read at once, and `np.bincount` for the confusion matrix
    windows   the same in windows of 512 x 512 pixels
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from polygonize import BLOCK, CLASSES, write_parcels
from predict import Request, Work, answer, ask, median
from rasterio.windows import Window

METHODS = ("geoseg", "whole", "windows")


def write_pair(folder: Path, size: int) -> tuple[Path, Path]:
    """The reference, and a map that is nearly the same."""
    reference, predicted = folder / "reference.tif", folder / "map.tif"
    write_parcels(reference, size, size)
    with rasterio.open(reference) as source, rasterio.open(predicted, "w", **source.profile) as target:
        for row in range(0, size, BLOCK):
            window = Window(0, row, size, min(BLOCK, size - row))
            classes, rng = np.roll(source.read(1, window=window), 1, axis=1), np.random.default_rng(row)
            wrong = rng.random(classes.shape) < 0.01
            classes[wrong] = rng.integers(0, CLASSES, int(wrong.sum()))
            target.write(classes, 1, window=window)
    return predicted, reference


def run_geoseg(request: Request) -> Work:
    """The verb."""
    import geoseg

    evaluate = geoseg.evaluate  # imported when it is asked for

    def run() -> None:
        found = evaluate(request["map"], request["reference"], out=request["out"]).metrics
        request["facts"] = {"confusion": found["confusion"]}

    return run


def run_numpy(request: Request, whole: bool) -> Work:
    """A plain pass; nodata is not looked at."""

    def run() -> None:
        counts = np.zeros(CLASSES**2, np.int64)
        with rasterio.open(request["map"]) as predicted, rasterio.open(request["reference"]) as reference:
            windows = [None] if whole else [window for _, window in reference.block_windows(1)]
            for window in windows:
                pair = (raster.read(1, window=window).astype(np.int64) for raster in (reference, predicted))
                truth, found = pair
                counts += np.bincount((truth * CLASSES + found).ravel(), minlength=CLASSES**2)
        request["facts"] = {"confusion": counts.reshape(CLASSES, CLASSES).tolist()}

    return run


WORKS = {
    "geoseg": run_geoseg,
    "whole": lambda request: run_numpy(request, True),
    "windows": lambda request: run_numpy(request, False),
}


def measure(options: argparse.Namespace, folder: Path) -> None:
    """All methods in turn."""
    predicted, reference = write_pair(folder, options.size)
    runs: dict[str, list[Request]] = {method: [] for method in options.methods.split(",")}
    for number in range(options.rounds):
        for method, each in runs.items():
            request = {"method": method, "map": str(predicted), "reference": str(reference)}
            each.append(ask(__file__, request | {"out": str(folder / f"report_{number}")}))
    megapixels = options.size**2 / 1e6
    print("| method | CPU s | CPU s / megapixel | wall s | peak MiB | confusion matrix |\n|---|---|---|---|---|---|")
    for method, each in runs.items():
        same = each[0]["facts"] == next(iter(runs.values()))[0]["facts"]
        cpu = median(each, "cpu")
        print(f"| {method} | {cpu:.1f} | {cpu / megapixels:.3f} | {median(each, 'seconds'):.1f} | {median(each, 'peak_mib'):.0f} "
              f"| {'the same' if same else 'differs'} |")  # fmt: skip
    print(f"load {' '.join(f'{load:.2f}' for load in os.getloadavg())}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        answer(json.loads(sys.argv[2]), WORKS)
    else:
        main()
