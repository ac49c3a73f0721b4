"""From what was counted to all that is known about a map: the document that the report and metrics.json are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geoseg.boundary_scores import boundary_scores
from geoseg.calibration import calibration_scores, curve_scores, reliability
from geoseg.comparison import mcnemar, score_differences
from geoseg.intervals import intervals_of, score_intervals
from geoseg.legend import Legend
from geoseg.mapped_area import area_table
from geoseg.metrics import chip_mean, class_counts, pixel_scores, scores, tabulate
from geoseg.object_scores import object_scores
from geoseg.tally import Tallied


@dataclass(frozen=True)
class Yardstick:
    """What the scores depend on beside the maps.

    Attributes:
        tolerance: of boundaries, in pixels.
        iou_threshold: from which on objects are matched.
        bootstrap: draws for the intervals.
        seed: of the draws.
    """

    tolerance: float
    iou_threshold: float
    bootstrap: int
    seed: int


def assess(found: Tallied, legend: Legend, yardstick: Yardstick, pixel_size_m: float | None) -> dict[str, Any]:
    """All scores with their intervals, as they stand in metrics.json."""
    draws: dict[str, Any] = {"samples": yardstick.bootstrap, "seed": yardstick.seed}
    counts = class_counts(found.confusions)
    pooled = found.confusions.sum(axis=0)
    return {
        **scores(pooled, legend),
        "chip_mean": chip_mean(np.stack([visit.counts for visit in found.visits]), legend),
        "intervals": score_intervals(counts, pixel_scores, legend, **draws),
        "left_out": {"unlabelled": found.unlabelled, "unmapped": found.unmapped},
        "boundary": {
            "tolerance": yardstick.tolerance,
            "tolerance_m": yardstick.tolerance * pixel_size_m if pixel_size_m else None,
            **tabulate(boundary_scores(found.boundaries.sum(axis=0)), legend),
            "intervals": score_intervals(found.boundaries, boundary_scores, legend, **draws),
        },
        "objects": {
            "iou_threshold": yardstick.iou_threshold,
            **tabulate(
                object_scores(objects := found.objects.sum(axis=0)), legend, reference=objects[0], predicted=objects[1]
            ),
            "intervals": score_intervals(found.objects, object_scores, legend, **draws),
        },
        "calibration": _calibration(found, legend, draws),
        "areas": _areas(found, legend, draws),
        "comparison": _comparison(found, legend, draws),
        "sample": None,
    }


def assess_points(estimated: dict[str, Any], legend: Legend) -> dict[str, Any]:
    """What labelled points tell, as it stands in metrics.json: `sample`, and the scores of the areas that they stand for.

    Args:
        estimated: see `geoseg.point_estimates.estimate_areas`.
        legend: the classes.
    """
    counts = np.array(estimated["counts"])
    found = pixel_scores(class_counts(np.array(estimated["matrix_ha"])))
    nothing = (
        "chip_mean",
        "intervals",
        "left_out",
        "boundary",
        "objects",
        "calibration",
        "areas",
        "comparison",
        "robustness",
    )
    return {
        **tabulate(found, legend, support=counts.sum(axis=1), predicted=counts.sum(axis=0)),
        "confusion": counts.tolist(),
        **dict.fromkeys(nothing),
        "sample": estimated,
        "averaged_over": None,
    }


def _calibration(found: Tallied, legend: Legend, draws: dict[str, Any]) -> dict[str, Any] | None:
    """Reliability of the confidence, and per class what thresholds on its probability would bring."""
    if found.confidence is None:
        return None
    pooled = found.confidence.sum(axis=0)
    figures, limits = calibration_scores(pooled), intervals_of(found.confidence, calibration_scores, **draws)
    if found.shares is not None:
        figures |= curve_scores(found.shares.sum(axis=0))
        limits |= intervals_of(found.shares, curve_scores, **draws)
    curve = reliability(pooled)
    columns = {name: values[curve["pixels"] > 0].tolist() for name, values in curve.items()}
    return {
        **tabulate(figures, legend),
        "curve": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        "intervals": tabulate(limits, legend, pairs=True),
    }


def _areas(found: Tallied, legend: Legend, draws: dict[str, Any]) -> dict[str, Any] | None:
    if found.mapped_m2 is None:
        return None
    counted = int(found.confusions.sum())
    return area_table(found.confusions, found.mapped_m2, counted / (counted + found.unlabelled), legend, **draws)


def _comparison(found: Tallied, legend: Legend, draws: dict[str, Any]) -> dict[str, Any] | None:
    if found.other is None or found.disagreement is None:
        return None
    maps = {"this": found.other[:, 0], "other": found.other[:, 1]}
    return {
        **{name: tabulate(pixel_scores(counts.sum(axis=0)), legend) for name, counts in maps.items()},
        **score_differences(maps["this"], maps["other"], pixel_scores, legend, **draws),
        "mcnemar": mcnemar(found.disagreement),
    }
