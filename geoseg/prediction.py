"""The verb `predict`: a model and scenes to class rasters, confidence, polygons and a QGIS project."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rasterio
import torch

import geoseg
from geoseg.bundle import Bundle, open_bundle
from geoseg.choices import (
    Blend,
    Connectivity,
    Engine,
    Precision,
    Rule,
    TestTimeAugmentation,
    at_least,
    one_of,
    refuse_odd,
)
from geoseg.cluster import predict_on_cluster, refuse_unreachable
from geoseg.devices import choose_devices, choose_precision, precision_name
from geoseg.errors import (
    DataWarning,
    Faults,
    GeosegError,
    InputError,
    MismatchWarning,
    OutputExistsError,
    SomeScenesError,
)
from geoseg.files import occupy, read_json, refuse_existing, refuse_inputs, sha256, stage_occupied, write_json
from geoseg.grid import Layout
from geoseg.inference import read_probe
from geoseg.mapping import MapJob, choose_batch_size, choose_layout, choose_window, predict_strips
from geoseg.maps import all_names, class_totals, file_names, map_layers, write_map_project, write_styles
from geoseg.merging import create_merger
from geoseg.polygon_labels import Polygons, read_polygons
from geoseg.predictor import Predictor, choose_threshold, create_predictors
from geoseg.preflight import match_model, preflight_scenes
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.reach import COARSEST
from geoseg.remote import Access
from geoseg.scenes import Scene
from geoseg.seams import SeamCheck
from geoseg.strips import MapLayer, Strips
from geoseg.vectorise import chosen_classes, layer_style, polygonize_raster, refuse_odd_outlines

_FORMAT = 1


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
    blend: Blend
    batch_size: int | None
    tta: TestTimeAugmentation
    engine: Engine
    threshold: float | None
    aoi: str | None
    confidence: bool
    probabilities: bool
    polygons: bool
    only: str | Sequence[str] | None
    simplify: float
    connectivity: Connectivity
    check_seams: bool
    dask: str | None

    def refuse_odd(self, faults: Faults) -> None:
        """Collect what is out of its range."""
        rules = [
            *(at_least(self, name, 1) for name in ("window", "batch_size")),
            at_least(self, "margin", 0),
            *(one_of(self, name, words) for name, words in (
                ("blend", Blend), ("tta", TestTimeAugmentation), ("engine", Engine),
            )),
            Rule("check_seams", not self.check_seams or self.margin != 0, "a --margin of 1 or more is needed"),
        ]  # fmt: skip
        refuse_odd(self, rules, faults)
        with faults.collect():
            refuse_odd_outlines(self.simplify, self.connectivity)

    def layout(self, scene: Scene, bundle: Bundle) -> Layout:
        return choose_layout(scene, bundle, window=self.window, margin=self.margin, blend=self.blend)


@dataclass(frozen=True)
class _Run:
    """What all scenes of one call share."""

    bundle: Bundle
    predictors: Sequence[Predictor]  # none where a cluster has them
    precision: str
    area: Polygons | None
    out: Path
    options: _Options
    loading: float
    resume: bool
    overwrite: bool
    progress: Progress


def predict(
    scenes: str | Path | Sequence[str | Path],
    *,
    model: str | Path = "model",
    out: str | Path = "predictions",
    bands: str | Sequence[int | str] | None = None,
    window: int | None = None,
    margin: int | None = None,
    blend: Blend = "auto",
    tta: TestTimeAugmentation = "none",
    batch_size: int | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    engine: Engine = "torch",
    threshold: float | None = None,
    aoi: str | Path | None = None,
    confidence: bool = True,
    probabilities: bool = False,
    polygons: bool = True,
    only: str | Sequence[str] | None = None,
    simplify: float = 1.5,
    connectivity: Connectivity = 4,
    check_seams: bool = False,
    dask: str | None = None,
    stack: bool = False,
    allow_remote: bool = False,
    allow_vrt: bool = False,
    resume: bool = False,
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
        blend: `crop` lets each window answer for its core; `hann` joins neighbours across their margins, softly; `auto`
            crops, unless the network looks further than any margin.
        tta: mean of the predictions of mirrored (`flips`) and turned (`d4`) copies of each window: steadier, slower; or
            those of shifted copies, interleaved (`shifts`): sharper where the network is coarse, such as `fcn32s`.
        batch_size: windows a step; None chooses. It is halved where the device's memory does not hold so many.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`, or several: `cuda:0,cuda:1`.
        engine: `torch`, or `openvino` (extra) on a CPU, which must give 99.9 % of a probe's pixels the class that torch
            gives them in fp32.
        threshold: of a one-channel model: least probability of the second class where a pixel is said to be of it, above
            0 and below 1; None takes the model's own.
        aoi: polygon file; outside it nothing is told, and windows that do not touch it are not run.
        confidence: write the probability of the class chosen.
        probabilities: write the probability of every class.
        polygons: write polygons.
        only: names or values of the classes to make polygons of; None takes all but the background.
        simplify: how far, in pixels, a simplified outline may lie from the pixels' edges; 0 keeps these.
        connectivity: 4, or 8 to join pixels of a class that touch at corners.
        check_seams: measure how windows disagree along their borders, for the run file.
        dask: address of the scheduler of a Dask cluster (extra), or the JSON file that it wrote: its workers predict, each
            on the device that it finds, and write to storage that all machines share; the bytes are the same.
        stack: each scene is a folder of single-band files.
        allow_remote: a scene may be an address: `https://`, `s3://`, `gs://`, `az://` and the like.
        allow_vrt: a scene may be a VRT, which names files of its own.
        resume: go on where a run that was stopped has left finished strips of a scene.
        overwrite: replace earlier outputs of the same scenes.
        progress: called after each batch.

    Returns:
        One prediction per scene.

    Raises:
        GeosegError: bad input or a full disk; no scene leaves part of its outputs behind.
        SomeScenesError: some of several scenes failed; the others have their maps.
    """
    started = time.monotonic()
    options = _Options(
        window, margin, blend, batch_size, tta, engine, threshold, None if aoi is None else str(aoi), confidence,
        probabilities, polygons, only, simplify, connectivity, check_seams, dask,
    )  # fmt: skip
    inputs = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    faults, area = Faults(), None
    options.refuse_odd(faults)
    odd = bool(faults.errors)
    with faults.collect():
        bundle = open_bundle(model)
        with faults.collect():
            chosen_classes(bundle.legend, only)
        with faults.collect():
            choose_threshold(bundle, threshold)
        if not odd and (core := choose_window(bundle, window, margin)[0]) % COARSEST:
            warnings.warn(
                f"--window {window}: cores of {core} pixels, less the margins, are no multiple of {COARSEST}, so the coarse cells of "
                f"the network lie differently in each window; seams may show",
                MismatchWarning,
                stacklevel=2,
            )
    with faults.collect():
        if dask is not None and (device != "auto" or check_seams):
            option = "--check-seams" if check_seams else f"--device {device}"
            raise InputError(
                f"{option}: not with --dask, where each worker takes the device that it finds; leave it out"
            )
        devices = choose_devices("cpu" if dask is not None and engine == "openvino" else device)
    with faults.collect():
        area = read_polygons(Path(aoi)) if aoi is not None else None
    access = Access(remote=allow_remote, vrt=allow_vrt)
    found = preflight_scenes(inputs, stack=stack, access=access, faults=faults)
    for scene in found:
        targets = [Path(out) / name for name in all_names(scene.name)]
        with faults.collect():
            refuse_inputs(targets, scene.paths)
            # Where a run goes on, the map of a scene may be whole.
            refuse_existing(targets, overwrite or (resume and _run_file(scene, Path(out)).exists()))
        if area is not None:
            with faults.collect():
                area.near(scene)
    faults.raise_any()
    for scene in found:
        with faults.collect():
            match_model(scene, bundle.image, bands)
            options.layout(scene, bundle)
    faults.raise_any()
    if dask is not None:
        refuse_unreachable(dask)
    with bounded_cache(), occupy(out):
        predictors: Sequence[Predictor] = []
        if dask is None or engine != "torch":
            predictors = create_predictors(
                bundle, devices, precision=precision, tta=tta, threshold=threshold, engine=engine,
                probe=lambda: read_probe(
                    found[0], match_model(found[0], bundle.image, bands), options.layout(found[0], bundle),
                    choose_batch_size(batch_size, devices[0], options.layout(found[0], bundle)),
                ),
            )  # fmt: skip
        dtype = predictors[0].dtype if predictors else choose_precision(devices[0], precision)
        run = _Run(
            bundle, predictors, precision_name(dtype), area, Path(out), options, time.monotonic() - started, resume,
            overwrite, progress,
        )  # fmt: skip
        maps = [_Map.plan(scene, match_model(scene, bundle.image, bands), run) for scene in found]
        earlier = [_find_earlier(plan, run, faults) for plan in maps]
        faults.raise_any()
        whole = [prediction for prediction in earlier if prediction]
        todo = [plan for plan, prediction in zip(maps, earlier, strict=True) if prediction is None]
        try:
            made = _predict_on_cluster(todo, dask, run) if dask is not None else _predict_here(todo, run)
        except SomeScenesError as some:
            raise SomeScenesError([*whole, *some.made], some.failed) from None
        order = {prediction.path: prediction for prediction in [*whole, *made]}
        return [order[run.out / plan.names["classes"]] for plan in maps]


