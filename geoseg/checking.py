"""The verb `check`: what would go wrong, and what there would be."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.choices import Other, SplitBy, Unlabelled
from geoseg.display import Displayed
from geoseg.errors import Faults, GeosegError, GeosegWarning, InputError
from geoseg.files import warn_of_little_room
from geoseg.pairs import TileOptions
from geoseg.polygon_labels import read_polygons
from geoseg.preflight import alike_bands, match_model, match_values, most_bytes, preflight_scenes, say_stopped
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.remote import Access
from geoseg.scenes import Scene
from geoseg.survey import Plan, survey


@dataclass(frozen=True, repr=False)
class Check(Displayed):
    """What stands in the way of `tile` or `predict`, and what they would do.

    Attributes:
        scenes: those that can be read.
        plan: the chips there would be, where labels were given and nothing is wrong with them.
        faults: all that was found, in one line each.
        warnings: what they would warn of, likewise.
        bytes_needed: on the disk, roughly, for chips and predictions.
        bytes_free: where the command was run.
    """

    scenes: tuple[Scene, ...]
    plan: Plan | None
    faults: tuple[GeosegError | GeosegWarning, ...]
    warnings: tuple[GeosegWarning, ...]
    bytes_needed: int
    bytes_free: int

    def __str__(self) -> str:
        lines = [str(scene) for scene in self.scenes]
        if self.plan:
            lines.append(str(self.plan))
        lines.append(
            f"disk: about {self.bytes_needed / 2**20:,.0f} MiB needed at most, {self.bytes_free / 2**20:,.0f} MiB free here"
        )
        lines.append(f"{len(self.faults) or 'no'} fault{'s' * (len(self.faults) > 1)} found")
        return "\n".join(lines)

    def raise_faults(self) -> None:
        """Raise the one fault, or a `PreflightError` with all of them, if there are any."""
        faults = Faults()
        faults.errors.extend(self.faults)
        faults.raise_any()

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "scenes": [scene.to_dict() for scene in self.scenes],
            "chips": self.plan.to_dict() if self.plan else None,
            "faults": [_said(fault) for fault in self.faults],
            "warnings": [_said(warning) for warning in self.warnings],
            "bytes_needed": self.bytes_needed,
            "bytes_free": self.bytes_free,
        }


def _said(fault: Exception) -> dict[str, str]:
    return {"kind": type(fault).__name__, "message": str(fault)}


def check(
    scenes: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = None,
    model: str | Path | None = None,
    chip_size: int = 256,
    stride: int | None = None,
    bands: str | Sequence[int | str] | None = None,
    classes: str | Path | None = None,
    class_field: str | None = None,
    background: str | None = None,
    other: Other = "error",
    label_nodata: int | None = None,
    all_touched: bool = False,
    unlabelled: Unlabelled = "background",
    aoi: str | Path | None = None,
    split: str = "8:1:1",
    split_by: SplitBy = "block",
    block_size: int | None = None,
    max_nodata: float = 0.5,
    min_label: float = 0.0,
    negatives: float = 1.0,
    boundary: int | None = None,
    instances: bool = False,
    stack: bool = False,
    allow_remote: bool = False,
    allow_vrt: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Check:
    """Do every preflight of `tile` (with `labels`) and of `predict` (with `model`), and nothing else.

    Args:
        scenes: raster files, or folders of them; with `stack`, folders of single-band files.
        labels: as for `tile`; they are read through, so that stray values show.
        model: as for `predict`.
        chip_size: as for `tile`, like all that follow but for those of which something else is said.
        stride: from one chip to the next.
        bands: also for `predict`.
        classes: of the labels.
        class_field: of polygons.
        background: of the classes.
        other: what to do about values outside the legend.
        label_nodata: a label value that means unknown.
        all_touched: how polygons are burnt.
        unlabelled: what lies outside polygons.
        aoi: where labels are complete; for `predict`, outside which nothing is told.
        split: shares.
        split_by: what is kept together.
        block_size: of ground.
        max_nodata: of a chip.
        min_label: of a chip.
        negatives: share of chips with nothing but background that is kept.
        boundary: pixels of the rim of each field that become a class of their own; None makes no such class.
        instances: each value of a mask raster is the number of a field.
        stack: each scene is a folder of single-band files.
        allow_remote: as for `predict`: a scene may be an address.
        allow_vrt: as for `predict`: a scene may be a VRT.
        seed: of the split.
        progress: called while labels are read.

    Returns:
        All faults and warnings. Where warnings are errors (`--strict`), these are faults too.

    Raises:
        Nothing that it has found; see `Check.raise_faults`.
    """
    faults = Faults()
    inputs = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    plan, needed = None, 0
    with bounded_cache(), _overheard() as said:
        found = preflight_scenes(inputs, stack=stack, faults=faults, access=Access(remote=allow_remote, vrt=allow_vrt))
        if labels is not None:
            options = TileOptions(
                chip_size=chip_size, stride=stride, classes=classes, class_field=class_field, background=background, other=other,
                label_nodata=label_nodata, all_touched=all_touched, unlabelled=unlabelled, aoi=aoi, split=split,
                split_by=split_by, block_size=block_size, max_nodata=max_nodata, min_label=min_label, negatives=negatives,
                boundary=boundary, instances=instances,
                seed=seed,
            )  # fmt: skip
            for option, given in (("--allow-remote", allow_remote), ("--allow-vrt", allow_vrt)):
                with faults.collect():
                    if given:
                        raise InputError(
                            f"{option}: not with --labels, since tile reads local rasters alone; leave it out"
                        )
            sources = alike_bands(found, bands, faults)
            with faults.collect():
                plan = survey(found, labels, sources, options, faults, progress)
                needed += plan.most_bytes
        if model is not None:
            _check_model(found, model, bands, aoi, faults)
            needed += most_bytes(found)
        warn_of_little_room(Path(), needed)
    return Check(tuple(found), plan, faults.distinct(), tuple(said.values()), needed, shutil.disk_usage(".").free)


@contextmanager
def _overheard() -> Iterator[dict[str, GeosegWarning]]:
    """The warnings that are shown meanwhile, by their text; they are shown all the same."""
    said: dict[str, GeosegWarning] = {}
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Any, *rest: Any) -> None:
            if isinstance(message, GeosegWarning):
                said[str(message)] = message
            show(message, *rest)

        warnings.showwarning = note  # type: ignore[assignment]
        yield said


def _check_model(
    scenes: Sequence[Scene], model: str | Path, bands: str | Sequence[int | str] | None, aoi: str | Path | None, faults: Faults
) -> None:  # fmt: skip
    from geoseg.bundle import open_bundle  # torch takes seconds to load, and nothing else here needs it

    with faults.collect():
        area = read_polygons(Path(aoi)) if aoi is not None else None
        for scene in scenes:
            with faults.collect():
                if area is not None:
                    area.near(scene)
    with faults.collect():
        bundle = open_bundle(model)
        with faults.collect():
            say_stopped(bundle)
        with faults.collect():
            bundle.network()
        for scene in scenes:
            with faults.collect():
                match_values(scene, bundle.image, match_model(scene, bundle.image, bands))
