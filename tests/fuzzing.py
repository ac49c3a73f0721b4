"""Files damaged at random, for every reader: each must be read, or refused in one line, soon and in little memory.

`python tests/fuzzing.py 60` tries new ones, and keeps those that break this in `tests/corpus`, where
`test_corpus.py` takes them up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click
import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil
import shapely
import torch
from affine import Affine
from rasterio.windows import Window

import geoseg
from geoseg.bundle import CARD, WEIGHTS, open_bundle, write_bundle
from geoseg.checkpoints import find_checkpoint
from geoseg.chips import INDEX, open_chips
from geoseg.cli import cli
from geoseg.errors import GeosegError, GeosegWarning
from geoseg.files import sha256
from geoseg.labels import open_label_raster, raster_legend, read_legend
from geoseg.legend import make_legend, parse_legend
from geoseg.models import Architecture
from geoseg.pictures import open_samples
from geoseg.polygon_labels import PolygonLabels, read_polygons
from geoseg.reference_points import holds_points, read_points
from geoseg.remote import Access
from geoseg.scenes import describe_scene
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

CORPUS = Path(__file__).parent / "corpus"
SIZE = 64
PLACE = {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000)}
SECONDS, MEMORY = 20, 3 * 2**30
"""What one file may take."""

LEGEND = make_legend([0, 1, 2], ["background", "wheat", "maize"])


class Target(NamedTuple):
    """A kind of file.

    Attributes:
        seeds: makes whole ones in a folder.
        attempt: reads one, in a folder of its own.
    """

    seeds: Callable[[Path], list[Path]]
    attempt: Callable[[Path], Any]


# --- whole files


def rasters(folder: Path) -> list[Path]:
    """Rasters of every layout that GDAL writes and people have."""
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 3, (3, SIZE, SIZE))
    layouts: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "plain": (bands[:1].astype("uint8"), {"nodata": 0}),
        "tiled": (
            bands.astype("uint16"),
            {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate", "predictor": 2},
        ),
        "floats": (bands.astype("float32"), {"compress": "lzw", "nodata": -9999, "interleave": "band"}),
        "big": (bands[:1].astype("int16"), {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "packbits"}),
        "alpha": (np.concatenate([bands, bands[:1]]).astype("uint8"), {"photometric": "RGB", "alpha": "yes"}),
        "jpeg": (
            bands.astype("uint8"),
            {"compress": "jpeg", "photometric": "YCBCR", "tiled": True, "blockxsize": 32, "blockysize": 32},
        ),
        "bits": (bands[:1].astype("uint8"), {"nbits": 2}),
        "zstd": (bands.astype("float64"), {"compress": "zstd", "blockysize": 5}),
    }
    made = []
    for name, (pixels, options) in layouts.items():
        path = folder / f"{name}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=len(pixels),
            height=SIZE,
            width=SIZE,
            dtype=pixels.dtype,
            **PLACE,
            **options,
        ) as raster:
            raster.write(pixels)
        made.append(path)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            folder / "masked.tif",
            "w",
            driver="GTiff",
            count=1,
            height=SIZE,
            width=SIZE,
            dtype="uint8",
            photometric="palette",
            **PLACE,
        ) as raster,
    ):
        raster.write(bands[:1].astype("uint8"))
        raster.write_mask(bands[0] > 0)
        raster.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 255, 0)})
        raster.update_tags(GEOSEG_LEGEND=json.dumps(LEGEND.to_list()))
    for driver, suffix in (("COG", "cog.tif"), ("PNG", "png"), ("JPEG", "jpg"), ("JP2OpenJPEG", "jp2")):
        made.append(folder / f"copy.{suffix}")
        rasterio.shutil.copy(folder / "alpha.tif" if driver != "JPEG" else folder / "jpeg.tif", made[-1], driver=driver)
    rasterio.shutil.copy(folder / "tiled.tif", folder / "mosaic.vrt", driver="VRT")
    return [*made, folder / "masked.tif", folder / "mosaic.vrt"]


def vectors(folder: Path) -> list[Path]:
    """Polygons in every format that is read."""
    squares = [shapely.box(x, y, x + 90, y + 110) for x in (500_010, 500_200) for y in (4_499_500, 4_499_800)]
    squares.append(
        shapely.Polygon([(500_000, 4_499_500), (500_100, 4_499_600), (500_100, 4_499_500), (500_000, 4_499_600)])
    )
    frame = gpd.GeoDataFrame({"class": [1, 2, 1, 2, 1], "name": list("abcde")}, geometry=squares, crs=PLACE["crs"])
    frame.to_parquet(folder / "p.parquet")
    for suffix in ("gpkg", "geojson", "fgb", "shp"):
        frame.to_file(folder / f"p.{suffix}")
    return [folder / f"p.{suffix}" for suffix in ("gpkg", "geojson", "fgb", "shp", "shx", "dbf", "prj", "parquet")]


def points(folder: Path) -> list[Path]:
    """Labelled points."""
    columns = {
        "reference": pd.array([0, 1, 2], "Int64"),
        "stratum": [0, 1, 2],
        "stratum_area_m2": [1e5, 2e5, 3e5],
        "stratum_pixels": [1000, 2000, 3000],
    }
    frame = gpd.GeoDataFrame(
        columns, geometry=gpd.points_from_xy([500_105] * 3, [4_499_905, 4_499_805, 4_499_705]), crs=PLACE["crs"]
    )
    frame.to_file(folder / "q.gpkg")
    frame.to_file(folder / "q.geojson")
    return [folder / "q.gpkg", folder / "q.geojson"]


def bundles(folder: Path) -> list[Path]:
    """A model with random weights."""
    bands = scale_bands(
        [BandStatistics(1, 1, 0, 2, 0, 2)] * 3, names="rgb", sources=[1, 2, 3], dtypes=["uint8"] * 3, nodata=[0.0] * 3
    )
    architecture = Architecture("unet", in_channels=3, classes=3, width=2)
    torch.manual_seed(0)
    write_bundle(
        folder, architecture.build().state_dict(), architecture=architecture, image=ImageSpec(bands, 3, 10.0, 32), legend=LEGEND,
        training={
            "best_epoch": 1, "epochs_run": 2, "crop": 16, "chips": {"train": 3}, "versions": {"torch": "2"}, "init": None,
            "ground": {"a": [[0.0, 1.0], [1.0, 1.0], [1.0, 2.0]]}, "encoder_weights": "none",
        },
        metrics={"miou": 0.5, "classes": [{"value": 0, "name": "a", "iou": 0.1, "precision": None, "recall": 1.0}]},
        reach={16: 0.1, 32: 0.0},
    )  # fmt: skip
    return [folder / CARD, folder / WEIGHTS]


def chip_folders(folder: Path) -> list[Path]:
    """A chip folder."""
    rng = np.random.default_rng(0)
    for name, count in (("scene", 3), ("labels", 1)):
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=count, height=SIZE, width=SIZE, dtype="uint8", **PLACE
        ) as raster:
            raster.write(rng.integers(0, 3, (count, SIZE, SIZE), "uint8"))
    geoseg.tile(folder / "scene.tif", labels=folder / "labels.tif", out=folder, chip_size=16, block_size=1)
    found = open_chips(folder)
    return [folder / INDEX, folder / found.chips[0].image, folder / found.chips[0].mask]


def texts(folder: Path) -> list[Path]:
    """Legends, a configuration, a run file, a sidecar."""
    written = {
        "legend.csv": "value,name,colour,role\n0,background,#d9d9d9,background\n1,wheat,#e5b52a,\n",
        "legend.json": json.dumps(LEGEND.to_list()),
        "geoseg.toml": '[tile]\nchip-size = 128\nsplit = "8:1:1"\nbands = [1, 2, 3]\n[predict]\ntta = "d4"\n',
        "a_run.json": json.dumps(
            {"format": 1, "outputs": {"a.tif": "00"}, "classes": [{"name": "wheat", "pixels": 3}]}
        ),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in written]


def sidecars(folder: Path) -> list[Path]:
    """What GDAL and QGIS put beside a raster."""
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", count=1, height=SIZE, width=SIZE, dtype="uint8", **PLACE
    ) as raster:
        raster.write(np.ones((1, SIZE, SIZE), np.uint8))
    (folder / "a.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32614</SRS><GeoTransform>5e5,10,0,4.5e6,0,-10</GeoTransform><PAMRasterBand band='1'>"
        "<Description>red</Description><NoDataValue>0</NoDataValue><ColorInterp>Gray</ColorInterp><CategoryNames>"
        "<Category>none</Category><Category>wheat</Category></CategoryNames></PAMRasterBand></PAMDataset>"
    )
    (folder / "a.tfw").write_text("10\n0\n0\n-10\n500005\n4499995\n")
    with rasterio.open(
        folder / "a.tif.msk", "w", driver="GTiff", count=1, height=SIZE, width=SIZE, dtype="uint8"
    ) as raster:
        raster.write(np.full((1, SIZE, SIZE), 255, np.uint8))
    return [folder / "a.tif.aux.xml", folder / "a.tfw", folder / "a.tif.msk"]


def checkpoints(folder: Path) -> list[Path]:
    """A checkpoint as Lightning writes it."""
    torch.save(
        {"epoch": 3, "state_dict": {"network.a": torch.zeros(3)}, "callbacks": {}, "loops": {"x": [1, 2]}},
        folder / "last.ckpt",
    )
    return [folder / "last.ckpt"]


# --- reading them


def read_raster(path: Path) -> None:
    """As scene and as labels."""
    scene = describe_scene(path, Access(vrt=True))
    str(scene), scene.bounds
    scene.pixel_size_m  # noqa: B018
    with scene.open() as reader:
        for row in range(0, min(scene.height, 512), 64):
            window = Window(0, row, 64, 64)
            reader.is_empty(window, [1])
            reader.read(window, range(1, min(len(scene.band_names), 4) + 1))
    if path.suffix != ".vrt":
        read_legend(path)
        raster_legend(path, [0, 1])
        with open_label_raster(path, whole_scene(path.parent)) as labels:
            labels.read(Window(0, 0, SIZE, SIZE))


def whole_scene(folder: Path) -> Any:
    """A scene to lay labels on."""
    place = folder / "whole.tif"
    if not place.exists():
        with rasterio.open(
            place, "w", driver="GTiff", count=1, height=SIZE, width=SIZE, dtype="uint8", **PLACE
        ) as raster:
            raster.write(np.ones((1, SIZE, SIZE), np.uint8))
    return describe_scene(place)


def read_vector(path: Path) -> None:
    """As labels, with a class field and without; what stands beside a shapefile, by that."""
    path = path.with_suffix(".shp") if path.suffix in {".shx", ".dbf", ".prj"} else path
    holds_points(path)
    scene = whole_scene(path.parent)
    for field in (None, "class"):
        polygons = read_polygons(path, class_field=field)
        legend = make_legend([0, 1, 2]) if field else make_legend([0, 1])
        PolygonLabels(polygons, scene, legend=legend, unlabelled="background").read(Window(0, 0, SIZE, SIZE))


def read_bundle(path: Path) -> None:
    """The card, then the weights, which are taken for those of the card, then both together."""
    folder = path.parent
    if path.name == WEIGHTS:
        card = json.loads((folder / CARD).read_text())
        (folder / CARD).write_text(json.dumps(card | {"weights_sha256": sha256(path)}))
    bundle = open_bundle(folder)
    str(bundle), geoseg.info(folder).to_dict(), bundle.margin, bundle.looks_far
    network = bundle.network()
    pixels = np.ones((len(bundle.image.bands), 16, 16), bundle.image.dtypes[0])
    with torch.no_grad():
        network(torch.from_numpy(bundle.image.normalise(pixels, np.ones((16, 16), bool)))[None])
    with tempfile.TemporaryDirectory() as out:
        geoseg.card(model=folder, out=out)


def read_chips(path: Path) -> None:
    """The folder that a file is of."""
    folder = next(parent for parent in path.parents if (parent / INDEX).exists())
    found = open_samples(folder)
    str(found), found.to_dict()
    for chip in found.chips[:3]:
        found.read(chip)


def read_text(path: Path) -> None:
    """By what it is."""
    if path.name.startswith("legend"):
        parse_legend(path)
    elif path.suffix == ".toml":
        context = click.Context(cli, **cli.context_settings)
        cli.commands["tile"].make_context("tile", ["a.tif", "--labels", "b.tif", "--config", str(path)], parent=context)
    else:
        geoseg.info(path).to_dict()


TARGETS = {
    "raster": Target(rasters, read_raster),
    "vector": Target(vectors, read_vector),
    "points": Target(points, lambda path: (holds_points(path), read_points(path, LEGEND))),
    "bundle": Target(bundles, read_bundle),
    "chips": Target(chip_folders, read_chips),
    "text": Target(texts, read_text),
    "sidecar": Target(sidecars, lambda path: read_raster(path.with_name("a.tif"))),
    "checkpoint": Target(checkpoints, lambda path: find_checkpoint(path.parent)),
}


def attempt(target: str, path: Path) -> str:
    """Read a file as a user would; what went wrong, or an empty text.

    Args:
        target: of `TARGETS`.
        path: the file, among what belongs to it.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            TARGETS[target].attempt(path)
        except (GeosegError, GeosegWarning) as error:
            lines = [str(fault) for fault in getattr(error, "faults", [error])]
            return "" if all(line and "\n" not in line for line in lines) else f"not one line: {lines}"
        except click.UsageError:
            return ""
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            own = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if f"{os.sep}geoseg{os.sep}" in frame.filename
            ]
            at = own[-1] if own else place
            return (
                f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {' '.join(str(error).split())[:160]}"
            )
    return ""


