"""How accurate `geoseg` is beside what a user would otherwise pick: the same chips, the same processor time, another scene.

Usage: python benchmarks/accuracy.py run METHOD --chips CHIPS --scene B.tif --out FOLDER [--seed N] [--cpu-minutes 20]
       python benchmarks/accuracy.py table FOLDER --labels B_classes.tif [--without NAME|VALUE]

`run` trains METHOD on the chips and maps the scene, into FOLDER/METHOD_N.tif (with the values of the labels) and a JSON
beside it; a process per run. `table` scores all maps of a folder: means and spreads over the seeds, and the difference to
geoseg with an interval from a paired bootstrap over blocks of ground. Set OMP_NUM_THREADS=1: processor time is counted.

Methods: geoseg (with the options of `--train` and `--predict`), forest (random forest on pixels), forest-texture (on pixels
and their mean and standard deviation over 7 x 7), torchgeo, ftw and ftw-prue (ftw-tools); see README.md.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shlex
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import rasterio
import torch
from peers import Peer, fit, ftw_peer, load, map_scene, torchgeo_peer

import geoseg
from geoseg.chips import ChipFolder, open_chips
from geoseg.cli import cli
from geoseg.legend import IGNORE, Legend
from geoseg.metrics import confusion_matrix
from geoseg.progress import Progress
from geoseg.scenes import Scene, describe_scene

TREES, TREES_A_STEP = 100, 5
STRIP = 2**17  # pixels that a forest maps at a time
DRAWS = 2000


class Run:
    """One training of one method.

    Attributes:
        chips: to learn from.
        scene: to map.
        facts: what is to stand in the JSON.
        seconds: the budget of processor time.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.seed = options, options.seed
        self.chips: ChipFolder = open_chips(options.chips)
        self.scene: Scene = describe_scene(options.scene)
        self.seconds = 60 * options.cpu_minutes
        self.facts: dict[str, Any] = {
            "name": options.name or options.method, "seed": options.seed, "cpu_minutes": options.cpu_minutes,
            "legend": self.chips.legend.to_list(), "load": os.getloadavg(),
        }  # fmt: skip

    @contextmanager
    def timed(self, work: str) -> Iterator[None]:
        """Note the processor seconds of some work."""
        started = time.process_time()
        yield
        self.facts[f"{work}_cpu_seconds"] = round(time.process_time() - started, 1)


def run_geoseg(run: Run) -> np.ndarray:
    """`geoseg.train` and `geoseg.predict`; a run that does not end within the budget is cut, as by Ctrl-C."""
    with tempfile.TemporaryDirectory() as name:
        model, maps = Path(name) / "model", Path(name) / "maps"
        options = {"seed": run.seed, "device": "cpu"} | parse_options("train", run.options.train)
        run.facts |= {"train": run.options.train, "predict": run.options.predict, "cut": False}
        with run.timed("train"):
            try:
                geoseg.train(run.chips.path, out=model, progress=_stop_after(run.seconds), **options)
            except KeyboardInterrupt:
                run.facts["cut"] = True
        with run.timed("map"):
            options = {"confidence": False, "polygons": False, "device": "cpu"} | parse_options(
                "predict", run.options.predict
            )
            found = geoseg.predict(run.scene.path, model=model, out=maps, **options)[0]
        facts = json.loads((model / "model.json").read_text())["training"]
        run.facts |= {"epochs": facts["epochs_run"], "best_epoch": facts["best_epoch"]}
        with rasterio.open(found.path) as dataset:
            return run.chips.legend.to_indices(dataset.read(1))


def parse_options(verb: str, text: str) -> dict[str, Any]:
    """Options of a geoseg command, as they stand on its command line, to arguments of the function of its name."""
    context = cli.commands[verb].make_context(verb, ["input", *shlex.split(text)])
    command_line = click.core.ParameterSource.COMMANDLINE
    known = list(inspect.signature(getattr(geoseg, verb)).parameters)[1:]
    return {name: context.params[name] for name in known if context.get_parameter_source(name) is command_line}


def _stop_after(seconds: float) -> Progress:
    started = time.process_time()

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if time.process_time() - started > seconds:
            raise KeyboardInterrupt

    return stop


