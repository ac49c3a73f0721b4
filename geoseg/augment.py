"""Augmentation of chips: the image, its validity and its mask are always moved together."""

from __future__ import annotations

import numpy as np

from geoseg.choices import Augment


def augment(arrays: tuple[np.ndarray, ...], kind: Augment, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Flip or turn arrays (..., rows, cols) alike.

    `flips` mirrors left-right and up-down, each with probability 0.5; `d4` draws one of the eight symmetries of the
    square (on a chip that is not square, one of the four that keep its shape). A scene has no up or down, so every one
    of these is a scene that could have been.
    """
    if kind == "none":
        return arrays
    if rng.random() < 0.5:
        arrays = tuple(array[..., ::-1] for array in arrays)
    if rng.random() < 0.5:
        arrays = tuple(array[..., ::-1, :] for array in arrays)
    square = arrays[0].shape[-1] == arrays[0].shape[-2]
    if kind == "d4" and square and rng.random() < 0.5:
        arrays = tuple(array.swapaxes(-1, -2) for array in arrays)
    return tuple(np.ascontiguousarray(array) for array in arrays)
