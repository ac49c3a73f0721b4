"""The map of one scene: what it is made of and with, and its files, which appear together."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import rasterio
import torch

from geoseg.bundle import Bundle
from geoseg.choices import Blend, Engine, Rule, TestTimeAugmentation, at_least, one_of, refuse_odd
from geoseg.display import Displayed
from geoseg.errors import DataWarning, Faults, GeosegError, OutputExistsError
from geoseg.fields import growth_for
from geoseg.files import read_json, sha256, stage_occupied, write_json
from geoseg.grid import Layout
from geoseg.labels import read_model_sha256
from geoseg.mapping import MapJob, choose_batch_size, choose_layout
from geoseg.maps import all_names, class_totals, file_names, map_layers, sidecar_names, write_map_project, write_styles
from geoseg.polygon_labels import Polygons
from geoseg.predictor import Predictor, choose_threshold
from geoseg.progress import Progress
from geoseg.scenes import Scene
from geoseg.seams import SeamCheck
from geoseg.stac import map_item, parse_time
from geoseg.strips import MapLayer, Strips
from geoseg.vectorise import PolygonOptions, layer_style, polygonize_raster
from geoseg.version import VERSION

_FORMAT = 1


@dataclass(frozen=True, repr=False)
class ScenePrediction(Displayed):
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
        if "fields" in (balance := self.facts["polygons"] or {}):
            lines += [_field_line(entry) for entry in balance["classes"]]
        if "project" in self.outputs:
            lines.append(f"  open in QGIS: {self.outputs['project']}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What stands in the run file."""
        return self.facts


def _field_line(entry: dict[str, Any]) -> str:
    """What a balance says of the fields of a class, whose boundary is with them here and not in the class raster."""
    area = "" if entry["area_by_polygons_m2"] is None else f"{entry['area_by_polygons_m2'] / 1e4:>14,.1f} ha"
    return f"  {entry['polygons']:,} fields of {entry['name']}, with their boundary {area}"


@dataclass(frozen=True)
class MapOptions:
    """The options of `geoseg predict` of the same names, as far as maps depend on them."""

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
    outlines: PolygonOptions
    check_seams: bool
    datetime: str | None
    dask: str | None

    def refuse_odd(self, faults: Faults) -> None:
        """Collect what is out of its range."""
        rules = [
            *(at_least(self, name, 1) for name in ("window", "batch_size")),
            at_least(self, "margin", 0),
            *(one_of(self, name, words) for name, words in (
                ("blend", Blend), ("tta", TestTimeAugmentation), ("engine", Engine),
            )),
            Rule("polygons", self.polygons or not self.outlines.fields, "polygons are needed for --fields; leave out --no-polygons"),
            Rule("check_seams", not self.check_seams or self.margin != 0, "a --margin of 1 or more is needed"),
        ]  # fmt: skip
        refuse_odd(self, rules, faults)
        with faults.collect():
            parse_time(self.datetime)
        self.outlines.refuse_odd(faults)

    def to_dict(self) -> dict[str, Any]:
        """By name, as on the command line."""
        options = asdict(self)
        return options | options.pop("outlines")

    def layout(self, scene: Scene, bundle: Bundle) -> Layout:
        """The windows of a scene; see `choose_layout`."""
        return choose_layout(scene, bundle, window=self.window, margin=self.margin, blend=self.blend)


@dataclass(frozen=True)
class MapRun:
    """What all scenes of one call share.

    Attributes:
        bundle: the model.
        predictors: one per device; none where a cluster has them.
        precision: that they work in.
        area: outside it nothing is told.
        out: folder of the outputs.
        options: as given.
        loading: seconds that it took to come so far.
        resume: go on with what an earlier run has left.
        overwrite: replace what it has made.
        progress: told how far the work is.
    """

    bundle: Bundle
    predictors: Sequence[Predictor]
    precision: str
    area: Polygons | None
    out: Path
    options: MapOptions
    loading: float
    resume: bool
    overwrite: bool
    progress: Progress


