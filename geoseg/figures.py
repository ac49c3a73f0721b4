"""Figures: curves of a training run, and what a report shows of a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss and IoU over the epochs of a training run.

    Args:
        rows: of `geoseg.learning.History`.
        path: a staged .png.
    """
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(10, 4), layout="constrained")
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
    figure.savefig(path, dpi=120)
