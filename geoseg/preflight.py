"""Faults found before the first byte of work: of scenes alone, among each other, and with a model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from geoseg.errors import DataWarning, Faults, MismatchError, MismatchWarning, RasterError
from geoseg.remote import LOCAL, Access
from geoseg.scenes import Scene, find_scenes
from geoseg.spec import ImageSpec

if TYPE_CHECKING:
    from geoseg.bundle import Bundle  # torch takes seconds to load, and tiling needs none of it

_PIXEL_SIZE_TOLERANCE = 1.25
_SPREAD_TOLERANCE = 10
_LEAST_PIXEL_M = 0.001
_SAMPLES, _SIDE, _ENOUGH_PIXELS = 4, 32, 256
"""Windows per side of a scene of which values are looked at, their rows and columns, and the pixels that tell something."""

_MADE_UP_NAME = re.compile(r"band_\d+")


def preflight_scenes(
    inputs: Sequence[str | Path], *, stack: bool, faults: Faults, access: Access = LOCAL
) -> list[Scene]:
    """Describe the scenes that can be; what is wrong with the others goes into `faults`."""
    with faults.collect():
        if not inputs:
            raise RasterError("no scene given; name at least one raster, or a folder of them")
    scenes = find_scenes(inputs, stack=stack, access=access, faults=faults)
    for scene in scenes:
        with faults.collect():
            if scene.palette:
                raise RasterError(
                    f"{scene.path}: an image with a palette found, whose values are numbers of colours; turn them into bands "
                    f"with: gdal_translate -expand rgb IN OUT.tif"
                )
            _ = scene.pixel_size_m  # a CRS without a place on the earth shows here
            _, bottom, _, top = scene.bounds
            if scene.crs and scene.crs.is_geographic and not -91 < bottom <= top < 91:
                warnings.warn(
                    f"{scene.path}: latitudes from {bottom:g} to {top:g} found, so the CRS is not that of the coordinates and "
                    f"no area can be told; set the right one with: gdal_edit.py -a_srs",
                    DataWarning,
                    stacklevel=3,
                )
            if scene.crs and not scene.crs.is_geographic and (scene.map_pixel_size_m or 1) < _LEAST_PIXEL_M:
                warnings.warn(
                    f"{scene.path}: pixels of {scene.map_pixel_size_m:.2g} m found, so the CRS is not that of the coordinates "
                    f"(degrees?); set the right one with: gdal_edit.py -a_srs EPSG:4326",
                    DataWarning,
                    stacklevel=3,
                )
    with faults.collect():
        _say_lost(scenes)
    return scenes


def _say_lost(scenes: Sequence[Scene]) -> None:
    if lost := [scene for scene in scenes if scene.crs is None]:
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        warnings.warn(
            f"{lost[0].path}{others}: no CRS, so nobody knows where it lies: places are told in pixels, and areas not at all; set it "
            f"with: gdal_edit.py -a_srs",
            DataWarning,
            stacklevel=4,
        )


def choose_bands(scene: Scene, bands: str | Sequence[int | str] | None) -> tuple[int, ...]:
    """Band numbers, from 1, for numbers or names such as `4,3,2` or `red,green,blue`; all of them where none is named.

    Raises:
        RasterError: the scene has no such band.
    """
    if bands is None:
        return tuple(range(1, len(scene.band_names) + 1))
    chosen = []
    for band in bands.split(",") if isinstance(bands, str) else bands:
        text = str(band).strip()
        alike = [number for number, name in enumerate(scene.band_names, 1) if name.casefold() == text.casefold()]
        if len(alike) == 1:
            chosen += alike
        elif text.isdecimal() and 1 <= int(text) <= len(scene.band_names):
            chosen.append(int(text))
        else:
            found = "several bands are" if alike else "no band is"
            raise RasterError(
                f"{scene.path}: {found} called '{text}'; name bands by number, or by name in full: {numbered_bands(scene)}"
            )
    if not chosen or len(set(chosen)) < len(chosen):
        raise RasterError(f"{scene.path}: --bands {bands}: name each band once, such as 4,3,2")
    return tuple(chosen)


def numbered_bands(scene: Scene) -> str:
    """The scene's bands, for messages."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(scene.band_names, 1))


