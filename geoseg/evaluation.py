"""The verb `evaluate`: how far a model, or a map, can be trusted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import geoseg
from geoseg.bundle import open_bundle
from geoseg.chips import ChipFolder
from geoseg.choices import Precision, SplitName, Unlabelled
from geoseg.errors import Faults, InputError, LabelError, MismatchError
from geoseg.files import refuse_existing, stage, write_json
from geoseg.grid import grid
from geoseg.labels import LabelReader, is_vector, open_label_raster, read_legend
from geoseg.legend import IGNORE, Legend, parse_legend
from geoseg.metrics import bootstrap_intervals, chip_mean, confusion_matrix, scores
from geoseg.pictures import open_samples
from geoseg.polygon_labels import PolygonLabels, read_polygons
from geoseg.predictor import Predictor
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache, open_raster
from geoseg.scenes import Scene, describe_scene

METRICS = "metrics.json"
PER_CLASS = "per_class.csv"
_FORMAT = 1
_BLOCK = 256
"""Pixels per side of the blocks of ground that a pair of maps is cut into for the bootstrap."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on chips, or of a map against a reference.

    Attributes:
        path: the report folder.
        metrics: what stands in metrics.json.
    """

    path: Path
    metrics: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        metrics = self.metrics
        lines = [
            f"{metrics['what']}",
            f"{'class':<20} {'IoU':>6} {'95 % interval':>15} {'precision':>10} {'recall':>7} {'F1':>6} {'pixels':>12}",
        ]
        for entry, limits in zip(metrics["classes"], metrics["intervals"]["classes"], strict=True):
            figures = f"{_figure(entry['iou']):>6} {_interval(limits['iou']):>15} {_figure(entry['precision']):>10}"
            lines.append(
                f"{entry['name']:<20} {figures} {_figure(entry['recall']):>7} {_figure(entry['f1']):>6} {entry['support']:>12,}"
            )
        absent = [entry["name"] for entry in metrics["classes"] if entry["iou"] is None]
        if absent:
            lines.append(f"not in the reference nor predicted, so left out of the means: {', '.join(absent)}")
        lines.append("")
        for key, name in _OVERALL.items():
            limits = metrics["intervals"].get(key)
            averaged = f"averaged over {metrics['averaged_over']} {_figure(metrics['chip_mean'][key])}"
            lines.append(f"{name:<26} {_figure(metrics[key]):>6} {_interval(limits):>15}   {averaged}")
        lines.append(f"intervals: bootstrap over {metrics['intervals']['blocks']} blocks of ground")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What stands in metrics.json."""
        return self.metrics


_OVERALL = {
    "miou": "mean IoU (mIoU)",
    "pixel_accuracy": "pixel accuracy (PA)",
    "mean_pixel_accuracy": "mean pixel accuracy (MPA)",
    "fw_iou": "weighted IoU (FWIoU)",
    "kappa": "kappa",
}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(limits: list[float] | None) -> str:
    return "-" if limits is None else f"{limits[0]:.3f} - {limits[1]:.3f}"