@dataclass(frozen=True)
class _Map:
    """One scene's map: what it is to be made of, and its files."""

    scene: Scene
    names: dict[str, str]
    layers: Sequence[MapLayer]
    job: MapJob

    @classmethod
    def plan(cls, scene: Scene, sources: Sequence[int], run: _Run) -> _Map:
        options, names = run.options, _names(scene, run.options)
        layers = map_layers(run.bundle, names)
        job = MapJob(
            scene, tuple(sources), run.bundle, options.layout(scene, run.bundle), run.area,
            Strips(run.out / f".{scene.name}.strips", scene, layers), options.tta, options.engine, run.precision,
            choose_threshold(run.bundle, options.threshold), options.batch_size, options.probabilities,
        )  # fmt: skip
        return cls(scene, names, layers, job)

    def digest(self, options: _Options) -> str:
        """Of all that the map depends on, to tell whether another one is the same."""
        shapes = (options.polygons, options.only, options.simplify, options.connectivity)
        return hashlib.sha256(json.dumps([self.job.plan(), *shapes]).encode()).hexdigest()

    @contextmanager
    def begun(self, run: _Run) -> Iterator[None]:
        """Begin the strips, or take up finished ones, and keep these when the block fails."""
        self.job.strips.begin(self.job.plan(), resume=run.resume, overwrite=run.overwrite)
        with self.job.strips.kept(self.job.layout.rows):
            yield