def alike_bands(scenes: Sequence[Scene], bands: str | Sequence[int | str] | None, faults: Faults) -> tuple[int, ...]:
    """The band numbers to cut from every scene; what keeps scenes out of one chip folder goes into `faults`."""
    first: Scene | None = None
    alike: tuple[int, ...] = ()
    for scene in scenes:
        with faults.collect():
            sources = choose_bands(scene, bands)
            if first is None:
                first, alike = scene, sources
            _refuse_unlike(scene, sources, first, alike)
    with faults.collect():
        sizes = sorted(scene.pixel_size_m for scene in scenes if scene.pixel_size_m)
        if sizes and sizes[-1] > _PIXEL_SIZE_TOLERANCE * sizes[0]:
            warnings.warn(
                f"pixels of {sizes[0]:.3g} to {sizes[-1]:.3g} m in one chip folder; scenes of one pixel size train better",
                MismatchWarning,
                stacklevel=3,
            )
    return alike


def _refuse_unlike(scene: Scene, sources: Sequence[int], first: Scene, alike: Sequence[int]) -> None:
    dtypes, first_dtypes = [scene.dtypes[s - 1] for s in sources], [first.dtypes[s - 1] for s in alike]
    names, first_names = [scene.band_names[s - 1] for s in sources], [first.band_names[s - 1] for s in alike]
    for what, found, needed in (
        ("bands in all", [len(scene.band_names)], [len(first.band_names)]),
        ("band numbers", sources, alike),
        ("pixels of", dtypes, first_dtypes),
        # Other names may be the same bands (of another date), but the same names in another order are not.
        ("bands", names, first_names if sorted(names) == sorted(first_names) else names),
    ):
        if found != needed:
            raise MismatchError(
                f"{scene.path}: {what} {', '.join(map(str, found))} found, {first.path} has {', '.join(map(str, needed))}; "
                f"chips of one folder must be alike, tile them apart"
            )


def most_bytes(scenes: Sequence[Scene]) -> int:
    """What the class and confidence rasters of scenes take on the disk if nothing of them can be compressed."""
    return sum(2 * scene.height * scene.width for scene in scenes)


def say_stopped(bundle: Bundle) -> None:
    """Warn of a model whose training was stopped by hand, and might have learnt more."""
    if bundle.stopped:
        run, planned = (bundle.training.get(key) for key in ("epochs_run", "epochs"))
        warnings.warn(
            f"{bundle.path}: its training was stopped after {run} of {planned} epochs; go on with it by: geoseg train --resume",
            DataWarning,
            stacklevel=3,
        )


def match_model(scene: Scene, image: ImageSpec, bands: str | Sequence[int | str] | None = None) -> tuple[int, ...]:
    """The scene's bands for a model, in the order in which it takes them.

    Bands are found by the names that the training scenes had, else by their numbers where the scene has as many bands as
    the training scenes, else in order where it has as many as the model takes. `bands` overrides this.

    Raises:
        MismatchError: no such choice, or 8-bit data for a model of 16-bit or float data or the reverse.
    """
    count = len(scene.band_names)
    if bands is not None:
        sources = choose_bands(scene, bands)
    elif _named_apart(image, scene):
        names = [name.casefold() for name in scene.band_names]
        sources = tuple(names.index(name.casefold()) + 1 for name in image.names)
    elif count == image.source_count:
        sources = image.sources
    else:
        sources = tuple(range(1, count + 1))
    if len(sources) != len(image.bands):
        found = f"{count} bands found" if bands is None else f"{len(sources)} of {count} bands chosen"
        way_out = "name as many, in its order, with --bands"
        if count < len(image.bands):
            way_out = "use a scene that has them, or with --stack a folder of single-band files"
        raise MismatchError(
            f"{scene.path}: {found} ({numbered_bands(scene)}), the model takes {len(image.bands)} ({', '.join(image.names)}); "
            f"{way_out}"
        )
    _match_dtypes(scene, image, sources)
    _match_pixel_size(scene, image)
    return sources


