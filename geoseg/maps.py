"""The files of one scene's map: class raster, confidence and probabilities, their styles, and a QGIS project."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.bundle import Bundle
from geoseg.inference import Found
from geoseg.legend import IGNORE, LEGEND_TAG, MODEL_TAG, PROVENANCE_TAG, Legend
from geoseg.merging import Merger
from geoseg.pixel_areas import class_amounts, no_amounts
from geoseg.polygon_layer import LAYER
from geoseg.predictor import SHARE_STEPS, Prediction
from geoseg.qgis import ProjectLayer, relative_source, write_project
from geoseg.scenes import Scene
from geoseg.strips import MapLayer, Strip, Strips
from geoseg.styles import category_names, class_style, colour_bands, confidence_style, scene_style
from geoseg.version import VERSION


def file_names(stem: str, *, confidence: bool, probabilities: bool, polygons: bool) -> dict[str, str]:
    """The names of a map's files, by kind."""
    names = {"classes": f"{stem}_classes.tif"}
    if confidence:
        names["confidence"] = f"{stem}_confidence.tif"
    if probabilities:
        names["probabilities"] = f"{stem}_probabilities.tif"
    if polygons:
        names["polygons"] = f"{stem}_polygons.gpkg"
    return {**names, "project": f"{stem}.qgz", "item": f"{stem}_stac.json", "run": f"{stem}_run.json"}


def sidecar_names(names: dict[str, str]) -> list[str]:
    """The files that stand beside a map's rasters: styles, and what GDAL and QGIS note about a raster."""
    rasters = [name for name in names.values() if name.endswith(".tif")]
    return [sidecar for name in rasters for sidecar in (f"{name[:-4]}.qml", f"{name}.aux.xml")]


def all_names(stem: str) -> list[str]:
    """The names of all files that a map may have."""
    names = file_names(stem, confidence=True, probabilities=True, polygons=True)
    return [*names.values(), *sidecar_names(names)]


def map_layers(bundle: Bundle, names: dict[str, str], provenance: dict[str, Any]) -> list[MapLayer]:
    """The rasters of a map, which carry what they were made of and with."""
    legend = bundle.legend
    tags = {
        "TIFFTAG_SOFTWARE": f"geoseg {VERSION}",
        MODEL_TAG: bundle.weights_sha256,
        LEGEND_TAG: json.dumps(legend.to_list(), ensure_ascii=False),
        PROVENANCE_TAG: json.dumps(provenance, ensure_ascii=False),
    }
    colours = {entry.value: (*bytes.fromhex(entry.colour[1:]), 255) for entry in legend}
    shares: dict[str, Any] = {
        "dtype": "uint8",
        "nodata": IGNORE,
        "tags": tags,
        "scale": 1 / SHARE_STEPS,
        "smooth": True,
    }
    layers = [
        MapLayer("classes", legend.dtype, legend.nodata, ("classes",), tags, colours | {legend.nodata: (0, 0, 0, 0)}),
        MapLayer("confidence", bands=("confidence",), **shares),
        MapLayer("probabilities", bands=legend.names, **shares),
    ]
    return [layer for layer in layers if layer.kind in names]


def encode(prediction: Prediction, legend: Legend) -> dict[str, np.ndarray]:
    """The pixels (bands, rows, cols) of each raster of a map."""
    pixels = {"classes": legend.to_values(prediction.indices)[None], "confidence": prediction.confidence[None]}
    return pixels if prediction.probabilities is None else {**pixels, "probabilities": prediction.probabilities}


