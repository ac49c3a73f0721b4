"""The report for programs and spreadsheets, in words on the terminal, and as places to visit in QGIS."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geoseg.place_layer import write_place_layer
from geoseg.tally import Tallied, Visit
from geoseg.trials import Trial

METRICS, PER_CLASS, PER_PLACE, ERRORS = "metrics.json", "per_class.csv", "per_place.csv", "errors.gpkg"

PLACES = "places"
"""Name of the layer of `errors.gpkg`."""

FEW_BLOCKS = 10
"""Blocks of ground from which on a bootstrap over them is to be leaned on."""
_MOST_PLACES = 200

OVERALL = {
    "miou": "mean IoU (mIoU)",
    "pixel_accuracy": "pixel accuracy (PA)",
    "mean_pixel_accuracy": "mean pixel accuracy (MPA)",
    "fw_iou": "weighted IoU (FWIoU)",
    "kappa": "kappa",
    "mcc": "Matthews (MCC)",
}
"""Scores over all classes, and what people call them."""


def figure(value: float | None, digits: int = 3) -> str:
    """A score in words."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(pair: Sequence[float] | None, digits: int = 3) -> str:
    """Limits in words."""
    return "-" if pair is None else f"{pair[0]:.{digits}f} - {pair[1]:.{digits}f}"


def summary(metrics: dict[str, Any]) -> str:
    """The scores as a table for a terminal."""
    return "\n".join(_summary_lines(metrics))


def _summary_lines(metrics: dict[str, Any]) -> Iterator[str]:
    intervals = metrics["intervals"]
    yield metrics["what"]
    heads = f"{'precision':>10} {'recall':>7} {'F1':>6} {'pixels':>12} {'boundary F1':>12} {'object F1':>10}"
    yield f"{'class':<20} {'IoU':>6} {'95 % interval':>15} {heads}"
    rows = zip(
        metrics["classes"], intervals["classes"], metrics["boundary"]["classes"], metrics["objects"]["classes"],
        strict=True,
    )  # fmt: skip
    for entry, limits, boundary, objects in rows:
        scores = f"{figure(entry['iou']):>6} {interval(limits['iou']):>15} {figure(entry['precision']):>10}"
        more = f"{entry['support']:>12,} {figure(boundary['f1']):>12} {figure(objects['f1']):>10}"
        yield f"{entry['name']:<20} {scores} {figure(entry['recall']):>7} {figure(entry['f1']):>6} {more}"
    absent = [entry["name"] for entry in metrics["classes"] if entry["iou"] is None]
    if absent:
        yield f"not in the reference nor predicted, so left out of the means: {', '.join(absent)}"
    yield ""
    for key, name in OVERALL.items():
        averaged = f"averaged over {metrics['averaged_over']} {figure(metrics['chip_mean'][key])}"
        yield f"{name:<26} {figure(metrics[key]):>6} {interval(intervals[key]):>15}   {averaged}"
    if metrics["calibration"]:
        found = metrics["calibration"]
        yield f"{'calibration error (ECE)':<26} {figure(found['ece']):>6} {interval(found['intervals']['ece']):>15}"
    blocks = intervals["blocks"]
    few = f"; fewer than {FEW_BLOCKS} are too few, do not lean on them" if blocks < FEW_BLOCKS else ""
    yield f"intervals: bootstrap over {blocks} blocks of ground{few}"
    left_out = metrics["left_out"]
    if any(left_out.values()):
        yield (
            f"left out: {left_out['unlabelled']:,} pixels of the map without a reference, {left_out['unmapped']:,} of the "
            f"reference without a map"
        )
    if metrics["robustness"]:
        yield f"when the input changes: {metrics['robustness']['finding']}"
    if metrics["comparison"]:
        yield from _comparison_lines(metrics["comparison"])