def _named_apart(image: ImageSpec, scene: Scene) -> bool:
    """Whether names tell which of the scene's bands are the model's."""
    told, names = not any(map(_MADE_UP_NAME.fullmatch, image.names)), [name.casefold() for name in scene.band_names]
    return told and all(names.count(name.casefold()) == 1 for name in image.names)


def _match_dtypes(scene: Scene, image: ImageSpec, sources: Sequence[int]) -> None:
    pairs = {(scene.dtypes[source - 1], band.dtype) for source, band in zip(sources, image.bands, strict=True)}
    for found, needed in sorted(pairs):
        if (np.dtype(found).itemsize == 1) != (np.dtype(needed).itemsize == 1):
            raise MismatchError(
                f"{scene.path}: {found} pixels found, the model was trained on {needed}, whose values mean something else; "
                f"use the product the model was trained on"
            )
        if found != needed:
            warnings.warn(
                f"{scene.path}: {found} pixels found, the model was trained on {needed}; right only if the units are the same",
                MismatchWarning,
                stacklevel=3,
            )


def match_values(scene: Scene, image: ImageSpec, sources: Sequence[int]) -> None:
    """Warn where a sample of a scene's pixels looks like other units, or other ground, than the training data.

    That is where the middle value of a band lies outside the middle 98 % of what was learned from, or values are spread ten
    times as far, or a tenth as far. Of a scene with too few pixels at the places looked at, nothing is told.

    Args:
        scene: to map.
        image: what the model was trained on.
        sources: the scene's bands, in the model's order.
    """
    found = _sample_pixels(scene, sources)
    if found.shape[1] < _ENOUGH_PIXELS:
        return
    low, middle, high = np.percentile(found, [1, 50, 99], axis=1)
    odd = []
    for index, band in enumerate(image.bands):
        known, spread = band.statistics, high[index] - low[index]
        learned = known.p99 - known.p1
        alike = learned <= 0 or spread <= 0 or 1 / _SPREAD_TOLERANCE <= spread / learned <= _SPREAD_TOLERANCE
        if not (alike and known.p1 <= middle[index] <= known.p99):
            odd.append(f"{band.name} {low[index]:.4g} to {high[index]:.4g} and not {known.p1:.4g} to {known.p99:.4g}")
    if odd:
        warnings.warn(
            f"{scene.path}: values unlike those that the model was trained on ({', '.join(odd)}), as of other units or other "
            f"ground; use the product that it was trained on, or trust the map less",
            MismatchWarning,
            stacklevel=3,
        )


def _sample_pixels(scene: Scene, sources: Sequence[int]) -> np.ndarray:
    """Valid pixels (bands, pixels) float64 of small windows, spread evenly over a scene."""
    parts = [np.zeros((len(sources), 0))]
    with scene.open() as reader:
        for row, col in product(
            *((np.linspace(0, size, 2 * _SAMPLES + 1)[1::2]) for size in (scene.height, scene.width))
        ):
            window = Window(max(int(col) - _SIDE // 2, 0), max(int(row) - _SIDE // 2, 0), _SIDE, _SIDE)
            window = window.intersection(Window(0, 0, scene.width, scene.height))
            if not reader.is_empty(window, sources):
                pixels, valid = reader.read(window, sources)
                parts.append(pixels[:, valid].astype(np.float64))
    return np.concatenate(parts, axis=1)


def _match_pixel_size(scene: Scene, image: ImageSpec) -> None:
    if not scene.pixel_size_m or not image.pixel_size_m:
        return
    factor = scene.pixel_size_m / image.pixel_size_m
    if not 1 / _PIXEL_SIZE_TOLERANCE <= factor <= _PIXEL_SIZE_TOLERANCE:
        warnings.warn(
            f"{scene.path}: pixels of {scene.pixel_size_m:.3g} m, the model was trained on {image.pixel_size_m:.3g} m "
            f"({factor:.2g} times as large); resample the scene with gdalwarp -tr for a map to trust",
            MismatchWarning,
            stacklevel=3,
        )
