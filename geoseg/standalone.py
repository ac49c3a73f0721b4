"""A trained network with all that geoseg does before and after it: raw pixels to probabilities, for other programs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.bundle import Bundle
from geoseg.models import class_logits
from geoseg.spec import ImageSpec

_BLOCK = 16

_TRACE = 1e-6
"""Relative trace that a division and a multiplication leave on a float32, and some more."""


class StandaloneNetwork(nn.Module):
    """Takes the pixels of a scene as they are and gives probabilities: what `geoseg predict` does to one window.

    Args:
        bundle: the trained model.
        unit: what the pixels were divided by before they come in.
        alone: of a network with one channel, tell the probability of the second class alone.
    """

    _low: Tensor
    _high: Tensor
    _offset: Tensor
    _scale: Tensor

    def __init__(self, bundle: Bundle, *, unit: float = 1.0, alone: bool = False) -> None:
        super().__init__()
        self._network = bundle.network()
        bands = bundle.image.bands
        self._unit = unit
        self._whole = all(np.dtype(band.dtype).kind in "iu" for band in bands)
        self._slack = 0.0 if self._whole or unit == 1 else _TRACE
        self._zeros = [index for index, band in enumerate(bands) if band.nodata == 0]
        # NaN is found as such, and so is what float32 takes for infinite.
        nodata = [(index, band.nodata) for index, band in enumerate(bands) if band.nodata]
        self._others = [(index, value) for index, value in nodata if abs(value) <= np.finfo(np.float32).max]
        self._first = 1 if alone and bundle.one_channel else 0
        columns = zip(*((*band.clip, band.offset, band.scale) for band in bands), strict=True)
        for name, column in zip(("_low", "_high", "_offset", "_scale"), columns, strict=True):
            self.register_buffer(name, torch.tensor(column, dtype=torch.float32)[:, None, None])

    @property
    def size_divisor(self) -> int:
        """Rows and cols are run at multiples of this."""
        return self._network.size_divisor

    def forward(self, pixels: Tensor) -> Tensor:
        """Float32 (batch, bands, rows, cols) to probabilities (batch, classes, rows, cols).

        Where the image is not valid (nodata, NaN, infinity, by the rule of `SceneReader.read`) all of them are 0.
        """
        raw = pixels * self._unit
        if self._whole and self._unit != 1:
            raw = raw.round()  # division and multiplication leave a trace, and nodata must be met exactly
        valid = self._valid(raw)
        scaled = (torch.maximum(torch.minimum(raw, self._high), self._low) - self._offset) / self._scale
        scaled = torch.where(valid, scaled, torch.zeros_like(scaled))
        return torch.softmax(class_logits(self._network(scaled)), dim=1)[:, self._first :] * valid

    def _valid(self, raw: Tensor) -> Tensor:
        """Where every band holds data, (batch, 1, rows, cols)."""
        valid = (raw - raw == 0).all(dim=1, keepdim=True)  # not where a band is NaN or infinite
        if self._zeros:
            valid = valid & (raw[:, self._zeros] != 0).any(dim=1, keepdim=True)
        for band, value in self._others:
            valid = valid & ((raw[:, band : band + 1] - np.float32(value).item()).abs() > self._slack * abs(value))
        return valid


def imagined_windows(image: ImageSpec, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows on which two programs can be compared: patches and noise of the training data's mean and spread.

    Returns:
        Pixels (count, bands, size, size) in the bands' own dtypes, and valid (count, size, size): a corner is not,
        where a band has a nodata value.
    """
    rng = np.random.default_rng(0)
    cells = -(-size // _BLOCK)
    patches = rng.normal(size=(count, len(image.bands), cells, cells)).repeat(_BLOCK, -1).repeat(_BLOCK, -2)
    patterns = patches[..., :size, :size] + 0.3 * rng.normal(size=(count, len(image.bands), size, size))
    dtype = np.result_type(*image.dtypes)
    pixels = np.zeros(patterns.shape, dtype)
    for index, band in enumerate(image.bands):
        told = band.statistics
        low, high = max(told.min, told.mean - 4 * told.std), min(told.max, told.mean + 4 * told.std)
        values = np.clip(told.mean + told.std * patterns[:, index], low, high).astype(dtype)
        # What happens to be nodata is not meant to be.
        pixels[:, index] = np.where(values == band.nodata, np.asarray(told.mean).astype(dtype), values)
    valid = np.ones((count, size, size), bool)
    told_apart = [index for index, band in enumerate(image.bands) if band.nodata is not None]
    if told_apart:
        corner = np.s_[:, : size // 4, : size // 3]
        valid[corner] = False
        for index in told_apart:
            pixels[:, index][corner] = image.bands[index].nodata
    return pixels, valid
