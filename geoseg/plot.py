"""Pictures of what geoseg makes, on matplotlib: chips with their masks, training curves, and maps.

Every function gives a figure, which a notebook shows and `figure.savefig` writes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.enums import Resampling

from geoseg.bundle import HISTORY
from geoseg.chips import Chip, ChipFolder, open_chips
from geoseg.choices import SplitName
from geoseg.class_rasters import find_legend
from geoseg.errors import InputError, MissingFileError
from geoseg.figures import chip_picture, coloured, draw_curves, stretched
from geoseg.legend import CLASS_NAME, IGNORE, Legend
from geoseg.predictor import SHARE_STEPS
from geoseg.raster import open_raster, reading
from geoseg.scenes import describe_scene
from geoseg.styles import colour_bands
from geoseg.vector import open_layer

_MOST_PIXELS = 1000
"""Of a side of a map: what it has more is left out."""
_MOST_POLYGONS = 20_000


class Picture(Figure):
    """A figure that shows itself in a notebook, once and whether or not pyplot is in use."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=80)
        return buffer.getvalue()


def chips(folder: ChipFolder | str | PathLike[str], *, split: SplitName = "train", count: int = 6) -> Picture:
    """Draw some chips of a split, spread over it, each above its mask.

    Args:
        folder: a chip folder.
        split: `train`, `val` or `test`.
        count: how many chips, 1 or more; all where there are fewer.

    Returns:
        A figure with two rows of axes; ground that is not known, or not valid, is white in the masks.

    Raises:
        InputError: no chip in this split, or a count below 1.
    """
    opened = folder if isinstance(folder, ChipFolder) else open_chips(fspath(folder))
    members = opened.of(split)
    if not members:
        raise InputError(f"{opened.path}: no {split} chips are there; choose another split")
    if count < 1:
        raise InputError(f"count {count}: 1 or more is needed")
    chosen = [members[place] for place in np.unique(np.linspace(0, len(members) - 1, count).round().astype(int))]
    figure = Picture(figsize=(max(2.0 * len(chosen), 4), 4.6), layout="constrained")
    figure.suptitle(f"{split}: {len(chosen)} of {len(members)} chips", fontsize="medium")
    for above, below, chip in zip(*figure.subplots(2, len(chosen), squeeze=False), chosen, strict=True):
        _draw_chip(above, below, opened, chip)
    _name_classes(figure, opened.legend)
    return figure


