"""Labels on the grid of a scene, one window at a time; here those from mask rasters."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
import pyproj
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from geoseg.errors import DataWarning, Faults, GeoreferenceError, LabelError, LegendError, MissingFileError
from geoseg.field_boundaries import UNKNOWN
from geoseg.files import parse_json
from geoseg.legend import LEGEND_TAG, MODEL_TAG, Legend, make_legend
from geoseg.raster import RASTER_SUFFIXES, has_blocks, open_raster, reading
from geoseg.scenes import Scene, describe_scene, holds, same_grid, valid_pixels
from geoseg.vector import VECTOR_SUFFIXES

_LABEL_ENDINGS = r"_(mask|label|labels|classes)$"
_SCENE_ENDINGS = r"_(sr|image)$"
_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)
_EXACT = 2**53  # up to here every whole number is one of float64


class LabelReader(Protocol):
    """Reads labels on the grid of one scene.

    Attributes:
        tells_fields: whether fields of one class that touch are told apart.
    """

    tells_fields: bool

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Class values (rows, cols) int32, and where they are known (rows, cols) bool; a window may stick out.

        Whatever the file holds is handed over, also values that no legend can hold; those beyond int32 are clipped to it.
        """
        ...

    def read_fields(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of fields (rows, cols), whole ones, then what `read` gives: pixels of one number belong to one field, those
        of `NO_FIELD` to none, and of those of `UNKNOWN` nobody knows."""
        ...


def is_vector(path: Path) -> bool:
    """Whether a label file holds polygons."""
    return path.suffix.lower() in VECTOR_SUFFIXES


def match_labels(labels: str | Path, scenes: Sequence[Scene], faults: Faults) -> dict[str, Path]:
    """The label file of each scene, by its name: the one file for all of them, or those with the scenes' stems in a folder.

    What is wrong goes into `faults`: no such file or folder, a scene without labels or with two files that could be meant.
    """
    folder = Path(labels)
    if not folder.is_dir():
        with faults.collect():
            if not folder.exists():
                raise MissingFileError(
                    f"{folder}: not found; --labels takes a mask raster, a polygon file or a folder of them"
                )
            return {scene.name: folder for scene in scenes}
        return {}
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in RASTER_SUFFIXES | VECTOR_SUFFIXES:
            by_stem.setdefault(re.sub(_LABEL_ENDINGS, "", path.stem, flags=re.IGNORECASE), []).append(path)
    matched = {}
    for scene in scenes:
        inputs = {path.resolve() for path in scene.paths}
        stems = dict.fromkeys((scene.name, re.sub(_SCENE_ENDINGS, "", scene.name, flags=re.IGNORECASE)))
        found = [path for stem in stems for path in by_stem.get(stem, []) if path.resolve() not in inputs]
        with faults.collect():
            if not found:
                raise LabelError(
                    f"{scene.path}: no labels; {folder} needs a file called {scene.name}_mask.tif or .gpkg"
                )
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise LabelError(f"{scene.path}: labels could be {names}; leave one of them in {folder}")
            matched[scene.name] = found[0]
    return matched


def refuse_no_overlap(path: Path, crs: Any, bounds: Sequence[float], scene: Scene) -> tuple[float, float, float, float]:
    """Lay the scene on labels, of which the CRS and the left, bottom, right and top in it are given.

    Returns:
        Left, bottom, right and top of the scene in the labels' CRS.

    Raises:
        GeoreferenceError: one of the two has a CRS that cannot be placed on the earth.
        LabelError: they do not meet.
    """
    # Not the reverse: a map of the whole earth reaches where the CRS of the scene means nothing.
    try:
        place = pyproj.Transformer.from_crs(scene.crs, crs, always_xy=True).transform_bounds(*scene.bounds)
    except pyproj.exceptions.ProjError as error:
        reason = " ".join(str(error).split())
        raise GeoreferenceError(f"{path}: cannot be laid on {scene.path} ({reason}); check both CRSs") from error
    left, low, right, high = place if place[0] <= place[2] else (-180, place[1], 180, place[3])  # across 180 degrees
    if not (left < bounds[2] and right > bounds[0] and low < bounds[3] and high > bounds[1]):
        raise LabelError(
            f"{path}: does not overlap {scene.path} (x {bounds[0]:.6g}..{bounds[2]:.6g}, y {bounds[1]:.6g}..{bounds[3]:.6g} "
            f"against x {left:.6g}..{right:.6g}, y {low:.6g}..{high:.6g} in the CRS of the labels); check both CRSs, or leave "
            f"the scene out"
        )
    return left, low, right, high


@contextmanager
def open_label_raster(
    path: Path, scene: Scene, *, named: Legend | None = None, nodata: int | None = None
) -> Iterator[LabelReader]:
    """Open a mask raster; on another grid or CRS it is warped onto the scene's (nearest neighbour).

    Args:
        path: a raster of one band, or of which the first is meant.
        scene: gives the grid.
        named: the classes that the user has named. Where the file's nodata value is one of theirs, it means something
            after all; values of a group are read as that of its class.
        nodata: a further value that means unknown.

    Raises:
        GeoreferenceError: one of the two has no CRS, and their sizes differ.
        LabelError: they do not overlap.
    """
    facts = describe_scene(path)
    if len(facts.band_names) > 1:
        warnings.warn(
            f"{path}: {len(facts.band_names)} bands found, the first is taken for the classes",
            DataWarning,
            stacklevel=3,
        )
    with open_raster(path) as dataset:
        # `--classes 0=background` on a file whose nodata is 0: the user knows better than the file.
        own = None if named is not None and dataset.nodata in named.label_values else dataset.nodata
        if _pixel_by_pixel(facts, scene):
            yield _RasterLabels(path, dataset, scene, (own, nodata), named)
            return
        refuse_no_overlap(path, facts.crs, facts.bounds, scene)
        warnings.warn(
            f"{path}: on another grid than what it is laid on, so each pixel takes the label nearest to it; make labels on the "
            f"same grid to be sure of their edges",
            DataWarning,
            stacklevel=3,
        )
        # An alpha band tells where there are labels; a mask would not, on bands of other types than uint8 and uint16.
        with WarpedVRT(
            dataset, crs=scene.crs, transform=scene.transform, width=scene.width, height=scene.height, src_nodata=own,
            resampling=Resampling.nearest, add_alpha=ColorInterp.alpha not in dataset.colorinterp,
        ) as warped:  # fmt: skip
            yield _RasterLabels(path, warped, scene, (own, nodata), named)


def _pixel_by_pixel(label: Scene, scene: Scene) -> bool:
    if label.crs is not None and scene.crs is not None:
        return same_grid(label, scene)
    if (label.height, label.width) != (scene.height, scene.width):
        lacking = label if label.crs is None else scene
        raise GeoreferenceError(
            f"{lacking.path}: no CRS, so labels of {label.height} x {label.width} cannot be laid on a scene of "
            f"{scene.height} x {scene.width}; only labels of the same size work, or set it with: gdal_edit.py -a_srs"
        )
    if (label.crs is None) != (scene.crs is None):
        warnings.warn(
            f"{label.path}: taken pixel by pixel, since only one of label and scene has a CRS",
            DataWarning,
            stacklevel=4,
        )
    return True


class _RasterLabels:
    tells_fields = False

    def __init__(
        self, path: Path, dataset: DatasetReader | WarpedVRT, scene: Scene, unknown: tuple[float | None, int | None],
        named: Legend | None,
    ) -> None:  # fmt: skip
        self._path, self._dataset, self._scene, self._unknown, self._named = path, dataset, scene, unknown, named

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        numbers, known = self._numbers(window)
        return self._values(numbers), known

    def _values(self, numbers: np.ndarray) -> np.ndarray:
        values = np.clip(numbers, _INT32.min, _INT32.max).astype(np.int32)
        return values if self._named is None else self._named.group(values)

    def _numbers(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As they stand in the file, int64, and where they are known."""
        inside = window.intersection(Window(0, 0, self._scene.width, self._scene.height))
        own, further = self._unknown
        numbers, labelled = (np.zeros((window.height, window.width), dtype) for dtype in (np.int64, bool))
        with reading(self._path):
            if own is not None and holds(self._dataset.dtypes[0], own) and not has_blocks(self._dataset, 1, inside):
                return numbers, labelled
            raw = self._dataset.read(1, window=inside)
            known = valid_pixels(raw[None], [own], [self._dataset], inside)
        if further is not None:
            known &= raw != further
        if raw.dtype.kind == "f":
            fractions = known & (raw != np.trunc(np.where(known, raw, 0)))
            if fractions.any():
                raise LabelError(
                    f"{self._path}: values such as {raw[fractions][0]:g} found; labels must be whole numbers, one per class"
                )
            raw = np.clip(np.where(known, raw, 0).astype(np.float64), -_EXACT, _EXACT)
        elif raw.dtype == np.uint64:
            raw = np.minimum(raw, np.uint64(_INT64.max))
        row, col = inside.row_off - window.row_off, inside.col_off - window.col_off
        at = np.s_[row : row + inside.height, col : col + inside.width]
        numbers[at], labelled[at] = raw, known
        return numbers, labelled

    def read_fields(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `LabelReader`: pixels of one value are a field."""
        numbers, known = self._numbers(window)
        return np.where(known, numbers, UNKNOWN), self._values(numbers), known


def raster_legend(path: Path, values: Sequence[int]) -> Legend:
    """A legend for the values found in mask rasters, with the names and colours that one of them carries."""
    names: dict[int, str] = {}
    sidecar = path.with_name(path.name + ".aux.xml")  # rasterio has no call for GDAL's category names
    if sidecar.exists():
        try:
            categories = ElementTree.parse(sidecar).findall("PAMRasterBand[@band='1']/CategoryNames/Category")
        except (ElementTree.ParseError, ValueError, LookupError, OSError):  # the others: of encodings that nobody knows
            categories = []
        names = {value: entry.text for value, entry in enumerate(categories) if entry.text}
    colours: dict[int, str] = {}
    with open_raster(path) as dataset:
        if dataset.colorinterp[0] == ColorInterp.palette:
            colours = {value: "#{:02x}{:02x}{:02x}".format(*rgba) for value, rgba in dataset.colormap(1).items()}
    return make_legend(values, [names.get(value) for value in values], [colours.get(value) for value in values])


def read_model_sha256(path: Path) -> str | None:
    """SHA-256 of the weights of the model that made a raster of `geoseg predict`; None where nothing tells it."""
    if is_vector(path):
        return None
    with open_raster(path) as dataset:
        told: str | None = dataset.tags().get(MODEL_TAG)
    return told


def read_legend(path: Path) -> Legend | None:
    """The legend that a class raster written by geoseg carries; None for other rasters.

    Raises:
        LegendError: the tag is damaged.
    """
    with open_raster(path) as dataset:
        text = dataset.tags().get(LEGEND_TAG)
    if text is None:
        return None
    try:
        return Legend.from_list(parse_json(text))
    except LegendError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise LegendError(f"{path}: its legend cannot be read ({error}); write the raster again") from None
