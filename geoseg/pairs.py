"""Scenes and their labels: matched and checked before the first pixel is read, then read window by window."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from geoseg.choices import Other, Rule, SplitBy, Unlabelled, at_least, one_of, refuse_odd
from geoseg.errors import DataWarning, Faults, LabelError
from geoseg.field_boundaries import NO_FIELD, UNKNOWN, WIDEST, find_boundary
from geoseg.labels import LabelReader, is_vector, match_labels, open_label_raster, read_legend
from geoseg.legend import Legend, make_legend, parse_legend
from geoseg.polygon_labels import (
    PolygonLabels,
    Polygons,
    inside_of,
    polygon_legend,
    read_polygons,
    warn_of_class_columns,
)
from geoseg.scenes import Scene, SceneReader, describe_scene
from geoseg.split import parse_ratio


@dataclass(frozen=True)
class TileOptions:
    """How scenes and labels become chips; the options of `geoseg tile` of the same names."""

    chip_size: int = 256
    stride: int | None = None
    classes: str | Path | None = None
    class_field: str | None = None
    background: str | None = None
    other: Other = "error"
    label_nodata: int | None = None
    all_touched: bool = False
    unlabelled: Unlabelled = "background"
    aoi: str | Path | None = None
    split: str = "8:1:1"
    split_by: SplitBy = "block"
    block_size: int | None = None
    max_nodata: float = 0.5
    min_label: float = 0.0
    negatives: float = 1.0
    boundary: int | None = None
    instances: bool = False
    seed: int = 0

    def refuse_odd(self, faults: Faults) -> None:
        """Collect what is out of its range."""
        share = "a share from 0 to 1 is needed"
        with faults.collect():
            parse_ratio(self.split)
        rules = [
            at_least(self, "chip_size", 1),
            Rule(
                "stride", self.stride is None or 1 <= self.stride <= self.chip_size,
                "1 or more is needed, at most the --chip-size",
            ),
            at_least(self, "block_size", 1),
            at_least(self, "boundary", 1),
            Rule("boundary", not isinstance(self.boundary, int) or self.boundary <= WIDEST,
                 f"{WIDEST} pixels at most are needed"),
            Rule("instances", not self.instances or self.boundary is not None, "a --boundary is needed with it"),
            Rule("background", not (self.instances and self.background), "with --instances 0 is the background; leave it out"),
            at_least(self, "seed", 0),
            *(Rule(name, 0 <= getattr(self, name) <= 1, share) for name in ("max_nodata", "min_label", "negatives")),
            one_of(self, "other", Other), one_of(self, "unlabelled", Unlabelled), one_of(self, "split_by", SplitBy),
        ]  # fmt: skip
        refuse_odd(self, rules, faults)


@dataclass(frozen=True)
class Pairs:
    """Scenes and the labels that belong to them.

    Attributes:
        scenes: by name.
        label_paths: of each scene, by its name.
        polygons: of each label file that is no raster.
        aoi: where labels are complete; None is everywhere.
        sources: band numbers to cut.
        legend: the classes; None where it takes the labels' pixels to know them.
        options: as given.
    """

    scenes: dict[str, Scene]
    label_paths: dict[str, Path]
    polygons: dict[Path, Polygons]
    aoi: Polygons | None
    sources: tuple[int, ...]
    legend: Legend | None
    options: TileOptions

    @contextmanager
    def open(self, name: str) -> Iterator[PairReader]:
        """Open a scene and its labels."""
        scene, path, options = self.scenes[name], self.label_paths[name], self.options
        with ExitStack() as stack:
            if path in self.polygons:
                assert self.legend is not None, "polygons are burnt with the values of a legend"
                labels: LabelReader = PolygonLabels(
                    self.polygons[path], scene, legend=self.legend, unlabelled=options.unlabelled,
                    all_touched=options.all_touched,
                )  # fmt: skip
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DataWarning)  # said by `pair_labels`
                    # Of fields by their numbers, 0 alone is a class.
                    named = make_legend([NO_FIELD]) if options.instances else self.legend
                    opened = open_label_raster(path, scene, named=named, nodata=options.label_nodata)
                    labels = stack.enter_context(opened)
            area = inside_of(self.aoi, scene) if self.aoi else None
            rims = None
            if options.boundary is not None:
                assert self.legend is not None, "boundaries are drawn between classes that are known"
                rims = _Rims(path, labels, self.legend, options.boundary, options.instances)
            yield PairReader(stack.enter_context(scene.open()), self.sources, labels, area, rims)


class PairReader:
    """Reads a scene and its labels on one grid; made by `Pairs.open`."""

    def __init__(
        self, scene: SceneReader, sources: Sequence[int], labels: LabelReader, area: LabelReader | None,
        rims: _Rims | None,
    ) -> None:  # fmt: skip
        self._scene, self._sources, self._labels, self._area, self._rims = scene, sources, labels, area, rims

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (bands, rows, cols), valid, class values int32 and where these are known (rows, cols) of a window."""
        margin = self._rims.width if self._rims else 0
        wide = Window(
            window.col_off - margin, window.row_off - margin, window.width + 2 * margin, window.height + 2 * margin
        )
        pixels, valid = self._scene.read(wide, self._sources, edge="nodata")
        values, known = self._rims.read(wide, valid) if self._rims else self._labels.read(window)
        pixels, valid = pixels[_inner(margin)], valid[_inner(margin)]
        if self._area is not None:
            known = known & self._area.read(window)[1]
        return pixels, valid, values, known & valid


