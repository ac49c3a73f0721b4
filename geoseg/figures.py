"""What pictures are made of: bands stretched for the eye, classes in their colours, the curves of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from geoseg.legend import IGNORE, Legend
from geoseg.spec import ImageSpec
from geoseg.styles import colour_bands


def stretched(bands: np.ndarray, valid: np.ndarray, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """Bands as a picture, white where they are not valid.

    Args:
        bands: (1 or 3, rows, cols) of any dtype.
        valid: (rows, cols) bool.
        limits: of each band, what becomes black and what becomes full colour.

    Returns:
        (rows, cols, 3) uint8.
    """
    layers = []
    for pixels, (low, high) in zip(bands, limits, strict=True):
        shares = (np.nan_to_num(pixels.astype(np.float64)) - low) / max(high - low, 1e-9)
        layers.append(np.where(valid, np.clip(shares, 0, 1) * 255, 255).astype(np.uint8))
    return np.stack(layers if len(layers) == 3 else layers * 3, axis=-1)


def coloured(indices: np.ndarray, legend: Legend, unknown: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Class indices (rows, cols) to the colours of their classes, (rows, cols, 3) uint8; 255 becomes `unknown`."""
    palette = np.full((IGNORE + 1, 3), unknown, np.uint8)
    palette[: len(legend)] = [tuple(bytes.fromhex(entry.colour[1:])) for entry in legend]
    return palette[indices]


def chip_picture(image: ImageSpec, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A chip (bands, rows, cols), in true colours where its bands tell them, stretched by what the training chips hold."""
    shown = colour_bands(image.names)
    facts = [image.bands[position].statistics for position in shown]
    return stretched(pixels[list(shown)], valid, [(told.p1, told.p99) for told in facts])


def draw_curves(figure: Figure, rows: Sequence[dict[str, Any]]) -> None:
    """Draw loss and IoU over the epochs of a training run.

    Args:
        figure: an empty one.
        rows: of `geoseg.learning.History`.
    """
    epochs = [row["epoch"] for row in rows]
    losses, scores = figure.subplots(1, 2)
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        if name in rows[0]:
            losses.plot(epochs, [row[name] for row in rows], label=label)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    losses.legend()
    for name in (name for name in rows[0] if name.startswith("val_iou_")):
        scores.plot(epochs, [row[name] for row in rows], linewidth=1, label=name.removeprefix("val_iou_"))
    if "val_miou" in rows[0]:
        means = [row["val_miou"] for row in rows]
        best = means.index(max(means))
        scores.plot(epochs, means, color="black", linewidth=2, label="mean")
        scores.plot(
            epochs[best], means[best], "o", color="black", label=f"kept: epoch {epochs[best]}, {means[best]:.3f}"
        )
        scores.legend(fontsize="small")
    scores.set(xlabel="epoch", ylabel="IoU", ylim=(0, 1), title="IoU on the validation chips")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