@dataclass(frozen=True)
class SceneMap:
    """One scene's map: what it is to be made of, and its files.

    Attributes:
        scene: to map.
        names: of its files, by kind.
        layers: its rasters.
        job: all that their pixels depend on.
        provenance: the same in few words, which the files carry.
    """

    scene: Scene
    names: dict[str, str]
    layers: Sequence[MapLayer]
    job: MapJob
    provenance: dict[str, Any]

    @classmethod
    def of(cls, scene: Scene, sources: Sequence[int], run: MapRun) -> SceneMap:
        """The map that a run is to make of a scene, of its bands in the model's order."""
        options, names = run.options, _names(scene, run.options)
        layout, threshold = options.layout(scene, run.bundle), choose_threshold(run.bundle, options.threshold)
        provenance = {
            "scene": scene.path.name, "bands": [scene.band_names[source - 1] for source in sources],
            "model_sha256": run.bundle.weights_sha256, "core": list(layout.core), "margin": layout.margin,
            "blend": layout.blend, "tta": options.tta, "engine": options.engine, "precision": run.precision,
            "threshold": threshold,
        }  # fmt: skip
        layers = map_layers(run.bundle, names, provenance)
        job = MapJob(
            scene, tuple(sources), run.bundle, layout, run.area,
            Strips(strips_folder(scene, run.out), scene, layers), options.tta, options.engine, run.precision,
            threshold, options.batch_size, options.probabilities,
        )  # fmt: skip
        return cls(scene, names, layers, job, provenance)

    def digest(self, options: MapOptions) -> str:
        """Of all that the map depends on, to tell whether another one is the same."""
        shapes = [options.polygons, asdict(options.outlines), *filter(None, [options.datetime])]
        return hashlib.sha256(json.dumps([self.job.plan(), *shapes]).encode()).hexdigest()

    @contextmanager
    def begun(self, run: MapRun) -> Iterator[None]:
        """Begin the strips, or take up finished ones, and keep these when the block fails."""
        self.job.strips.begin(self.job.plan(), resume=run.resume, overwrite=run.overwrite)
        with self.job.strips.kept(self.job.layout.rows):
            yield


def run_file(scene: Scene, out: Path) -> Path:
    """The run file of a scene's map, which is written last."""
    return out / file_names(scene.name, confidence=False, probabilities=False, polygons=False)["run"]


def strips_folder(scene: Scene, out: Path) -> Path:
    """Where the strips of a scene's map are until it is whole."""
    return out / f".{scene.name}.strips"


def find_earlier(plan: SceneMap, run: MapRun, faults: Faults) -> ScenePrediction | None:
    """The whole map that an earlier run has made to the same plan, where this one goes on."""
    path = run_file(plan.scene, run.out)
    if not (run.resume and path.exists()):
        return None
    with faults.collect():
        facts = read_json(path, newest=_FORMAT, what="the run file of a map")
        if facts.get("plan_sha256") == plan.digest(run.options):
            outputs = {kind: run.out / name for kind, name in plan.names.items()}
            if missing := [path.name for path in outputs.values() if not path.exists()]:
                if run.overwrite:
                    return None
                raise OutputExistsError(
                    f"{path}: this map is finished, but {', '.join(missing)} of it found no more; put back what is missing, or "
                    "make all of it again with --overwrite"
                )
            plan.job.strips.remove_made_to(plan.job.plan())  # a run that was killed at its very end has left some
            return ScenePrediction(outputs["classes"], outputs, tuple(facts["classes"]), facts)
        if not run.overwrite:
            raise OutputExistsError(
                f"{path}: the map of another model, scene or option is there; choose another --out or allow it with --overwrite"
            )
    return None