# --- damage

_ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "../../x",
    "a" * 300,
    "\0",
    "<b>",
    [],
    {},
    [[]],
    "nan",
]
_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def damage(content: bytes, suffix: str, chance: random.Random) -> bytes:
    """A file that is not what it was."""
    if suffix == ".json" and chance.random() < 0.7:
        try:
            return json.dumps(_other(json.loads(content), chance)).encode()
        except ValueError:
            pass
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        if not found:
            break
        at = chance.randrange(len(found)) if chance.random() < 0.6 else min(chance.randrange(512), len(found) - 1)
        match chance.randrange(7):
            case 0:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                found[at] = chance.randrange(256)
            case 2:
                form = chance.choice(["<H", "<I", "<Q", ">H", ">I", ">Q", "B"])
                value = struct.pack(form, chance.choice(_NUMBERS) % (1 << 8 * struct.calcsize(form)))
                found[at : at + len(value)] = value
            case 3:
                del found[at : at + chance.randrange(1, 64)]
            case 4:
                found[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 32)))
            case 5:
                del found[chance.randrange(len(found)) :]
            case 6:
                begin = chance.randrange(len(found))
                found[at:at] = found[begin : begin + chance.randrange(1, 128)]
    return bytes(found)


def _other(document: Any, chance: random.Random) -> Any:
    """A JSON document with a few values, keys or members changed."""
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                collect(value[key])

    collect(document)
    for _ in range(chance.choice([1, 1, 2, 3])):
        holder, key = chance.choice(places)
        try:
            match chance.randrange(5):
                case 0:
                    del holder[key]
                case 1:
                    holder[key] = [holder[key]] * chance.choice([1, 2, 300])
                case 2 if isinstance(holder[key], int | float):
                    holder[key] = holder[key] * chance.choice([-1, 0, 0.5, 2, 1e6, 10**12])
                case _:
                    holder[key] = chance.choice(_ODD)
        except (KeyError, IndexError, OverflowError):
            continue
    return document


