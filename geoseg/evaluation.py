"""The verb `evaluate`: how far a model, or a map, can be trusted."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geoseg
from geoseg.assessment import Yardstick, assess
from geoseg.boundary_scores import boundary_margin
from geoseg.choices import Precision, SplitName, Unlabelled
from geoseg.errors import Faults, InputError, LabelError
from geoseg.files import refuse_existing, stage, write_json
from geoseg.map_pairs import PairOptions, open_pair
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.report import write_report
from geoseg.report_tables import ERRORS, METRICS, PER_CLASS, PER_PLACE, summary, write_places, write_tables
from geoseg.tally import Tally
from geoseg.trials import PairTrial, Trial, open_chip_trial

REPORT = "report.html"
_FORMAT = 1
_VIEWS = 6
"""Places of which the report shows pictures, of the best and of the worst."""


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
        return f"{summary(self.metrics)}\nthe report: {self.path / REPORT}"

    def to_dict(self) -> dict[str, Any]:
        """What stands in metrics.json."""
        return self.metrics


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
    aoi: str | Path | None = None,
    pixel_size: float | None = None,
    boundary_tolerance: str = "2",
    iou_threshold: float = 0.5,
    bootstrap: int = 1000,
    against: str | Path | None = None,
    batch_size: int = 4,
    precision: Precision = "auto",
    device: str = "auto",
    threshold: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Score a model on the chips of a split, or a map against a reference.

    Args:
        chips: a chip folder; or, with a `reference`, a map: a class raster or a polygon file.
        reference: a class raster or a polygon file, on any grid and in any CRS; it is laid on the map's grid.
        model: a bundle made by `train`; not used with a `reference`.
        split: which chips.
        out: the report folder.
        classes: of a pair of maps, where neither carries its legend.
        class_field: column of polygons that tells the class; files made by geoseg need none.
        unlabelled: what pixels outside every polygon of a reference are: `background`, or `ignore`.
        aoi: polygon file; of a pair of maps, only what lies inside is counted.
        pixel_size: metres; of a pair of polygon files, which have no pixels to count.
        boundary_tolerance: how far off a boundary may be, in pixels (1 or more), or in metres such as `30m`.
        iou_threshold: above it, 0.5 or more, two objects are one and the same.
        bootstrap: draws for the confidence intervals.
        against: another model, or with a `reference` another map, to compare with on the same ground.
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
    _refuse_odd(faults, chips, reference, iou_threshold, bootstrap, threshold, aoi, pixel_size)
    with ExitStack() as opened, bounded_cache():
        with faults.collect():
            if reference is None:
                trial: Trial = open_chip_trial(
                    chips, model, split, batch_size=batch_size, precision=precision, device=device, threshold=threshold,
                    other=against,
                )  # fmt: skip
            else:
                paths = [Path(path) for path in (chips, reference, against) if path is not None]
                options = PairOptions(classes, class_field, unlabelled, aoi, pixel_size)
                trial = PairTrial(open_pair(paths[0], paths[1], options, opened, *paths[2:]), paths, aoi)
            yardstick = Yardstick(_in_pixels(boundary_tolerance, trial.pixel_size_m), iou_threshold, bootstrap, seed)
        faults.raise_any()
        names = [PER_CLASS, PER_PLACE, ERRORS, REPORT]
        with stage(out, last=METRICS, replaces=names, overwrite=overwrite) as staging:
            tally = Tally(trial.legend, tolerance=yardstick.tolerance, threshold=iou_threshold, views=_VIEWS)
            for done, ground in enumerate(trial.ground(boundary_margin(yardstick.tolerance)), 1):
                tally.add(ground)
                progress("evaluate", done, trial.count)
            if tally.is_empty():
                raise LabelError(f"{trial.what}: no pixel is both predicted and labelled; check that the two overlap")
            found = tally.finish()
            metrics = {
                "format": _FORMAT,
                "geoseg_version": geoseg.__version__,
                "created": time.strftime("%Y-%m-%d"),
                "what": trial.what,
                "legend": trial.legend.to_list(),
                **assess(found, trial.legend, yardstick, trial.pixel_size_m),
                "averaged_over": trial.squares,
                "provenance": trial.provenance() | {"bootstrap": bootstrap, "seed": seed},
            }
            write_tables(staging, metrics, found)
            write_places(staging / ERRORS, found, trial)
            write_report(staging / REPORT, metrics, found, trial)
            write_json(staging / METRICS, metrics)
    return Evaluation(Path(out), metrics)


def _refuse_odd(
    faults: Faults, chips: str | Path, reference: str | Path | None, iou_threshold: float, bootstrap: int,
    threshold: float | None, aoi: str | Path | None, pixel_size: float | None,
) -> None:  # fmt: skip
    with faults.collect():
        if bootstrap < 1:
            raise InputError(f"--bootstrap {bootstrap}: 1 draw or more is needed")
    with faults.collect():
        if not 0.5 <= iou_threshold < 1:
            raise InputError(
                f"--iou-threshold {iou_threshold:g}: 0.5 or more and below 1 is needed, or an object could have two matches"
            )
    with faults.collect():
        if threshold is not None and reference is not None:
            raise InputError(f"--threshold {threshold}: {chips} is a map already; give it to geoseg predict instead")
    for name, value in (("--aoi", aoi), ("--pixel-size", pixel_size)):
        with faults.collect():
            if value is not None and reference is None:
                raise InputError(
                    f"{name} {value}: for a map and a reference; chips are taken as they are, leave it out"
                )


def _in_pixels(tolerance: str, pixel_size_m: float | None) -> float:
    """A tolerance in pixels or in metres as pixels."""
    text = tolerance.strip()
    try:
        if not text.endswith("m"):
            pixels = float(text)
        elif pixel_size_m is None:
            raise InputError(f"--boundary-tolerance {text}: there is no CRS to say how long a metre is; give pixels")
        else:
            pixels = float(text[:-1]) / pixel_size_m
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--boundary-tolerance {text}: pixels such as 2 or metres such as 30m are needed") from None
    if not 1 <= pixels < 100:
        size = "" if pixel_size_m is None else f" (pixels of {pixel_size_m:.4g} m)"
        raise InputError(f"--boundary-tolerance {text}: 1 to 100 pixels are possible, {pixels:.3g} found{size}")
    return pixels
