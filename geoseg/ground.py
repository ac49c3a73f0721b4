"""Ground on which a map is held against a reference: chips that a model predicts, or the strips of a pair of maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
from rasterio.windows import Window

from geoseg.chips import Chip, ChipFolder
from geoseg.errors import LabelError
from geoseg.field_boundaries import NO_FIELD
from geoseg.grid import grid
from geoseg.labels import LabelReader
from geoseg.legend import IGNORE, Legend
from geoseg.predictor import Prediction, Predictor
from geoseg.scenes import Scene, describe_scene

SQUARE = 256
"""Pixels per side of the squares of a map that stand for chips."""

_MOST_COUNTS = 2**24
"""Counts that the blocks of a map may come to: as many int64 are 128 MiB."""


class Place(NamedTuple):
    """A chip, or a square of a map: what is told of one by one.

    Attributes:
        name: of the chip, or the scene with row and column.
        scene: name of the scene.
        window: where it lies in the scene.
        block: number of its block of ground.
        pixel_m2: area of a pixel on the ground; None where it is not known.
    """

    name: str
    scene: str
    window: Window
    block: int
    pixel_m2: float | None


class Ground(NamedTuple):
    """Some ground with what two maps say of it: class indices (rows, cols) uint8, 255 where they say nothing.

    Attributes:
        reference: what it is.
        predicted: what the map under test says.
        rows: those that count; the others are there to be seen. Rows of one map come one after another.
        places: what is in these rows, with rows and columns in the arrays.
        block_of: numbers of the blocks of pixels, by their rows and columns on the map that begins with its first rows.
        begins: whether this is the top of a map of its own.
        confidence: probability of the class chosen, (rows, cols) uint8 in steps of 1 / SHARE_STEPS, 255 unknown.
        shares: probabilities of all classes, (classes, rows, cols) uint8 likewise.
        other: what another map says, as `predicted`.
        reference_fields: number of the field of each pixel (rows, cols) int32, where the reference tells fields apart.
        predicted_fields: likewise of the map under test.
    """

    reference: np.ndarray
    predicted: np.ndarray
    rows: slice
    places: Sequence[tuple[Place, tuple[slice, slice]]]
    block_of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    begins: bool = True
    confidence: np.ndarray | None = None
    shares: np.ndarray | None = None
    other: np.ndarray | None = None
    reference_fields: np.ndarray | None = None
    predicted_fields: np.ndarray | None = None


def chip_ground(
    folder: ChipFolder, chips: Sequence[Chip], predictor: Predictor, batch_size: int, other: Predictor | None = None
) -> Iterator[Ground]:
    """Predict chips, each of which is a map of its own.

    Args:
        folder: of the chips.
        chips: some of them.
        predictor: of the model under test.
        batch_size: chips a step.
        other: of a model to compare it with, which takes the same bands.
    """
    overlapping = (folder.facts.get("options", {}).get("stride") or folder.image.chip_size) < folder.image.chip_size
    for start in range(0, len(chips), batch_size):
        read = [(chip, *folder.read(chip)) for chip in chips[start : start + batch_size]]
        for _, same in groupby(read, key=lambda entry: entry[3].shape):  # pictures differ in size
            batch = list(same)
            windows = [(pixels, valid) for _, pixels, valid, _ in batch]
            found = _predict(predictor, windows)
            compared = [None] * len(batch) if other is None else [told.indices for told in other(windows)]
            for (chip, _, _, mask), told, rival in zip(batch, found, compared, strict=True):
                height, width = mask.shape
                at = Window(chip.col, chip.row, width, height)
                # Each tells by itself: pixels of a degree grid differ from scene to scene. Of chips that overlap, areas would
                # be counted twice.
                scene = None if overlapping else describe_scene(folder.path / chip.image)
                pixel_m2 = None if scene is None else scene.pixel_area_m2((width - 1) / 2, (height - 1) / 2)
                place = Place(chip.name, chip.scene, at, chip.block, pixel_m2)
                yield Ground(
                    mask, told.indices, slice(0, height), [(place, np.s_[0:height, 0:width])],
                    _always(chip.block), True, told.confidence, told.probabilities, rival,
                )  # fmt: skip


def _predict(predictor: Predictor, windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Prediction]:
    pixels, valid = (np.stack(arrays) for arrays in zip(*windows, strict=True))
    shares = predictor.shares(pixels, valid)
    return [predictor.decide(told, known, probabilities=True) for told, known in zip(shares, valid, strict=True)]


def _always(block: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda rows, cols: np.full(rows.shape, block)


@dataclass(frozen=True)
class MapPair:
    """A map and a reference on the grid of one scene.

    Attributes:
        scene: gives the grid.
        legend: the classes.
        predicted: reads the map under test.
        reference: reads the reference.
        names: how the two, and the other map, are called in messages.
        area: where it knows nothing, nothing is counted.
        other: reads a map to compare it with.
        confidence: reads the confidence of the map under test, in steps.
        merged: values that are read as another one.
    """

    scene: Scene
    legend: Legend
    predicted: LabelReader
    reference: LabelReader
    names: Sequence[str]
    area: LabelReader | None = None
    other: LabelReader | None = None
    confidence: LabelReader | None = None
    merged: Mapping[int, int] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """Pixels per side of a block of ground: the squares, or as many of them as keep the counts small."""
        side = SQUARE
        while -(-self.scene.height // side) * -(-self.scene.width // side) * len(self.legend) ** 2 > _MOST_COUNTS:
            side *= 2
        return side

    def ground(self, margin: int) -> Iterator[Ground]:
        """The strips of the map, one square high, with rows above and below that are only seen.

        Raises:
            LabelError: a value that is not in the legend.
        """
        scene, block = self.scene, self.block
        across = -(-scene.width // block)

        def block_of(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
            return rows // block * across + cols // block

        for tile in grid(scene.height, scene.width, (SQUARE, scene.width), (margin, margin)):
            window = Window(0, tile.read.row_off, scene.width, tile.core.height + 2 * margin)
            reference, reference_fields = self._indices(self.reference, window, self.names[1])
            predicted, predicted_fields = self._indices(self.predicted, window, self.names[0])
            if self.area is not None:
                outside = ~self.area.read(window)[1]
                reference[outside] = predicted[outside] = IGNORE
            places = []
            for square in grid(tile.core.height, scene.width, SQUARE):
                row, col = tile.core.row_off + square.core.row_off, square.core.col_off
                at = Window(col, row, square.core.width, square.core.height)
                place = Place(
                    f"{scene.name}_{row:06d}_{col:06d}", scene.name, at, row // block * across + col // block,
                    scene.pixel_area_m2(col + (at.width - 1) / 2, row + (at.height - 1) / 2),
                )  # fmt: skip
                top = margin + square.core.row_off
                places.append((place, np.s_[top : top + at.height, col : col + at.width]))
            yield Ground(
                reference, predicted, slice(margin, margin + tile.core.height), places, block_of, tile.core.row_off == 0,
                None if self.confidence is None else self._steps(window), None,
                None if self.other is None else self._indices(self.other, window, self.names[2])[0],
                reference_fields, predicted_fields,
            )  # fmt: skip

    def _indices(self, reader: LabelReader, window: Window, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Class indices, and numbers of fields where they are told."""
        told = None
        if reader.tells_fields:
            told, values, known = reader.read_fields(window)
        else:
            values, known = reader.read(window)
        if not known.any():
            return np.full(known.shape, IGNORE, np.uint8), told
        if self.merged:
            for value in np.unique(values[known]).tolist():
                values[known & (values == value)] = self.merged.get(value, value)
        found = np.where(known, self.legend.to_indices(np.where(known, values, 0) & 0xFFFF), IGNORE).astype(np.uint8)
        stray = known & ((found == IGNORE) | (values < 0) | (values > 0xFFFF))
        if stray.any():
            strays = np.unique(values[stray])[:8].tolist()
            raise LabelError(
                f"{name}: values {strays} are not in the legend ({self.legend}); map them to it first, or name them with "
                f"--classes"
            )
        if told is not None and self.legend.background is not None:
            told[found == self.legend.background] = NO_FIELD  # two polygons of background are one ground
        return found, told

    def _steps(self, window: Window) -> np.ndarray:
        assert self.confidence is not None
        values, known = self.confidence.read(window)
        return np.where(known, values, IGNORE).astype(np.uint8)