def _given_way(plan: SceneMap, out: Path) -> list[str]:
    """The files that an earlier run says it has written, and what programs have noted beside rasters that are replaced."""
    names, written = all_names(plan.scene.name), None
    with suppress(GeosegError):
        written = read_json(run_file(plan.scene, out), newest=_FORMAT, what="the run file of a map").get("outputs")
    if isinstance(written, dict):
        earlier = [name for name in names if name in written]
    else:  # a run that was killed while it took away an earlier map has begun with that file
        earlier = [name for name in names if name.endswith(".tif") and _is_ours(out / name)]
    rasters = {name: name for name in (*plan.names.values(), *earlier)}
    return list(dict.fromkeys([*rasters, *sidecar_names(rasters)]))


def _is_ours(path: Path) -> bool:
    with suppress(GeosegError):
        return path.exists() and read_model_sha256(path) is not None
    return False


def _names(scene: Scene, options: MapOptions) -> dict[str, str]:
    return file_names(
        scene.name, confidence=options.confidence, probabilities=options.probabilities, polygons=options.polygons
    )


def publish_map(plan: SceneMap, run: MapRun, began: float, check: SeamCheck | None = None) -> ScenePrediction:
    """Join the strips, trace the polygons, and put all of a map under its final names."""
    clock = [began, time.monotonic()]
    scene, names, strips = plan.scene, plan.names, plan.job.strips
    options, legend, out, balance = run.options, run.bundle.legend, run.out, None
    with stage_occupied(out, last=names["run"], replaces=_given_way(plan, out), overwrite=run.overwrite) as staging:
        for layer in plan.layers:
            strips.join(layer, staging / names[layer.kind])
        clock.append(time.monotonic())
        if options.polygons:
            outlines = options.outlines
            if outlines.fields and outlines.growth is None:
                outlines = replace(outlines, growth=growth_for(run.bundle.training))
            balance = polygonize_raster(
                staging / names["classes"], staging / names["confidence"] if options.confidence else None, legend,
                staging / names["polygons"], outlines, progress=run.progress,
            )  # fmt: skip
        write_styles(legend, staging, names)
        write_map_project(
            scene, plan.job.sources, run.bundle, layer_style(legend, options.outlines.only), out, staging, names
        )
        clock.append(time.monotonic())
        classes = class_totals(scene, legend, strips)
        if not any(entry["pixels"] for entry in classes):
            warnings.warn(
                f"{scene.path}: no pixel holds data{' inside the --aoi' if run.area else ''}; the map is empty",
                DataWarning,
                stacklevel=2,
            )
        sums = {path.name: sha256(path) for path in sorted(staging.iterdir())}
        files = {kind: staging / name for kind, name in names.items() if name in sums}
        item = map_item(scene, legend, files, parse_time(options.datetime), plan.provenance, sums)
        write_json(staging / names["item"], item)
        sums[names["item"]] = sha256(staging / names["item"])
        facts = {
            **_circumstances(plan.job, run),
            "plan_sha256": plan.digest(options),
            "classes": classes,
            "seams": check.facts() if check else None,
            "polygons": balance,
            "seconds": _seconds(run.loading, clock),
            "outputs": sums,
        }
        write_json(staging / names["run"], facts)
    strips.remove()
    outputs = {kind: out / name for kind, name in names.items()}
    return ScenePrediction(outputs["classes"], outputs, tuple(facts["classes"]), facts)


def _circumstances(job: MapJob, run: MapRun) -> dict[str, Any]:
    """What a map was made of and with, for the run file."""
    scene, layout = job.scene, job.layout
    batch_size = job.batch_size
    if run.predictors:
        batch_size = choose_batch_size(batch_size, run.predictors[0].device, layout)
    return {
        "format": _FORMAT,
        "geoseg_version": VERSION,
        "scene": scene.path.name,
        "model": {"name": run.bundle.path.resolve().name, "weights_sha256": run.bundle.weights_sha256},
        "bands": [scene.band_names[source - 1] for source in job.sources],
        "options": run.options.to_dict(),
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