def curves(model: str | PathLike[str]) -> Picture:
    """Draw loss and IoU over the epochs of a training run.

    Args:
        model: a model bundle.

    Raises:
        MissingFileError: it has no history.
    """
    path = Path(model) / HISTORY
    if not path.exists():
        raise MissingFileError(
            f"{path}: not found, so nothing is known of the training; only bundles made by geoseg train have it"
        )
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            {name: int(value) if name == "epoch" else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    figure = Picture(figsize=(10, 4), layout="constrained")
    draw_curves(figure, rows)
    return figure


def prediction(
    classes: str | PathLike[str],
    *,
    scene: str | PathLike[str] | None = None,
    polygons: str | PathLike[str] | None = None,
) -> Picture:
    """Draw a map: its classes, how sure they are where a confidence raster lies beside, and the scene with the polygons.

    Args:
        classes: a class raster, such as a result of `geoseg.predict`.
        scene: what it was made of.
        polygons: drawn over the scene; None for those that lie beside the raster, if any.

    Returns:
        A figure with a row of axes in pixels of the raster; large maps are drawn with fewer pixels.

    Raises:
        GeosegError: the rasters cannot be read, or the first is not one of classes.
    """
    path = Path(classes)
    facts = describe_scene(path)
    legend = find_legend(facts)
    stem = path.stem.removesuffix("_classes")
    confidence = path.with_name(f"{stem}_confidence.tif")
    panels = ["scene"] * (scene is not None) + ["classes"] + ["confidence"] * confidence.exists()
    height = 4.4 * min(facts.height / facts.width, 2)
    figure = Picture(figsize=(4.4 * len(panels), height + 0.9), layout="constrained")
    axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
    style: dict[str, Any] = {"extent": (0, facts.width, facts.height, 0), "interpolation": "nearest"}
    values, known = _read_small(path, Resampling.nearest)
    indices = np.where(known, legend.to_indices(np.where(known, values[0], 0).astype(np.int64)), IGNORE)
    axes["classes"].imshow(coloured(indices, legend), **style)
    if "confidence" in axes:
        steps, known = _read_small(confidence, Resampling.average)
        shades = np.ma.masked_array(steps[0] / SHARE_STEPS, ~known)
        image = axes["confidence"].imshow(shades, vmin=0, vmax=1, cmap="viridis", **style)
        figure.colorbar(image, ax=axes["confidence"], shrink=0.7)
    if scene is not None:
        axes["scene"].imshow(_picture_of(Path(scene)), **style)
        drawn = Path(polygons) if polygons is not None else path.with_name(f"{stem}_polygons.gpkg")
        if polygons is not None or drawn.exists():
            _draw_outlines(axes["scene"], drawn, facts.transform, legend)
    for title, panel in axes.items():
        panel.set_title(panel.get_title() or title)
        panel.set_axis_off()
    _name_classes(figure, legend)
    return figure


def _draw_chip(above: Any, below: Any, folder: ChipFolder, chip: Chip) -> None:
    pixels, valid, mask = folder.read(chip)
    above.imshow(chip_picture(folder.image, pixels, valid))
    below.imshow(coloured(mask, folder.legend), interpolation="nearest")
    above.set_title(chip.name, fontsize=7)
    for axes in (above, below):
        axes.set_axis_off()


def _name_classes(figure: Figure, legend: Legend) -> None:
    handles = [Patch(facecolor=entry.colour, edgecolor="#666666", label=entry.name) for entry in legend]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, fontsize="small"
    )


def _read_small(path: Path, resampling: Resampling, bands: Sequence[int] = (1,)) -> tuple[np.ndarray, np.ndarray]:
    """A raster with at most so many pixels a side, and where it is valid."""
    with open_raster(path) as dataset, reading(path):
        factor = max(1, dataset.height / _MOST_PIXELS, dataset.width / _MOST_PIXELS)
        shape = max(1, round(dataset.height / factor)), max(1, round(dataset.width / factor))
        pixels = dataset.read(list(bands), out_shape=(len(bands), *shape), resampling=resampling)
        known = dataset.dataset_mask(out_shape=shape, resampling=Resampling.nearest) > 0
    return pixels, known


def _picture_of(path: Path) -> np.ndarray:
    scene = describe_scene(path)
    shown = colour_bands(scene.band_names)
    pixels, known = _read_small(path, Resampling.average, [position + 1 for position in shown])
    known &= np.isfinite(pixels).all(axis=0)
    limits = [tuple(np.percentile(band[known], [2, 98])) if known.any() else (0, 1) for band in pixels]
    return stretched(pixels, known, limits)


def _draw_outlines(axes: Any, path: Path, transform: rasterio.Affine, legend: Legend) -> None:
    layer = open_layer(path, prefer="Polygon")
    count = pyogrio.read_info(path, layer=layer.name or None)["features"]
    if count > _MOST_POLYGONS:
        axes.set_title(f"scene, without its {count:,} polygons")
        return
    table, inverse = layer.read([CLASS_NAME]), ~transform
    lines, colours = [], []
    for shape, name in zip(table.geometry, table[CLASS_NAME], strict=True):
        for ring in shapely.get_parts(shape.boundary):
            lines.append([inverse @ corner for corner in shapely.get_coordinates(ring)])
            colours.append(legend.classes[legend.index(name)].colour)
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.8))
