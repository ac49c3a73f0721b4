"""What chips there would be: every label read once, the legend, the classes of each chip and its split."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from geoseg.chips import Chip, left_out_lines, split_counts, split_lines
from geoseg.choices import Other, SplitBy, Unlabelled
from geoseg.errors import DataWarning, Faults, LabelError, SplitError
from geoseg.grid import chip_windows
from geoseg.labels import LabelReader, is_vector, open_label_raster, raster_legend
from geoseg.legend import IGNORE, Legend, parse_legend
from geoseg.polygon_labels import Area, PolygonLabels, class_field_values, polygon_legend
from geoseg.progress import Progress
from geoseg.scenes import Scene, SceneReader
from geoseg.split import Footprint, Split, parse_ratio, split_chips


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
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """What `tile` will write.

    Attributes:
        scenes: by name.
        label_paths: of each scene, by its name.
        sources: band numbers to cut.
        legend: the classes.
        chips: the chips that are kept.
        split: how they were shared out.
        left_out: count of chips left out, by reason.
        stretched: labels of 0 and 255, as pictures are stored, stand for classes 0 and 1.
        options: as given.
    """

    scenes: dict[str, Scene]
    label_paths: dict[str, Path]
    sources: tuple[int, ...]
    legend: Legend
    chips: tuple[Chip, ...]
    split: Split
    left_out: dict[str, int]
    stretched: bool
    options: TileOptions

    def __str__(self) -> str:
        size = self.options.chip_size
        lines = [f"{len(self.chips)} chips of {size} x {size} from {len(self.scenes)} scenes, classes {self.legend}"]
        return "\n".join([*lines, *split_lines(self.chips, self.legend), *left_out_lines(self.left_out)])

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "legend": self.legend.to_list(),
            "splits": split_counts(self.chips, self.legend),
            "left_out": self.left_out,
            "shared_ground": self.split.shared_ground,
        }

    def mask(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Class values (rows, cols) to class indices uint8: 255 where they are not known or not in the legend."""
        if self.stretched:
            values = np.minimum(values, 1)
        known = known & (values >= 0)
        return np.where(known, self.legend.to_indices(np.where(known, values, 0)), IGNORE).astype(np.uint8)

    @contextmanager
    def open(self, name: str) -> Iterator[PairReader]:
        """Open a scene and its labels."""
        with _open_pair(self.scenes[name], self.label_paths[name], self.sources, self.legend, self.options) as pair:
            yield pair


class PairReader:
    """Reads a scene and its labels on one grid; made by `Plan.open`."""

    def __init__(self, scene: SceneReader, sources: Sequence[int], labels: LabelReader, aoi: Area | None) -> None:
        self._scene, self._sources, self._labels, self._aoi = scene, sources, labels, aoi

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (bands, rows, cols), valid, class values int32 and where these are known (rows, cols) of a window."""
        pixels, valid = self._scene.read(window, self._sources, edge="nodata")
        values, known = self._labels.read(window)
        if self._aoi is not None:
            known = known & self._aoi.inside(window)
        return pixels, valid, values, known & valid


@contextmanager
def _open_pair(
    scene: Scene, labels: Path, sources: Sequence[int], legend: Legend | None, options: TileOptions
) -> Iterator[PairReader]:
    with ExitStack() as stack:
        aoi = Area(options.aoi, scene) if options.aoi else None
        if is_vector(labels):
            assert legend is not None, "polygons are burnt with the values of a legend"
            reader: LabelReader = PolygonLabels(
                labels, scene, legend=legend, class_field=options.class_field, unlabelled=options.unlabelled,
                all_touched=options.all_touched, other=options.other,
            )  # fmt: skip
        else:
            classes = parse_legend(options.classes) if options.classes else None
            reader = stack.enter_context(open_label_raster(labels, scene, classes=classes, nodata=options.label_nodata))
        yield PairReader(stack.enter_context(scene.open()), sources, reader, aoi)


@dataclass(frozen=True)
class _Candidate:
    scene: Scene
    window: Window
    valid: float
    values: dict[int, int]


def survey(
    scenes: Sequence[Scene],
    label_paths: Sequence[Path],
    sources: Sequence[int],
    options: TileOptions,
    progress: Progress,
) -> Plan:
    """Read every label and the validity of every pixel once, and say which chips there will be.

    Raises:
        LabelError, LegendError: values outside the legend, no label anywhere.
        SplitError: too few blocks.
        PreflightError: several of these.
    """
    legend = _legend_before(label_paths, options)
    left_out: Counter[str] = Counter()
    candidates, strays, faults = [], Counter[int](), Faults()
    for number, scene in enumerate(scenes):
        with faults.collect():
            found = list(_candidates(scene, label_paths[number], sources, legend, options, left_out, progress))
            if not found:
                warnings.warn(f"{scene.path}: no chip with enough labelled pixels", DataWarning, stacklevel=3)
            candidates += found
    faults.raise_any()
    values = sorted(set().union(*(candidate.values for candidate in candidates)))
    if not values:
        raise LabelError(f"{label_paths[0]}: no labelled pixel on any valid pixel of a scene; check that they overlap")
    stretched = _is_stretched(values, legend, label_paths)
    if stretched:
        candidates = [replace(c, values={min(v, 1): n for v, n in c.values.items()}) for c in candidates]
        values = sorted({min(value, 1) for value in values})
        warnings.warn(f"{label_paths[0]}: labels of 0 and 255 are read as 0 and 1", DataWarning, stacklevel=3)
    if legend is None:
        legend = raster_legend(label_paths, values)
    if options.background:
        legend = legend.with_background(options.background)
    for candidate in candidates:
        strays.update({value: count for value, count in candidate.values.items() if value not in legend.values})
    _refuse_strays(label_paths, strays, legend, options)
    return _share_out(scenes, label_paths, sources, legend, candidates, left_out, stretched, options)


def _legend_before(label_paths: Sequence[Path], options: TileOptions) -> Legend | None:
    """The legend, where it does not take the labels' pixels to know it."""
    if options.classes:
        return parse_legend(options.classes)
    vectors = [path for path in dict.fromkeys(label_paths) if is_vector(path)]
    if not vectors:
        return None
    if len(vectors) < len(set(label_paths)):
        raise LabelError(f"{vectors[0]}: polygons for one scene and masks for another; name the classes with --classes")
    found = set().union(*(class_field_values(path, options.class_field) for path in vectors))
    return polygon_legend(sorted(found, key=str), options.unlabelled)


