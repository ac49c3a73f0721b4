"""Running a trained network over windows; shared by `predict` and `evaluate`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from rasterio.windows import Window

from geoseg.bundle import Bundle
from geoseg.choices import Precision, TestTimeAugmentation
from geoseg.errors import ModelError
from geoseg.grid import Tile, slices
from geoseg.legend import IGNORE
from geoseg.scenes import SceneReader

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


class Predictor:
    """A network on its device, ready for batches of windows.

    Args:
        bundle: the trained model.
        device: see `choose_device`.
        precision: see `choose_precision`.
        tta: what the probabilities are the mean of: the window as it is, or also mirrored (`flips`, four times the
            work) and turned (`d4`, eight times).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tta: TestTimeAugmentation = "none",
    ) -> None:
        self.image, self.legend = bundle.image, bundle.legend
        self.device = choose_device(device)
        self.dtype = choose_precision(self.device, precision)
        self._symmetries = _SYMMETRIES[tta]
        # The weights themselves, not autocast: that pads by reflection in float32, which takes longer than it saves.
        self._network = bundle.network().to(self.device, self.dtype).to(memory_format=torch.channels_last)

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
            probabilities = torch.stack(
                [self._probabilities(batch, number) for number in range(self._symmetries)]
            ).mean(0)
        indices = probabilities.argmax(dim=1).to(torch.uint8)
        return [
            Prediction(np.where(valid, found.cpu().numpy(), np.uint8(IGNORE)), shares.cpu().numpy())
            for (_, valid), found, shares in zip(windows, indices, probabilities, strict=True)
        ]

    def _probabilities(self, batch: torch.Tensor, symmetry: int) -> torch.Tensor:
        """Class probabilities float32 (batch, classes, rows, cols), found on a mirrored or turned copy."""
        logits = self._network(_transformed(batch, symmetry).contiguous(memory_format=torch.channels_last)).float()
        back = logits.transpose(-1, -2) if symmetry & 4 else logits
        return _transformed(torch.softmax(back, dim=1), symmetry & 3)


def _transformed(batch: torch.Tensor, symmetry: int) -> torch.Tensor:
    """One of the eight symmetries of the square: bit 0 mirrors columns, bit 1 rows, bit 2 then swaps them."""
    mirrored = batch.flip([dim for bit, dim in ((1, -1), (2, -2)) if symmetry & bit])
    return mirrored.transpose(-1, -2) if symmetry & 4 else mirrored


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