def _run_file(scene: Scene, out: Path) -> Path:
    return out / file_names(scene.name, confidence=False, probabilities=False, polygons=False)["run"]


def _find_earlier(plan: _Map, run: _Run, faults: Faults) -> ScenePrediction | None:
    """The whole map that an earlier run has made to the same plan, where this one goes on."""
    path = _run_file(plan.scene, run.out)
    if not (run.resume and path.exists()):
        return None
    with faults.collect():
        facts = read_json(path, newest=_FORMAT, what="the run file of a map")
        if facts.get("plan_sha256") == plan.digest(run.options):
            outputs = {kind: run.out / name for kind, name in plan.names.items()}
            return ScenePrediction(outputs["classes"], outputs, tuple(facts["classes"]), facts)
        if not run.overwrite:
            raise OutputExistsError(
                f"{path}: the map of another model, scene or option is there; choose another --out or allow it with --overwrite"
            )
    return None


def _predict_here(maps: Sequence[_Map], run: _Run) -> list[ScenePrediction]:
    """One after the other; a scene that fails does not keep the others from their maps."""
    made, failed = [], []
    for plan in maps:
        began, layout = time.monotonic(), plan.job.layout
        try:
            with plan.begun(run):
                missing, check = plan.job.missing(), None
                if run.options.check_seams:
                    check = SeamCheck(
                        create_merger(layout), layout, run.predictors[0], whole=len(missing) == layout.rows
                    )
                predict_strips(plan.job, run.predictors, missing, check=check, progress=run.progress)
                made.append(_publish(plan, run, began, check))
        except GeosegError as error:
            if len(maps) == 1:
                raise
            failed.append(error)
    if failed:
        raise SomeScenesError(made, failed)
    return made