def run_forest(run: Run, *, texture: bool) -> np.ndarray:
    """scikit-learn's random forest with its defaults; trees are added until there are 100 or the budget is spent."""
    ensemble = load("sklearn.ensemble", "scikit-learn")
    samples, classes = [], []
    with run.timed("train"):
        started = time.process_time()
        for chip in run.chips.of("train"):
            pixels, valid, mask = run.chips.read(chip)
            labelled = valid & (mask != IGNORE)
            samples.append(_features(pixels, valid, texture)[labelled])
            classes.append(mask[labelled])
        inputs, answers = np.concatenate(samples), np.concatenate(classes)
        forest = ensemble.RandomForestClassifier(0, random_state=run.seed, warm_start=True)
        while forest.n_estimators < TREES and time.process_time() - started < run.seconds:
            forest.n_estimators += TREES_A_STEP
            forest.fit(inputs, answers)
    run.facts |= {"trees": forest.n_estimators, "pixels": len(inputs)}
    with run.timed("map"), run.scene.open() as reader:
        window = rasterio.windows.Window(0, 0, run.scene.width, run.scene.height)
        pixels, valid = reader.read(window, run.chips.image.sources)
        rows = _features(pixels, valid, texture)[valid]
        indices = np.full(valid.shape, IGNORE, np.uint8)
        indices[valid] = np.concatenate([forest.predict(rows[i : i + STRIP]) for i in range(0, len(rows), STRIP)])
    return indices


def _features(pixels: np.ndarray, valid: np.ndarray, texture: bool) -> np.ndarray:
    """Bands, and with `texture` their mean and standard deviation over the valid pixels of 7 x 7: (rows, cols, n)."""
    bands = np.where(valid, pixels, 0).astype(np.float64)
    if not texture:
        return bands.transpose(1, 2, 0).astype(np.float32)
    smooth = load("scipy.ndimage", "scipy").uniform_filter
    share = np.maximum(smooth(valid.astype(np.float64), 7, mode="constant"), 1e-9)
    mean, squares = (smooth(values, (1, 7, 7), mode="constant") / share for values in (bands, bands**2))
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    return np.concatenate([bands, mean, std]).transpose(1, 2, 0).astype(np.float32)


def run_peer(run: Run, peer: Callable[[ChipFolder], Peer]) -> np.ndarray:
    """A network of another package."""
    torch.manual_seed(run.seed)
    np.random.seed(run.seed)
    chosen = peer(run.chips)
    with run.timed("train"):
        run.facts |= fit(chosen, run.chips, batch_size=run.options.batch_size, seconds=run.seconds)
    run.facts |= {"versions": chosen.versions, "batch_size": run.options.batch_size}
    with run.timed("map"):
        return map_scene(chosen, run.scene, run.chips.image)


METHODS: dict[str, Callable[[Run], np.ndarray]] = {
    "geoseg": run_geoseg,
    "forest": lambda run: run_forest(run, texture=False),
    "forest-texture": lambda run: run_forest(run, texture=True),
    "torchgeo": lambda run: run_peer(run, torchgeo_peer),
    "ftw": lambda run: run_peer(run, lambda chips: ftw_peer(chips, "ce", run.options.ftw_epochs)),
    "ftw-prue": lambda run: run_peer(run, lambda chips: ftw_peer(chips, "logcoshdice", run.options.ftw_epochs)),
}


def run_method(options: argparse.Namespace) -> None:
    """Train, map, and write the map and its JSON."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = Run(options)
    started = time.monotonic()
    indices = METHODS[options.method](run)
    run.facts["seconds"] = round(time.monotonic() - started, 1)
    legend = run.chips.legend
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{run.facts['name']}_{run.seed}.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=run.scene.height, width=run.scene.width, count=1, dtype=legend.dtype,
        nodata=legend.nodata, crs=run.scene.crs, transform=run.scene.transform, compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(legend.to_values(indices), 1)
    path.with_suffix(".json").write_text(json.dumps(run.facts, indent=1) + "\n")
    print(json.dumps({name: value for name, value in run.facts.items() if name != "legend"}))


def block_confusions(labels: np.ndarray, found: np.ndarray, classes: int, size: int) -> np.ndarray:
    """Confusion matrices (blocks, classes, classes) of square blocks of class indices (rows, cols)."""
    corners = [(row, col) for row in range(0, labels.shape[0], size) for col in range(0, labels.shape[1], size)]
    windows = [(slice(row, row + size), slice(col, col + size)) for row, col in corners]
    return np.stack([confusion_matrix(labels[window], found[window], classes) for window in windows])


def figures(confusion: np.ndarray, without: int | None) -> np.ndarray:
    """IoU per class, their mean, and the mean without one class if any: (..., classes, classes) to (..., figures)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = hits / (confusion.sum(-1) + confusion.sum(-2) - hits)
    means = [np.nanmean(iou, -1)]
    if without is not None:
        means.append(np.nanmean(np.delete(iou, without, -1), -1))
    return np.concatenate([iou, np.stack(means, -1)], -1)


