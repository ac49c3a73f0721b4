"""Chips a second of `geoseg tile`, beside a plain rasterio loop that reads a window and writes two files.

Usage: python benchmarks/tile.py [--scene SCENE --labels RASTER] [--size 4096] [--chip-size 256] [--rounds 3]

The scene and its label raster are repeated, or cut, to --size rows and columns; the texture of `predict.py` is taken if none
is given. Both methods cut the same chips and write image and mask as GeoTIFFs of one profile (deflate, level 1). The loop does
that alone. geoseg also reads the labels first to plan (classes, split, shares of a chip), reads every file back that it has
written, measures the statistics and writes footprints. Each run is a process of its own, in turn; start-up is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from predict import Request, Work, answer, ask, make_texture, median
from rasterio.windows import Window, transform

METHODS = ("geoseg", "loop")
ROWS = 512


def write_repeated(
    pixels: np.ndarray, target: Path, size: int, profile: dict[str, Any], names: tuple[str | None, ...]
) -> None:
    """Pixels (bands, rows, cols), repeated or cut to a square, in blocks of 512."""
    _, height, width = pixels.shape
    cols = np.arange(size) % width
    profile = profile | {"driver": "GTiff", "height": size, "width": size, "tiled": True, "blockxsize": ROWS,
                         "blockysize": ROWS, "compress": "deflate"}  # fmt: skip
    with rasterio.open(target, "w", **profile) as dataset:
        dataset.descriptions = names
        for row in range(0, size, ROWS):
            rows = np.arange(row, min(row + ROWS, size)) % height
            dataset.write(pixels[:, rows][:, :, cols], window=Window(0, row, size, len(rows)))


def make_inputs(request: Request) -> Work:
    """Scene and labels of the size asked for."""
    source, size = request["source"], request["size"]
    targets = Path(request["scene"]), Path(request["labels"])

    def run() -> None:
        if source:
            for path, target in zip(source, targets, strict=True):
                with rasterio.open(path) as dataset:
                    write_repeated(dataset.read(), target, size, dataset.profile, dataset.descriptions)
            return
        pixels, classes = make_texture()
        place = {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000)}
        for layer, target in zip((pixels, classes[None]), targets, strict=True):
            profile = {"dtype": "uint8", "count": len(layer), "photometric": "minisblack", **place}
            write_repeated(layer, target, size, profile, (None,) * len(layer))

    return run


def cut_geoseg(request: Request) -> Work:
    """`geoseg.tile`, one split, no chip left out."""
    import geoseg

    tile = geoseg.tile  # imported when it is asked for

    def run() -> None:
        tile(
            request["scene"], labels=request["labels"], out=request["out"], chip_size=request["chip_size"], split="1:0:0",
            max_nodata=1.0,
        )  # fmt: skip

    return run


def cut_loop(request: Request) -> Work:
    """What a user would write."""
    out, size = Path(request["out"]), request["chip_size"]
    common = {"driver": "GTiff", "height": size, "width": size, "compress": "deflate", "zlevel": 1}

    def run() -> None:
        for kind in ("images", "masks"):
            (out / kind).mkdir(parents=True)
        with rasterio.open(request["scene"]) as scene, rasterio.open(request["labels"]) as labels:
            for row in range(0, scene.height, size):
                for col in range(0, scene.width, size):
                    window = Window(col, row, size, size)
                    place = {"crs": scene.crs, "transform": transform(window, scene.transform)}
                    for kind, source in (("images", scene), ("masks", labels)):
                        pixels = source.read(
                            window=window, boundless=row + size > scene.height or col + size > scene.width
                        )
                        profile = {"count": source.count, "dtype": source.dtypes[0], "nodata": source.nodata}
                        path = out / kind / f"scene_{row:06}_{col:06}.tif"
                        with rasterio.open(path, "w", **common, **profile, **place) as chip:
                            chip.write(pixels)

    return run


WORKS = {"inputs": make_inputs, "geoseg": cut_geoseg, "loop": cut_loop}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Both in turn, round by round."""
    source = [str(options.scene.resolve()), str(options.labels.resolve())] if options.scene else None
    base = {
        "scene": str(folder / "scene.tif"), "labels": str(folder / "scene_classes.tif"), "out": str(folder / "chips"),
        "source": source, "size": options.size, "chip_size": options.chip_size,
    }  # fmt: skip
    ask(__file__, base | {"method": "inputs"})
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for number in range(options.rounds):
        print(f"round {number + 1}, load {' '.join(f'{load:.2f}' for load in os.getloadavg())}:", end="", flush=True)
        for method in METHODS:
            found = ask(__file__, base | {"method": method})
            found["chips"] = len(list((folder / "chips").rglob("images/*.tif")))
            found["rate"] = found["chips"] / found["seconds"]
            shutil.rmtree(folder / "chips")
            runs[method].append(found)
            print(f" {method} {found['seconds']:.2f} s", end="", flush=True)
        print()
    return runs


def print_table(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Medians over the rounds; ratios are medians of each round's own."""
    print("\n| | chips | chips/s | x loop | wall s | CPU s | peak MiB | start-up s |\n|---" + "|---" * 7 + "|")
    for method, each in runs.items():
        ratio = np.median([run["rate"] / loop["rate"] for run, loop in zip(each, runs["loop"], strict=True)])
        print(f"| {method} | {each[0]['chips']} | {median(each, 'rate'):.1f} | {ratio:.2f} | {median(each, 'seconds'):.2f} "
              f"| {median(each, 'cpu'):.2f} | {median(each, 'peak_mib'):.0f} | {median(each, 'start'):.1f} |")  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="GeoTIFF; made if not given")
    parser.add_argument("--labels", type=Path, help="class raster on its grid")
    parser.add_argument("--size", type=int, default=4096, help="rows and columns")
    parser.add_argument("--chip-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file of the figures")
    options = parser.parse_args()
    if (options.scene is None) != (options.labels is None):
        parser.error("--scene and --labels go together")
    with tempfile.TemporaryDirectory() as name:
        runs = measure(options, Path(name))
    print_table(runs)
    if options.json:
        options.json.write_text(json.dumps({"load": os.getloadavg(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        answer(json.loads(sys.argv[2]), WORKS)
    else:
        main()
