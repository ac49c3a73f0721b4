"""What `evaluate` does: count or estimate, assess, and write the report into a staged folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from geoseg.assessment import Yardstick, assess, assess_points
from geoseg.boundary_scores import boundary_margin
from geoseg.class_map import ClassMap, open_class_map
from geoseg.errors import InputError, LabelError
from geoseg.labels import is_vector
from geoseg.legend import Legend
from geoseg.map_pairs import PairOptions
from geoseg.point_estimates import estimate_areas
from geoseg.progress import Progress
from geoseg.reference_points import ReferencePoints, read_points
from geoseg.report import write_report, write_sample_report
from geoseg.report_tables import ERRORS, PER_CLASS, PER_PLACE, write_places, write_sample_tables, write_tables
from geoseg.robustness import explain, measure_robustness
from geoseg.tally import Tallied, Tally
from geoseg.trials import ChipTrial, Trial, file_facts
from geoseg.version import VERSION

REPORT = "report.html"
FILES = (PER_CLASS, PER_PLACE, ERRORS, REPORT)
"""What a report folder holds beside metrics.json."""

_FORMAT = 1
_VIEWS = 6
"""Places of which the report shows pictures, of the best and of the worst."""


class Study(Protocol):
    """A study of how good a map is, ready to begin."""

    def report(self, staging: Path, progress: Progress) -> dict[str, Any]:
        """Do it, write its files but metrics.json, and return what stands in that."""
        ...


@dataclass(frozen=True)
class GroundStudy:
    """Counts pixel by pixel.

    Attributes:
        trial: what is put to the test.
        yardstick: what the scores depend on beside the maps.
        disturbed: chips to disturb, too, for what that does to the model.
    """

    trial: Trial
    yardstick: Yardstick
    disturbed: ChipTrial | None = None

    def report(self, staging: Path, progress: Progress) -> dict[str, Any]:
        trial, yardstick = self.trial, self.yardstick
        found = self._count(progress)
        metrics = {
            **_heading(trial.what, trial.legend),
            **assess(found, trial.legend, yardstick, trial.pixel_size_m),
            "robustness": None if self.disturbed is None else _robustness(self.disturbed, yardstick.seed, progress),
            "averaged_over": trial.squares,
            "provenance": trial.provenance() | {"bootstrap": yardstick.bootstrap, "seed": yardstick.seed},
        }
        write_tables(staging, metrics, found)
        write_places(staging / ERRORS, found, trial)
        write_report(staging / REPORT, metrics, found, trial)
        return metrics

    def _count(self, progress: Progress) -> Tallied:
        trial, yardstick = self.trial, self.yardstick
        tally = Tally(trial.legend, tolerance=yardstick.tolerance, threshold=yardstick.iou_threshold, views=_VIEWS)
        for done, ground in enumerate(trial.ground(boundary_margin(yardstick.tolerance)), 1):
            tally.add(ground)
            progress("evaluate", done, trial.count)
        if tally.is_empty():
            raise LabelError(f"{trial.what}: no pixel is both predicted and labelled; check that the two overlap")
        return tally.finish()


def _robustness(trial: ChipTrial, seed: int, progress: Progress) -> dict[str, Any]:
    rows = measure_robustness(
        trial.predictor, trial.folder, trial.split, trial.bundle.image, seed=seed, batch_size=trial.batch_size,
        progress=progress,
    )  # fmt: skip
    return {"finding": explain(rows), "disturbances": rows}


@dataclass(frozen=True)
class PointStudy:
    """Estimates from labelled points.

    Attributes:
        found: the map.
        points: on it.
        paths: of the map and of the points.
    """

    found: ClassMap
    points: ReferencePoints
    paths: Sequence[Path]

    def report(self, staging: Path, progress: Progress) -> dict[str, Any]:
        legend, (predicted, points) = self.found.legend, self.paths
        metrics = {
            **_heading(f"{predicted.name} at {len(self.points.reference)} labelled points of {points.name}", legend),
            **assess_points(estimate_areas(self.found, self.points, progress), legend),
            "provenance": {what: file_facts(path) for what, path in (("map", predicted), ("points", points))},
        }
        write_sample_tables(staging, metrics)
        write_sample_report(staging / REPORT, metrics)
        return metrics


def open_point_study(predicted: Path, points: Path, options: PairOptions, stack: ExitStack) -> PointStudy:
    """Open a map and points on it.

    Raises:
        InputError: the map is a polygon file, or an option is given that has no meaning for points.
        GeosegError: either cannot be read, or labels are not in the legend.
    """
    if is_vector(predicted):
        raise InputError(
            f"{predicted}: points are held against a class raster; give the one that the polygons were made of"
        )
    for name, value in (("--only", options.only), ("--pixel-size", options.pixel_size)):
        if value is not None:
            raise InputError(f"{name} {value}: not with points, whose strata are classes of the map; leave it out")
    found = open_class_map(predicted, stack, classes=options.classes, aoi=options.aoi)
    return PointStudy(found, read_points(points, found.legend, options.class_field), (predicted, points))


def _heading(what: str, legend: Legend) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "geoseg_version": VERSION,
        "created": time.strftime("%Y-%m-%d"),
        "what": what,
        "legend": legend.to_list(),
    }
