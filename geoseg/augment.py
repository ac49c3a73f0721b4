"""Augmentation of chips: the image, its validity and its mask are always moved together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rasterio.windows import Window
from torch.nn import functional as F

from geoseg.errors import ModelError
from geoseg.legend import IGNORE
from geoseg.named_parts import parse_parts

Normalise = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Raw pixels (bands, rows, cols) and valid (rows, cols) to the network's input, float32 of the same shape."""

_DEFAULTS: dict[str, tuple[float, ...]] = {
    "none": (), "flips": (0.5,), "d4": (), "photometric": (0.1,), "noise": (0.05,), "scale": (0.8, 1.25)
}  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """How samples vary; made by `parse_augment`.

    Attributes:
        mirror: probability of a mirroring left-right, and of one up-down.
        turn: whether rows and columns are also exchanged, with probability 0.5.
        photometric: standard deviation of the logarithm of a band's gain, and of its offset.
        noise: standard deviation of what is added to each pixel of each band.
        scale: least and greatest size of a pixel of the chip, in pixels of the sample.
    """

    mirror: float = 0.0
    turn: bool = False
    photometric: float = 0.0
    noise: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    def apply(
        self, pixels: np.ndarray, valid: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, crop: int = 0,
        normalise: Normalise | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Draw a sample from a chip.

        Args:
            pixels: raw (bands, rows, cols); or float32, normalised and 0 where they are not valid.
            valid: bool (rows, cols).
            mask: uint8 (rows, cols), class indices and 255.
            rng: the source of all chance.
            crop: rows and columns of the sample; 0 for those of the chip. Where the chip, at the scale drawn, is
                smaller, it lies somewhere in the sample, with zeros and 255 around.
            normalise: such as `ImageSpec.normalise`, applied to the part that is cut; None where the pixels are normalised.

        Returns:
            The image (float32) and the mask (uint8) of the sample: contiguous, and 0 where the image is not valid. What
            was given is left as it is, but is given back where nothing changes it.
        """
        size = (crop, crop) if crop else mask.shape
        window = self._choose_window(mask.shape, rng, size)
        image, valid, mask = _read(pixels, window, 0), _read(valid, window, 0), _read(mask, window, IGNORE)
        if normalise is not None:
            image = normalise(image, valid)
        if mask.shape != size:
            image, valid, mask = _resize(image, valid, mask, size)
        image, valid, mask = self._move((image, valid, mask), rng)
        return self._recolour(image, valid, rng), mask

    def _choose_window(self, shape: tuple[int, ...], rng: np.random.Generator, size: tuple[int, ...]) -> Window:
        """Anywhere on a chip of `shape`, to fill `size` (rows, cols) at a scale drawn evenly on a logarithmic axis.

        The window is of whole pixels, so that the scale is met as nearly as these allow.
        """
        scale = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        height, width = (max(1, round(length / scale)) for length in size)
        row, col = (
            int(rng.integers(min(0, spare), max(0, spare), endpoint=True))
            for spare in (shape[0] - height, shape[1] - width)
        )
        return Window(col, row, width, height)

    def _move(self, arrays: tuple[np.ndarray, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Mirror and turn arrays (..., rows, cols) alike; one that is not square is not turned, to keep its shape."""
        if rng.random() < self.mirror:
            arrays = tuple(array[..., ::-1] for array in arrays)
        if rng.random() < self.mirror:
            arrays = tuple(array[..., ::-1, :] for array in arrays)
        square = arrays[0].shape[-1] == arrays[0].shape[-2]
        if self.turn and square and rng.random() < 0.5:
            arrays = tuple(array.swapaxes(-1, -2) for array in arrays)
        return tuple(np.ascontiguousarray(array) for array in arrays)

    def _recolour(self, image: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Gain, offset and noise; half the variance of the first two is common to all bands, as light and haze are."""
        if not (self.photometric or self.noise):
            return image
        drawn = rng.standard_normal((2, 1)) + rng.standard_normal((2, len(image)))
        gain, offset = (self.photometric * math.sqrt(0.5) * drawn).astype(np.float32)[:, :, None, None]
        image = image * np.exp(gain)
        image += offset
        if self.noise:
            image += np.float32(self.noise) * rng.standard_normal(image.shape, dtype=np.float32)
        image *= valid
        return image


def _read(array: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """A window of an array (..., rows, cols), filled up where it lies outside."""
    row, col = max(window.row_off, 0), max(window.col_off, 0)
    inside = array[..., row : window.row_off + window.height, col : window.col_off + window.width]
    before = (row - window.row_off, col - window.col_off)
    after = (window.height - before[0] - inside.shape[-2], window.width - before[1] - inside.shape[-1])
    if not any(before + after):
        return inside
    padding = [(0, 0)] * (array.ndim - 2) + list(zip(before, after, strict=True))
    return np.pad(inside, padding, constant_values=fill)


def _resize(
    image: np.ndarray, valid: np.ndarray, mask: np.ndarray, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear for the image, a mean of its valid pixels alone; nearest for validity and mask.

    Antialiased, so that a smaller scale looks as a coarser sensor sees it. `nearest-exact` keeps to the grid of the
    bilinear; plain `nearest` does not (https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html).
    """
    values = torch.from_numpy(np.concatenate([image, valid[None]], dtype=np.float32))[None]
    labels = torch.from_numpy(np.stack([mask, valid]))[None]
    # To a single column, torch 2.15 antialiases to garbage.
    smooth = F.interpolate(values, size, mode="bilinear", antialias=size[1] > 1)[0].numpy()
    mask, nearest = F.interpolate(labels, size, mode="nearest-exact")[0].numpy()
    valid = nearest.astype(bool)
    return smooth[:-1] * (valid / np.where(valid, smooth[-1], 1)), valid, mask


def parse_augment(text: str) -> Augmentation:
    """Read an augmentation such as `none`, `flips:0.6` or `d4+photometric:0.1+scale:0.5-2`.

    - `flips:PROBABILITY`: mirrored left-right, and up-down, each with the probability, 0.5 unless given.
    - `d4`: one of the eight symmetries of the square; of the four that keep its shape where a sample is not square. A
      scene has no up or down, so every one of these is a scene that could have been.
    - `photometric:STRENGTH`: each band times a gain and plus an offset, both drawn anew for a sample: the gain's
      logarithm and the offset are normal, with the strength, 0.1 unless given, for their standard deviation. The unit
      is that of the network's input: the band's standard deviation under the `dataset` scaling.
    - `noise:STRENGTH`: normal noise on each pixel of each band, 0.05 unless given, in the same unit.
    - `scale:LEAST-GREATEST`: drawn larger or smaller by a factor that is even on a logarithmic axis, 0.8-1.25 unless
      given (Chen et al. 2017, https://arxiv.org/abs/1706.05587, take 0.5-2).

    Raises:
        ModelError: something else, or a number out of range.
    """
    # A range is written 0.5-2; to the language of parts it is two numbers.
    parts = parse_parts(
        re.sub(r"(scale:[^-+]+)-", r"\1:", text), "augment", {name: len(numbers) for name, numbers in _DEFAULTS.items()}
    )
    names = [part.name for part in parts]
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1) or {"flips", "d4"} <= set(names):
        raise ModelError(f"--augment {text}: each part once, flips or d4 but not both, and none by itself are needed")
    given: dict[str, tuple[float, ...]] = {"flips": (0.0,), "photometric": (0.0,), "noise": (0.0,), "scale": (1.0, 1.0)}
    given |= {name: numbers or _DEFAULTS[name] for name, numbers in parts}
    for name in ("flips", "photometric", "noise"):
        if given[name][0] > 1:
            raise ModelError(f"--augment {text}: {name} needs a number of 0 to 1")
    scale = given["scale"]
    if len(scale) != 2 or not 0.1 <= scale[0] <= scale[1] <= 10:
        raise ModelError(f"--augment {text}: two scales of 0.1 to 10, least first, are needed, such as scale:0.5-2")
    turn = "d4" in names
    mirror = 0.5 if turn else given["flips"][0]
    return Augmentation(mirror, turn, given["photometric"][0], given["noise"][0], (scale[0], scale[1]))
