"""From class rasters to polygon layers: reading, tracing, simplifying, and a table with areas and confidence."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from geoseg.balance import Balance
from geoseg.changes import Change, Read
from geoseg.choices import Connectivity, Format, Rule, Small, at_least, one_of, refuse_odd
from geoseg.class_rasters import ClassRows
from geoseg.components import class_of
from geoseg.confidence import ConfidenceRaster
from geoseg.errors import DataWarning, Faults, GeoreferenceError, LegendError
from geoseg.fields import GROWTH, FieldRows, refuse_no_boundary
from geoseg.files import parse_json
from geoseg.generalisation import NOTHING, Large, added, fill_holes
from geoseg.legend import PROVENANCE_TAG, Legend
from geoseg.pixel_areas import PixelAreas
from geoseg.polygon_layer import LayerWriter, find_format, polygon_table, to_degrees
from geoseg.progress import Progress, silent
from geoseg.raster import open_raster
from geoseg.scenes import Scene, describe_scene
from geoseg.simplification import reach_of, simplify
from geoseg.small_features import remove_small
from geoseg.smoothing import REACH, smooth
from geoseg.styles import polygon_style
from geoseg.sweep import Finished, sweep
from geoseg.version import VERSION

_STRIP = 2**22
"""Pixels of a class raster that are traced at once."""
_LEAST = 64
"""Rows that are traced at once, at least."""


@dataclass(frozen=True)
class PolygonOptions:
    """The options of `geoseg polygonize` of the same names; see there."""

    only: str | Sequence[str | int] | None = None
    simplify: float = 1.5
    smooth: bool = False
    min_area: float = 0.0
    max_area: float | None = None
    min_hole: float = 0.0
    small: Small = "merge"
    connectivity: Connectivity = 4
    fields: bool = False
    min_seed: int = 10
    growth: int | None = None

    def refuse_odd(self, faults: Faults) -> None:
        """Collect what is out of its range."""
        least = self.min_area if isinstance(self.min_area, int | float) else 0
        rules = [
            *(Rule(name, _is_amount(getattr(self, name)), "a finite number of 0 or more is needed")
              for name in ("simplify", "min_area", "min_hole")),
            Rule("max_area", self.max_area is None or (_is_amount(self.max_area) and self.max_area > least),
                 f"more than {least:g} is needed, the --min-area" if least else "more than 0 is needed"),
            one_of(self, "small", Small),
            Rule("small", self.small != "drop" or bool(self.min_area), "a --min-area is needed with it"),
            one_of(self, "connectivity", Connectivity),
            at_least(self, "min_seed", 1),
            Rule("connectivity", not self.fields or self.connectivity == 4,
                 "4 is needed with --fields: two fields that meet in a corner are two"),
            at_least(self, "growth", 1),
            Rule("growth", self.fields or self.growth is None, "--fields is needed with it"),
            Rule("min_seed", self.fields or self.min_seed == PolygonOptions.min_seed, "--fields is needed with it"),
        ]  # fmt: skip
        refuse_odd(self, rules, faults)

    def refuse_unmeasured(self, scene: Scene) -> None:
        """Raise `GeoreferenceError` where areas are asked for that nothing tells of."""
        for name in ("min_area", "max_area", "min_hole"):
            if getattr(self, name) and not scene.pixel_size_m:
                raise GeoreferenceError(
                    f"{scene.path}: no CRS with a place on the Earth, so --{name.replace('_', '-')} in m2 has no meaning; "
                    "leave it out, or name the CRS with: gdal_edit.py -a_srs"
                )

    def refuse_unfit(self, legend: Legend, name: str) -> None:
        """Raise `LegendError` where a map, called so, does not have the classes that are asked for."""
        chosen = chosen_classes(legend, self.only)
        if self.fields:
            refuse_no_boundary(legend, name)
            if odd := [legend.names[index] for index in chosen if index not in legend.ground]:
                raise LegendError(
                    f"{name}: --only {','.join(odd)} is no class of fields, of which --fields makes polygons; leave it out"
                )


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def chosen_classes(legend: Legend, only: str | Sequence[str | int] | None) -> tuple[int, ...]:
    """Class indices to make polygons of, in the legend's order.

    Args:
        legend: the classes.
        only: names or values, as a list or a text split by commas; None for every class but background and boundary.

    Raises:
        LegendError: a class that is not in the legend.
    """
    if only is None:
        return legend.ground
    keys = [key for key in only.split(",") if key.strip()] if isinstance(only, str) else only
    return tuple(sorted({legend.index(key) for key in keys}))


def layer_style(legend: Legend, only: str | Sequence[str | int] | None) -> str:
    """QML for a polygon layer, with the chosen classes alone in its legend."""
    chosen = chosen_classes(legend, only)
    return polygon_style(Legend(tuple(legend.classes[index] for index in chosen)) if chosen else legend)


def polygonize_raster(
    classes: Path,
    confidence: Path | None,
    legend: Legend,
    out: Path,
    options: PolygonOptions,
    *,
    format: Format | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make a polygon layer of a class raster.

    Args:
        classes: a class raster.
        confidence: a confidence raster on the same grid.
        legend: of the class raster.
        out: a staged path.
        options: what polygons are made of, and how.
        format: else by the suffix of `out`.
        progress: called after each step.

    Returns:
        The balance: `polygons`, `gap_pixels`, `overlapping_polygons`; per class, in `classes`, `value`, `name`,
        `polygons`, `pixels`, `area_by_pixels_m2` of the raster (of fields with the boundary that was given back to them),
        `area_by_polygons_m2` and `difference_m2` (None without a CRS); and `merged`, `dropped`, `filled` and `too_large`, each
        with `polygons` or `holes`, and `area_m2`; with fields told apart also `fields`, with the `seeds` that became one,
        the `specks` that were too small to, and what of specks and boundary was `missed` by all: `pixels` and `area_m2`.

    Raises:
        GeosegError: the rasters cannot be used together, or the disk is full.
    """
    chosen, stage = chosen_classes(legend, options.only), f"polygons {Path(classes).stem}"
    scene = describe_scene(classes)
    options.refuse_unmeasured(scene)
    options.refuse_unfit(legend, str(scene.path))
    format = format or find_format(out)
    if format == "geojson" and to_degrees(scene.crs) is None:
        raise GeoreferenceError(
            f"{scene.path}: no CRS with a place on the Earth, which GeoJSON needs; choose .gpkg, .fgb or .parquet"
        )
    with ExitStack() as stack:
        areas, height = PixelAreas(scene), max(_STRIP // scene.width, _LEAST)
        mapped, fields = ClassRows(scene, stack.enter_context(scene.open()), legend).read, None
        if options.fields:
            fields = FieldRows(
                mapped, scene.height, scene.width, legend, areas, min_seed=options.min_seed,
                growth=options.growth or GROWTH, rows=height, progress=progress,
            )  # fmt: skip
            mapped = fields.read
        scores = ConfidenceRaster(confidence, scene, stack) if confidence else None
        layer = stack.enter_context(
            LayerWriter(
                out, format=format, style=layer_style(legend, options.only), multi=options.connectivity == 8,
                provenance=_provenance(classes, options),
            )
        )  # fmt: skip
        balance, large = Balance(scene, legend, chosen), Large(options.max_area, areas)

        def tabulate(finished: Finished, polygons: np.ndarray) -> gpd.GeoDataFrame:
            table = polygon_table(
                finished, polygons, legend, first_id=balance.polygons + 1, connectivity=options.connectivity,
                crs=scene.crs, confidence=scores.of(finished) if scores else None,
            )  # fmt: skip
            return large.leave_out(table, finished)

        layer.write(tabulate(Finished.none(), np.empty(0, object)))  # where nothing follows, it tells the columns
        read, counts = _generalise(mapped, scene, chosen, options, areas, height, progress)
        top = 0
        for bottom, finished in sweep(
            read, scene.height, scene.width, chosen, rows=height, connectivity=options.connectivity,
            reach=max(reach_of(options.simplify), REACH if options.smooth else 0),
        ):  # fmt: skip
            balance.count(class_of(mapped(top, bottom)), top)
            if finished is not None:
                outlines = simplify(finished, options.simplify)
                if options.smooth:
                    outlines = smooth(finished, outlines)
                polygons = outlines.polygons(scene.transform)
                table = tabulate(finished, polygons)
                balance.add(finished, outlines, polygons, table)
                layer.write(table)
            progress(stage, bottom, scene.height)
            top = bottom
        layer.finish()
    facts = balance.facts() | counts | large.counts() | (fields.counts() if fields else {})
    _warn_of_nothing(scene.path.name, facts, options)
    return facts


def _warn_of_nothing(name: str, facts: dict[str, Any], options: PolygonOptions) -> None:
    """Where an option has left nothing over."""
    fields = facts.get("fields", {"seeds": 0, "specks": 0})
    if fields["specks"] and not fields["seeds"]:
        _warn(f"{name}: no interior of a field has {options.min_seed} pixels; lower --min-seed")
    taken = [facts[kind] for kind in ("merged", "dropped", "filled", "too_large")]
    if not facts["polygons"] and any(sum(entry.values()) for entry in taken):
        _warn(f"{name}: no polygon is left; a bare number of --min-area and --max-area is in m2")


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)


