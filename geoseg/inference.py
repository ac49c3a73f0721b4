"""Running a trained network over windows: a pipeline of reading, network and merging that `predict` and `evaluate` share."""

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

from geoseg.bundle import Bundle
from geoseg.choices import Engine as EngineName
from geoseg.choices import Precision, TestTimeAugmentation
from geoseg.devices import choose_device, choose_precision, out_of_memory
from geoseg.engines import Engine, OpenVinoEngine, TorchEngine, check_agreement
from geoseg.errors import ModelError
from geoseg.grid import Layout, Tile
from geoseg.labels import LabelReader
from geoseg.legend import IGNORE
from geoseg.merging import Merger
from geoseg.models import Segmenter, class_logits
from geoseg.pipeline import ahead, workers
from geoseg.scenes import Scene, SceneReader
from geoseg.spec import ImageSpec
from geoseg.views import views

SHARE_STEPS = 250
"""Confidence and probabilities are told in steps of 1/250, with 255 where the image is not valid."""

_READERS = 2


class Prediction(NamedTuple):
    """What the network says of some ground, in bytes as they stand in files; 255 where the image is not valid.

    Attributes:
        indices: class indices (rows, cols) uint8.
        confidence: probability of the class chosen, (rows, cols) uint8 in steps of 1/250.
        probabilities: (classes, rows, cols) uint8 likewise, where they are asked for.
    """

    indices: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


def choose_threshold(bundle: Bundle, threshold: float | None = None) -> float | None:
    """The bundle's own unless another is given; None for a network with a channel per class, which needs none.

    Raises:
        ModelError: one is given for such a network, or it is not between 0 and 1.
    """
    if not bundle.one_channel:
        if threshold is not None:
            raise ModelError(
                f"--threshold {threshold}: {bundle.path} has a channel per class and takes the likeliest; "
                "leave it out, or train with --loss bce"
            )
        return None
    if threshold is None:
        return bundle.threshold
    if not 0 < threshold < 1:
        raise ModelError(f"--threshold {threshold}: a probability above 0 and below 1 is needed")
    return threshold


