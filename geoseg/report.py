"""The report that an analyst can sign: one HTML file that needs no network and prints well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from geoseg import report_figures as figures
from geoseg.calibration import threshold_curves
from geoseg.legend import Legend
from geoseg.report_tables import FEW_BLOCKS, OVERALL, figure, interval
from geoseg.tally import Tallied, View
from geoseg.trials import Trial

_FEW_CLASSES = 12
"""Classes up to which a confusion matrix and curves can be read."""


def write_report(path: Path, metrics: dict[str, Any], found: Tallied, trial: Trial) -> None:
    """Write the report.

    Args:
        path: a staged .html.
        metrics: what stands in metrics.json.
        found: for the figures.
        trial: for pictures of places.
    """
    text = _template("report.html.jinja").render(
        m=metrics, names=OVERALL, main=_main_class(metrics), cautions=_cautions(metrics),
        chip_curve=figures.chip_curve(found.visits, metrics["miou"], metrics["averaged_over"]),
        maps=figures.place_maps(found.visits), scenes=len({visit.place.scene for visit in found.visits}),
        reliability=figures.reliability_curve(metrics["calibration"]["curve"]) if metrics["calibration"] else "",
        thresholds=_thresholds(found, metrics, trial), matrix=_matrix(metrics),
        galleries=[(title, [_shown(view, trial) for view in views]) for title, views in _views(found)],
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")


def write_sample_report(path: Path, metrics: dict[str, Any]) -> None:
    """Write the report of what labelled points tell of a map.

    Args:
        path: a staged .html.
        metrics: what stands in metrics.json.
    """
    cautions, sample = [], metrics["sample"]
    if sample["unsampled_ha"]:
        cautions.append(
            f"{sample['unsampled_ha']:,.1f} ha are strata without a labelled point: nothing is told of them."
        )
    unsure = [entry["name"] for entry in sample["classes"] if entry["area_ha"]["error"] is None]
    if unsure:
        cautions.append("A stratum has a single labelled point, so there are no intervals: label more.")
    if sample["strata"] == "map":
        cautions.append(
            "The points do not tell how they were drawn: they are taken for a simple random sample. Points put where one likes, "
            "or along roads, give wrong areas and intervals."
        )
    text = _template("sample_report.html.jinja").render(
        m=metrics, names=OVERALL, main=_main_class(metrics), cautions=cautions
    )
    path.write_text(text, encoding="utf-8")


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("geoseg", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "figure": figure, "interval": interval, "percent": _percent, "percent_interval": _percent_interval,
        "count": "{:,}".format, "signed": _signed, "signed_interval": _signed_interval, "hectares": _hectares,
    }  # fmt: skip
    return environment.get_template(name)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _signed_interval(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:+.3f} to {pair[1]:+.3f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _percent_interval(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{100 * pair[0]:.1f} - {100 * pair[1]:.1f} %"


def _hectares(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _main_class(metrics: dict[str, Any]) -> int:
    """The class that the report speaks of first: the first that is not the background."""
    present = [index for index, entry in enumerate(metrics["classes"]) if entry["iou"] is not None]
    background = Legend.from_list(metrics["legend"]).background
    return next((index for index in present if index != background), present[0])


def _cautions(metrics: dict[str, Any]) -> list[str]:
    """What a reader must know before leaning on the figures."""
    found, blocks = [], metrics["intervals"]["blocks"]
    if blocks < FEW_BLOCKS:
        found.append(
            f"The test ground is only {blocks} block{'s' * (blocks != 1)} of ground: "
            + ("there are no intervals." if blocks < 2 else "the intervals are too narrow, do not lean on them.")
        )
    leak = metrics["provenance"].get("split", {}).get("shared_ground")
    if leak:
        found.append(
            f"{100 * leak:.1f} % of the ground of validation and test chips is in another split too: the scores are too good."
        )
    if metrics["provenance"].get("chips", {}).get("split") == "train":
        found.append(
            "These are training chips: if the model has learned from them, the scores say nothing of other ground."
        )
    if known := metrics["provenance"].get("on_ground_of_training"):
        found.append(
            f"The model has learned from scenes of the same ground ({', '.join(known)}): the scores are too good."
        )
    absent = [entry["name"] for entry in metrics["classes"] if entry["iou"] is None]
    if absent:
        found.append(f"Neither in the reference nor on the map, so left out of the means: {', '.join(absent)}.")
    return found


def _thresholds(found: Tallied, metrics: dict[str, Any], trial: Trial) -> str:
    if found.shares is None:
        return ""
    pooled = found.shares.sum(axis=0)
    shown = [index for index, entry in enumerate(metrics["classes"]) if entry["support"]][:_FEW_CLASSES]
    return figures.threshold_figure(threshold_curves(pooled), trial.legend, shown)


def _matrix(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the confusion matrix, with the share of each reference class that is mapped as each class."""
    names = [entry["name"] for entry in metrics["classes"]]
    if len(names) > _FEW_CLASSES:
        return []
    rows = []
    for index, (name, pixels) in enumerate(zip(names, metrics["confusion"], strict=True)):
        total = sum(pixels)
        cells = [
            {"pixels": count, "share": count / total if total else 0.0, "right": index == column}
            for column, count in enumerate(pixels)
        ]
        rows.append({"name": name, "total": total, "cells": cells})
    return rows


def _views(found: Tallied) -> list[tuple[str, list[View]]]:
    """The worst places, and the best ones that are not among them."""
    worst = [view.visit.place for view in found.worst]
    return [("The worst", found.worst), ("The best", [view for view in found.best if view.visit.place not in worst])]


def _shown(view: View, trial: Trial) -> dict[str, Any]:
    visit, worst = view.visit, view.visit.worst
    told = ""
    if worst:
        names = trial.legend.names
        told = f"{names[worst.reference]} taken for {names[worst.predicted]}: {worst.pixels:,} pixels"
    images = figures.gallery_row(view, trial.legend, trial.picture(visit.place))
    return {
        "name": visit.place.name,
        "miou": visit.miou,
        "wrong": visit.wrong / visit.pixels,
        "told": told,
        "images": images,
    }
