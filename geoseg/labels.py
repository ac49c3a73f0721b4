"""Labels on the grid of a scene, one window at a time; here those from mask rasters."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import numpy as np
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from geoseg.errors import DataWarning, Faults, GeoreferenceError, LabelError, LegendError, MissingFileError
from geoseg.legend import LEGEND_TAG, MAX_VALUE, Legend, make_legend
from geoseg.raster import RASTER_SUFFIXES, open_raster, reading
from geoseg.scenes import Scene, describe_scene, refuse_no_overlap

VECTOR_SUFFIXES = frozenset({".gpkg", ".shp", ".geojson", ".json", ".fgb", ".parquet"})
_LABEL_ENDINGS = r"_(mask|label|labels|classes)$"
_SCENE_ENDINGS = r"_(sr|image)$"


class LabelReader(Protocol):
    """Reads labels on the grid of one scene."""

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Class values (rows, cols) int32, and where they are known (rows, cols) bool; a window may stick out."""
        ...


def is_vector(path: Path) -> bool:
    """Whether a label file holds polygons."""
    return path.suffix.lower() in VECTOR_SUFFIXES


def match_labels(labels: str | Path, scenes: Sequence[Scene]) -> list[Path]:
    """The label file of each scene: the one file for all of them, or those with the scenes' stems in a folder.

    Raises:
        MissingFileError: no such file or folder.
        LabelError: a scene without labels, or with two files that could be meant.
    """
    folder = Path(labels)
    if not folder.exists():
        raise MissingFileError(f"{folder}: not found; --labels takes a mask raster, a polygon file or a folder of them")
    if not folder.is_dir():
        return [folder] * len(scenes)
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in RASTER_SUFFIXES | VECTOR_SUFFIXES:
            by_stem.setdefault(re.sub(_LABEL_ENDINGS, "", path.stem), []).append(path)
    faults, matched = Faults(), []
    for scene in scenes:
        inputs = {path.resolve() for path in scene.paths}
        stems = dict.fromkeys((scene.name, re.sub(_SCENE_ENDINGS, "", scene.name)))
        found = [path for stem in stems for path in by_stem.get(stem, []) if path.resolve() not in inputs]
        with faults.collect():
            if not found:
                raise LabelError(
                    f"{scene.path}: no labels; {folder} needs a file called {scene.name}_mask.tif or .gpkg"
                )
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise LabelError(f"{scene.path}: labels could be {names}; leave one of them in {folder}")
            matched.append(found[0])
    faults.raise_any()
    return matched


@contextmanager
def open_label_raster(path: Path, scene: Scene, *, classes: Legend | None, nodata: int | None) -> Iterator[LabelReader]:
    """Open a mask raster; on another grid or CRS it is warped onto the scene's (nearest neighbour).

    Args:
        path: a raster of one band, or of which the first is meant.
        scene: gives the grid.
        classes: a nodata value of the file that these name is a class after all.
        nodata: a further value that means unknown.

    Raises:
        GeoreferenceError: one of the two has no CRS, and their sizes differ.
        LabelError: they do not overlap.
    """
    facts = describe_scene(path)
    with open_raster(path) as dataset:
        if _same_grid(facts, scene):
            yield _RasterLabels(path, dataset, scene, classes, nodata)
            return
        left, bottom, right, top = transform_bounds(facts.crs, scene.crs, *dataset.bounds)
        refuse_no_overlap(path, scene, (left, bottom, right, top))
        with WarpedVRT(
            dataset, crs=scene.crs, transform=scene.transform, width=scene.width, height=scene.height,
            resampling=Resampling.nearest, add_alpha=dataset.nodata is None,
        ) as warped:  # fmt: skip
            yield _RasterLabels(path, warped, scene, classes, nodata)


def _same_grid(label: Scene, scene: Scene) -> bool:
    same_size = (label.height, label.width) == (scene.height, scene.width)
    if label.crs is None or scene.crs is None:
        if not same_size:
            lacking = label if label.crs is None else scene
            raise GeoreferenceError(
                f"{lacking.path}: no CRS, so labels of {label.height} x {label.width} cannot be laid on a scene of "
                f"{scene.height} x {scene.width}; only labels of the same size work, or set it with: gdal_edit.py -a_srs"
            )
        if (label.crs is None) != (scene.crs is None):
            warnings.warn(
                f"{label.path}: taken pixel by pixel, since only one of label and scene has a CRS",
                DataWarning,
                stacklevel=3,
            )
        return True
    return same_size and label.crs == scene.crs and label.transform.almost_equals(scene.transform, precision=1e-6)


class _RasterLabels:
    def __init__(
        self, path: Path, dataset: DatasetReader | WarpedVRT, scene: Scene, classes: Legend | None, nodata: int | None
    ) -> None:
        self._path, self._dataset, self._scene, self._unknown = path, dataset, scene, nodata
        # `--classes 0=background` on a file whose nodata is 0: the user knows better than the file.
        self._nodata_is_class = classes is not None and dataset.nodata in classes.values

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        inside = window.intersection(Window(0, 0, self._scene.width, self._scene.height))
        with reading(self._path):
            raw = self._dataset.read(1, window=inside)
            known = np.ones(raw.shape, bool)
            if not self._nodata_is_class:
                known = self._dataset.read_masks(1, window=inside) > 0
        if raw.dtype.kind == "f":
            known &= np.isfinite(raw)
            fractions = known & (raw != np.trunc(np.where(known, raw, 0)))
            if fractions.any():
                raise LabelError(
                    f"{self._path}: values such as {raw[fractions][0]:g} found; labels must be whole numbers, one per class"
                )
        if self._unknown is not None:
            known &= raw != self._unknown
        values = np.zeros((window.height, window.width), np.int32)
        labelled = np.zeros(values.shape, bool)
        row, col = inside.row_off - window.row_off, inside.col_off - window.col_off
        at = np.s_[row : row + inside.height, col : col + inside.width]
        # -1 stands for every value that no legend can hold, so that it is reported rather than wrapped around.
        values[at] = np.where(known & (raw >= 0) & (raw <= MAX_VALUE), raw, np.where(known, -1, 0))
        labelled[at] = known
        return values, labelled


def raster_legend(paths: Sequence[Path], values: Sequence[int]) -> Legend:
    """A legend for the values found in mask rasters, with the names and colours that the first of them carries."""
    names, colours = _names_in_raster(paths[0])
    return make_legend(values, [names.get(value) for value in values], [colours.get(value) for value in values])


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
        return Legend.from_list(json.loads(text))
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise LegendError(f"{path}: its legend cannot be read ({error}); write the raster again") from None


def _names_in_raster(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    legend = read_legend(path)
    if legend:
        return dict(zip(legend.values, legend.names, strict=True)), {e.value: e.colour for e in legend}
    names, colours = {}, {}
    sidecar = path.with_name(path.name + ".aux.xml")  # rasterio has no call for GDAL's category names
    if sidecar.exists():
        try:
            categories = ElementTree.parse(sidecar).findall(".//CategoryNames/Category")
        except ElementTree.ParseError:
            categories = []
        names = {value: entry.text for value, entry in enumerate(categories) if entry.text}
    with open_raster(path) as dataset:
        if dataset.colorinterp[0] == ColorInterp.palette:
            colours = {value: "#{:02x}{:02x}{:02x}".format(*rgba) for value, rgba in dataset.colormap(1).items()}
    return names, colours