def print_table(options: argparse.Namespace) -> None:
    """Scores of all maps of a folder, then their differences to one method."""
    warnings.simplefilter("ignore", RuntimeWarning)  # a class may be missing from every block that was drawn
    runs = [json.loads(path.read_text()) for path in sorted(options.folder.glob("*.json"))]
    if not runs:
        raise SystemExit(f"{options.folder}: no maps in this folder; make some with: accuracy.py run")
    legend = Legend.from_list(runs[0]["legend"])
    without = None if options.without is None else legend.index(options.without)
    heads = [*legend.names, "mIoU", *([] if without is None else [f"mIoU without {legend.names[without]}"])]
    confusions = _read_maps(options, runs, legend)
    _print_row("method", ["seeds", "train, CPU min", *heads], head=True)
    for name, found in confusions.items():
        each = figures(found.sum(axis=1), without)
        spread = [f" ± {std:.3f}" for std in each.std(axis=0, ddof=1)] if len(each) > 1 else [""] * len(heads)
        minutes = np.mean([run["train_cpu_seconds"] for run in runs if run["name"] == name]) / 60
        cells = [f"{mean:.3f}{std}" for mean, std in zip(each.mean(axis=0), spread, strict=True)]
        _print_row(name, [str(len(each)), f"{minutes:.1f}", *cells])
    if options.against in confusions and len(confusions) > 1:
        focus = legend.index(options.focus) if options.focus else int(legend.background == 0)
        _print_differences(confusions, options.against, [focus, *range(len(legend), len(heads))], heads, without)


def _read_maps(options: argparse.Namespace, runs: Sequence[dict[str, Any]], legend: Legend) -> dict[str, np.ndarray]:
    """Confusion matrices of each method, (seeds, blocks, classes, classes)."""
    with rasterio.open(options.labels) as dataset:
        labels = legend.to_indices(dataset.read(1))
    methods: dict[str, list[np.ndarray]] = {}
    for run in runs:
        with rasterio.open(options.folder / f"{run['name']}_{run['seed']}.tif") as dataset:
            found = legend.to_indices(dataset.read(1))
        methods.setdefault(run["name"], []).append(block_confusions(labels, found, len(legend), options.block))
    if len({int(confusion.sum()) for found in methods.values() for confusion in found}) > 1:
        raise SystemExit(
            f"{options.folder}: maps that do not cover the same pixels cannot be compared; make them again"
        )
    return {name: np.stack(found) for name, found in methods.items()}


def _print_differences(
    confusions: dict[str, np.ndarray], against: str, columns: list[int], heads: list[str], without: int | None
) -> None:
    """Differences of the means over the seeds, with 95 % intervals: the same blocks are drawn for both methods.

    Blocks without a labelled pixel do not count; limits are percentiles of the draws, as in
    `geoseg.intervals.score_intervals`.
    """
    counted = confusions[against].sum(axis=(0, 2, 3)) > 0
    blocks = int(counted.sum())
    draws = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), DRAWS)
    draws[0] = 1  # not a draw, but what was found

    def means(found: np.ndarray) -> np.ndarray:
        drawn = np.einsum("db,sbij->dsij", draws, found[:, counted].astype(np.float64), optimize=True)
        return figures(drawn, without).mean(axis=1)[:, columns]

    print(f"\n{against} less the other method, and the 95 % interval of {DRAWS} draws of {blocks} blocks\n")
    _print_row("other", [heads[column] for column in columns], head=True)
    own = means(confusions[against])
    for name, found in confusions.items():
        if name != against:
            difference = own - means(found)
            low, high = np.nanquantile(difference[1:], (0.025, 0.975), axis=0)
            cells = zip(difference[0], low, high, strict=True)
            _print_row(name, [f"{found:+.3f} [{least:+.3f}, {most:+.3f}]" for found, least, most in cells])


def _print_row(first: str, cells: Sequence[str], *, head: bool = False) -> None:
    print("| " + " | ".join([first, *cells]) + " |")
    if head:
        print("|---" * (len(cells) + 1) + "|")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("method", choices=METHODS)
    run.add_argument("--chips", type=Path, required=True, help="made by geoseg tile, of another scene")
    run.add_argument("--scene", type=Path, required=True, help="to map")
    run.add_argument("--out", type=Path, required=True, help="folder of the maps")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--cpu-minutes", type=float, default=20, help="of training")
    run.add_argument("--name", help="of the maps and in the table, if not that of the method")
    run.add_argument("--train", default="", help="options of geoseg train, such as '--epochs 60'")
    run.add_argument("--predict", default="", help="options of geoseg predict, such as '--tta d4'")
    run.add_argument("--batch-size", type=int, default=8, help="of the networks of other packages")
    run.add_argument("--ftw-epochs", type=int, default=100, help="length of its cosine: as many as the budget allows")
    run.set_defaults(command=run_method)
    table = commands.add_parser("table")
    table.add_argument("folder", type=Path)
    table.add_argument("--labels", type=Path, required=True, help="of the scene, on its grid")
    table.add_argument("--against", default="geoseg", help="whose lead is shown")
    table.add_argument("--focus", help="class whose lead is shown; the first that is not background if not given")
    table.add_argument("--without", help="class that a second mean leaves out")
    table.add_argument("--block", type=int, default=128, help="rows and columns of a block of ground")
    table.set_defaults(command=print_table)
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