def evaluate(
    chips: str | Path = "chips",
    reference: str | Path | None = None,
    *,
    model: str | Path = "model",
    split: SplitName = "test",
    out: str | Path = "report",
    classes: str | Path | None = None,
    class_field: str | None = None,
    unlabelled: Unlabelled = "background",
    bootstrap: int = 1000,
    batch_size: int = 4,
    precision: Precision = "auto",
    device: str = "auto",
    threshold: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Score a model on the chips of a split, or a class raster against a reference.

    Args:
        chips: a chip folder; or, with a `reference`, a predicted class raster.
        reference: a mask raster or a polygon file, on any grid and in any CRS; it is laid on the prediction's grid.
        model: a bundle made by `train`; not used with a `reference`.
        split: which chips.
        out: the report folder.
        classes: of a pair of maps, where the prediction does not carry its legend.
        class_field: column of a polygon reference that tells the class.
        unlabelled: what pixels outside every polygon of a reference are: `background`, or `ignore`.
        bootstrap: draws for the confidence intervals.
        batch_size: chips a step.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threshold: of a one-channel model: least probability of the second class where a pixel is said to be of it, above
            0 and below 1; None takes the model's own. Not with a `reference`.
        seed: of the bootstrap.
        overwrite: replace an earlier report.
        progress: called now and then.

    Returns:
        The scores, as they stand in the report.

    Raises:
        GeosegError: bad input; nothing is left behind.
    """
    faults = Faults()
    with faults.collect():
        refuse_existing([Path(out) / METRICS], overwrite)
        if bootstrap < 1:
            raise InputError(f"--bootstrap {bootstrap}: 1 draw or more is needed")
        if threshold is not None and reference is not None:
            raise InputError(f"--threshold {threshold}: {chips} is a map already; give it to geoseg predict instead")
    with faults.collect(), bounded_cache():
        if reference is None:
            legend, what, parts = _chip_confusions(chips, model, split, batch_size, precision, device, threshold)
        else:
            legend, what, parts = _pair_confusions(Path(chips), Path(reference), classes, class_field, unlabelled)
    faults.raise_any()
    with stage(out, last=METRICS, replaces=[PER_CLASS], overwrite=overwrite) as staging, bounded_cache():
        blocks, confusions = [], []
        for done, (total, block, confusion) in enumerate(parts, 1):
            blocks.append(block)
            confusions.append(confusion)
            progress("evaluate", done, total)
        squares = "chips" if reference is None else f"squares of {_BLOCK} pixels"
        metrics = _document(legend, what, squares, np.array(blocks), np.stack(confusions), bootstrap, seed)
        _write_table(staging / PER_CLASS, metrics)
        write_json(staging / METRICS, metrics)
    return Evaluation(Path(out), metrics)


_Parts = Iterator[tuple[int, int, np.ndarray]]
"""How many parts there are, the block of ground of this one, and its confusion matrix."""


def _chip_confusions(
    chips: str | Path, model: str | Path, split: str, batch_size: int, precision: Precision, device: str,
    threshold: float | None,
) -> tuple[Legend, str, _Parts]:  # fmt: skip
    folder, bundle = open_samples(chips), open_bundle(model)
    if folder.legend.values != bundle.legend.values:
        raise MismatchError(
            f"{folder.path}: classes {folder.legend} found, the model knows {bundle.legend}; evaluate on its own chips"
        )
    if folder.image.names != bundle.image.names or folder.image.dtypes != bundle.image.dtypes:
        raise MismatchError(
            f"{folder.path}: bands {', '.join(folder.image.names)} found, the model takes {', '.join(bundle.image.names)}"
        )
    if not folder.of(split):
        raise InputError(f"{folder.path}: no chips in the {split} split; make the chips with another --split")
    predictor = Predictor(bundle, device=device, precision=precision, threshold=threshold)
    what = f"{bundle.path} on {len(folder.of(split))} {split} chips of {folder.path}"
    return folder.legend, what, _predict_chips(folder, split, predictor, batch_size)


def _predict_chips(folder: ChipFolder, split: str, predictor: Predictor, batch_size: int) -> _Parts:
    chosen = folder.of(split)
    for start in range(0, len(chosen), batch_size):
        read = [(chip, *folder.read(chip)) for chip in chosen[start : start + batch_size]]
        for _, same in groupby(read, key=lambda entry: entry[3].shape):  # pictures differ in size
            batch = list(same)
            found = predictor([(pixels, valid) for _, pixels, valid, _ in batch])
            for (chip, _, _, mask), prediction in zip(batch, found, strict=True):
                yield len(chosen), chip.block, confusion_matrix(mask, prediction.indices, len(folder.legend))


def _pair_confusions(
    predicted: Path, reference: Path, classes: str | Path | None, class_field: str | None, unlabelled: Unlabelled
) -> tuple[Legend, str, _Parts]:
    if is_vector(predicted):
        raise InputError(f"{predicted}: the first of a pair must be a class raster; the reference may be polygons")
    scene = describe_scene(predicted)
    legend = parse_legend(classes) if classes else read_legend(predicted)
    if legend is None:
        raise InputError(
            f"{predicted}: carries no legend of geoseg's; name the classes with --classes 0=background,1=..."
        )
    stack = ExitStack()
    if is_vector(reference):
        polygons = read_polygons(reference, class_field=class_field, classes=legend)
        labels: LabelReader = PolygonLabels(polygons, scene, legend=legend, unlabelled=unlabelled)
    else:
        with stack:
            labels = stack.enter_context(open_label_raster(reference, scene, classes=None, nodata=None))
            stack = stack.pop_all()
    return legend, f"{predicted} against {reference}", _compare(scene, labels, legend, reference, stack)


def _compare(scene: Scene, labels: LabelReader, legend: Legend, reference: Path, stack: ExitStack) -> _Parts:
    total = -(-scene.height // _BLOCK) * -(-scene.width // _BLOCK)
    with stack, open_raster(scene.paths[0]) as dataset:
        for number, tile in enumerate(grid(scene.height, scene.width, _BLOCK)):
            found = dataset.read(1, window=tile.core)
            if found.dtype.kind not in "u":
                raise InputError(f"{scene.path}: {found.dtype} found; a class raster is uint8 or uint16")
            valid = dataset.read_masks(1, window=tile.core) > 0
            predicted = np.where(valid, legend.to_indices(found), IGNORE).astype(np.uint8)
            values, known = labels.read(tile.core)
            strays = set(np.unique(values[known]).tolist()) - set(legend.values)
            if strays:
                raise LabelError(
                    f"{reference}: label values {sorted(strays)[:8]} are not in the prediction's legend ({legend}); "
                    f"map them to it first, or name them with --classes"
                )
            truth = np.where(known, legend.to_indices(values), IGNORE).astype(np.uint8)
            yield total, number, confusion_matrix(truth, predicted, len(legend))


def _document(
    legend: Legend, what: str, averaged_over: str, blocks: np.ndarray, confusions: np.ndarray, bootstrap: int, seed: int
) -> dict[str, Any]:
    pooled = confusions.sum(axis=0)
    if not pooled.any():
        raise LabelError(f"{what}: no pixel is both predicted and labelled; check that the two overlap")
    _, positions = np.unique(blocks, return_inverse=True)
    by_block = np.zeros((positions.max() + 1, *pooled.shape), np.int64)
    np.add.at(by_block, positions, confusions)
    return {
        "format": _FORMAT,
        "geoseg_version": geoseg.__version__,
        "what": what,
        "legend": legend.to_list(),
        **scores(pooled, legend),
        "averaged_over": averaged_over,
        "chip_mean": chip_mean(confusions[confusions.any(axis=(1, 2))], legend),
        "intervals": bootstrap_intervals(by_block, legend, samples=bootstrap, seed=seed),
    }


def _write_table(path: Path, metrics: dict[str, Any]) -> None:
    columns = ["value", "name", "iou", "iou_low", "iou_high", "precision", "recall", "f1", "support", "predicted"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for entry, limits in zip(metrics["classes"], metrics["intervals"]["classes"], strict=True):
            low, high = limits["iou"] or (None, None)
            writer.writerow({**entry, "iou_low": low, "iou_high": high})