class MapWriter:
    """Writes what is found of a scene into strips, and counts the classes.

    Args:
        scene: gives the grid and the area of its pixels.
        legend: the classes.
        strips: to write.
        merger: knows which rows of the scene a strip has.
    """

    def __init__(self, scene: Scene, legend: Legend, strips: Strips, merger: Merger) -> None:
        self._scene, self._legend, self._strips, self._merger = scene, legend, strips, merger
        self._strip: Strip | None = None

    def write(self, found: Found) -> Found:
        """Write some ground; the strip of the row above is finished with the first of the next row."""
        if self._strip is None or self._strip.number != found.row:
            self.finish()
            self._strip = self._strips.open(found.row, *self._merger.extent(found.row))
            self._amounts = no_amounts(len(self._legend))
        self._strip.write(found.window, encode(found.prediction, self._legend))
        self._amounts += class_amounts(self._scene, found.window, found.prediction.indices, len(self._legend))
        return found

    def finish(self) -> None:
        """Finish the last strip."""
        if self._strip is not None:
            areas = [area if math.isfinite(area) else None for area in self._amounts.area_m2.tolist()]
            self._strip.finish({"pixels": self._amounts.pixels.tolist(), "areas_m2": areas})
            self._strip = None

    def close(self) -> None:
        """Stop; a strip that is not finished is none."""
        if self._strip is not None:
            self._strip.close()


def class_totals(scene: Scene, legend: Legend, strips: Strips) -> list[dict[str, Any]]:
    """Pixels and area per class, as a `MapWriter` has counted them in each strip."""
    found = strips.finished().values()
    pixels = sum((np.array(strip["pixels"]) for strip in found), np.zeros(len(legend), np.int64))
    areas = sum((np.array(strip["areas_m2"], float) for strip in found), np.zeros(len(legend)))
    valid = max(int(pixels.sum()), 1)
    return [
        {
            "value": entry.value,
            "name": entry.name,
            "pixels": int(count),
            "share": round(int(count) / valid, 6),
            "area_ha": round(float(area) / 1e4, 4) if scene.pixel_size_m and math.isfinite(area) else None,
        }
        for entry, count, area in zip(legend, pixels, areas, strict=True)
    ]


def write_styles(legend: Legend, staging: Path, names: dict[str, str]) -> None:
    """Write the styles that QGIS finds beside the rasters, and the class names for GDAL."""
    classes = names["classes"]
    (staging / f"{classes[:-4]}.qml").write_text(class_style(legend), encoding="utf-8")
    (staging / f"{classes}.aux.xml").write_text(category_names(legend), encoding="utf-8")
    if "confidence" in names:
        (staging / f"{names['confidence'][:-4]}.qml").write_text(confidence_style(), encoding="utf-8")


def write_map_project(
    scene: Scene,
    sources: Sequence[int],
    bundle: Bundle,
    polygon_style: str,
    out: Path,
    staging: Path,
    names: dict[str, str],
) -> None:
    """Write the QGIS project that shows a map's polygons over its scene.

    Args:
        scene: shown at the bottom, where it is a single file.
        sources: its bands, in the model's order.
        bundle: for the legend and the stretch of the scene.
        polygon_style: QML of the polygons.
        out: where the project ends up.
        staging: where it is written.
        names: of `file_names`.
    """
    legend, layers = bundle.legend, []
    if "polygons" in names:
        layers.append(ProjectLayer("polygons", names["polygons"], polygon_style, table=LAYER))
    single = len(scene.paths) == 1  # a stack has no single file to show
    # The classes are opaque: over the scene they would hide it, and polygons of their own colours.
    hidden = single and "polygons" in names
    layers.append(ProjectLayer("classes", names["classes"], class_style(legend), visible=not hidden))
    if "confidence" in names:
        layers.append(ProjectLayer("confidence", names["confidence"], confidence_style(), visible=False))
    if single:
        shown = colour_bands(bundle.image.names)
        statistics = [bundle.image.bands[position].statistics for position in shown]
        low, high = [facts.p1 for facts in statistics], [facts.p99 for facts in statistics]
        style = scene_style(scene.paths[0], [sources[position] for position in shown], low, high, scene.access)
        layers.append(ProjectLayer(scene.name, relative_source(scene.paths[0], out), style))
    left, bottom, right, top = scene.bounds
    if scene.crs is None and scene.transform.is_identity:
        bottom, top = -top, 0.0  # QGIS counts the rows of a picture downwards from 0
    write_project(
        staging / names["project"], title=scene.name, crs=scene.crs, extent=(left, bottom, right, top), layers=layers
    )
