"""A scene through a network: a pipeline of reading, predicting and merging its windows, row by row."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import cycle, groupby, islice
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from rasterio.windows import Window
from torch import Tensor

from geoseg.grid import Layout, Tile
from geoseg.labels import LabelReader
from geoseg.merging import Merger
from geoseg.pipeline import ahead, workers
from geoseg.predictor import Prediction, Predictor
from geoseg.scenes import Scene, SceneReader

_READERS = min(8, max(2, torch.get_num_threads() // 2))
"""Windows read at once: one reader decodes some 15 megapixels a second, and a large GPU maps ten times as many."""


class Row(NamedTuple):
    """A row of windows.

    Attributes:
        number: from 0, downwards.
        tiles: from left to right.
        answers: whether it shall be told, or only seen, for the sake of the row below it.
    """

    number: int
    tiles: Sequence[Tile]
    answers: bool = True


class Found(NamedTuple):
    """What is known of some ground once its windows are merged.

    Attributes:
        row: the number of the row of windows.
        tile: the last of its windows.
        window: where it lies.
        prediction: what the network says of it.
    """

    row: int
    tile: Tile
    window: Window
    prediction: Prediction


def predict_rows(
    scene: Scene, sources: Sequence[int], rows: Iterable[Row], predictors: Sequence[Predictor], merger: Merger, *,
    batch_size: int, probabilities: bool = False, area: LabelReader | None = None,
) -> Generator[Found]:  # fmt: skip
    """Predict rows of windows, in their order: while the network works, what comes next is read.

    Windows without a valid pixel are left out, before they are read where the file tells. A batch holds windows of one
    row only, so that a row comes out the same wherever a run begins.

    Args:
        scene: to read from, by several readers.
        sources: its bands, in the model's order.
        rows: what to predict.
        predictors: one per device; they take turns.
        merger: puts the windows together.
        batch_size: windows at once.
        probabilities: tell those of every class too.
        area: where it knows nothing, nothing is told.
    """
    with ExitStack() as stack:
        readers: SimpleQueue[SceneReader] = SimpleQueue()
        for _ in range(_READERS):
            readers.put(stack.enter_context(scene.open()))
        reading = stack.enter_context(workers(_READERS))
        running = [stack.enter_context(workers(1)) for _ in predictors]
        turns = cycle(zip(running, predictors, strict=True))

        def read(item: tuple[Row, Tile]) -> _Seen | None:
            reader = readers.get()
            try:
                return _read(reader, sources, *item, area)
            finally:
                readers.put(reader)

        def run(batch: Sequence[_Seen]) -> Future[list[_Answer]]:
            executor, predictor = next(turns)
            return executor.submit(_run, batch, predictor, merger.inside)

        def settle(answers: Sequence[_Answer]) -> Future[list[Found]]:
            # In the first network's own thread, and so in order; another one's would compete for the cores.
            return running[0].submit(_settle, answers, predictors[0], merger, probabilities)

        items = ((row, tile) for row in rows for tile in row.tiles)
        seen = ahead(lambda item: reading.submit(read, item), items, batch_size + _READERS)
        batches = _batches((window for window in seen if window is not None), batch_size)
        for found in ahead(settle, ahead(run, batches, 1 + len(predictors)), 2):
            yield from found


def read_probe(scene: Scene, sources: Sequence[int], layout: Layout, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Some windows that hold data, of the middle rows first: pixels (windows, bands, rows, cols), and valid.

    Where a scene holds no data at all, its first window stands for it.
    """
    with scene.open() as reader:
        rows = sorted(range(layout.rows), key=lambda row: abs(2 * row + 1 - layout.rows))
        tiles = ((Row(row, []), tile) for row in rows for tile in layout.row(row))
        read = (_read(reader, sources, row, tile, None) for row, tile in tiles)
        seen = [(window.pixels, window.valid) for window in islice(filter(None, read), count)]
        pixels, valid = zip(*(seen or [reader.read(layout.row(0)[0].read, sources)]), strict=True)
    return np.stack(pixels), np.stack(valid)


class _Seen(NamedTuple):
    row: Row
    tile: Tile
    pixels: np.ndarray
    valid: np.ndarray
    wanted: np.ndarray  # what lies outside the area is seen all the same, for what lies inside


class _Answer(NamedTuple):
    row: Row
    tile: Tile
    shares: Tensor
    wanted: np.ndarray


def _read(reader: SceneReader, sources: Sequence[int], row: Row, tile: Tile, area: LabelReader | None) -> _Seen | None:
    inside = None if area is None else area.read(tile.read)[1]
    if (inside is not None and not inside.any()) or reader.is_empty(tile.read, sources):
        return None
    pixels, valid = reader.read(tile.read, sources, edge="mirror")
    wanted = valid if inside is None else valid & inside
    return _Seen(row, tile, pixels, valid, wanted) if wanted.any() else None


def _batches(windows: Iterable[_Seen], size: int) -> Iterator[list[_Seen]]:
    for _, row in groupby(windows, key=lambda window: window.row.number):
        while batch := list(islice(row, size)):
            yield batch


def _run(batch: Sequence[_Seen], predictor: Predictor, inside: tuple[slice, slice]) -> list[_Answer]:
    pixels, valid = (np.stack([getattr(window, what) for window in batch]) for what in ("pixels", "valid"))
    shares = predictor.shares(pixels, valid, inside)
    return [
        _Answer(window.row, window.tile, found, window.wanted[inside])
        for window, found in zip(batch, shares, strict=True)
    ]


def _settle(answers: Sequence[_Answer], predictor: Predictor, merger: Merger, probabilities: bool) -> list[Found]:
    found = []
    with torch.inference_mode():
        for row, tile, shares, wanted in answers:
            for window, merged, known in merger.add(tile, shares.to(predictor.device), wanted):
                if row.answers:
                    told = predictor.decide(merged, known, probabilities=probabilities)
                    found.append(Found(row.number, tile, window, told))
    return found