def _candidates(
    scene: Scene,
    labels: Path,
    sources: Sequence[int],
    legend: Legend | None,
    options: TileOptions,
    left_out: Counter[str],
    progress: Progress,
) -> Iterator[_Candidate]:
    size = options.chip_size
    windows = list(chip_windows(scene.height, scene.width, size, options.stride or size))
    with _open_pair(scene, labels, sources, legend, options) as pair:
        for done, window in enumerate(windows, 1):
            _, valid, values, known = pair.read(window)
            progress(f"survey {scene.name}", done, len(windows))
            found, counts = np.unique(values[known], return_counts=True)
            if valid.mean() < 1 - options.max_nodata:
                left_out["nodata"] += 1
            elif known.mean() < options.min_label or not len(found):
                left_out["few labels"] += 1
            else:
                counted = dict(zip(found.tolist(), counts.tolist(), strict=True))
                yield _Candidate(scene, window, float(valid.mean()), counted)


def _is_stretched(values: Sequence[int], legend: Legend | None, label_paths: Sequence[Path]) -> bool:
    """Whether a mask of 0 and 255, as pictures are stored, stands for classes 0 and 1."""
    if any(map(is_vector, label_paths)) or not {255} <= set(values) <= {0, 255}:
        return False
    return legend is None or (255 not in legend.values and 1 in legend.values)


def _refuse_strays(label_paths: Sequence[Path], strays: Counter[int], legend: Legend, options: TileOptions) -> None:
    if not strays:
        return
    names = {-1: "below 0 or above 65535"}
    listed = ", ".join(f"{names.get(value, value)} ({count:,} pixels)" for value, count in strays.most_common(8))
    if options.other == "error":
        raise LabelError(
            f"{label_paths[0]}: label values outside the legend ({legend}): {listed}; add them to --classes or use --other ignore"
        )
    warnings.warn(f"{label_paths[0]}: values outside the legend ignored: {listed}", DataWarning, stacklevel=4)


def _share_out(
    scenes: Sequence[Scene],
    label_paths: Sequence[Path],
    sources: Sequence[int],
    legend: Legend,
    candidates: Sequence[_Candidate],
    left_out: Counter[str],
    stretched: bool,
    options: TileOptions,
) -> Plan:
    counts = np.array([[candidate.values.get(value, 0) for value in legend.values] for candidate in candidates])
    split = split_chips(
        [_footprint(candidate) for candidate in candidates], counts, ratio=parse_ratio(options.split),
        by=options.split_by, block_size=options.block_size, seed=options.seed,
    )  # fmt: skip
    keep = np.random.default_rng(options.seed).random(len(candidates)) < options.negatives
    chips = []
    for candidate, row, name, block, kept in zip(candidates, counts, split.names, split.blocks, keep, strict=True):
        negative = legend.background is not None and row.sum() == row[legend.background]
        if name is None:
            left_out["across split borders"] += 1
        elif name == "train" and negative and not kept:
            left_out["background only"] += 1
        else:
            window = candidate.window
            pixels = tuple(int(count) for count in row)
            chips.append(
                Chip(
                    candidate.scene.name, window.row_off, window.col_off, name, block, round(candidate.valid, 4), pixels
                )
            )
    if not any(chip.split == "train" and sum(chip.class_pixels) for chip in chips):
        raise SplitError("no labelled chip is left for training; relax --negatives, --min-label or --max-nodata")
    return Plan(
        {scene.name: scene for scene in scenes},
        {scene.name: path for scene, path in zip(scenes, label_paths, strict=True)},
        tuple(sources), legend, tuple(chips), split, dict(left_out), stretched, options,
    )  # fmt: skip


def _footprint(candidate: _Candidate) -> Footprint:
    window, scene = candidate.window, candidate.scene
    left, top, right, bottom = (
        window.col_off,
        window.row_off,
        window.col_off + window.width,
        window.row_off + window.height,
    )
    corners = tuple(scene.transform @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom)))
    return Footprint(scene.name, scene.crs.to_wkt() if scene.crs else None, corners)
