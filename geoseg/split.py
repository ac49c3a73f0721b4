"""Which chips learn, which choose the epoch and which judge: by blocks of ground, so that no ground is in two splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyproj
import shapely

from geoseg.choices import SplitBy, SplitName
from geoseg.errors import SplitError

SPLITS = get_args(SplitName)
_BLOCK_SIZES = (8, 4, 2, 1)
_ENOUGH_BLOCKS = 30
_TRIES = 5000
_WAYS_OUT = "use a smaller --chip-size, --split 1:0:0 (all for training) or --split-by scene with a scene or more for each split"


@dataclass(frozen=True)
class Footprint:
    """Where a chip lies on the ground.

    Attributes:
        scene: name of its scene.
        crs: any CRS that pyproj reads, or None for a picture.
        corners: the four corners in that CRS, in order around the chip.
    """

    scene: str
    crs: str | None
    corners: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Split:
    """The outcome for a list of chips.

    Attributes:
        names: per chip `train`, `val`, `test`, or None where the chip crosses a border between two splits.
        blocks: per chip the number of its block (for the block bootstrap).
        block_size: chips per side of a block; 0 where the split is not by block.
        shared_ground: area that chips of different splits have in common, as a share of all val and test ground.
    """

    names: tuple[str | None, ...]
    blocks: tuple[int, ...]
    block_size: int
    shared_ground: float


def parse_ratio(text: str) -> tuple[float, float, float]:
    """`8:1:1` to shares of train, val and test that sum to 1.

    Raises:
        SplitError: not three numbers, or no share for training.
    """
    parts = str(text).split(":")
    if len(parts) != 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts) or float(parts[0]) == 0:
        raise SplitError(f"--split '{text}': three numbers such as 8:1:1 are needed, the first above 0")
    numbers = [float(part) for part in parts]
    return numbers[0] / sum(numbers), numbers[1] / sum(numbers), numbers[2] / sum(numbers)


def split_chips(
    footprints: Sequence[Footprint],
    class_pixels: np.ndarray,
    *,
    ratio: tuple[float, float, float],
    by: SplitBy = "block",
    block_size: int | None = None,
    seed: int = 0,
) -> Split:
    """Share out chips so that the splits have the sizes asked for and look alike.

    With `block`, the ground is cut into square blocks of neighbouring chips, across scenes and dates, and a block goes to
    one split as a whole. A chip that reaches into a block of another split is dropped. With `scene`, whole scenes go to
    one split. With `random` chips are shared out one by one, and neighbours leak into each other.

    Args:
        footprints: per chip.
        class_pixels: (chips, classes) labelled pixels of each class.
        ratio: shares of train, val and test.
        by: what is kept together.
        block_size: chips per side of a block; None takes the largest of 8, 4, 2 and 1 that leaves 30 blocks.
        seed: of the draw.

    Raises:
        SplitError: fewer blocks (or scenes, or chips) than splits.
    """
    outlines = _outlines(footprints)
    # Pictures without a CRS have ground of their own.
    ground = np.array([footprint.scene if footprint.crs is None else "" for footprint in footprints])
    size = 0
    if by == "block":
        for size in (block_size,) if block_size else _BLOCK_SIZES:
            groups = _blocks(outlines, ground, size)
            if len(np.unique(groups)) >= _ENOUGH_BLOCKS:
                break
    elif by == "scene":
        groups = np.unique([footprint.scene for footprint in footprints], return_inverse=True)[1]
    else:
        groups = np.arange(len(footprints))
    wanted = np.array([share for share in ratio if share > 0])
    kinds = [name for name, share in zip(SPLITS, ratio, strict=True) if share > 0]
    _refuse_too_few(len(np.unique(groups)), len(kinds), by)
    chosen = _draw(groups, class_pixels, wanted, seed)
    first, second, common = _overlaps(outlines, ground, chosen)
    names: list[str | None] = [kinds[index] for index in chosen]
    if by == "block":
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            # Dropping both would cost more than the leak is: training chips give way, those for the test never do.
            if names[a] is not None and names[b] is not None:
                names[a if chosen[a] < chosen[b] else b] = None
        _refuse_emptied(kinds, names)
        shared = 0.0
    else:
        held_out = _area(outlines[chosen > 0], ground[chosen > 0])
        shared = _area(common, ground[first]) / held_out if held_out else 0.0
    return Split(tuple(names), tuple(int(group) for group in groups), size, shared)


def _outlines(footprints: Sequence[Footprint]) -> np.ndarray:
    """Footprints as polygons in one common CRS: their own where all agree, else an equal-area one for the whole earth."""
    systems = {footprint.crs for footprint in footprints if footprint.crs}
    corners = np.array([footprint.corners for footprint in footprints], float)
    if len(systems) > 1:
        for crs in systems:
            at = np.array([footprint.crs == crs for footprint in footprints])
            to_common = pyproj.Transformer.from_crs(crs, "EPSG:6933", always_xy=True)
            corners[at] = np.stack(to_common.transform(corners[at][..., 0], corners[at][..., 1]), axis=-1)
    return shapely.polygons(corners)


def _blocks(outlines: np.ndarray, ground: np.ndarray, size: int) -> np.ndarray:
    """Number of the block in which each chip's centre lies."""
    bounds, centres = shapely.bounds(outlines), shapely.get_coordinates(shapely.centroid(outlines))
    names, places = np.unique(ground, return_inverse=True)
    cells = np.zeros((len(outlines), 2), int)
    for place in range(len(names)):  # each with a unit of its own: metres, degrees, or a picture's pixels
        here = places == place
        sides = np.max(bounds[here, 2:] - bounds[here, :2], axis=0) * size
        # Blocks start at the first corner of the first chip, so that on one grid no chip crosses a border between blocks.
        origin = shapely.get_coordinates(outlines[here][0])[0]
        cells[here] = np.floor((centres[here] - origin) / sides)
    return np.unique(np.column_stack([places, cells]), axis=0, return_inverse=True)[1].ravel()


