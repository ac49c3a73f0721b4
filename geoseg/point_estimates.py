"""What labelled points tell of a map: areas and accuracies, by the strata that the points were drawn from."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import shapely

from geoseg.area_estimation import Sample, estimate
from geoseg.class_map import ClassMap
from geoseg.errors import DataWarning, LabelError
from geoseg.legend import IGNORE
from geoseg.pixel_areas import ClassAmounts, no_amounts
from geoseg.progress import Progress
from geoseg.reference_points import ReferencePoints

_ELSEWHERE = 0.01
"""Share of the area by which points and map may differ before that is said."""


def estimate_areas(found: ClassMap, points: ReferencePoints, progress: Progress) -> dict[str, Any]:
    """What labelled points tell of a map; see `geoseg.area_estimation.estimate`.

    Points of `geoseg sample` are a stratified sample whose strata the file tells. Others are taken for a simple random
    sample, stratified by the map afterwards (Card 1982, "Using known map category marginal frequencies to improve estimates
    of thematic map accuracy", PE&RS 48(3)).

    Returns:
        Also `unsampled_ha`, the ground of strata without a labelled point, of which nothing is told; and `strata`, how the
        points came about: `drawn` or `map`.

    Raises:
        LabelError: no point lies on the map.
    """
    x, y = shapely.get_coordinates(shapely.centroid(points.table.geometry.to_crs(found.scene.crs).to_numpy())).T
    cols, rows = (np.floor(part).astype(np.int64) for part in ~found.scene.transform @ (x, y))
    mapped, classes = _look_up(found, rows, cols, progress)
    used = np.flatnonzero(mapped != IGNORE)
    if not len(used):
        raise LabelError(f"{points.path}: no labelled point lies on the map {found.scene.path}; check both CRSs")
    if len(used) < len(mapped):
        _warn(
            f"{points.path}: {len(mapped) - len(used)} labelled points lie outside the map or on nodata and are left out"
        )
    if again := len(used) - len(set(zip(x[used].tolist(), y[used].tolist(), strict=True))):
        _warn(
            f"{points.path}: {again} points lie where another point does, and count as if they were of ground of their own; keep one "
            f"of each"
        )
    values = np.array(found.legend.values)
    stratum = points.table["stratum"].to_numpy()[used] if points.strata else values[mapped[used]]
    strata = points.strata or {
        value: (float(classes.area_m2[index]), int(classes.pixels[index]))
        for index, value in enumerate(found.legend.values)
        if classes.pixels[index]
    }
    kept = {value: facts for value, facts in strata.items() if (stratum == value).any()}
    unsampled_m2 = sum(area for value, (area, _) in strata.items() if value not in kept)
    _say_what_is_missing(points, sum(area for area, _ in strata.values()), classes.area_m2.sum(), unsampled_m2)
    order = {value: number for number, value in enumerate(kept)}
    size = [
        found.pixel_m2(col, row) / (kept[value][0] / kept[value][1])
        for row, col, value in zip(rows[used].tolist(), cols[used].tolist(), stratum.tolist(), strict=True)
    ]
    sample = Sample(
        np.array([order[value] for value in stratum.tolist()]), mapped[used], points.reference[used],
        np.array([area for area, _ in kept.values()]), np.array(size),
    )  # fmt: skip
    told = estimate(sample, classes.area_m2, found.legend)
    for entry in told["classes"]:
        if entry["value"] in strata and entry["value"] not in kept:  # nobody has looked where the map shows it
            entry["area_ha"] = dict.fromkeys(entry["area_ha"])
    return {
        **told,
        "unsampled_ha": unsampled_m2 / 1e4,
        "strata": "drawn" if points.strata else "map",
    }


def _look_up(
    found: ClassMap, rows: np.ndarray, cols: np.ndarray, progress: Progress
) -> tuple[np.ndarray, ClassAmounts]:
    """Class index at pixels, 255 outside the map and on nodata; and how much of each class the map has."""
    mapped = np.full(len(rows), IGNORE)
    across = (cols >= 0) & (cols < found.scene.width)
    amounts = no_amounts(len(found.legend))
    for window, indices in found.strips():
        here = across & (rows >= window.row_off) & (rows < window.row_off + window.height)
        mapped[here] = indices[rows[here] - window.row_off, cols[here]]
        amounts += found.count(window, indices)
        progress("evaluate", window.row_off + window.height, found.scene.height)
    return mapped, amounts


def _say_what_is_missing(points: ReferencePoints, drawn_m2: float, mapped_m2: float, unsampled_m2: float) -> None:
    if abs(drawn_m2 / mapped_m2 - 1) > _ELSEWHERE:
        _warn(
            f"{points.path}: the points were drawn on {drawn_m2 / 1e4:,.1f} ha, the map has {mapped_m2 / 1e4:,.1f} ha; areas "
            f"are those of the former (use the --aoi that they were drawn in)"
        )
    if unsampled_m2:
        _warn(
            f"{points.path}: {unsampled_m2 / 1e4:,.2f} ha are strata without a labelled point; nothing is told of them"
        )


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