class Predictor:
    """A network on its device, ready for batches of windows.

    Args:
        bundle: the trained model.
        device: see `choose_device`.
        precision: see `choose_precision`.
        tta: the probabilities are those of the window as it is (`none`), the mean over mirrored (`flips`, four times
            the work) and turned copies too (`d4`, eight times), or interleaved from copies shifted by less than the
            network's stride (`shifts`, sixteen times), which sharpens coarse networks.
        threshold: see `choose_threshold`.
        engine: `torch`, or `openvino` on a CPU.

    Attributes:
        fits: windows that the device's memory has been found to hold at once; None until one batch was too large.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        tta: TestTimeAugmentation = "none",
        threshold: float | None = None,
        engine: EngineName = "torch",
    ) -> None:
        self.legend = bundle.legend
        self.device = choose_device(device) if isinstance(device, str) else device
        self.dtype = choose_precision(self.device, precision)
        self.threshold = choose_threshold(bundle, threshold)
        self.fits: int | None = None
        network = bundle.network()
        self._views = views(tta, network.size_divisor)
        self._scaler = _Scaler(bundle.image, self.device)
        self._bundle, self._engine = bundle, _create_engine(engine, network, bundle, self.device, self.dtype)

    def __call__(self, windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Prediction]:
        """Predict windows of one size: pairs of raw pixels (bands, rows, cols) and valid (rows, cols) bool."""
        pixels, known = (np.stack(arrays) for arrays in zip(*windows, strict=True))
        shares = self.shares(pixels, known)
        return [self.decide(found, valid) for found, (_, valid) in zip(shares, windows, strict=True)]

    def shares(
        self, pixels: np.ndarray, valid: np.ndarray, inside: tuple[slice, slice] = (slice(None), slice(None))
    ) -> Tensor:
        """Class probabilities of windows of one size, as many at once as fit into the device's memory.

        Args:
            pixels: raw, (windows, bands, rows, cols).
            valid: (windows, rows, cols) bool.
            inside: rows and cols of the windows that are wanted.

        Returns:
            float32 (windows, classes, rows, cols) on the device, meaningless where the image is not valid.

        Raises:
            ModelError: a single window does not fit.
        """
        while True:
            size = min(self.fits or len(pixels), len(pixels))
            starts = range(0, len(pixels), size)
            try:
                parts = [self._shares(pixels[i : i + size], valid[i : i + size], inside) for i in starts]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    rows, cols = pixels.shape[-2:]
                    raise ModelError(
                        f"a window of {rows} x {cols} pixels does not fit into the memory of {self.device}: "
                        "take a smaller --window"
                    ) from error
            self.fits = size // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def check(self, pixels: np.ndarray, valid: np.ndarray) -> float:
        """Share of the pixels of a probe that get the class which torch gives them in float32.

        Args:
            pixels: raw, (windows, bands, rows, cols).
            valid: (windows, rows, cols) bool.

        Raises:
            ModelError: it is below 99.9 %.
        """
        return check_agreement(self._engine, self._bundle.network(), self._scaler(pixels, valid))

    def _shares(self, pixels: np.ndarray, valid: np.ndarray, inside: tuple[slice, slice]) -> Tensor:
        """View by view: all at once would be too large."""
        rows, cols = inside
        with torch.inference_mode():
            batch = self._scaler(pixels, valid)
            total: Tensor | None = None
            for view in self._views:
                shown = view.transform(batch).contiguous(memory_format=torch.channels_last)
                logits = view.inverse(class_logits(self._engine(shown)))[..., rows, cols]
                shares = torch.softmax(logits.float().contiguous(), dim=1)
                if len(self._views) == 1:
                    return shares
                weights = view.weights(*batch.shape[-2:])[rows, cols].to(self.device)
                total = shares * weights if total is None else total.addcmul_(shares, weights)
        assert total is not None
        return total

    def decide(self, shares: Tensor, valid: np.ndarray, *, probabilities: bool = False) -> Prediction:
        """The classes of some ground: shares (classes, rows, cols) float32, valid (rows, cols) bool."""
        with torch.inference_mode():
            if self.threshold is None:
                confidence, likeliest = shares.max(dim=0)  # argmax alone takes eight times as long on a CPU
            else:  # a network with one channel is asked whether a pixel is of the second class
                likeliest = shares[1] >= self.threshold
                confidence = torch.where(likeliest, shares[1], shares[0])
            told = [likeliest.to(torch.uint8), _in_steps(confidence)]
            if probabilities:
                told.append(_in_steps(shares))
        return Prediction(*(np.where(valid, found.cpu().numpy(), np.uint8(IGNORE)) for found in told))


def _create_engine(
    engine: EngineName, network: Segmenter, bundle: Bundle, device: torch.device, dtype: torch.dtype
) -> Engine:
    if engine == "torch":
        return TorchEngine(network, device, dtype)
    if device.type != "cpu":
        raise ModelError(f"--engine {engine}: it runs on the CPU, not on {device}; use --device cpu or --engine torch")
    return OpenVinoEngine(network, bundle.weights_sha256, dtype)


def _in_steps(shares: Tensor) -> Tensor:
    return (shares * SHARE_STEPS).round_().to(torch.uint8)


class _Scaler:
    """`ImageSpec.normalise` for batches, next to the network: bytes travel to a GPU four times as fast as floats."""

    def __init__(self, image: ImageSpec, device: torch.device) -> None:
        columns = zip(*((*band.clip, band.offset, band.scale) for band in image.bands), strict=True)
        self._low, self._high, self._offset, self._scale = (
            torch.tensor(column, dtype=torch.float32, device=device)[:, None, None] for column in columns
        )
        self._device = device

    def __call__(self, pixels: np.ndarray, valid: np.ndarray) -> Tensor:
        """Raw (windows, bands, rows, cols) and valid (windows, rows, cols) to the network's input, float32."""
        scaled = self._move(pixels).to(torch.float32, copy=True)
        torch.clamp(scaled, self._low, self._high, out=scaled)
        scaled.sub_(self._offset).div_(self._scale)
        return scaled if valid.all() else scaled.masked_fill_(~self._move(valid)[:, None], 0.0)

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)


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
