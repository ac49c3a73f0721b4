"""The files of one scene's map: class raster, confidence and probabilities, their styles, and a QGIS project."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

import geoseg
from geoseg.bundle import Bundle
from geoseg.inference import Prediction
from geoseg.legend import IGNORE, LEGEND_TAG, Legend
from geoseg.polygon_layer import LAYER
from geoseg.qgis import ProjectLayer, relative_source, write_project
from geoseg.raster import RasterWriter
from geoseg.scenes import Scene
from geoseg.styles import category_names, class_style, colour_bands, confidence_style, scene_style

CONFIDENCE_STEPS = 250
"""Confidence and probabilities are stored in steps of 1/250, with 255 for nodata."""


def file_names(stem: str, *, confidence: bool, probabilities: bool, polygons: bool) -> dict[str, str]:
    """The names of a map's files, by kind."""
    names = {"classes": f"{stem}_classes.tif"}
    if confidence:
        names["confidence"] = f"{stem}_confidence.tif"
    if probabilities:
        names["probabilities"] = f"{stem}_probabilities.tif"
    if polygons:
        names["polygons"] = f"{stem}_polygons.gpkg"
    return {**names, "project": f"{stem}.qgz", "run": f"{stem}_run.json"}


def sidecar_names(names: dict[str, str]) -> list[str]:
    """The files that stand beside a map's rasters: styles, and what GDAL and QGIS note about a raster."""
    rasters = [name for name in names.values() if name.endswith(".tif")]
    return [sidecar for name in rasters for sidecar in (f"{name[:-4]}.qml", f"{name}.aux.xml")]


class MapRasters:
    """The rasters of a map, written core by core."""

    def __init__(self, scene: Scene, bundle: Bundle, folder: Path, names: dict[str, str]) -> None:
        self._legend = legend = bundle.legend
        self._tags = {
            "TIFFTAG_SOFTWARE": f"geoseg {geoseg.__version__}",
            "GEOSEG_MODEL_SHA256": bundle.weights_sha256,
            LEGEND_TAG: json.dumps(legend.to_list(), ensure_ascii=False),
        }
        place: dict[str, Any] = {
            "height": scene.height,
            "width": scene.width,
            "crs": scene.crs,
            "transform": scene.transform,
        }
        self._rasters: dict[str, RasterWriter] = {}
        for kind in ("classes", "confidence", "probabilities"):
            if kind not in names:
                continue
            dtype, nodata = (legend.dtype, legend.nodata) if kind == "classes" else ("uint8", 255)
            bands = legend.names if kind == "probabilities" else (kind,)
            raster = RasterWriter(folder / names[kind], dtype=dtype, nodata=nodata, count=len(bands), **place)
            if kind == "classes":
                colours = {entry.value: (*bytes.fromhex(entry.colour[1:]), 255) for entry in legend}
                raster.dataset.write_colormap(1, colours | {nodata: (0, 0, 0, 0)})
            else:
                raster.dataset.scales = (1 / CONFIDENCE_STEPS,) * len(bands)
            for number, name in enumerate(bands, 1):
                raster.dataset.set_band_description(number, name)
            self._rasters[kind] = raster

    def write(self, window: Window, prediction: Prediction) -> None:
        """Write one core."""
        for kind, raster in self._rasters.items():
            raster.write(self._encode(kind, prediction), window)

    def _encode(self, kind: str, prediction: Prediction) -> np.ndarray:
        """The pixels (bands, rows, cols) of one raster."""
        if kind == "classes":
            return self._legend.to_values(prediction.indices)[None]
        shares = prediction.confidence[None] if kind == "confidence" else prediction.probabilities
        return np.where(prediction.indices == IGNORE, 255, np.rint(shares * CONFIDENCE_STEPS)).astype(np.uint8)

    def finish(self) -> None:
        """Turn the rasters into checked, cloud-optimised GeoTIFFs."""
        for kind, raster in self._rasters.items():
            resampling = Resampling.mode if kind == "classes" else Resampling.average
            raster.finish(resampling=resampling, predictor=kind != "classes", tags=self._tags)

    def close(self) -> None:
        """Stop, with or without a result."""
        for raster in self._rasters.values():
            raster.close()


@contextmanager
def open_map(scene: Scene, bundle: Bundle, folder: Path, names: dict[str, str]) -> Iterator[MapRasters]:
    """Open the rasters of a map in a staged folder."""
    with ExitStack() as stack:
        rasters = MapRasters(scene, bundle, folder, names)
        stack.callback(rasters.close)
        yield rasters


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
        style = scene_style(scene.path, [sources[position] for position in shown], low, high)
        layers.append(ProjectLayer(scene.name, relative_source(scene.path, out), style))
    left, bottom, right, top = scene.bounds
    if scene.crs is None and scene.transform.is_identity:
        bottom, top = -top, 0.0  # QGIS counts the rows of a picture downwards from 0
    write_project(
        staging / names["project"], title=scene.name, crs=scene.crs, extent=(left, bottom, right, top), layers=layers
    )
