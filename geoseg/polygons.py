"""The verb `polygonize`: a class raster to polygons."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.choices import Connectivity, Format, Small
from geoseg.class_rasters import find_legend
from geoseg.display import Displayed
from geoseg.errors import Faults
from geoseg.files import publish, refuse_existing, refuse_inputs
from geoseg.polygon_layer import find_format
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.scenes import describe_scene
from geoseg.vectorise import PolygonOptions, layer_style, polygonize_raster

_TAKEN_AWAY = {
    "merged": "{} small ones merged into their neighbours",
    "dropped": "{} small ones dropped",
    "filled": "{} small holes filled",
    "too_large": "{} large ones left out",
}


@dataclass(frozen=True, repr=False)
class PolygonLayer(Displayed):
    """A polygon layer that was written.

    Attributes:
        path: the file.
        balance: what the polygons cover against what the pixels cover; see `to_dict`.
    """

    path: Path
    balance: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.balance['polygons']:,} polygons"]
        for entry in self.balance["classes"]:
            line = f"  {entry['name']:<20} {entry['polygons']:>8,} polygons {entry['pixels']:>12,} pixels"
            if entry["area_by_polygons_m2"] is not None:
                area, more = entry["area_by_polygons_m2"] / 1e4, entry["difference_m2"] / 1e4
                line += f" {area:>14,.2f} ha ({more:+,.2f} ha against the pixels)"
            lines.append(line)
        if told := self.balance.get("fields"):
            lines.append(f"  {told['seeds']:,} fields told apart; {told['specks']:,} specks are too small to be one")
            if told["missed"]["area_m2"]:
                missed = "specks and boundary too far from all fields"
                lines.append(f"  {missed:<60} {told['missed']['area_m2'] / 1e4:>14,.2f} ha")
        for name, found in self.balance.items():
            if name in _TAKEN_AWAY and (count := found["holes" if name == "filled" else "polygons"]):
                left = found.get("out_of_layer_m2", 0.0)
                rest = f", of which {left / 1e4:,.2f} ha to classes that are not in this layer" if left else ""
                lines.append(
                    f"  {_TAKEN_AWAY[name].format(f'{count:,}'):<60} {found['area_m2'] / 1e4:>14,.2f} ha{rest}"
                )
        gap, overlapping = self.balance["gap_pixels"], self.balance["overlapping_polygons"]
        return "\n".join([*lines, f"  gaps: {gap:g} pixels, overlaps: {overlapping} polygons"])

    def to_dict(self) -> dict[str, Any]:
        """`path`; `polygons`, their count; `gap_pixels` and `overlapping_polygons` among the polygons of all classes,
        background and nodata included; and per class, in `classes`, `value`, `name`, `polygons`, `pixels`,
        `area_by_pixels_m2`, `area_by_polygons_m2` and `difference_m2` (None without a CRS); and `merged`, `dropped`,
        `filled` and `too_large`, each with how many `polygons` (or `holes`) and `area_m2`; and `fields`, where these were told
        apart; see `geoseg.vectorise.polygonize_raster`."""
        return {"path": str(self.path), **self.balance}


def polygonize(
    classes: str | Path,
    *,
    out: str | Path,
    only: str | Sequence[str | int] | None = None,
    simplify: float = 1.5,
    smooth: bool = False,
    min_area: float = 0.0,
    max_area: float | None = None,
    min_hole: float = 0.0,
    small: Small = "merge",
    connectivity: Connectivity = 4,
    fields: bool = False,
    min_seed: int = 10,
    growth: int | None = None,
    confidence: str | Path | None = None,
    format: Format | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> PolygonLayer:
    """Make polygons of a class raster, whose neighbours share their edges.

    Args:
        classes: a raster with one band of whole numbers, geoseg's own or another's.
        out: the file to write. A GeoPackage carries its QGIS style; the others have it beside, as `<stem>.qml`, unless
            that is the name of an input's style.
        only: names or values of the classes to make polygons of, as a list or a text split by commas; None takes all but
            the background.
        simplify: how far, in pixels, a simplified outline may lie from the pixels' edges; 0 keeps these.
        smooth: round the corners of outlines, each by 1.5 pixels at most.
        min_area: m2; features that are smaller, by their pixels, are taken away as `small` says.
        max_area: m2; features that are larger, by their pixels, are left out. None leaves none out.
        min_hole: m2; smaller holes are filled: what is in them, nodata too, goes to what is around them.
        small: `merge` gives a small feature to the neighbouring class with the longest shared edge, background included, and
            drops it where it lies in nodata alone; `drop` leaves a gap.
        connectivity: 4, or 8 to join pixels of a class that touch at corners; the features are multipolygons then.
        fields: make a polygon of each single field, also where they touch, of a raster with a boundary class between them:
            what a class covers without a break, and of the boundary what is nearest to it, up to `growth` pixels.
        min_seed: pixels of the smallest interior that becomes a field; smaller ones go to a field beside them, or to none.
        growth: pixels that fields grow into the boundary; None for 4.
        confidence: a confidence raster on the same grid, whose mean and 5th percentile in each polygon are written.
        format: `gpkg`, `fgb`, `geojson` or `parquet`; None goes by the suffix of `out`.
        overwrite: replace an earlier output.
        progress: called after each step.

    Returns:
        The layer, with what its polygons cover against what the pixels cover.

    Raises:
        GeosegError: bad input or a full disk; then nothing is left behind.
    """
    path, out = Path(classes), Path(out)
    scores = Path(confidence) if confidence else None
    inputs = [entry for entry in (path, scores) if entry]
    format = find_format(out, format)
    targets, style = [out], out.with_suffix(".qml")
    # Where an input bears the stem of the output, that style is the input's own.
    if format != "gpkg" and style.resolve() not in {entry.with_suffix(".qml").resolve() for entry in inputs}:
        targets.append(style)
    options = PolygonOptions(
        only, simplify, smooth, min_area, max_area, min_hole, small, connectivity, fields, min_seed, growth
    )
    faults = Faults()
    options.refuse_odd(faults)
    faults.raise_any()
    refuse_inputs(targets, inputs)
    refuse_existing(targets, overwrite)
    with bounded_cache(), ExitStack() as stack:
        legend = find_legend(describe_scene(path))
        qml = layer_style(legend, only)
        partial = stack.enter_context(publish(out, overwrite=overwrite))
        if style in targets:
            beside = stack.enter_context(publish(style, overwrite=overwrite))
            beside.write_text(qml, encoding="utf-8")
        balance = polygonize_raster(path, scores, legend, partial, options, format=format, progress=progress)
    return PolygonLayer(out, balance)