def _refuse_too_few(groups: int, splits: int, by: str) -> None:
    if groups < splits:
        what = {"block": "blocks of ground", "scene": "scenes with chips"}.get(by, "chips")
        raise SplitError(f"{groups} {what} found, {splits} splits need at least {splits}; {_WAYS_OUT}")


def _refuse_emptied(kinds: Sequence[str], names: Sequence[str | None]) -> None:
    emptied = [kind for kind in kinds if kind not in names]
    if emptied:
        raise SplitError(f"every chip for {' and '.join(emptied)} shares ground with another split's; {_WAYS_OUT}")


def _draw(groups: np.ndarray, class_pixels: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Index of the split of each chip: a shuffle, made better by swaps.

    Of the shuffled groups, the first fill the last split up to its share, the next the one before, and the rest trains.
    Then pairs are swapped wherever that brings the splits nearer to the shares asked for, in chips and in pixels of each
    class, as a ratio, so that a rare class counts as much as a common one and a split without a class is a bad split.
    """
    _, groups = np.unique(groups, return_inverse=True)
    count = int(groups.max()) + 1
    facts = np.zeros((count, 1 + class_pixels.shape[1]))
    np.add.at(facts, groups, np.column_stack([np.ones(len(groups)), class_pixels]))
    facts = facts[:, facts.sum(axis=0) > 0]
    facts /= facts.sum(axis=0)
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    middles = np.cumsum(facts[order, 0]) - facts[order, 0] / 2
    assigned = np.empty(count, int)
    assigned[order] = len(wanted) - 1 - np.searchsorted(np.cumsum(wanted[::-1])[:-1], middles)
    if len(np.unique(assigned)) < len(wanted):
        assigned[order[: len(wanted)]] = np.arange(len(wanted))[::-1]

    def cost(shares: np.ndarray) -> float:
        return float(np.abs(np.log((shares + 1e-4) / (wanted[:, None] + 1e-4))).sum())

    shares = np.stack([facts[assigned == split].sum(axis=0) for split in range(len(wanted))])
    for one, other in rng.integers(count, size=(_TRIES, 2)):
        swapped = shares.copy()
        swapped[assigned[one]] += facts[other] - facts[one]
        swapped[assigned[other]] += facts[one] - facts[other]
        if cost(swapped) < cost(shares):
            shares = swapped
            assigned[[one, other]] = assigned[[other, one]]
    return assigned[groups]


def _overlaps(
    outlines: np.ndarray, ground: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of chips of different splits that share ground, those of the last split first, and what they share."""
    first, second = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    pairs = (first < second) & (chosen[first] != chosen[second]) & (ground[first] == ground[second])
    first, second = first[pairs], second[pairs]
    order = np.argsort(-np.maximum(chosen[first], chosen[second]), kind="stable")
    first, second = first[order], second[order]
    common = shapely.intersection(outlines[first], outlines[second])
    # Neighbours on one grid touch; rounding in a projection is not shared ground.
    real = shapely.area(common) > 1e-6 * shapely.area(outlines[first])
    return first[real], second[real], common[real]


def _area(parts: np.ndarray, ground: np.ndarray) -> float:
    """Area that polygons cover, what several of them cover once."""
    return float(sum(shapely.area(shapely.union_all(parts[ground == place])) for place in np.unique(ground)))
