"""The verb `predict`: a model and scenes to class rasters, confidence, polygons and a QGIS project."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

import geoseg
from geoseg.bundle import Bundle, open_bundle
from geoseg.choices import Connectivity, Precision, TestTimeAugmentation
from geoseg.errors import Faults, InputError
from geoseg.files import refuse_existing, refuse_inputs, sha256, stage, write_json
from geoseg.grid import grid
from geoseg.inference import Predictor, choose_device, choose_threshold, precision_name, predict_cores
from geoseg.legend import IGNORE
from geoseg.maps import file_names, open_map, sidecar_names, write_map_project, write_styles
from geoseg.preflight import match_model, preflight_scenes
from geoseg.progress import Progress, silent
from geoseg.raster import BLOCK, bounded_cache
from geoseg.scenes import Scene
from geoseg.vectorise import chosen_classes, layer_style, polygonize_raster

_FORMAT = 1
_MARGIN = 64


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
    tta: TestTimeAugmentation
    threshold: float | None
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
    tta: TestTimeAugmentation = "none",
    batch_size: int = 2,
    precision: Precision = "auto",
    device: str = "auto",
    threshold: float | None = None,
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
        tta: mean of the predictions of mirrored (`flips`) and turned (`d4`) copies of each window: steadier, slower; or
            those of shifted copies, interleaved (`shifts`): sharper where the network is coarse, such as `fcn32s`.
        batch_size: windows a step.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threshold: of a one-channel model: least probability of the second class where a pixel is said to be of it, above
            0 and below 1; None takes the model's own.
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
    options = _Options(
        window, margin, batch_size, tta, threshold, confidence, probabilities, polygons, only, simplify, connectivity
    )
    inputs = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    faults = Faults()
    with faults.collect():
        bundle = open_bundle(model)
        with faults.collect():
            chosen_classes(bundle.legend, only)
        choose_threshold(bundle, threshold)
    with faults.collect():
        _choose_grid(BLOCK, BLOCK, options)
        choose_device(device)
    found = preflight_scenes(inputs, stack=stack, faults=faults)
    for scene in found:
        targets = [Path(out) / name for name in _names(scene, options).values()]
        with faults.collect():
            refuse_inputs(targets, scene.paths)
            refuse_existing(targets, overwrite)
    faults.raise_any()
    for scene in found:
        with faults.collect():
            match_model(scene, bundle.image, bands)
    faults.raise_any()
    predictor = Predictor(bundle, device=device, precision=precision, tta=tta, threshold=threshold)
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


def _names(scene: Scene, options: _Options) -> dict[str, str]:
    return file_names(
        scene.name, confidence=options.confidence, probabilities=options.probabilities, polygons=options.polygons
    )


def _predict_scene(
    scene: Scene, sources: Sequence[int], predictor: Predictor, bundle: Bundle, out: Path, options: _Options,
    overwrite: bool, progress: Progress,
) -> ScenePrediction:  # fmt: skip
    started = time.monotonic()
    names, legend = _names(scene, options), bundle.legend
    with stage(
        out, last=names["run"], replaces=[*names.values(), *sidecar_names(names)], overwrite=overwrite
    ) as staging:
        totals = _write_rasters(scene, sources, predictor, bundle, staging, names, options, progress)
        mapped, balance = time.monotonic(), None
        if options.polygons:
            balance = polygonize_raster(
                staging / names["classes"], staging / names["confidence"] if options.confidence else None, legend,
                staging / names["polygons"], only=options.only, simplify=options.simplify,
                connectivity=options.connectivity, progress=progress,
            )  # fmt: skip
        write_styles(legend, staging, names)
        write_map_project(scene, sources, bundle, layer_style(legend, options.only), out, staging, names)
        facts = {
            "format": _FORMAT,
            "geoseg_version": geoseg.__version__,
            "scene": scene.path.name,
            "model": {"name": bundle.path.resolve().name, "weights_sha256": bundle.weights_sha256},
            "bands": [scene.band_names[source - 1] for source in sources],
            "options": asdict(options),
            "device": str(predictor.device),
            "precision": precision_name(predictor.dtype),
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
    scene: Scene, sources: Sequence[int], predictor: Predictor, bundle: Bundle, staging: Path, names: dict[str, str],
    options: _Options, progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """Predict the scene core by core into its rasters; returns the totals per class."""
    core, margin = _choose_grid(scene.height, scene.width, options)
    tiles = -(-scene.height // core[0]) * -(-scene.width // core[1])
    pixels, areas = np.zeros(len(bundle.legend), np.int64), np.zeros(len(bundle.legend))
    with open_map(scene, bundle, staging, names) as rasters, scene.open() as reader:
        cores = grid(scene.height, scene.width, core, margin)
        found = predict_cores(reader, sources, cores, predictor, batch_size=options.batch_size)
        for done, (window, prediction) in enumerate(found, 1):
            rasters.write(window, prediction)
            counts = np.bincount(prediction.indices.ravel(), minlength=IGNORE + 1)[: len(bundle.legend)]
            pixels += counts
            areas += counts * (scene.pixel_area_m2(window) or 0.0)
            progress(f"predict {scene.name}", done, tiles)
        rasters.finish()
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