def _predict_on_cluster(maps: Sequence[_Map], address: str, run: _Run) -> list[ScenePrediction]:
    """Their strips on the workers, all in one queue; the maps are joined here as they get whole."""
    made: list[ScenePrediction] = []
    failed: list[GeosegError] = []
    began = time.monotonic()
    with ExitStack() as stack:
        for plan in maps:
            stack.enter_context(plan.begun(run))
        results = predict_on_cluster([plan.job for plan in maps], address, progress=run.progress)
        stack.callback(results.close)  # first of all, before strips are taken away
        for place, error in results:
            plan = maps[place]
            try:
                with plan.job.strips.kept(plan.job.layout.rows):
                    if error is not None:
                        raise error
                    made.append(_publish(plan, run, began))
            except GeosegError as error:
                if len(maps) == 1:
                    raise
                failed.append(error)
    if failed:
        raise SomeScenesError(made, failed)
    return made


def _names(scene: Scene, options: _Options) -> dict[str, str]:
    return file_names(
        scene.name, confidence=options.confidence, probabilities=options.probabilities, polygons=options.polygons
    )


def _publish(plan: _Map, run: _Run, began: float, check: SeamCheck | None = None) -> ScenePrediction:
    """Join the strips, trace the polygons, and put all of a map under its final names."""
    clock = [began, time.monotonic()]
    scene, names, strips = plan.scene, plan.names, plan.job.strips
    options, legend, out, balance = run.options, run.bundle.legend, run.out, None
    with stage_occupied(out, last=names["run"], replaces=all_names(scene.name), overwrite=run.overwrite) as staging:
        for layer in plan.layers:
            strips.join(layer, staging / names[layer.kind])
        clock.append(time.monotonic())
        if options.polygons:
            balance = polygonize_raster(
                staging / names["classes"], staging / names["confidence"] if options.confidence else None, legend,
                staging / names["polygons"], only=options.only, simplify=options.simplify,
                connectivity=options.connectivity, progress=run.progress,
            )  # fmt: skip
        write_styles(legend, staging, names)
        write_map_project(scene, plan.job.sources, run.bundle, layer_style(legend, options.only), out, staging, names)
        clock.append(time.monotonic())
        classes = class_totals(scene, legend, strips)
        if not any(entry["pixels"] for entry in classes):
            warnings.warn(
                f"{scene.path}: no pixel holds data{' inside the --aoi' if run.area else ''}; the map is empty",
                DataWarning,
                stacklevel=2,
            )
        facts = {
            **_circumstances(plan.job, run),
            "plan_sha256": plan.digest(options),
            "classes": classes,
            "seams": check.facts() if check else None,
            "polygons": balance,
            "seconds": _seconds(run.loading, clock),
            "outputs": {path.name: sha256(path) for path in sorted(staging.iterdir())},
        }
        write_json(staging / names["run"], facts)
    strips.remove()
    outputs = {kind: out / name for kind, name in names.items()}
    return ScenePrediction(outputs["classes"], outputs, tuple(facts["classes"]), facts)


def _circumstances(job: MapJob, run: _Run) -> dict[str, Any]:
    """What a map was made of and with, for the run file."""
    scene, layout = job.scene, job.layout
    batch_size = job.batch_size
    if run.predictors:
        batch_size = choose_batch_size(batch_size, run.predictors[0].device, layout)
    return {
        "format": _FORMAT,
        "geoseg_version": geoseg.__version__,
        "scene": scene.path.name,
        "model": {"name": run.bundle.path.resolve().name, "weights_sha256": run.bundle.weights_sha256},
        "bands": [scene.band_names[source - 1] for source in job.sources],
        "options": asdict(run.options),
        "grid": {
            "core": list(layout.core), "margin": layout.margin, "blend": layout.blend,
            "windows": layout.windows, "batch_size": batch_size,
        },
        "device": "dask" if run.options.dask else ",".join(str(predictor.device) for predictor in run.predictors),
        "precision": run.precision,
        "versions": {"torch": str(torch.__version__), "rasterio": rasterio.__version__},
    }  # fmt: skip


def _seconds(loading: float, clock: Sequence[float]) -> dict[str, float]:
    begun, mapped, joined, ended = clock
    return {
        "load": round(loading, 2),
        "map": round(mapped - begun, 2),
        "join": round(joined - mapped, 2),
        "polygons": round(ended - joined, 2),
        "all": round(ended - begun + loading, 2),
    }
