"""Class rasters to polygons: geoseg beside the chain of libraries that one would put together, on parcels of any size.

Usage: python benchmarks/polygonize.py [ROWSxCOLS ...] [--rounds 2] [--methods geoseg,trace,shapes,chain,gdal,ftw,orthoseg]

The rasters are made here: parcels of some 50 x 50 pixels with bent, shared borders in five classes, and 0.1 % of the pixels
speckled. Each run is a process of its own, in turn; start-up is not counted. The methods:

    geoseg   `geoseg.polygonize`, all classes, 1.5 pixels, to a GeoPackage: traced, simplified, measured, checked, written
    trace    its sweep alone: traced and joined, as arcs and rings
    shapes   `rasterio.features.shapes` on the whole raster, its rings dropped
    chain    `shapes`, `shapely.coverage_simplify` with twice the distance (its tolerance is the root of an area), areas by
             `pyproj.Geod`, and one GeoPackage written by pyogrio
    gdal, ftw, orthoseg
             see `polygonize_peers.py`

Layers are looked at afterwards: invalid polygons, and gaps and overlaps as shares of the raster.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from polygonize_peers import PEERS
from predict import Request, Work, answer, ask, median
from rasterio.windows import Window

METHODS = ("geoseg", "trace", "shapes", "chain")
ALL_CLASSES = ("geoseg", "chain", "gdal", "orthoseg")
BLOCK = 512
CELL = 50
CLASSES = 5
SPECKLE = 0.001
LARGE = 200_000_000
"""Pixels that `shapes` and `chain`, which hold all in memory, are not asked to take."""


def write_parcels(path: Path, height: int, width: int) -> None:
    """Parcels on a bent grid; a parcel's class follows from its place in the grid."""
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "crs": "EPSG:32614",
               "transform": Affine(10, 0, 300_000, 0, -10, 5_500_000), "tiled": True, "blockxsize": BLOCK,
               "blockysize": BLOCK, "compress": "deflate", "zlevel": 1, "nodata": 255, "bigtiff": "if_safer"}  # fmt: skip
    with rasterio.open(path, "w", **profile) as raster:
        for top in range(0, height, BLOCK):
            rows = min(BLOCK, height - top)
            rng = np.random.default_rng(top)
            y, x = np.arange(top, top + rows)[:, None], np.arange(width)[None]
            down = (y + 6 * np.sin(x / 37) + 3 * np.sin(x / 11 + y / 29)) // CELL + 2
            across = (x + 6 * np.sin(y / 41) + 3 * np.sin(y / 13)) // CELL + 2
            mixed = (
                down.astype(np.uint64) * np.uint64(7919) + across.astype(np.uint64) * np.uint64(104_729)
            ) * np.uint64(2_654_435_761)
            classes = ((mixed >> np.uint64(13)) % np.uint64(CLASSES)).astype(np.uint8)
            speckled = rng.random((rows, width)) < SPECKLE
            classes[speckled] = rng.integers(0, CLASSES, int(speckled.sum()))
            raster.write(classes, 1, window=Window(0, top, width, rows))


def run_geoseg(request: Request) -> Work:
    """The verb."""
    import geoseg

    polygonize = geoseg.polygonize  # imported when it is asked for

    def run() -> None:
        layer = polygonize(
            request["raster"], out=request["out"], only=[str(value) for value in range(CLASSES)], simplify=1.5
        )
        request["facts"] = {"polygons": layer.balance["polygons"]}

    return run


