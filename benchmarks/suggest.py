"""Does a model learn more from the windows that `geoseg suggest` names than from as many drawn at random?

Usage: python benchmarks/suggest.py run --scene A.tif --labels A_classes.tif --out FOLDER [--seeds 0,1,2]
                                        [--judge B.tif --judge-labels B_classes.tif]
       python benchmarks/suggest.py table FOLDER

The scene is cut into chips of 64 x 64 pixels, of which a quarter, in blocks of ground, is held out. From the others each seed
draws 2.5 % at random. One arm adds random chips until 5, 10 and 20 % are labelled. The other trains on what it has, asks
`geoseg.suggest` for as many windows as are lacking, on the scene without the ground that is held out, and goes on so. Each time a
network is trained anew with the same number of steps, and judged on the held-out chips, and on all of another scene.
Set OMP_NUM_THREADS=1 and run seeds side by side.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

import geoseg
from geoseg.bundle import open_bundle
from geoseg.chips import INDEX, Chip, ChipFolder, open_chips
from geoseg.metrics import confusion_matrix, scores
from geoseg.predictor import Predictor

SIZE, START, SHARES = 64, 0.025, (0.05, 0.1, 0.2)
STEPS, BATCH, WIDTH = 1000, 8, 16
ARMS = ("random", "suggest")


def prepare(options: argparse.Namespace) -> tuple[ChipFolder, ChipFolder | None, Path]:
    """The chips, those of the other scene, and the scene without the ground of the held-out chips."""
    out = options.out
    if not (out / "chips" / INDEX).exists():
        geoseg.tile(options.scene, labels=options.labels, out=out / "chips", chip_size=SIZE, split="3:0:1")
    chips, other, pool = open_chips(out / "chips"), None, out / "pool.tif"
    if options.judge and not (out / "judge" / INDEX).exists():
        geoseg.tile(options.judge, labels=options.judge_labels, out=out / "judge", chip_size=SIZE, split="1:0:0")
    if options.judge:
        other = open_chips(out / "judge")
    if not pool.exists():
        shutil.copy(options.scene, pool)
        pool.chmod(0o644)
        with rasterio.open(pool, "r+") as dataset:
            kept = {(chip.row, chip.col) for chip in chips.of("train")}
            for row in range(0, dataset.height, SIZE):
                for col in range(0, dataset.width, SIZE):
                    if (row, col) not in kept:
                        rows, cols = min(SIZE, dataset.height - row), min(SIZE, dataset.width - col)
                        nothing = np.full((dataset.count, rows, cols), dataset.nodata, dataset.dtypes[0])
                        dataset.write(nothing, window=Window(col, row, cols, rows))
    return chips, other, pool


def train_on(chips: ChipFolder, chosen: Sequence[Chip], folder: Path, seed: int) -> Path:
    """Train on some of the chips: a folder of their own, with their images and the footprints of no others."""
    shutil.rmtree(folder, ignore_errors=True)
    subset = folder / "chips"
    subset.mkdir(parents=True)
    document = json.loads((chips.path / INDEX).read_text())
    names = {chip.name for chip in chosen}
    document["chips"] = [
        entry for entry, chip in zip(document["chips"], chips.chips, strict=True) if chip.name in names
    ]
    (subset / INDEX).write_text(json.dumps(document))
    (subset / "train").symlink_to((chips.path / "train").resolve())
    epochs = max(STEPS // -(-len(chosen) // BATCH), 1)
    model = folder / "model"
    geoseg.train(
        subset, out=model, epochs=epochs, batch_size=BATCH, crop=0, width=WIDTH, seed=seed, workers=0, device="cpu"
    )
    return model


def write_outlines(chips: ChipFolder, chosen: Sequence[Chip], path: Path) -> Path:
    """The footprints of some chips."""
    import geopandas as gpd

    table = gpd.read_file(chips.path / "index.gpkg")
    table[table["chip"].isin({chip.name for chip in chosen})].to_file(path, driver="GPKG")
    return path


def judge(model: Path, folder: ChipFolder, chips: Sequence[Chip]) -> dict[str, Any]:
    """Scores on chips."""
    predictor, total = Predictor(open_bundle(model), device="cpu"), 0
    for start in range(0, len(chips), 32):
        read = [folder.read(chip) for chip in chips[start : start + 32]]
        found = predictor([(pixels, valid) for pixels, valid, _ in read])
        for (_, _, mask), told in zip(read, found, strict=True):
            total = total + confusion_matrix(mask, told.indices, len(folder.legend))
    result = scores(np.asarray(total), folder.legend)
    return {"miou": result["miou"], "iou": [entry["iou"] for entry in result["classes"]]}


def run(options: argparse.Namespace) -> None:
    """Both arms of each seed; a line of JSON per training."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    chips, other, pool_scene = prepare(options)
    pool = chips.of("train")
    by_place = {(chip.row, chip.col): chip for chip in pool}
    for seed in map(int, options.seeds.split(",")):
        order = np.random.default_rng(seed).permutation(len(pool))
        drawn = [pool[index] for index in order]
        for arm in options.arms.split(","):
            known = drawn[: max(round(START * len(pool)), 2)]
            model = train_on(chips, known, options.out / f"{seed}_{arm}_start", seed) if arm == "suggest" else None
            for share in SHARES:
                count, began = round(share * len(pool)), time.monotonic()
                if model is None:
                    known = drawn[:count]
                else:
                    outlines = write_outlines(chips, known, options.out / f"labelled_{seed}.gpkg")
                    told = geoseg.suggest(
                        pool_scene, model=model, labelled=outlines, count=count - len(known), overwrite=True,
                        out=options.out / f"suggest_{seed}_{count}.gpkg", device="cpu",
                    )  # fmt: skip
                    known = [*known, *(by_place[entry["row"], entry["col"]] for entry in told.windows)]
                trained = train_on(chips, known, options.out / f"{seed}_{arm}_{count}", seed)
                model = trained if arm == "suggest" else None
                facts = {
                    "seed": seed, "arm": arm, "share": share, "chips": len(known),
                    "held out": judge(trained, chips, chips.of("test")),
                    "other scene": None if other is None else judge(trained, other, other.chips),
                    "seconds": round(time.monotonic() - began),
                }  # fmt: skip
                with open(options.out / f"results_{seed}.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(facts) + "\n")
                print(json.dumps(facts), flush=True)


def table(options: argparse.Namespace) -> None:
    """Means over the seeds, and the lead of the suggested windows seed by seed."""
    rows = [
        json.loads(line)
        for path in sorted(options.folder.glob("results_*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    print("| judged on | score | labels | random | suggested | lead, by seed |\n|---|---|---|---|---|---|")
    for ground in ("held out", "other scene"):
        if not all(row[ground] for row in rows):
            continue
        for name, pick in (
            ("mIoU", lambda found: found["miou"]),
            ("IoU of the first class", lambda found: found["iou"][0]),
        ):
            for share in SHARES:
                found = {(row["arm"], row["seed"]): pick(row[ground]) for row in rows if row["share"] == share}
                seeds = [
                    seed for seed in sorted({seed for _, seed in found}) if all((arm, seed) in found for arm in ARMS)
                ]
                arms = {arm: [found[arm, seed] for seed in seeds] for arm in ARMS}
                leads = " ".join(f"{b - a:+.3f}" for a, b in zip(*arms.values(), strict=True))
                means = " | ".join(f"{np.mean(values):.3f}" for values in arms.values())
                print(f"| {ground} | {name} | {100 * share:g} % | {means} | {leads} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    for name in ("scene", "labels", "judge", "judge-labels"):
        one.add_argument(f"--{name}", type=Path, required=name in ("scene", "labels"))
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--seeds", default="0,1,2")
    one.add_argument("--arms", default=",".join(ARMS))
    one.set_defaults(command=run)
    two = commands.add_parser("table")
    two.add_argument("folder", type=Path)
    two.set_defaults(command=table)
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