def _provenance(classes: Path, options: PolygonOptions) -> dict[str, Any]:
    with open_raster(classes) as dataset:
        tag = dataset.tags().get(PROVENANCE_TAG)
    try:
        of_map = parse_json(tag) if tag else None
    except ValueError:
        of_map = None  # whatever that is, it is not ours
    return {"software": f"geoseg {VERSION}", "map": of_map, "outlines": asdict(options)}


def _generalise(
    read: Read,
    scene: Scene,
    chosen: Sequence[int],
    options: PolygonOptions,
    areas: PixelAreas,
    rows: int,
    progress: Progress,
) -> tuple[Read, dict[str, Any]]:
    """Rows of the map without what is too small, and what that was."""
    counts = NOTHING

    def changed(change: Change, before: Read) -> Read:
        return lambda first, last: change.apply(before(first, last), first)

    def swept(connectivity: Connectivity) -> Iterator[Finished]:
        for bottom, finished in sweep(read, scene.height, scene.width, chosen, rows=rows, connectivity=connectivity):
            if finished is not None:
                yield finished
            progress(f"generalise {scene.path.stem}", bottom, scene.height)

    while True:
        filled = False
        if options.min_area:
            found = remove_small(
                swept, chosen, options.min_area, areas, small=options.small, connectivity=options.connectivity
            )
            read, counts = changed(found.change, read), added(counts, found.counts)
        if options.min_hole:
            found = fill_holes(swept, options.min_hole, areas)
            read, counts, filled = changed(found.change, read), added(counts, found.counts), len(found.change.row) > 0
        # Where corners join, what lies in a hole may go on outside, and be small without it.
        if not (filled and options.min_area and options.connectivity == 8):
            break
    return read, counts