def run_trace(request: Request) -> Work:
    """The sweep."""
    from geoseg.raster import bounded_cache
    from geoseg.simplification import reach_of
    from geoseg.sweep import sweep

    def run() -> None:
        found = largest = 0
        with bounded_cache(), rasterio.open(request["raster"]) as raster:

            def read(first: int, last: int) -> np.ndarray:
                return raster.read(1, window=Window(0, first, raster.width, last - first))

            for _, finished in sweep(
                read,
                raster.height,
                raster.width,
                range(CLASSES),
                rows=max(2**22 // raster.width, 64),
                reach=reach_of(1.5),
            ):
                if finished is not None:
                    found += len(finished.features)
                    largest = max(largest, int(finished.pixels.max()))
        request["facts"] = {"polygons": found, "largest": largest}

    return run


def run_shapes(request: Request) -> Work:
    """GDAL's polygons, as rasterio gives them."""
    from rasterio.features import shapes

    def run() -> None:
        with rasterio.open(request["raster"]) as raster:
            request["facts"] = {"polygons": sum(1 for _ in shapes(raster.read(1), connectivity=4))}

    return run


def run_chain(request: Request) -> Work:
    """What one would put together."""
    import geopandas as gpd
    import pyogrio
    import pyproj
    import shapely
    from rasterio.features import shapes

    def run() -> None:
        with rasterio.open(request["raster"]) as raster:
            traced = [
                (shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]), value)
                for shape, value in shapes(raster.read(1), connectivity=4, transform=raster.transform)
            ]
            crs, pixel = raster.crs, raster.transform.a
        polygons, values = zip(*traced, strict=True)
        simplified = shapely.coverage_simplify(np.array(polygons), 2 * 1.5 * pixel)
        frame = gpd.GeoDataFrame({"value": values}, geometry=simplified, crs=crs)
        geod = pyproj.Geod(ellps="WGS84")
        frame["area_m2"] = [abs(geod.geometry_area_perimeter(polygon)[0]) for polygon in frame.geometry.to_crs(4326)]
        pyogrio.write_dataframe(frame, request["out"], layer="polygons", driver="GPKG")
        request["facts"] = {"polygons": len(frame)}

    return run


def inspect(request: Request) -> Work:
    """Invalid polygons of a layer, and gaps and overlaps as shares of the raster."""
    import pyogrio
    import shapely

    def run() -> None:
        polygons = pyogrio.read_dataframe(
            request["out"], layer=pyogrio.list_layers(request["out"])[0][0]
        ).geometry.to_numpy()
        with rasterio.open(request["raster"]) as raster:
            ground = raster.height * raster.width * raster.transform.a**2
        invalid = ~shapely.is_valid(polygons)
        polygons[invalid] = shapely.make_valid(polygons[invalid])
        union = shapely.area(shapely.union_all(polygons))
        request["facts"] = {
            "polygons": len(polygons), "invalid": int(invalid.sum()),
            "gaps %": round(100 * (ground - union) / ground, 3) + 0.0,
            "overlaps %": round(100 * (shapely.area(polygons).sum() - union) / ground, 3) + 0.0,
        }  # fmt: skip

    return run


WORKS = {
    "geoseg": run_geoseg, "trace": run_trace, "shapes": run_shapes, "chain": run_chain, "inspect": inspect, **PEERS
}  # fmt: skip


def measure(options: argparse.Namespace, folder: Path) -> None:
    """All methods in turn, size by size."""
    print(
        "| raster | method | CPU s | wall s | peak MiB | polygons | largest, pixels | layer |\n|---|---|---|---|---|---|---|---|"
    )
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        raster = folder / f"{size}.tif"
        write_parcels(raster, height, width)
        methods = [
            method for method in options.methods.split(",")
            if height * width <= options.large or method in ("geoseg", "trace")
        ]  # fmt: skip
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
        for _ in range(options.rounds):
            for method in methods:
                out = folder / "out.gpkg"
                request = {"method": method, "raster": str(raster), "out": str(out)}
                runs[method].append(ask(__file__, request))
                if out.exists() and not runs[method][0].get("layer"):
                    runs[method][0]["layer"] = ask(__file__, request | {"method": "inspect"})["facts"]
                out.unlink(missing_ok=True)
        for method, each in runs.items():
            told = (each[0]["facts"] or {}) | each[0].get("layer", {})
            if method not in ALL_CLASSES:
                told.pop("gaps %", None)
            rest = ", ".join(f"{key} {value}" for key, value in told.items() if key not in ("polygons", "largest"))
            print(f"| {size} | {method} | {median(each, 'cpu'):.1f} | {median(each, 'seconds'):.1f} | {median(each, 'peak_mib'):.0f} "
                  f"| {told['polygons']:,} | {told.get('largest', '')} | {rest} |", flush=True)  # fmt: skip
        raster.unlink()
    print(f"load {' '.join(f'{load:.2f}' for load in os.getloadavg())}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["4096x4096"], metavar="ROWSxCOLS")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--large", type=int, default=LARGE, help="pixels that go to all methods at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        answer(json.loads(sys.argv[2]), WORKS)
    else:
        main()