# --- the search


def search(target: str, seeds: Path, folder: Path, seed: int, until: float, told: Any) -> None:
    """Damage and read files until the time is over; the body of a process, which may die of it."""
    resource.setrlimit(
        resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 8 * MEMORY,) * 2
    )
    torch.set_num_threads(1)
    chance = random.Random(seed)
    names = json.loads((seeds / "seeds.json").read_text())
    tried = 0
    while time.monotonic() < until:
        name = chance.choice(names)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(seeds, folder)
        path = folder / name
        path.write_bytes(damage(path.read_bytes(), path.suffix, chance))
        (folder.parent / f"{folder.name}.name").write_text(name)
        shutil.copy(path, folder.parent / f"{folder.name}.case")
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        told.send(("begin", tried, ""))
        fault = attempt(target, path)
        tried += 1
        seconds, memory = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if not fault and memory * 1024 > MEMORY:
            fault = f"took {memory / 1024:.0f} MiB"
        if not fault and seconds > SECONDS / 2:
            fault = f"took {seconds:.1f} s"
        if fault:
            told.send(("fault", tried, fault))
            if not told.recv():
                return
    told.send(("end", tried, ""))


def keep(target: str, name: str, case: Path, fault: str) -> Path:
    """Put a file among those that are tried with every test."""
    place = CORPUS / target / f"{sha256(case)[:12]}_{Path(name).name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(case, place)
    print(f"{target}: {fault}\n  {place}", flush=True)
    return place


