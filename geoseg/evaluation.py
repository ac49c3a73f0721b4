"""The verb `evaluate`: how far a model, or a map, can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.assessment import Yardstick
from geoseg.choices import Precision, SplitName, Unlabelled, refuse_below
from geoseg.display import Displayed
from geoseg.errors import Faults, InputError
from geoseg.files import refuse_existing, refuse_inputs, stage, write_json
from geoseg.map_pairs import PairOptions, open_pair
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.reference_points import holds_points
from geoseg.report_tables import METRICS, sample_summary, summary
from geoseg.studies import FILES, REPORT, GroundStudy, Study, open_point_study
from geoseg.trials import PairTrial, Trial, open_chip_trial


@dataclass(frozen=True, repr=False)
class Evaluation(Displayed):
    """Scores of a model on chips, or of a map against a reference or points.

    Attributes:
        path: the report folder.
        metrics: what stands in metrics.json.
    """

    path: Path
    metrics: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        told = summary(self.metrics) if self.metrics["sample"] is None else sample_summary(self.metrics)
        return f"{told}\nthe report: {self.path / REPORT}"

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
    only: str | Sequence[str | int] | None = None,
    class_field: str | None = None,
    unlabelled: Unlabelled = "background",
    aoi: str | Path | None = None,
    pixel_size: float | None = None,
    label_nodata: int | None = None,
    boundary_tolerance: str | float = "2",
    iou_threshold: float = 0.5,
    bootstrap: int = 1000,
    against: str | Path | None = None,
    robustness: bool = False,
    batch_size: int = 4,
    precision: Precision = "auto",
    device: str = "auto",
    threshold: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Score a model on the chips of a split, or a map against a reference; or estimate areas from labelled points.

    Args:
        chips: a chip folder; or, with a `reference`, a map: a class raster or a polygon file.
        reference: a class raster or a polygon file, on any grid and in any CRS; it is laid on the map's grid. Or labelled
            points, of `geoseg sample` or your own.
        model: a bundle made by `train`; not used with a `reference`.
        split: which chips.
        out: the report folder.
        classes: of a pair of maps, where neither carries its legend.
        only: names or values of the classes to tell apart, of a pair of maps; all others count as one. None takes all.
        class_field: column of polygons or points that tells the class; files made by geoseg need none.
        unlabelled: what pixels outside every polygon of a reference are: `background`, or `ignore`.
        aoi: polygon file; of a pair of maps, only what lies inside is counted.
        pixel_size: metres; of a pair of polygon files, which have no pixels to count.
        label_nodata: a value of a reference raster that means unknown, whatever else tells.
        boundary_tolerance: how far off a boundary may be, in pixels (1 or more), or in metres such as `30m`.
        iou_threshold: above it, 0.5 or more, two objects are one and the same.
        bootstrap: draws for the confidence intervals.
        against: another model, or with a `reference` another map, to compare with on the same ground.
        robustness: of a model on chips: also predict them shifted, resampled, hazier, noisier and so on, which takes some
            twenty-five times as long.
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
        outputs = [Path(out) / name for name in (METRICS, *FILES)]
        refuse_inputs(
            outputs, [Path(given) for given in (chips, reference, against, classes, aoi) if given is not None]
        )
        refuse_existing(outputs, overwrite)
    refuse_below(1, faults, bootstrap=bootstrap, batch_size=batch_size)
    refuse_below(0, faults, seed=seed)
    _refuse_odd(faults, chips, reference, iou_threshold, threshold, robustness)
    if reference is None:
        laid_on = {"classes": classes, "class-field": class_field, "aoi": aoi, "pixel-size": pixel_size, "only": only,
                   "label-nodata": label_nodata}  # fmt: skip
        if unlabelled != "background":
            laid_on["unlabelled"] = unlabelled
        _refuse_for_chips(faults, laid_on)
    with ExitStack() as opened, bounded_cache():
        with faults.collect():
            study: Study
            options = PairOptions(classes, only, class_field, unlabelled, aoi, pixel_size, label_nodata)
            if reference is not None and holds_points(Path(reference)):
                if against is not None:
                    raise InputError(f"--against {against}: not with points; evaluate each map at them")
                study = open_point_study(Path(chips), Path(reference), options, opened)
            else:
                trial: Trial
                disturbed = None
                if reference is None:
                    if Path(chips).is_file():
                        raise InputError(
                            f"{chips}: a map needs a reference beside it: geoseg evaluate {chips} REFERENCE"
                        )
                    trial = on_chips = open_chip_trial(
                        chips, model, split, batch_size=batch_size, precision=precision, device=device,
                        threshold=threshold, other=against,
                    )  # fmt: skip
                    disturbed = on_chips if robustness else None
                else:
                    paths = [Path(path) for path in (chips, reference, against) if path is not None]
                    trial = PairTrial(open_pair(paths[0], paths[1], options, opened, *paths[2:]), paths, aoi)
                tolerance = _in_pixels(boundary_tolerance, trial.pixel_size_m)
                study = GroundStudy(trial, Yardstick(tolerance, iou_threshold, bootstrap, seed), disturbed)
        faults.raise_any()
        with stage(out, last=METRICS, replaces=FILES, overwrite=overwrite) as staging:
            metrics = study.report(staging, progress)
            write_json(staging / METRICS, metrics)
    return Evaluation(Path(out), metrics)


def _refuse_odd(
    faults: Faults, chips: str | Path, reference: str | Path | None, iou_threshold: float, threshold: float | None,
    robustness: bool,
) -> None:  # fmt: skip
    with faults.collect():
        if not 0.5 <= iou_threshold < 1:
            raise InputError(
                f"--iou-threshold {iou_threshold:g}: 0.5 or more and below 1 is needed, or an object could have two matches"
            )
    with faults.collect():
        if threshold is not None and reference is not None:
            raise InputError(f"--threshold {threshold}: {chips} is a map already; give it to geoseg predict instead")
    with faults.collect():
        if robustness and reference is not None:
            raise InputError(
                "--robustness: a finished map cannot be disturbed; try the model on chips, without a reference"
            )


def _refuse_for_chips(faults: Faults, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        with faults.collect():
            if value is not None:
                raise InputError(
                    f"--{name} {value}: for a map and a reference; chips are taken as they are, leave it out"
                )


def _in_pixels(tolerance: str | float, pixel_size_m: float | None) -> float:
    """A tolerance in pixels or in metres as pixels."""
    text = str(tolerance).strip()
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
