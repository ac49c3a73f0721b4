"""What chips there would be: every label read once, the legend, the classes of each chip and its split."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rasterio.windows import Window

from geoseg.chips import Chip, left_out_lines, outside_lines, split_counts, split_lines
from geoseg.display import Displayed
from geoseg.errors import DataWarning, Faults, LabelError, SplitError
from geoseg.grid import chip_windows
from geoseg.labels import raster_legend
from geoseg.legend import IGNORE, MAX_VALUE, Legend
from geoseg.pairs import Pairs, TileOptions, pair_labels
from geoseg.progress import Progress
from geoseg.scenes import Scene
from geoseg.split import Footprint, Split, parse_ratio, split_chips


@dataclass(frozen=True, repr=False)
class Plan(Displayed):
    """What `tile` will write.

    Attributes:
        pairs: the scenes and their labels.
        legend: the classes.
        chips: the chips that are kept.
        split: how they were shared out.
        left_out: count of chips left out, by reason.
        stretched: labels of 0 and 255, as pictures are stored, stand for classes 0 and 1.
    """

    pairs: Pairs
    legend: Legend
    chips: tuple[Chip, ...]
    split: Split
    left_out: dict[str, int]
    stretched: bool

    def __str__(self) -> str:
        size, scenes = self.pairs.options.chip_size, len(self.pairs.scenes)
        lines = [f"{len(self.chips)} chips of {size} x {size} from {scenes} scenes, classes {self.legend}"]
        first, files = (
            next(iter(self.pairs.scenes.values())),
            sorted({path.name for path in self.pairs.label_paths.values()}),
        )
        lines += [
            f"  bands    {', '.join(first.band_names[source - 1] for source in self.pairs.sources)}",
            f"  labels   {', '.join(files[:3])}{f' and {len(files) - 3} more' if len(files) > 3 else ''}",
            *split_lines(self.chips, self.legend),
            *left_out_lines(self.left_out),
        ]
        return "\n".join(lines + outside_lines(self.outside))

    @property
    def most_bytes(self) -> int:
        """What the chips take on the disk if nothing of them can be compressed."""
        scene, options = next(iter(self.pairs.scenes.values())), self.pairs.options
        itemsize = sum(np.dtype(scene.dtypes[source - 1]).itemsize for source in self.pairs.sources)
        return len(self.chips) * options.chip_size**2 * (itemsize + 1)

    @property
    def outside(self) -> float | None:
        """Share of the labelled pixels that are background, where no area says how far polygons are complete."""
        pairs, background = self.pairs, self.legend.background
        if not pairs.polygons or pairs.aoi or pairs.options.unlabelled == "ignore" or background is None:
            return None
        pixels = np.array([chip.class_pixels for chip in self.chips]).sum(axis=0)
        return float(pixels[background] / pixels.sum())

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
        known = known & (values >= 0) & (values <= MAX_VALUE)
        return np.where(known, self.legend.to_indices(np.where(known, values, 0)), IGNORE).astype(np.uint8)


class _Candidate(NamedTuple):
    scene: Scene
    window: Window
    valid: float
    values: dict[int, int]
    """Labelled pixels of each class value."""


def survey(
    scenes: Sequence[Scene], labels: str | Path, sources: Sequence[int], options: TileOptions, faults: Faults,
    progress: Progress,
) -> Plan:  # fmt: skip
    """Read every label and the validity of every pixel once, and say which chips there will be.

    Args:
        scenes: to cut.
        labels: a mask raster, a polygon file, or a folder of either.
        sources: band numbers to cut.
        options: how.
        faults: what was found wrong before; raised with what is wrong with the labels before a pixel is read.
        progress: called after each window.

    Raises:
        LabelError, LegendError: values outside the legend, no label anywhere.
        SplitError: too few blocks.
        PreflightError: several of these.
    """
    pairs = pair_labels(scenes, labels, sources, options, faults)
    left_out: Counter[str] = Counter()
    candidates: list[_Candidate] = []
    for name in pairs.scenes:
        with faults.collect():
            candidates += _candidates(pairs, name, left_out, progress)
    faults.raise_any()
    values = sorted(set().union(*(candidate.values for candidate in candidates)))
    stretched = _is_stretched(values, pairs)
    if stretched:
        first = next(iter(pairs.label_paths.values()))
        warnings.warn(f"{first}: labels of 0 and 255 are read as 0 and 1", DataWarning, stacklevel=3)
        candidates = [c._replace(values={min(value, 1): n for value, n in c.values.items()}) for c in candidates]
        values = [min(value, 1) for value in values]
    legend = _legend_after(values, pairs, left_out)
    _refuse_strays(candidates, legend, pairs)
    if options.boundary is not None:
        _refuse_narrow(candidates, legend, _first_path(pairs), options.boundary)
    return _share_out(pairs, legend, candidates, left_out, stretched)


def _candidates(pairs: Pairs, name: str, left_out: Counter[str], progress: Progress) -> Iterator[_Candidate]:
    scene, options = pairs.scenes[name], pairs.options
    size = options.chip_size
    windows = list(chip_windows(scene.height, scene.width, size, options.stride or size))
    with pairs.open(name) as pair:
        for done, window in enumerate(windows, 1):
            _, valid, values, known = pair.read(window)
            progress(f"survey {name}", done, len(windows))
            if valid.mean() < 1 - options.max_nodata:
                left_out["nodata"] += 1
                continue
            found, counts = np.unique(values[known], return_counts=True)
            yield _Candidate(
                scene, window, float(valid.mean()), dict(zip(found.tolist(), counts.tolist(), strict=True))
            )


def _is_stretched(values: Sequence[int], pairs: Pairs) -> bool:
    """Whether masks of 0 and 255, as pictures are stored, stand for classes 0 and 1."""
    if pairs.polygons or pairs.options.boundary or not {255} <= set(values) <= {0, 255}:
        return False
    return pairs.legend is None or (255 not in pairs.legend.values and 1 in pairs.legend.values)


def _legend_after(values: Sequence[int], pairs: Pairs, left_out: dict[str, int]) -> Legend:
    """The legend, now that the labels' pixels are known."""
    possible = [value for value in values if 0 <= value <= MAX_VALUE]
    if not possible:
        reasons = "".join(left_out_lines(left_out)).strip() or "none left out"
        raise LabelError(
            f"{_first_path(pairs)}: no labelled pixel on a valid pixel of any chip ({reasons}); check that labels and scenes "
            f"overlap, or use a smaller --chip-size or a larger --max-nodata"
        )
    if pairs.legend is not None:
        return pairs.legend
    legend, background = raster_legend(_first_path(pairs), possible), pairs.options.background
    return legend.with_background(background) if background else legend


