"""The verb `predict`: a model and scenes to class rasters, confidence, polygons and a QGIS project."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling

import geoseg
from geoseg.bundle import Bundle, open_bundle
from geoseg.choices import Connectivity, Precision
from geoseg.errors import Faults, InputError
from geoseg.files import refuse_existing, refuse_inputs, sha256, stage, write_json
from geoseg.grid import grid
from geoseg.inference import Prediction, Predictor, choose_device, predict_cores
from geoseg.legend import IGNORE, LEGEND_TAG, Legend
from geoseg.preflight import match_model, preflight_scenes
from geoseg.progress import Progress, silent
from geoseg.qgis import (
    ProjectLayer,
    category_names,
    class_style,
    colour_bands,
    confidence_style,
    polygon_style,
    relative_source,
    scene_style,
    write_project,
)
from geoseg.raster import BLOCK, RasterWriter, bounded_cache
from geoseg.scenes import Scene
from geoseg.vectorise import LAYER, chosen_classes, polygonize_raster

_FORMAT = 1
_MARGIN = 64
_STEPS = 250
"""Confidence is stored in steps of 1/250."""


@dataclass(frozen=True)
class ScenePrediction:
    """The map of one scene.

    Attributes:
        path: the class raster.
        outputs: every file written, by kind.
        classes: per class: name, value, pixels, share of the valid pixels, area_ha (None without a CRS).
        facts: what stands in the run file.
    """

    path: Path
    outputs: dict[str, Path]
    classes: tuple[dict[str, Any], ...]
    facts: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        lines = [f"{self.path}"]
        for entry in self.classes:
            area = "" if entry["area_ha"] is None else f"{entry['area_ha']:>14,.1f} ha"
            lines.append(f"  {entry['name']:<20} {100 * entry['share']:>6.1f} %{area}")
        if "project" in self.outputs:
            lines.append(f"  open in QGIS: {self.outputs['project']}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What stands in the run file."""
        return self.facts


@dataclass(frozen=True)
class _Options:
    window: int | None
    margin: int | None
    batch_size: int
    confidence: bool
    probabilities: bool
    polygons: bool
    only: str | Sequence[str] | None
    simplify: float
    connectivity: Connectivity


