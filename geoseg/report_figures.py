"""The figures of a report, as pieces of HTML that need nothing beside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle

from geoseg.figures import coloured
from geoseg.legend import IGNORE, Legend
from geoseg.tally import View, Visit

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#666666"  # Okabe and Ito 2008: told apart by colour-blind readers
_WRONG = (216, 27, 96)
_UNKNOWN = (235, 235, 235)
_STYLE: Any = {
    # Text stays text: it can be searched and read aloud, and the file is a third as large.
    "svg.fonttype": "none", "svg.hashsalt": "geoseg", "font.family": "sans-serif", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
}  # fmt: skip
_SCENES = 6


def chip_curve(visits: Sequence[Visit], pooled: float | None, name: str) -> str:
    """SVG: the mean IoU of each place, from the best to the worst."""
    values = np.sort([visit.miou for visit in visits])[::-1]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.2)
        axes.plot(np.arange(1, len(values) + 1), values, color=_BLUE, marker="." if len(values) < 60 else None)
        axes.axhline(values.mean(), color=_ORANGE, linestyle="--", label=f"mean over {name}: {values.mean():.3f}")
        if pooled is not None:
            axes.axhline(pooled, color=_GREY, linestyle=":", label=f"all pixels together: {pooled:.3f}")
        axes.set(xlabel=f"{name}, from the best to the worst", ylabel="mean IoU", ylim=(0, 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, loc="lower left")
        return _svg(figure)


def reliability_curve(curve: Sequence[dict[str, float]]) -> str:
    """SVG: accuracy against confidence, and how many pixels there are of each confidence."""
    confidence, accuracy, pixels = (
        np.array([row[key] for row in curve]) for key in ("confidence", "accuracy", "pixels")
    )
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.4, 4.2)
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="what it should be")
        axes.plot(confidence, accuracy, color=_BLUE, marker="o", label="what it is")
        shares = axes.twinx()
        shares.bar(confidence, pixels / pixels.sum(), width=0.04, color=_ORANGE, alpha=0.35)
        shares.set(ylim=(0, 2), yticks=[])
        shares.grid(False)
        axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(frameon=False, loc="upper left")
        return _svg(figure)


def threshold_figure(curves: dict[str, np.ndarray], legend: Legend, shown: Sequence[int]) -> str:
    """SVG: precision against recall, and the ROC curve, of some classes."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for place, index in enumerate(shown):
            entry = legend.classes[index]
            style = {"color": entry.colour, "linestyle": ("-", "--", "-.", ":")[place % 4], "label": entry.name}
            left.plot(curves["recall"][:, index], curves["precision"][:, index], **style)
            right.plot(curves["false_positive_rate"][:, index], curves["recall"][:, index], **style)
        right.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), title="precision and recall")
        right.set(xlabel="false positive rate", ylabel="recall", xlim=(-0.02, 1), ylim=(0, 1.02), title="ROC")
        right.legend(frameon=False, loc="lower right")
        return _svg(figure)


def place_maps(visits: Sequence[Visit]) -> list[tuple[str, str]]:
    """Names of scenes, and SVG: where in each the mean IoU is high and low, and where the wrong pixels are."""
    scenes = dict.fromkeys(visit.place.scene for visit in visits)
    return [(scene, _place_map([v for v in visits if v.place.scene == scene])) for scene in list(scenes)[:_SCENES]]


def _place_map(visits: Sequence[Visit]) -> str:
    windows = [visit.place.window for visit in visits]
    boxes = [Rectangle((w.col_off, w.row_off), w.width, w.height) for w in windows]
    left, top = min(w.col_off for w in windows), min(w.row_off for w in windows)
    right, bottom = max(w.col_off + w.width for w in windows), max(w.row_off + w.height for w in windows)
    shares = np.array([visit.wrong / visit.pixels for visit in visits])
    many = len(visits) > 400  # lines around so many would hide what is in them
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8.4, 4.4), layout="constrained")
        panels = (
            ("mean IoU", np.array([visit.miou for visit in visits]), "viridis", (0, 1)),
            ("share of wrong pixels", shares, "magma_r", (0, max(float(shares.max()), 0.01))),
        )
        for axes, (title, values, colours, limits) in zip(figure.subplots(1, 2), panels, strict=True):
            patches = PatchCollection(boxes, cmap=colours, edgecolor="face" if many else "white", linewidth=0.3)
            patches.set(array=values, clim=limits, rasterized=many)
            axes.add_collection(patches)
            axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=title)
            axes.tick_params(labelsize=8)
            figure.colorbar(patches, ax=axes, shrink=0.7)
        return _svg(figure)


def gallery_row(view: View, legend: Legend, picture: np.ndarray | None) -> list[tuple[str, str]]:
    """What a place looks like: captions, and images as data addresses."""
    counted = (view.reference != IGNORE) & (view.predicted != IGNORE)
    wrong = counted & (view.reference != view.predicted)
    reference, predicted = (coloured(indices, legend, _UNKNOWN) for indices in (view.reference, view.predicted))
    base = picture if picture is not None else reference
    errors = np.where(counted[..., None], 255 - (255 - base.mean(axis=-1, keepdims=True)) * 0.5, _UNKNOWN)
    errors = np.where(wrong[..., None], _WRONG, errors).astype(np.uint8)
    shown = [] if picture is None else [("image", _address(picture, "jpeg"))]
    return [
        *shown, ("reference", _address(reference, "png")), ("map", _address(predicted, "png")),
        ("errors", _address(errors, "png")),
    ]  # fmt: skip


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=150)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _address(pixels: np.ndarray, kind: str) -> str:
    buffer = io.BytesIO()
    imsave(buffer, pixels, format=kind, pil_kwargs={"quality": 85} if kind == "jpeg" else {"optimize": True})
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