class _Rims:
    """Labels in which the rim of each field is a class of its own.

    Args:
        path: of the labels, for messages.
        labels: polygons, or a mask raster.
        legend: with a boundary.
        width: of the rims, in pixels.
        instances: each value of a raster is the number of a field, of the one class that there is.
    """

    def __init__(self, path: Path, labels: LabelReader, legend: Legend, width: int, instances: bool) -> None:
        assert legend.boundary is not None
        self.width, self._path, self._labels, self._legend, self._instances = width, path, labels, legend, instances
        self._boundary = legend.values[legend.boundary]

    def read(self, window: Window, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `LabelReader.read`, of what lies `width` within a window; `seen` is where all of it is valid.

        Raises:
            LabelError: a number of a field below 0.
        """
        fields, values, known = self._numbered(window) if self._instances else self._classes(window)
        fields = np.where(known, fields, UNKNOWN)
        inner = _inner(self.width)
        values = values[inner].copy()
        values[find_boundary(fields, seen, self.width)] = self._boundary
        return values, known[inner]

    def _numbered(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers, _, known = self._labels.read_fields(window)
        odd = known & (numbers < NO_FIELD)
        if odd.any():
            raise LabelError(
                f"{self._path}: the number {numbers[odd][0]} found; fields are numbered from 1, and 0 is none; name a value that "
                f"means unknown with --label-nodata"
            )
        background, field = (self._legend.values[index] for index in (self._legend.background, self._legend.ground[0]))  # type: ignore[index]
        return numbers, np.where(numbers == NO_FIELD, background, field).astype(np.int32), known

    def _classes(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a raster, what bears one class is a field; strays are of nobody knows what."""
        if self._labels.tells_fields:
            fields, values, known = self._labels.read_fields(window)
        else:
            values, known = self._labels.read(window)
            fields = values.astype(np.int64) + 1
        fields = np.where(np.isin(values, self._legend.values), fields, UNKNOWN)
        if self._legend.background is not None:
            fields[values == self._legend.values[self._legend.background]] = NO_FIELD
        return fields, values, known


def _inner(margin: int) -> tuple[Any, ...]:
    """What lies so far within the last two axes of an array."""
    return np.s_[..., margin:-margin, margin:-margin] if margin else np.s_[...,]


def pair_labels(
    scenes: Sequence[Scene], labels: str | Path, sources: Sequence[int], options: TileOptions, faults: Faults
) -> Pairs:
    """Find the labels of each scene and check them, as far as that goes without reading pixels.

    Raises:
        PreflightError, or the one error: what stood in `faults` before, and what is wrong with options and labels.
    """
    legend, aoi, polygons = None, None, dict[Path, Polygons]()
    options.refuse_odd(faults)
    with faults.collect():
        legend = parse_legend(options.classes) if options.classes else None
    with faults.collect():
        aoi = read_polygons(Path(options.aoi)) if options.aoi else None
    paths = match_labels(labels, scenes, faults)
    readable = []
    for path in dict.fromkeys(paths.values()):
        with faults.collect():
            if is_vector(path):
                field = options.class_field
                polygons[path] = read_polygons(path, class_field=field, classes=legend, other=options.other)
                if field is None and options.classes is None:
                    warn_of_class_columns(path)
            else:
                describe_scene(path)
            readable.append(path)
    if readable and not polygons:
        with faults.collect():
            _say_what_does_nothing(readable[0], options)
    for scene in scenes:
        with faults.collect():
            if aoi is not None:
                aoi.near(scene)
        if scene.name in paths:
            with faults.collect():
                _check_pair(scene, paths[scene.name], readable, polygons, options)
    with faults.collect():
        if paths and len(readable) == len(set(paths.values())):
            legend = _legend_before(readable, polygons, legend, options)
    faults.raise_any()
    return Pairs({scene.name: scene for scene in scenes}, paths, polygons, aoi, tuple(sources), legend, options)


def _say_what_does_nothing(path: Path, options: TileOptions) -> None:
    given = {
        "--class-field": options.class_field is not None, "--all-touched": options.all_touched,
        "--unlabelled ignore": options.unlabelled == "ignore",
    }  # fmt: skip
    if idle := [name for name, told in given.items() if told]:
        warnings.warn(
            f"{path}: {' and '.join(idle)} {'is' if len(idle) == 1 else 'are'} for polygons, and nothing to a mask raster",
            DataWarning,
            stacklevel=4,
        )


def _check_pair(
    scene: Scene, path: Path, readable: Sequence[Path], polygons: dict[Path, Polygons], options: TileOptions
) -> None:
    if path in polygons:
        polygons[path].near(scene)
    elif path in readable:
        with open_label_raster(path, scene, nodata=options.label_nodata):
            pass


def _legend_before(
    paths: Sequence[Path], polygons: dict[Path, Polygons], legend: Legend | None, options: TileOptions
) -> Legend | None:
    """The legend, where it does not take the labels' pixels to know it."""
    if legend is None and polygons:
        if len(polygons) < len(paths):
            first = next(iter(polygons))
            raise LabelError(f"{first}: polygons for one scene and masks for another; name the classes with --classes")
        legend = polygon_legend(list(polygons.values()), options.unlabelled, options.background)
    elif legend is None and not options.instances:
        legend = read_legend(paths[0])
    if options.instances:
        legend = _legend_of_instances(paths, polygons, legend)
    if legend is not None and options.background:
        legend = legend.with_background(options.background)
    if options.boundary is not None:
        if legend is None:
            raise LabelError(
                f"{paths[0]}: its classes must be known for a --boundary; name them with --classes 0=background,1=..., or use "
                f"--instances where each value is the number of a field"
            )
        legend = legend.with_boundary()
        if not legend.ground:
            raise LabelError(
                f"{paths[0]}: no class of fields among {legend}, so there is nothing to draw a --boundary around; name one with "
                f"--classes 0=background,1=field"
            )
    for found in polygons.values():
        assert legend is not None, "polygons tell their classes"
        found.burn_values(legend, options.unlabelled)
    return legend


def _legend_of_instances(paths: Sequence[Path], polygons: dict[Path, Polygons], legend: Legend | None) -> Legend:
    """The legend of rasters whose values are numbers of fields: ground without a field, and one class of fields."""
    if polygons:
        raise LabelError(f"{next(iter(polygons))}: polygons are fields anyway; leave out --instances")
    legend = legend or make_legend([0, 1], ["background", "field"])
    if legend.background is None or len(legend.ground) != 1:
        raise LabelError(
            f"{paths[0]}: --instances takes a background and one class of fields, {legend} found; give two with --classes, such "
            f"as 0=background,1=field"
        )
    return legend