def _first_path(pairs: Pairs) -> Path:
    return next(iter(pairs.label_paths.values()))


def _refuse_strays(candidates: Sequence[_Candidate], legend: Legend, pairs: Pairs) -> None:
    """Raise or warn of label values outside the legend, file by file."""
    strays: defaultdict[Path, Counter[int]] = defaultdict(Counter)
    known = set(legend.values)
    for candidate in candidates:
        found = {value: count for value, count in candidate.values.items() if value not in known}
        if found:
            strays[pairs.label_paths[candidate.scene.name]].update(found)
    faults = Faults()
    for path, counter in strays.items():
        listed = ", ".join(f"{value} ({count:,} pixels)" for value, count in counter.most_common(8))
        with faults.collect():
            if pairs.options.other == "error":
                raise LabelError(
                    f"{path}: label values outside the legend ({legend}): {listed}; add them to --classes, with the name "
                    f"of another class where they mean the same; name one that means unknown with --label-nodata; or use --other ignore"
                )
            warnings.warn(f"{path}: values outside the legend ignored: {listed}", DataWarning, stacklevel=4)
    faults.raise_any()


def _refuse_narrow(candidates: Sequence[_Candidate], legend: Legend, path: Path, boundary: int) -> None:
    """Raise where a boundary leaves no interior of any field, and warn where it leaves little."""
    found = Counter[int]()
    for candidate in candidates:
        found.update(candidate.values)
    interior = sum(found[legend.values[index]] for index in legend.ground)
    rim = found[legend.values[legend.boundary]] if legend.boundary is not None else 0
    if not interior:
        raise LabelError(
            f"{path}: no interior of a field is left on any chip; there is no field, or all are narrower than two times the "
            f"--boundary of {boundary} pixels"
        )
    if rim > interior:
        warnings.warn(
            f"{path}: {100 * rim / (rim + interior):.0f} % of the fields is boundary, so few will be told apart; use a smaller "
            f"--boundary, or scenes of smaller pixels",
            DataWarning,
            stacklevel=3,
        )


def _share_out(
    pairs: Pairs, legend: Legend, candidates: Sequence[_Candidate], left_out: Counter[str], stretched: bool
) -> Plan:
    options = pairs.options
    counts = np.array([[candidate.values.get(value, 0) for value in legend.values] for candidate in candidates])
    enough = counts.sum(axis=1) >= max(options.min_label * options.chip_size**2, 1)
    left_out["few labels"] += int((~enough).sum())
    candidates, counts = [c for c, good in zip(candidates, enough, strict=True) if good], counts[enough]
    if not candidates:
        raise LabelError(f"{_first_path(pairs)}: no chip has enough labelled pixels; lower --min-label")
    split = split_chips(
        [_footprint(candidate) for candidate in candidates], counts, ratio=parse_ratio(options.split),
        by=options.split_by, block_size=options.block_size, seed=options.seed,
    )  # fmt: skip
    negative = counts.sum(axis=1) == (0 if legend.background is None else counts[:, legend.background])
    dropped = negative & (np.random.default_rng(options.seed).random(len(candidates)) >= options.negatives)
    chips = []
    for candidate, row, name, block, drop in zip(
        candidates, counts.tolist(), split.names, split.blocks, dropped, strict=True
    ):
        if name is None:
            left_out["across split borders"] += 1
        elif name == "train" and drop:
            left_out["background only"] += 1
        else:
            window, valid = candidate.window, round(candidate.valid, 4)
            chips.append(Chip(candidate.scene.name, window.row_off, window.col_off, name, block, valid, tuple(row)))
    if not any(chip.split == "train" for chip in chips):
        raise SplitError("no chip is left for training; relax --negatives, --min-label or --max-nodata")
    used = {chip.scene for chip in chips}
    for scene in (scene for scene in pairs.scenes.values() if scene.name not in used):
        warnings.warn(
            f"{scene.path}: no chip of it is used; it has too little data or too few labels", DataWarning, stacklevel=3
        )
    return Plan(pairs, legend, tuple(chips), split, dict(left_out), stretched)


def _footprint(candidate: _Candidate) -> Footprint:
    scene = candidate.scene
    return Footprint(scene.name, scene.crs.to_wkt() if scene.crs else None, scene.outline(candidate.window))
