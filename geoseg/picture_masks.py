"""What stands in masks made elsewhere: values, palettes or colours, and the legend that they make."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.enums import ColorInterp

from geoseg.errors import DataWarning, LabelError
from geoseg.legend import IGNORE, MAX_VALUE, Legend, make_legend
from geoseg.picture_layouts import Pair
from geoseg.raster import open_raster
from geoseg.scenes import Scene

_GREY = 0x010101
_UNKNOWN = -1

_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_PET_NAMES = {1: "pet", 2: "background", 3: "border"}


class Mask(NamedTuple):
    """A mask as it was read."""

    codes: np.ndarray
    """Values (rows, cols), or 0xrrggbb int32 of three bands; below 0 where it is not known."""
    bands: int
    palette: dict[int, str]


def read_mask(path: Path) -> Mask:
    """What stands in a mask; transparency is how it is shown, and no part of it.

    Raises:
        RasterError: missing or damaged.
        LabelError: no mask of classes.
    """
    with open_raster(path) as dataset:
        if dataset.driver == "JPEG":
            raise LabelError(f"{path}: a JPEG found, which blurs the borders of classes; save masks as PNG or GeoTIFF")
        kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
        raw = dataset.read([number for number, kind in kinds if kind != ColorInterp.alpha])
        whole = raw.dtype.kind in "ui" and raw.min() >= 0 and raw.max() <= MAX_VALUE
        if not whole or not (len(raw) == 1 or (len(raw) == 3 and raw.dtype == np.uint8)):
            raise LabelError(
                f"{path}: {len(raw)} bands of {raw.dtype} found; a mask has one band of whole numbers from 0 to {MAX_VALUE}, "
                f"or three of 8 bits for a colour per class"
            )
        if len(raw) == 3:
            red, green, blue = raw.astype(np.int32)
            return Mask(red << 16 | green << 8 | blue, 3, {})
        palette = {}
        if dataset.colorinterp[0] == ColorInterp.palette:
            palette = {value: "#{:02x}{:02x}{:02x}".format(*rgba) for value, rgba in dataset.colormap(1).items()}
        codes = raw[0]
        if dataset.driver == "GTiff" and dataset.nodata is not None:  # of a PNG, it is the transparent value
            codes = np.where(codes == dataset.nodata, _UNKNOWN, codes.astype(np.int32))
        return Mask(codes, 1, palette)


class Facts(NamedTuple):
    """What a pair was found to hold."""

    pair: Pair
    scene: Scene
    valid: float
    bands: int
    codes: dict[int, int]
    """Valid pixels of each code in the mask."""
    palette: dict[int, str]
    """Colours of these codes."""


def masks_legend(path: Path, kind: str, facts: Sequence[Facts]) -> tuple[Legend, tuple[int, ...]]:
    """The legend read off the masks, and the code of each class.

    Raises:
        LabelError: too many values for classes, none at all, or palettes that contradict one another.
    """
    codes = sorted(set().union(*(entry.codes for entry in facts)))
    if not codes:
        raise LabelError(f"{path}: no labelled pixel on a valid pixel of any image; check images and masks")
    if len(codes) > IGNORE:
        raise LabelError(
            f"{max(facts, key=lambda entry: len(entry.codes)).pair.mask}: one of the masks of {path}, which hold more than "
            f"{IGNORE} values; these are no class masks, of which each value or colour is a class"
        )
    if facts[0].bands == 3 and any(code % _GREY for code in codes):
        values = [place + (codes[0] != 0) for place in range(len(codes))]
        return make_legend(values, colours=[f"#{code:06x}" for code in codes]), tuple(codes)
    palette = _common_palette(facts)
    values = [code // _GREY for code in codes] if facts[0].bands == 3 else list(codes)
    if {255} <= set(values) <= {0, 255}:
        warnings.warn(f"{path}: labels of 0 and 255 are read as 0 and 1", DataWarning, stacklevel=4)
        values = [min(value, 1) for value in values]
    elif values[-1] == 255 and (palette or not _spread_evenly(values)):
        if not palette:
            warnings.warn(
                f"{path}: labels of 255 are ignored, the others are up to {values[-2]}", DataWarning, stacklevel=4
            )
        del codes[-1], values[-1]
    names = _known_names(kind, facts, values, palette)
    return make_legend(values, [names.get(v) for v in values], [palette.get(code) for code in codes]), tuple(codes)


def _spread_evenly(values: Sequence[int]) -> bool:
    """Whether these are grey levels, such as 0, 127 and 255, and no numbers of classes."""
    step = 255 / (len(values) - 1)
    return all(abs(value - place * step) <= 1 for place, value in enumerate(values))


def _common_palette(facts: Sequence[Facts]) -> dict[int, str]:
    """The colour of each value; one that has two would be two classes under one number."""
    palette: dict[int, tuple[str, Path]] = {}
    for entry in facts:
        for code, colour in entry.palette.items():
            known, owner = palette.setdefault(code, (colour, entry.pair.mask))
            if known != colour:
                raise LabelError(
                    f"{entry.pair.mask}: value {code} is {colour} in its palette and {known} in {owner.name}; give all masks "
                    f"one palette"
                )
    return {code: colour for code, (colour, _) in palette.items()}


def _known_names(kind: str, facts: Sequence[Facts], values: Sequence[int], palette: dict[int, str]) -> dict[int, str]:
    """The names of a data set that is known beyond doubt.

    Others use the palette of VOC and its folders for classes of their own, but not its names of files, such as 2007_000032.
    """
    if kind == "pets" and set(values) <= _PET_NAMES.keys():
        return _PET_NAMES
    by_year = all(re.fullmatch(r"20\d\d_\d{6}", entry.pair.image.stem) for entry in facts)
    own = values[-1] < len(_VOC_NAMES) and all(palette.get(value) == _voc_colour(value) for value in values)
    return dict(enumerate(_VOC_NAMES)) if kind == "voc" and by_year and own else {}


def _voc_colour(value: int) -> str:
    """Colour of a class in VOC's development kit (VOClabelcolormap.m): its bits, dealt out to red, green and blue."""
    channels = [sum((value >> (3 * bit + band) & 1) << (7 - bit) for bit in range(3)) for band in range(3)]
    return "#{:02x}{:02x}{:02x}".format(*channels)