def _comparison_lines(comparison: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "less the other"
    rows = zip(comparison["difference"]["classes"], comparison["intervals"]["classes"], strict=True)
    figures = [(f"IoU of {entry['name']}", entry["iou"], limits["iou"]) for entry, limits in rows]
    figures += [
        (OVERALL[key], comparison["difference"][key], comparison["intervals"][key])
        for key in ("miou", "pixel_accuracy")
    ]
    for name, value, limits in figures:
        told = "-" if value is None else f"{value:+.3f}"
        yield f"  {name:<26} {told:>7}   " + ("-" if limits is None else f"{limits[0]:+.3f} to {limits[1]:+.3f}")
    chance = comparison["mcnemar"]["blocks"]["p"]
    yield f"  McNemar over blocks: p = {'-' if chance is None else f'{chance:.3g}'}"


def sample_summary(metrics: dict[str, Any]) -> str:
    """What labelled points tell, as a table for a terminal."""
    sample = metrics["sample"]
    lines = [
        metrics["what"],
        f"{'class':<20} {'mapped ha':>14} {'estimated ha':>26} {'user acc.':>14} {'producer acc.':>14}",
    ]
    for entry in sample["classes"]:
        accuracies = f"{_plus_minus(entry['users_accuracy'], 2):>14} {_plus_minus(entry['producers_accuracy'], 2):>14}"
        lines.append(
            f"{entry['name']:<20} {entry['mapped_ha']:>14,.1f} {_plus_minus(entry['area_ha'], 1):>26} {accuracies}"
        )
    lines.append(f"overall accuracy {_plus_minus(sample['overall_accuracy'], 3)}; ± is half of a 95 % interval")
    return "\n".join(lines)


def _plus_minus(estimate: dict[str, float | None], digits: int) -> str:
    value, half = estimate["value"], estimate["half_width"]
    if value is None:
        return "-"
    return f"{value:,.{digits}f}" + ("" if half is None else f" ± {half:,.{digits}f}")


def write_sample_tables(staging: Path, metrics: dict[str, Any]) -> None:
    """Write `per_class.csv` of what labelled points tell."""
    rows = []
    for entry, scores in zip(metrics["sample"]["classes"], metrics["classes"], strict=True):
        row = {key: entry[key] for key in ("value", "name", "mapped_ha")}
        for key in ("area_ha", "users_accuracy", "producers_accuracy"):
            row |= {key: entry[key]["value"], f"{key}_error": entry[key]["error"]}
        rows.append(row | {key: scores[key] for key in ("iou", "f1", "support", "predicted")})
    _write_csv(staging / PER_CLASS, rows)


def write_tables(staging: Path, metrics: dict[str, Any], found: Tallied) -> None:
    """Write `per_class.csv` and `per_place.csv`."""
    _write_csv(staging / PER_CLASS, [dict(row) for row in _class_rows(metrics)])
    legend = [entry["name"] for entry in metrics["legend"]]
    _write_csv(staging / PER_PLACE, [_place_row(visit, legend) for visit in found.visits])


def _class_rows(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    areas = metrics["areas"]["classes"] if metrics["areas"] else [{}] * len(metrics["classes"])
    rows = zip(
        metrics["classes"], metrics["intervals"]["classes"], metrics["boundary"]["classes"],
        metrics["objects"]["classes"], areas, strict=True,
    )  # fmt: skip
    for entry, limits, boundary, objects, area in rows:
        low, high = limits["iou"] or (None, None)
        yield {
            **{key: entry[key] for key in ("value", "name", "iou")}, "iou_low": low, "iou_high": high,
            **{key: entry[key] for key in ("accuracy", "precision", "recall", "f1", "support", "predicted")},
            "boundary_iou": boundary["iou"], "boundary_f1": boundary["f1"],
            **{f"object_{key}": objects[key] for key in ("precision", "recall", "f1", "pq", "reference", "predicted")},
            **{key: area.get(key) for key in ("mapped_ha", "adjusted_ha")},
        }  # fmt: skip


def _place_row(visit: Visit, names: Sequence[str]) -> dict[str, Any]:
    place, worst = visit.place, visit.worst
    return {
        "name": place.name, "scene": place.scene, "row": place.window.row_off, "col": place.window.col_off,
        "block": place.block, "pixels": visit.pixels, "wrong_pixels": visit.wrong,
        "accuracy": 1 - visit.wrong / visit.pixels, "miou": visit.miou,
        "wrong_ha": None if place.pixel_m2 is None else visit.wrong * place.pixel_m2 / 1e4,
        "reference_class": names[worst.reference] if worst else None,
        "mapped_class": names[worst.predicted] if worst else None,
        "confused_pixels": worst.pixels if worst else 0,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """A name that spreadsheets would take for a formula begins with an apostrophe, as they write it themselves."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(_plain, rows[0]))
        writer.writerows(map(_plain, row.values()) for row in rows)


def write_places(path: Path, found: Tallied, trial: Trial) -> None:
    """Write the places with the most wrong pixels, as a layer to visit in QGIS, the worst first."""
    worst = sorted((visit for visit in found.visits if visit.wrong), key=lambda visit: -visit.wrong)[:_MOST_PLACES]
    names = trial.legend.names
    rows = [_place_row(visit, names) for visit in worst]
    columns = {name: [row[name] for row in rows] for name in _place_row(found.visits[0], names)}
    write_place_layer(path, PLACES, columns, [trial.outline(visit.place) for visit in worst])
