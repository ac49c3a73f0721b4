"""The verb `predict`: a model and scenes to class rasters, confidence, polygons and a QGIS project."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch

from geoseg.bundle import Bundle, open_bundle
from geoseg.choices import (
    Blend,
    Connectivity,
    Engine,
    Precision,
    Small,
    TestTimeAugmentation,
)
from geoseg.cluster import predict_on_cluster, refuse_unreachable
from geoseg.devices import choose_devices, choose_precision, precision_name
from geoseg.errors import (
    Faults,
    GeosegError,
    InputError,
    MismatchWarning,
    SomeScenesError,
)
from geoseg.files import occupy, refuse_existing, refuse_inputs, warn_of_little_room
from geoseg.inference import read_probe
from geoseg.mapping import choose_batch_size, choose_window, predict_strips
from geoseg.maps import all_names
from geoseg.merging import create_merger
from geoseg.polygon_labels import Polygons, read_polygons
from geoseg.predictor import Predictor, choose_threshold, create_predictors
from geoseg.preflight import match_model, match_values, most_bytes, preflight_scenes, say_stopped
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.reach import COARSEST
from geoseg.remote import Access
from geoseg.scene_maps import (
    MapOptions,
    MapRun,
    SceneMap,
    ScenePrediction,
    find_earlier,
    publish_map,
    run_file,
    strips_folder,
)
from geoseg.scenes import Scene
from geoseg.seams import SeamCheck
from geoseg.vectorise import PolygonOptions


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
    check_seams: bool = False,
    datetime: str | None = None,
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
        smooth: round the corners of outlines.
        min_area: m2; smaller polygons are taken away as `small` says.
        max_area: m2; larger polygons are left out.
        min_hole: m2; smaller holes are filled.
        small: `merge` or `drop`; see `polygonize`.
        connectivity: 4, or 8 to join pixels of a class that touch at corners.
        fields: make a polygon of each single field, also where they touch: for models of chips with a boundary; see
            `polygonize`.
        min_seed: pixels of the smallest interior that becomes a field.
        growth: pixels that fields grow into the boundary; None for 4, or the width of the boundary that the model has learned.
        check_seams: measure how windows disagree along their borders, for the run file.
        datetime: when the scenes were taken, such as 2026-06-30 or 2026-05-01/2026-09-30, for the STAC items; None writes down
            that any time is possible.
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
    options = MapOptions(
        window, margin, blend, batch_size, tta, engine, threshold, None if aoi is None else str(aoi), confidence,
        probabilities, polygons,
        PolygonOptions(only, simplify, smooth, min_area, max_area, min_hole, small, connectivity, fields, min_seed, growth),
        check_seams, datetime, dask,
    )  # fmt: skip
    inputs = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    checked = _check(
        inputs, model, Path(out), options, bands=bands, device=device, stack=stack,
        access=Access(remote=allow_remote, vrt=allow_vrt), resume=resume, overwrite=overwrite,
    )  # fmt: skip
    if dask is not None:
        refuse_unreachable(dask)
    with bounded_cache(), occupy(out):
        predictors, dtype = _start(checked, options, bands, precision)
        run = MapRun(
            checked.bundle, predictors, precision_name(dtype), checked.area, Path(out), options,
            time.monotonic() - started, resume, overwrite, progress,
        )  # fmt: skip
        maps = [SceneMap.of(scene, match_model(scene, run.bundle.image, bands), run) for scene in checked.scenes]
        faults = Faults()
        earlier = [find_earlier(plan, run, faults) for plan in maps]
        faults.raise_any()
        whole = [prediction for prediction in earlier if prediction]
        todo = [plan for plan, prediction in zip(maps, earlier, strict=True) if prediction is None]
        try:
            made = _predict_on_cluster(todo, dask, run) if dask is not None and todo else _predict_here(todo, run)
        except SomeScenesError as some:
            raise SomeScenesError([*whole, *some.made], some.failed) from None
        order = {prediction.path: prediction for prediction in [*whole, *made]}
        return [order[run.out / plan.names["classes"]] for plan in maps]


class _Checked(NamedTuple):
    """What a run needs, after all was looked at that shows a fault before work begins."""

    bundle: Bundle
    devices: Sequence[torch.device]
    area: Polygons | None
    scenes: Sequence[Scene]


def _check(
    inputs: Sequence[str | Path], model: str | Path, out: Path, options: MapOptions, *,
    bands: str | Sequence[int | str] | None, device: str, stack: bool, access: Access, resume: bool, overwrite: bool,
) -> _Checked:  # fmt: skip
    """Find all faults of options, model, device, area and scenes, and raise them together."""
    faults, area, dask = Faults(), None, options.dask
    options.refuse_odd(faults)
    odd = bool(faults.errors)
    with faults.collect():
        bundle = open_bundle(model)
        with faults.collect():
            say_stopped(bundle)
        with faults.collect():
            options.outlines.refuse_unfit(bundle.legend, str(model))
        with faults.collect():
            choose_threshold(bundle, options.threshold)
        if not odd:
            _warn_of_window(bundle, options)
    with faults.collect():
        if dask is not None and (device != "auto" or options.check_seams):
            option = "--check-seams" if options.check_seams else f"--device {device}"
            raise InputError(
                f"{option}: not with --dask, where each worker takes the device that it finds; leave it out"
            )
        devices = choose_devices("cpu" if dask is not None and options.engine == "openvino" else device)
    with faults.collect():
        area = read_polygons(Path(options.aoi)) if options.aoi is not None else None
    scenes = preflight_scenes(inputs, stack=stack, access=access, faults=faults)
    for scene in scenes:
        targets = [out / name for name in all_names(scene.name)]
        with faults.collect():
            refuse_inputs(targets, [*scene.paths, *([Path(options.aoi)] if options.aoi is not None else [])])
            # Where a run goes on, the map of a scene may be whole, or some of it have its final name already.
            begun = run_file(scene, out).exists() or any(strips_folder(scene, out).glob("strip_*.json"))
            refuse_existing(targets, overwrite or (resume and begun))
        if area is not None:
            with faults.collect():
                area.near(scene)
    faults.raise_any()
    for scene in scenes:
        with faults.collect():
            match_values(scene, bundle.image, match_model(scene, bundle.image, bands))
            options.layout(scene, bundle)
        with faults.collect():
            if options.polygons:
                options.outlines.refuse_unmeasured(scene)
    faults.raise_any()
    warn_of_little_room(out, most_bytes(scenes))
    return _Checked(bundle, devices, area, scenes)


def _warn_of_window(bundle: Bundle, options: MapOptions) -> None:
    core = choose_window(bundle, options.window, options.margin)[0]
    if core % COARSEST:
        warnings.warn(
            f"--window {options.window}: cores of {core} pixels, less the margins, are no multiple of {COARSEST}, so the coarse "
            f"cells of the network lie differently in each window; seams may show",
            MismatchWarning,
            stacklevel=4,
        )


def _start(
    checked: _Checked, options: MapOptions, bands: str | Sequence[int | str] | None, precision: Precision
) -> tuple[Sequence[Predictor], torch.dtype]:
    """The networks on their devices, and what they compute in; on a cluster the workers have them."""
    bundle, devices, first = checked.bundle, checked.devices, checked.scenes[0]
    if options.dask is not None and options.engine == "torch":
        return [], choose_precision(devices[0], precision)
    predictors = create_predictors(
        bundle, devices, precision=precision, tta=options.tta, threshold=options.threshold, engine=options.engine,
        probe=lambda: read_probe(
            first, match_model(first, bundle.image, bands), options.layout(first, bundle),
            choose_batch_size(options.batch_size, devices[0], options.layout(first, bundle)),
        ),
    )  # fmt: skip
    return predictors, predictors[0].dtype


def _predict_here(maps: Sequence[SceneMap], run: MapRun) -> list[ScenePrediction]:
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
                made.append(publish_map(plan, run, began, check))
        except GeosegError as error:
            if len(maps) == 1:
                raise
            failed.append(error)
    if failed:
        raise SomeScenesError(made, failed)
    return made


def _predict_on_cluster(maps: Sequence[SceneMap], address: str, run: MapRun) -> list[ScenePrediction]:
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
                    made.append(publish_map(plan, run, began))
            except GeosegError as error:
                if len(maps) == 1:
                    raise
                failed.append(error)
    if failed:
        raise SomeScenesError(made, failed)
    return made
