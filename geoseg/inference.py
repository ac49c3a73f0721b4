"""Running a trained network over windows; shared by `predict` and `evaluate`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from rasterio.windows import Window
from torch import Tensor

from geoseg.bundle import Bundle
from geoseg.choices import Precision, TestTimeAugmentation
from geoseg.errors import ModelError
from geoseg.grid import Tile, slices
from geoseg.legend import IGNORE
from geoseg.models import class_logits, mirror
from geoseg.scenes import SceneReader

_SHIFTS = 4
"""Shifts per axis of `shifts`: all of them would be as many as the network's stride, 1,024 passes for a stride of 32."""

_SYMMETRIES = {"none": 1, "flips": 4, "d4": 8}
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Prediction(NamedTuple):
    """What the network says of one window.

    Attributes:
        indices: class indices (rows, cols) uint8, 255 where the image is not valid.
        probabilities: (classes, rows, cols) float32, meaningless where the image is not valid.
    """

    indices: np.ndarray
    probabilities: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the class chosen, (rows, cols) float32, meaningless where the image is not valid."""
        chosen = np.where(self.indices == IGNORE, 0, self.indices).astype(np.intp)
        return np.take_along_axis(self.probabilities, chosen[None], axis=0)[0]


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        ModelError: the device asked for is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelError(f"--device {device}: auto, cpu, cuda, cuda:N or mps is needed") from None
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(chosen.type) or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        raise ModelError(f"--device {device}: not found on this machine; use --device cpu or --device auto")
    return chosen


def choose_precision(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """`auto` takes bfloat16 where the device multiplies it in hardware, half precision on older GPUs, else float32.

    On a CPU without such units bfloat16 can be slower than float32.
    """
    if precision != "auto":
        return _TYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and has_bf16_units() else torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """What the option calls a dtype."""
    return next(name for name, known in _TYPES.items() if known == dtype)


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: in matrix units (AMX), or in AVX-512 ones."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


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
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tta: TestTimeAugmentation = "none",
        threshold: float | None = None,
    ) -> None:
        self.image, self.legend = bundle.image, bundle.legend
        self.device = choose_device(device)
        self.dtype = choose_precision(self.device, precision)
        self.threshold = choose_threshold(bundle, threshold)
        # The weights themselves, not autocast: that pads by reflection in float32, which takes longer than it saves.
        network = bundle.network()
        self._views = _views(tta, network.size_divisor)
        self._network = network.to(self.device, self.dtype).to(memory_format=torch.channels_last)

    def nothing(self, shape: tuple[int, int]) -> Prediction:
        """The prediction for a window (rows, cols) without a valid pixel."""
        return Prediction(np.full(shape, IGNORE, np.uint8), np.zeros((len(self.legend), *shape), np.float32))

    def __call__(self, windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Prediction]:
        """Predict windows of one size.

        Args:
            windows: pairs of raw pixels (bands, rows, cols) and valid (rows, cols) bool.
        """
        inputs = np.stack([self.image.normalise(pixels, valid) for pixels, valid in windows])
        batch = torch.from_numpy(inputs).to(self.device, self.dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            probabilities = self._probabilities(batch)
        # A network with one channel is asked whether a pixel is of the second class.
        likeliest = probabilities.argmax(dim=1) if self.threshold is None else probabilities[:, 1] >= self.threshold
        indices = likeliest.to(torch.uint8)
        return [
            Prediction(np.where(valid, found.cpu().numpy(), np.uint8(IGNORE)), shares.cpu().numpy())
            for (_, valid), found, shares in zip(windows, indices, probabilities, strict=True)
        ]

    def _probabilities(self, batch: Tensor) -> Tensor:
        """Class probabilities float32 (batch, classes, rows, cols), added up view by view: all at once would be too large."""
        rows, cols = batch.shape[-2:]
        total = torch.zeros(len(batch), len(self.legend), rows, cols, device=self.device)
        for view in self._views:
            shown = view.transform(batch).contiguous(memory_format=torch.channels_last)
            shares = torch.softmax(class_logits(self._network(shown).float()), dim=1)
            total.addcmul_(view.inverse(shares), view.weights(rows, cols).to(self.device))
        return total


class _View(NamedTuple):
    """One way to look at a window.

    Attributes:
        transform: the window (batch, bands, rows, cols) to what the network is shown.
        inverse: what it answers to where that lies in the window, (batch, classes, rows, cols).
        weights: rows and cols of the window to how much each pixel of the answer counts, a tensor that is broadcast to
            (rows, cols); over all views these add up to 1.
    """

    transform: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    weights: Callable[[int, int], Tensor]


def _views(tta: TestTimeAugmentation, stride: int) -> list[_View]:
    """How a window is looked at; `stride` is that of the network's coarsest map."""
    if tta == "shifts":
        shifts = sorted({number * stride // _SHIFTS for number in range(_SHIFTS)})
        return [_shifted(down, right, shifts, stride) for down in shifts for right in shifts]
    count = _SYMMETRIES[tta]
    return [_symmetric(number, 1 / count) for number in range(count)]


def _symmetric(number: int, weight: float) -> _View:
    """One of the eight symmetries of the square: bit 0 mirrors columns, bit 1 rows, bit 2 then swaps them."""
    mirrored = [dim for bit, dim in ((1, -1), (2, -2)) if number & bit]

    def swap(batch: Tensor) -> Tensor:
        return batch.transpose(-1, -2) if number & 4 else batch

    return _View(
        transform=lambda batch: swap(batch.flip(mirrored)),
        inverse=lambda batch: swap(batch).flip(mirrored),
        weights=lambda rows, cols: torch.tensor(weight),
    )


def _shifted(down: int, right: int, shifts: Sequence[int], stride: int) -> _View:
    """The window moved against the network's coarse cells; it counts at the pixels that lie best in their cells then.

    Shift-and-stitch (Long, Shelhamer and Darrell 2015, section 3.2, https://arxiv.org/abs/1411.4038), on a grid of
    shifts rather than all of them.
    """
    return _View(
        transform=lambda batch: _lengthen_before(_lengthen_before(batch, -2, down), -1, right),
        inverse=lambda batch: batch[..., down:, right:],
        weights=lambda rows, cols: torch.outer(
            _most_central(rows, down, shifts, stride), _most_central(cols, right, shifts, stride)
        ),
    )


def _lengthen_before(batch: Tensor, dim: int, extra: int) -> Tensor:
    return mirror(batch.flip(dim), dim, batch.shape[dim] + extra).flip(dim)


def _most_central(size: int, shift: int, shifts: Sequence[int], stride: int) -> Tensor:
    """1 at the pixels of an axis that this shift, rather than another, brings nearest to the centre of a cell, else 0."""
    places = (torch.arange(size) + torch.tensor(shifts)[:, None]) % stride
    off_centre = 2 * places - (stride - 1)
    nearest = (2 * off_centre + 1).abs().argmin(dim=0)  # 1: of two cells that are as near, always the later
    return (nearest == shifts.index(shift)).float()


def predict_cores(
    reader: SceneReader, sources: Sequence[int], tiles: Iterable[Tile], predictor: Predictor, *, batch_size: int
) -> Iterator[tuple[Window, Prediction]]:
    """Predict the cores of a grid, in its order: the next batch is read while the network works on this one.

    A batch without a valid pixel is never run.
    """
    ahead: deque[Future[_Windows]] = deque()
    with ThreadPoolExecutor(max_workers=1) as executor:
        for batch in _batches(tiles, batch_size):
            ahead.append(executor.submit(_read_windows, reader, sources, batch))
            if len(ahead) > 1:
                yield from _predict_windows(ahead.popleft().result(), predictor)
        while ahead:
            yield from _predict_windows(ahead.popleft().result(), predictor)


_Windows = list[tuple[Tile, np.ndarray, np.ndarray]]


def _batches(tiles: Iterable[Tile], size: int) -> Iterator[list[Tile]]:
    remaining = iter(tiles)
    while batch := list(islice(remaining, size)):
        yield batch


def _read_windows(reader: SceneReader, sources: Sequence[int], tiles: Sequence[Tile]) -> _Windows:
    return [(tile, *reader.read(tile.read, sources, edge="mirror")) for tile in tiles]


def _predict_windows(windows: _Windows, predictor: Predictor) -> Iterator[tuple[Window, Prediction]]:
    if any(valid.any() for _, _, valid in windows):
        predictions = predictor([(pixels, valid) for _, pixels, valid in windows])
    else:
        predictions = [predictor.nothing(valid.shape) for _, _, valid in windows]
    for (tile, _, _), prediction in zip(windows, predictions, strict=True):
        rows, cols = slices(tile.core, tile.read)
        yield tile.core, Prediction(prediction.indices[rows, cols], prediction.probabilities[:, rows, cols])