def predict(
    scenes: str | Path | Sequence[str | Path],
    *,
    model: str | Path = "model",
    out: str | Path = "predictions",
    bands: str | Sequence[int | str] | None = None,
    window: int | None = None,
    margin: int | None = None,
    batch_size: int = 2,
    precision: Precision = "auto",
    device: str = "auto",
    confidence: bool = True,
    probabilities: bool = False,
    polygons: bool = True,
    only: str | Sequence[str] | None = None,
    simplify: float = 1.5,
    connectivity: Connectivity = 4,
    stack: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> list[ScenePrediction]:
    """Map scenes with a trained model.

    Args:
        scenes: raster files, or folders of them; with `stack`, folders of single-band files.
        model: a bundle made by `train`.
        out: folder of the outputs, which bear the scenes' stems.
        bands: numbers or names of the scene's bands, in the model's order; None finds them.
        window: rows and columns that the network sees at once, margin included; None chooses.
        margin: pixels on each side that are seen but not written; None chooses.
        batch_size: windows a step.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        confidence: write the probability of the class chosen.
        probabilities: write the probability of every class.
        polygons: write polygons.
        only: names or values of the classes to make polygons of; None takes all but the background.
        simplify: how far, in pixels, a simplified outline may lie from the pixels' edges; 0 keeps these.
        connectivity: 4, or 8 to join pixels of a class that touch at corners.
        stack: each scene is a folder of single-band files.
        overwrite: replace earlier outputs of the same scenes.
        progress: called after each batch.

    Returns:
        One prediction per scene.

    Raises:
        GeosegError: bad input or a full disk; no scene leaves part of its outputs behind.
    """
    options = _Options(window, margin, batch_size, confidence, probabilities, polygons, only, simplify, connectivity)
    inputs = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    faults = Faults()
    with faults.collect():
        bundle = open_bundle(model)
        chosen_classes(bundle.legend, only)
    with faults.collect():
        _choose_grid(BLOCK, BLOCK, options)
        choose_device(device)
    found = preflight_scenes(inputs, stack=stack, faults=faults)
    for scene in found:
        targets = [Path(out) / name for name in _output_names(scene.name, options).values()]
        with faults.collect():
            refuse_inputs(targets, scene.paths)
            refuse_existing(targets, overwrite)
    faults.raise_any()
    for scene in found:
        with faults.collect():
            match_model(scene, bundle.image, bands)
    faults.raise_any()
    predictor = Predictor(bundle, device=device, precision=precision)
    with bounded_cache():
        return [
            _predict_scene(
                scene,
                match_model(scene, bundle.image, bands),
                predictor,
                bundle,
                Path(out),
                options,
                overwrite,
                progress,
            )
            for scene in found
        ]


def _output_names(stem: str, options: _Options) -> dict[str, str]:
    names = {"classes": f"{stem}_classes.tif"}
    if options.confidence:
        names["confidence"] = f"{stem}_confidence.tif"
    if options.probabilities:
        names["probabilities"] = f"{stem}_probabilities.tif"
    if options.polygons:
        names["polygons"] = f"{stem}_polygons.gpkg"
    return {**names, "project": f"{stem}.qgz", "run": f"{stem}_run.json"}


def _choose_grid(height: int, width: int, options: _Options) -> tuple[tuple[int, int], int]:
    """Rows and columns of a core, and the margin around it.

    Cores are whole blocks of the output, so that each block is compressed once; a scene smaller than one makes do with
    less.
    """
    margin = options.margin if options.margin is not None else min(_MARGIN, (options.window or 8 * _MARGIN) // 8)
    core = options.window - 2 * margin if options.window is not None else BLOCK
    if core < 1 or margin < 0:
        raise InputError(f"--window {options.window} --margin {margin}: the window must be larger than two margins")
    rows, cols = (min(core, -(-size // 32) * 32) for size in (height, width))
    return (rows, cols), margin


def _predict_scene(
    scene: Scene,
    sources: Sequence[int],
    predictor: Predictor,
    bundle: Bundle,
    out: Path,
    options: _Options,
    overwrite: bool,
    progress: Progress,
) -> ScenePrediction:
    started = time.monotonic()
    names = _output_names(scene.name, options)
    styles = [f"{name[:-4]}.qml" for name in names.values() if name.endswith(".tif")]
    sidecars = [f"{name}.aux.xml" for name in names.values() if name.endswith(".tif")]
    with stage(out, last=names["run"], replaces=[*names.values(), *styles, *sidecars], overwrite=overwrite) as staging:
        totals = _write_rasters(scene, sources, predictor, bundle, staging, names, options, progress)
        mapped = time.monotonic()
        balance = None
        if options.polygons:
            progress(f"polygons {scene.name}", 0, 1)
            balance = polygonize_raster(
                staging / names["classes"], staging / names["confidence"] if options.confidence else None, bundle.legend,
                staging / names["polygons"], only=options.only, simplify=options.simplify, connectivity=options.connectivity,
            )  # fmt: skip
            progress(f"polygons {scene.name}", 1, 1)
        _write_styles(bundle.legend, staging, names)
        _write_project(scene, sources, bundle, out, staging, names)
        facts = {
            "format": _FORMAT,
            "geoseg_version": geoseg.__version__,
            "scene": scene.path.name,
            "model": {"name": bundle.path.resolve().name, "weights_sha256": bundle.weights_sha256},
            "bands": [scene.band_names[source - 1] for source in sources],
            "options": asdict(options),
            "device": str(predictor.device),
            "precision": str(predictor.dtype).removeprefix("torch."),
            "classes": totals,
            "polygons": balance,
            "seconds": {"map": round(mapped - started, 2), "all": round(time.monotonic() - started, 2)},
            "versions": {"torch": str(torch.__version__), "rasterio": rasterio.__version__},
            "outputs": {path.name: sha256(path) for path in sorted(staging.iterdir())},
        }
        write_json(staging / names["run"], facts)
    outputs = {kind: out / name for kind, name in names.items()}
    return ScenePrediction(outputs["classes"], outputs, tuple(totals), facts)


def _write_rasters(
    scene: Scene,
    sources: Sequence[int],
    predictor: Predictor,
    bundle: Bundle,
    staging: Path,
    names: dict[str, str],
    options: _Options,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Predict the scene core by core into its rasters; returns the totals per class."""
    core, margin = _choose_grid(scene.height, scene.width, options)
    tiles = list(grid(scene.height, scene.width, core, margin))
    pixels, areas = np.zeros(len(bundle.legend), np.int64), np.zeros(len(bundle.legend))
    with ExitStack() as stack:
        rasters = _open_rasters(scene, bundle.legend, staging, names, stack)
        reader = stack.enter_context(scene.open())
        found = predict_cores(reader, sources, tiles, predictor, batch_size=options.batch_size)
        for done, (window, prediction) in enumerate(found, 1):
            for kind, raster in rasters.items():
                raster.write(_encode(kind, prediction, bundle.legend), window)
            counts = np.bincount(prediction.indices.ravel(), minlength=IGNORE + 1)[: len(bundle.legend)]
            pixels += counts
            areas += counts * (scene.pixel_area_m2(window) or 0.0)
            progress(f"predict {scene.name}", done, len(tiles))
        tags = {
            "TIFFTAG_SOFTWARE": f"geoseg {geoseg.__version__}",
            "GEOSEG_MODEL_SHA256": bundle.weights_sha256,
            LEGEND_TAG: json.dumps(bundle.legend.to_list(), ensure_ascii=False),
        }
        for kind, raster in rasters.items():
            resampling = Resampling.mode if kind == "classes" else Resampling.average
            raster.finish(resampling=resampling, predictor=kind != "classes", tags=tags)
    valid = max(int(pixels.sum()), 1)
    return [
        {
            "value": entry.value,
            "name": entry.name,
            "pixels": int(count),
            "share": round(int(count) / valid, 6),
            "area_ha": round(float(area) / 1e4, 4) if scene.crs else None,
        }
        for entry, count, area in zip(bundle.legend, pixels, areas, strict=True)
    ]


def _open_rasters(
    scene: Scene, legend: Legend, staging: Path, names: dict[str, str], stack: ExitStack
) -> dict[str, RasterWriter]:
    place: dict[str, Any] = {
        "height": scene.height,
        "width": scene.width,
        "crs": scene.crs,
        "transform": scene.transform,
    }
    rasters: dict[str, RasterWriter] = {}
    for kind in ("classes", "confidence", "probabilities"):
        if kind not in names:
            continue
        dtype, nodata = (legend.dtype, legend.nodata) if kind == "classes" else ("uint8", 255)
        count = len(legend) if kind == "probabilities" else 1
        raster = RasterWriter(staging / names[kind], dtype=dtype, nodata=nodata, count=count, **place)
        stack.callback(raster.close)
        if kind == "classes":
            raster.dataset.write_colormap(
                1, {entry.value: _rgba(entry.colour) for entry in legend} | {nodata: (0, 0, 0, 0)}
            )
        else:
            raster.dataset.scales = (1 / _STEPS,) * count
        for band, name in enumerate(legend.names if kind == "probabilities" else [kind], 1):
            raster.dataset.set_band_description(band, name)
        rasters[kind] = raster
    return rasters


def _rgba(colour: str) -> tuple[int, int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16), 255


def _encode(kind: str, prediction: Prediction, legend: Legend) -> np.ndarray:
    """The (bands, rows, cols) of one output raster."""
    if kind == "classes":
        return legend.to_values(prediction.indices)[None]
    shares = prediction.probabilities
    if kind == "confidence":
        shares = shares.max(axis=0, keepdims=True)
    return np.where(prediction.indices == IGNORE, 255, np.rint(shares * _STEPS)).astype(np.uint8)


def _write_styles(legend: Legend, staging: Path, names: dict[str, str]) -> None:
    classes = names["classes"]
    (staging / f"{classes[:-4]}.qml").write_text(class_style(legend), encoding="utf-8")
    (staging / f"{classes}.aux.xml").write_text(category_names(legend), encoding="utf-8")
    if "confidence" in names:
        (staging / f"{names['confidence'][:-4]}.qml").write_text(confidence_style(), encoding="utf-8")


def _write_project(
    scene: Scene, sources: Sequence[int], bundle: Bundle, out: Path, staging: Path, names: dict[str, str]
) -> None:
    layers = []
    if "polygons" in names:
        layers.append(ProjectLayer("polygons", f"./{names['polygons']}", polygon_style(bundle.legend), table=LAYER))
    layers.append(
        ProjectLayer("classes", f"./{names['classes']}", class_style(bundle.legend), visible="polygons" not in names)
    )
    if "confidence" in names:
        layers.append(ProjectLayer("confidence", f"./{names['confidence']}", confidence_style(), visible=False))
    if len(scene.paths) == 1:  # a stack has no single file to show
        shown = colour_bands([band.name for band in bundle.image.bands])
        statistics = [bundle.image.bands[position].statistics for position in shown]
        style = scene_style(
            scene.path,
            [sources[position] for position in shown],
            [s.p1 for s in statistics],
            [s.p99 for s in statistics],
        )
        layers.append(ProjectLayer(scene.name, relative_source(scene.path, out), style))
    corners = [
        scene.transform @ at for at in ((0, 0), (scene.width, 0), (0, scene.height), (scene.width, scene.height))
    ]
    xs, ys = zip(*corners, strict=True)
    extent = (min(xs), min(ys), max(xs), max(ys))
    write_project(staging / names["project"], title=scene.name, crs=scene.crs, extent=extent, layers=layers)