def hunt(target: str, work: Path, minutes: float, seed: int) -> tuple[int, Counter[str]]:
    """Search one kind of file for so long: files tried, and the faults found with their counts."""
    seeds, folder = work / target / "seeds", work / target / "try"
    seeds.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TARGETS[target].seeds(seeds)
    (seeds / "seeds.json").write_text(json.dumps([path.relative_to(seeds).as_posix() for path in made]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fuzzing"])
    until, tried = time.monotonic() + 60 * minutes, 0
    faults: Counter[str] = Counter()
    while time.monotonic() < until:
        ears, mouth = context.Pipe()
        process = context.Process(target=search, args=(target, seeds, folder, seed, until, mouth))
        process.start()
        mouth.close()
        done, seed = 0, seed + 1
        try:
            while True:
                if not ears.poll(4 * SECONDS):
                    process.kill()
                    raise EOFError
                kind, done, fault = ears.recv()
                if kind == "end":
                    break
                if kind == "fault":
                    sign = fault.split(": ")[0]
                    if not faults[sign]:
                        keep(target, (folder.parent / "try.name").read_text(), folder.parent / "try.case", fault)
                    faults[sign] += 1
                    ears.send(True)
        except EOFError:
            process.join()
            fault = f"died of {process.exitcode}" if process.exitcode != -9 else "did not end"
            if faults[fault] < 5:
                keep(target, (folder.parent / "try.name").read_text(), folder.parent / "try.case", fault)
            faults[fault] += 1
        process.join()
        tried += done
    return tried, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float, nargs="?", default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    options = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as work:
        for target in options.targets:
            tried, faults = hunt(target, Path(work), options.minutes / len(options.targets), options.seed)
            total["files"] += tried
            total["faults"] += len(faults)
            print(f"{target}: {tried:,} files, {len(faults)} faults {dict(faults)}", flush=True)
    print(f"all: {total['files']:,} files, {total['faults']} faults, seed {options.seed}")


if __name__ == "__main__":
    main()
