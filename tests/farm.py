"""A farm so small that every command takes a moment on it, and every command that writes: for tests that attack them all.

The attacks run in processes of their own, forked from one that has loaded everything already.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import resource
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import rasterio
from affine import Affine
from nursery import nursery

import geoseg
from geoseg.interruption import listen

SIZE = 160
_TIMES = frozenset({"seconds", "versions", "date"})  # what another run may say otherwise


class Command(NamedTuple):
    """A command that writes.

    Attributes:
        run: is given the farm, where to write, and further options.
        again: those with which a run that was cut off is tried again.
    """

    run: Callable[..., Any]
    again: dict[str, Any]


def _train(farm: Path, out: Path, **again: Any) -> None:
    geoseg.train(
        farm / "chips", out=out, width=2, epochs=3, batch_size=4, workers=0, deterministic=True, augment="none", **again
    )


def _predict(farm: Path, out: Path, **again: Any) -> None:
    geoseg.predict(
        farm / "scene.tif", model=farm / "model", out=out, window=96, margin=16, precision="fp32", probabilities=True,
        **again,
    )  # fmt: skip


def _polygonize(suffix: str) -> Callable[..., Any]:
    def run(farm: Path, out: Path, **again: Any) -> None:
        geoseg.polygonize(
            farm / "map" / "scene_classes.tif", out=out / f"fields.{suffix}", simplify=0,
            confidence=farm / "map" / "scene_confidence.tif", **again,
        )  # fmt: skip

    return run


def _export(suffix: str) -> Callable[..., Any]:
    return lambda farm, out, **again: geoseg.export(
        model=farm / "model", out=out / f"network.{suffix}", tile_size=64, **again
    )


OVERWRITE, RESUME = {"overwrite": True}, {"resume": True, "overwrite": True}
COMMANDS = {
    "tile": Command(
        lambda farm, out, **again: geoseg.tile(
            farm / "scene.tif", labels=farm / "labels.tif", out=out, chip_size=32, block_size=1, **again
        ),
        OVERWRITE,
    ),
    "train": Command(_train, RESUME),
    "predict": Command(_predict, RESUME),
    **{f"polygonize {suffix}": Command(_polygonize(suffix), OVERWRITE) for suffix in ("gpkg", "fgb", "geojson", "parquet")},
    "evaluate chips": Command(
        lambda farm, out, **again: geoseg.evaluate(farm / "chips", model=farm / "model", out=out, bootstrap=20, **again),
        OVERWRITE,
    ),
    "evaluate maps": Command(
        lambda farm, out, **again: geoseg.evaluate(
            farm / "map" / "scene_classes.tif", farm / "labels.tif", out=out, bootstrap=20, **again
        ),
        OVERWRITE,
    ),
    **{f"export {suffix}": Command(_export(suffix), OVERWRITE) for suffix in ("onnx", "xml")},
    "card": Command(lambda farm, out, **again: geoseg.card(model=farm / "model", out=out, **again), OVERWRITE),
    "sample": Command(
        lambda farm, out, **again: geoseg.sample(
            farm / "map" / "scene_classes.tif", out=out / "points.gpkg", size=60, minimum=10, **again
        ),
        OVERWRITE,
    ),
    "suggest": Command(
        lambda farm, out, **again: geoseg.suggest(
            farm / "scene.tif", model=farm / "model", out=out / "suggest.gpkg", window=32, count=5, **again
        ),
        OVERWRITE,
    ),
}  # fmt: skip


def plough(farm: Path) -> Path:
    """Make the farm: scene.tif, labels.tif, chips/, model/ and map/."""
    rng = np.random.default_rng(0)
    fields = np.kron(rng.choice(3, (10, 10), p=[0.4, 0.4, 0.2]), np.ones((16, 16), int))
    pixels = (rng.integers(0, 60, (3, SIZE, SIZE)) + 60 * fields + 10).astype(np.uint8)
    pixels[:, 40:70, 100:140] = 0
    place = {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000), "photometric": "minisblack"}
    for name, array, nodata in (("scene", pixels, 0), ("labels", fields[None].astype(np.uint8), None)):
        with rasterio.open(
            farm / f"{name}.tif", "w", driver="GTiff", count=len(array), height=SIZE, width=SIZE, dtype="uint8",
            nodata=nodata, **place,
        ) as raster:  # fmt: skip
            raster.write(array)
    COMMANDS["tile"].run(farm, farm / "chips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        COMMANDS["train"].run(farm, farm / "model")
    COMMANDS["predict"].run(farm, farm / "map")
    return farm


def contents(folder: Path) -> dict[str, str]:
    """What stands in a folder: a digest per file, of what is the same whenever it is made; hidden files by name only."""
    if not folder.exists():
        return {}
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: "" if "/." in f"/{name}" else _digest(path) for name, path in names.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(_content(path)).hexdigest()[:16]


def _content(path: Path) -> bytes:
    if path.suffix == ".json":
        document = _timeless(json.loads(path.read_text(encoding="utf-8")))
        outputs, assets = (
            (document if isinstance(document, dict) else {}).get(key, {}) for key in ("outputs", "assets")
        )
        for name in outputs:
            if name.endswith(
                (".gpkg", "_stac.json")
            ):  # SQLite numbers the changes of a file, whose sum stands in the other
                outputs[name] = ""
        for asset in assets.values():
            if asset["href"].endswith(".gpkg"):
                asset["file:checksum"] = asset["file:size"] = ""
        return json.dumps(document, sort_keys=True).encode()
    if path.name == "history.csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return json.dumps([_timeless(row) for row in rows]).encode()
    if path.suffix == ".gpkg":
        layer = pyogrio.list_layers(path)[0, 0]
        frame = pyogrio.read_dataframe(path, layer=layer)
        return repr((layer, frame.crs, frame.to_wkb().to_csv())).encode()
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if key not in _TIMES}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


# --- attacks


def attempt(farm: Path, name: str, out: Path, again: dict[str, Any], limit: int | None, told: Any) -> None:
    """Run a command; the body of a process.

    Args:
        farm: see `plough`.
        name: of the command.
        out: where it writes.
        again: further options.
        limit: bytes that a file may have, where the system shall refuse more.
        told: takes the error as kind and text, or two empty texts.
    """
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)
    listen()  # as the command line does
    torch.set_num_threads(1)
    os.chdir(farm)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            COMMANDS[name].run(farm, out, **again)
        except BaseException as error:
            found = type(error).__name__, str(error)
        else:
            found = "", ""
    with suppress(BrokenPipeError):  # nobody waits for one that was to be killed
        told.send(found)


def begin(
    farm: Path, name: str, out: Path, again: dict[str, Any], limit: int | None = None
) -> tuple[ForkServerProcess, Any]:
    """Start a command in a process of its own; the process, and where it tells of its end."""
    context = nursery()
    ears, mouth = context.Pipe(duplex=False)
    process = context.Process(target=attempt, args=(farm, name, out, again, limit, mouth))
    process.start()
    mouth.close()
    return process, ears


def outcome(farm: Path, name: str, out: Path, again: dict[str, Any], limit: int | None = None) -> tuple[str, str]:
    """Run a command in a process of its own to the end: kind and text of its error, or two empty texts."""
    process, ears = begin(farm, name, out, again, limit)
    try:
        found = ears.recv()
    except EOFError:
        found = ("died", "")
    process.join()
    return found
