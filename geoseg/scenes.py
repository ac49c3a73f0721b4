"""Scenes: whole rasters, from one file or a stack of single-band files, and which of their pixels are usable."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyproj
from affine import Affine
from rasterio.crs import CRS
from rasterio.dtypes import in_dtype_range
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geoseg.errors import Faults, GeoreferenceError, MissingFileError, RasterError, without_controls
from geoseg.raster import RASTER_SUFFIXES, bands_apart, has_blocks, open_raster, reading, refuse_truncated
from geoseg.remote import LOCAL, Access, RemoteFile, local_or_remote, network

_DEGREE_M = 2 * math.pi * 6_378_137 / 360
"""Metres of a degree on the equator, for which QGIS too takes every degree where it needs metres."""


@dataclass(frozen=True)
class Scene:
    """The facts of a scene; no pixel of it is in memory.

    Attributes:
        name: the file's stem, or the folder's name for a stack.
        paths: one local file, or one per band; none for a scene at an address.
        height: rows.
        width: columns.
        band_names: band descriptions, else `band_<number>`; the stems for a stack. Alpha is not a band.
        dtypes: per band.
        nodata: per band, where the file names one.
        crs: None for a picture.
        transform: pixel to CRS coordinates; the identity for a picture.
        remote: the file of a scene at an address.
        access: what it may reach when it is opened.
        palette: whether its values are numbers of colours.
    """

    name: str
    paths: tuple[Path, ...]
    height: int
    width: int
    band_names: tuple[str, ...]
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    crs: CRS | None
    transform: Affine
    remote: RemoteFile | None = None
    access: Access = LOCAL
    palette: bool = False

    def __str__(self) -> str:
        size = f"{self.height} x {self.width}, {len(self.band_names)} bands {'/'.join(sorted(set(self.dtypes)))}"
        ground = (
            f"{self.pixel_size_m:.4g} m, {self.crs.to_string()[:40]}" if self.crs and self.pixel_size_m else "no CRS"
        )
        return f"{self.name}: {size}, {ground}"

    @property
    def path(self) -> Path | RemoteFile:
        """The file, or the folder of a stack, for messages."""
        if self.remote:
            return self.remote
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top in the CRS, of all four corners: the grid may be turned."""
        xs, ys = zip(*self.outline(Window(0, 0, self.width, self.height)), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def outline(self, window: Window) -> tuple[tuple[float, float], ...]:
        """The four corners of a window in the CRS, in order around it."""
        left, top = window.col_off, window.row_off
        right, bottom = left + window.width, top + window.height
        return tuple(self.transform @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom)))

    @property
    def footprint(self) -> list[tuple[float, float]] | None:
        """Longitude and latitude of the four corners, in order around it, to a tenth of a metre; None for a picture."""
        if self._to_degrees is None:
            return None
        corners = self.outline(Window(0, 0, self.width, self.height))
        return [
            (round(lon, 6), round(lat, 6)) for lon, lat in (self._to_degrees.transform(*corner) for corner in corners)
        ]

    @cached_property
    def pixel_size_m(self) -> float | None:
        """Side of the pixel at the centre of the scene, in metres on the ground, whatever the CRS.

        Raises:
            GeoreferenceError: a local CRS, which nobody knows the place of.
        """
        area = self.pixel_area_m2((self.width - 1) / 2, (self.height - 1) / 2)
        return math.sqrt(area) if area else None

    @property
    def map_pixel_size_m(self) -> float | None:
        """Side of a pixel in the map's own metres, which a projection makes longer or shorter than those on the ground.

        A degree counts as 111.3 km, and a foot as what it is. None without a CRS.

        Raises:
            GeoreferenceError: as `pixel_size_m`.
        """
        if self._to_degrees is None:
            return None
        assert self.crs is not None
        unit = _DEGREE_M if self.crs.is_geographic else self.crs.linear_units_factor[1]
        return math.sqrt(abs(self.transform.determinant)) * unit

    def pixel_area_m2(self, col: float, row: float) -> float | None:
        """Area on the ground of a pixel; None where it is not known. See `pixel_areas_m2`."""
        area = float(self.pixel_areas_m2(np.array([col]), np.array([row]))[0])
        return area if math.isfinite(area) else None

    def pixel_areas_m2(self, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Area on the ground of single pixels, on the WGS 84 ellipsoid.

        Args:
            cols: of any shape, columns of the pixels; with .5, those of pixels in between.
            rows: their rows.

        Returns:
            In the shape of both; NaN without a CRS, and where its projection has no ground.

        Raises:
            GeoreferenceError: a local CRS, which nobody knows the place of.
        """
        if self._to_degrees is None:
            return np.full(np.shape(cols), math.nan)
        # The middle of each pixel and of its edges: across and down, as seen from the middle, where north is one direction.
        x = np.stack((cols + 0.5, cols + 1, cols, cols + 0.5, cols + 0.5))
        y = np.stack((rows + 0.5, rows + 0.5, rows + 0.5, rows + 1, rows))
        t = self.transform
        lons, lats = self._to_degrees.transform(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)
        lon, lat = (np.broadcast_to(part[0], part[1:].shape) for part in (lons, lats))
        with np.errstate(invalid="ignore"):
            azimuth, _, distance = pyproj.Geod(ellps="WGS84").inv(lon, lat, lons[1:], lats[1:])
            # As a number, east and north in metres.
            right, left, down, up = np.asarray(distance) * np.exp(1j * np.radians(90 - np.asarray(azimuth)))
            areas = abs(((right - left).conj() * (down - up)).imag)
        return np.where(np.isfinite(areas), areas, math.nan)

    @cached_property
    def _to_degrees(self) -> pyproj.Transformer | None:
        try:
            if self.crs is None:
                return None
            if pyproj.CRS.from_user_input(self.crs).is_geocentric:
                raise pyproj.exceptions.CRSError("it counts from the centre of the earth, and not on a map")
            return pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)
        except pyproj.exceptions.ProjError as error:
            raise GeoreferenceError(
                f"{self.path}: its CRS cannot be placed on the earth ({error}); name the right one with: gdal_edit.py -a_srs"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "height": self.height,
            "width": self.width,
            "bands": list(self.band_names),
            "dtypes": list(self.dtypes),
            # JSON has no word for these but a text.
            "nodata": [value if value is None or math.isfinite(value) else str(value) for value in self.nodata],
            "crs": self.crs.to_string() if self.crs else None,
            "transform": list(self.transform)[:6],
            "pixel_size_m": self.pixel_size_m,
        }

    @contextmanager
    def open(self) -> Iterator[SceneReader]:
        """Open the scene for reading windows."""
        with ExitStack() as stack:
            sources = [self.remote] if self.remote else self.paths
            yield SceneReader(self, [stack.enter_context(open_raster(source, self.access)) for source in sources])


class SceneReader:
    """Reads windows of an open scene; made by `Scene.open`."""

    def __init__(self, scene: Scene, datasets: Sequence[DatasetReader]) -> None:
        self.scene = scene
        # The open file of each band of the scene, and the band's number in it.
        self._places = [
            (file, number) for file in datasets for number in (data_bands(file) if len(datasets) == 1 else [1])
        ]

    def read(
        self, window: Window, sources: Sequence[int], edge: Literal["mirror", "nodata"] = "mirror"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window that may stick out of the scene.

        A pixel is valid where every band asked for holds data: no nodata value, no NaN or infinity, and not masked by
        an internal mask, a .msk file or an alpha band. A nodata value of 0 counts only where every band is 0, because
        a dark pixel may be 0 in one band.

        Args:
            window: rows and columns, in pixels of the scene.
            sources: band numbers, from 1.
            edge: what stands outside the scene: the mirror image of what is inside, or zeros that are not valid.

        Returns:
            Pixels (bands, rows, cols) in the smallest dtype that holds every band, and valid (rows, cols) bool.

        Raises:
            RasterError: the file is damaged there.
        """
        inside = window.intersection(Window(0, 0, self.scene.width, self.scene.height))
        with reading(self.scene.path), network(self.scene.path, self.scene.access):
            pixels = self._read_bands(inside, sources)
            nodata = [self.scene.nodata[source - 1] for source in sources]
            valid = valid_pixels(pixels, nodata, self._files(sources), inside)
        before = (inside.row_off - window.row_off, inside.col_off - window.col_off)
        after = (window.height - inside.height - before[0], window.width - inside.width - before[1])
        if not any((*before, *after)):
            return pixels, valid
        widths = list(zip(before, after, strict=True))
        if edge == "mirror":
            return np.pad(pixels, [(0, 0), *widths], "reflect"), np.pad(valid, widths, "reflect")
        return np.pad(pixels, [(0, 0), *widths]), np.pad(valid, widths)

    def is_empty(self, window: Window, sources: Sequence[int]) -> bool:
        """Whether it is certain, without reading a band, that `read` would find no valid pixel in the window.

        The block index tells (a block that was never written reads as nodata), or a mask or an alpha band that is stored
        apart. Elsewhere, and in doubt, the answer is False.

        Args:
            window: rows and columns, which may stick out of the scene.
            sources: band numbers, from 1.

        Raises:
            RasterError: the mask is damaged there.
        """
        inside = window.intersection(Window(0, 0, self.scene.width, self.scene.height))
        with reading(self.scene.path), network(self.scene.path, self.scene.access):
            # Of a remote file, an index that could not be fetched looks like one that tells of no block.
            unwritten = self.scene.remote is None and self._never_written(inside, sources)
            return unwritten or any(_masked_out(file, inside) for file in self._files(sources))

    def _never_written(self, window: Window, sources: Sequence[int]) -> bool:
        """Whether blocks that are not there leave no pixel valid, by the rule of `valid_pixels`."""
        zeros: set[tuple[DatasetReader, int]] = set()
        others: set[tuple[DatasetReader, int]] = set()
        for source in sources:
            (file, number), nodata = self._places[source - 1], self.scene.nodata[source - 1]
            if nodata is not None and holds(self.scene.dtypes[source - 1], nodata):
                apart = bands_apart(file)
                (others if nodata else zeros).add((file, number if apart else 1))
        if any(not has_blocks(*place, window) for place in others):
            return True
        return bool(zeros) and not any(has_blocks(*place, window) for place in zeros)

    def _files(self, sources: Sequence[int]) -> list[DatasetReader]:
        return list(dict.fromkeys(self._places[source - 1][0] for source in sources))

    def _read_bands(self, window: Window, sources: Sequence[int]) -> np.ndarray:
        places = [self._places[source - 1] for source in sources]
        dtypes = {self.scene.dtypes[source - 1] for source in sources}
        if len(self._files(sources)) == len(dtypes) == 1:  # bands of a VRT may differ in their dtypes
            return places[0][0].read([number for _, number in places], window=window)
        dtype = np.result_type(*dtypes)
        return np.stack([file.read(number, window=window).astype(dtype) for file, number in places])


def holds(dtype: str, value: float) -> bool:
    """Whether a dtype holds a nodata value: where it does not, GDAL fills in another value, which is data."""
    return in_dtype_range(value, dtype) and (np.dtype(dtype).kind == "f" or float(value).is_integer())


def _masked_out(dataset: DatasetReader, window: Window) -> bool:
    """Whether a mask or an alpha band leaves nothing of a window; an alpha among the other bands is not asked.

    To read that one is to read them all.
    """
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return not dataset.read_masks(1, window=window).any()
    if ColorInterp.alpha not in dataset.colorinterp:
        return False
    number = dataset.colorinterp.index(ColorInterp.alpha) + 1
    cheap = bands_apart(dataset) or not has_blocks(dataset, number, window)
    return cheap and not dataset.read(number, window=window).any()


def valid_pixels(
    pixels: np.ndarray, nodata: Sequence[float | None], datasets: Sequence[DatasetReader], window: Window
) -> np.ndarray:
    """Where every band holds data, (rows, cols) bool; see `SceneReader.read` for the rule.

    Args:
        pixels: (bands, rows, cols) as read at `window`.
        nodata: per band.
        datasets: the open files, whose internal masks, .msk files and alpha bands count too.
        window: inside the rasters.
    """
    valid = np.ones(pixels.shape[1:], bool)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    zeros = [band for band, value in zip(pixels, nodata, strict=True) if value == 0]
    if zeros:
        valid &= np.any([band != 0 for band in zeros], axis=0)
    for band, value in zip(pixels, nodata, strict=True):
        if value:  # NaN is dealt with above; as a float, a nodata of -9999 in a byte band matches no byte
            valid &= band != np.asarray(value, band.dtype if band.dtype.kind == "f" else np.float64)
    for dataset in datasets:
        flags = dataset.mask_flag_enums[0]
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            valid &= dataset.read_masks(1, window=window) > 0
        for number, own in zip(dataset.indexes, dataset.mask_flag_enums, strict=True):
            if not own:  # a mask of this band alone
                valid &= dataset.read_masks(number, window=window) > 0
        if ColorInterp.alpha in dataset.colorinterp:  # GDAL's own mask forgets it where there is a nodata value
            valid &= dataset.read(dataset.colorinterp.index(ColorInterp.alpha) + 1, window=window) > 0
    return valid


def data_bands(dataset: DatasetReader) -> list[int]:
    """Numbers, in the file, of the bands that are not alpha."""
    return [
        number for number, kind in zip(dataset.indexes, dataset.colorinterp, strict=True) if kind != ColorInterp.alpha
    ]


def find_scenes(
    inputs: Sequence[str | Path], *, stack: bool = False, access: Access = LOCAL, faults: Faults | None = None
) -> list[Scene]:
    """Describe every scene named: files, folders of files, or with `stack` folders of single-band files.

    Args:
        inputs: files and folders, and as texts addresses (http, https, ftp, s3, gs, az, oss).
        stack: each folder is one scene.
        access: whether scenes may be at an address, and whether they may be VRTs; of a folder these are not taken.
        faults: takes what is wrong with some of them, so that the others can be looked at as well.

    Raises:
        PreflightError, or the one error, without `faults`: something missing, not a raster, damaged, or two scenes of one
            name.
    """
    given, scenes = faults, []
    faults = given or Faults()
    for asked in inputs:
        with faults.collect():
            entry = local_or_remote(asked)
            if stack:
                scenes.append(_describe_stack(entry, access))
                continue
            for source in list_rasters(entry) if isinstance(entry, Path) and entry.is_dir() else [entry]:
                with faults.collect():
                    scenes.append(describe_scene(source, access))
    with faults.collect():
        _refuse_twins(scenes)
    if given is None:
        faults.raise_any()
    return scenes


def list_rasters(folder: Path) -> list[Path]:
    """The rasters of a folder, in natural order (band 2 before band 10).

    Raises:
        MissingFileError: there are none.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in RASTER_SUFFIXES and path.name[0] != "." and not path.is_dir()
    ]
    if not found:
        raise MissingFileError(f"{folder}: no raster in this folder; put GeoTIFFs there or name another folder")
    return sorted(
        found, key=lambda path: [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", path.name.lower())]
    )


def describe_scene(source: Path | RemoteFile, access: Access = LOCAL) -> Scene:
    """The facts of one raster file.

    Args:
        source: a local file, or a GeoTIFF at an address.
        access: whether it may be at an address, and whether it may be a VRT.

    Raises:
        MissingFileError, RasterError: it cannot be read.
        GeoreferenceError: it is placed by control points only.
    """
    with open_raster(source, access) as dataset:
        if isinstance(source, Path):  # the size of a remote file would be one more request
            refuse_truncated(source, dataset)
        bands = [number - 1 for number in data_bands(dataset)]
        # Asked for once: each time, rasterio asks for those of all bands, and a damaged header can tell of 65,000.
        dtypes, names, nodata = dataset.dtypes, dataset.descriptions, dataset.nodatavals
        if not bands or any(np.dtype(dtypes[i]).kind not in "uif" for i in bands):
            raise RasterError(f"{source}: bands of {set(dtypes)} found; integers or floats are needed")
        if dataset.crs is None and dataset.gcps[0]:
            raise GeoreferenceError(
                f"{source}: placed by ground control points only; give it a grid with: gdalwarp {source.name} OUT.tif"
            )
        if dataset.crs is None and dataset.rpcs is not None:
            raise GeoreferenceError(
                f"{source}: placed by a camera model (RPC) only; give it a grid with: gdalwarp -rpc {source.name} OUT.tif"
            )
        if not math.isfinite(dataset.transform.determinant) or dataset.transform.is_degenerate:
            raise GeoreferenceError(
                f"{source}: a transform found that puts all pixels on a line; give it a right one with: gdal_edit.py -a_ullr"
            )
        return Scene(
            name=source.stem,
            paths=(source,) if isinstance(source, Path) else (),
            height=dataset.height,
            width=dataset.width,
            band_names=tuple(without_controls(names[i] or "").strip() or f"band_{i + 1}" for i in bands),
            dtypes=tuple(dtypes[i] for i in bands),
            nodata=tuple(nodata[i] for i in bands),
            crs=dataset.crs,
            transform=dataset.transform,
            remote=source if isinstance(source, RemoteFile) else None,
            access=access,
            palette=_has_colours(dataset),
        )


def _has_colours(dataset: DatasetReader) -> bool:
    """Whether a palette gives the values colours; one of greys that grow lighter leaves them what they are, brightness."""
    if dataset.colorinterp[0] != ColorInterp.palette:
        return False
    colours = [rgb for _, (*rgb, _) in sorted(dataset.colormap(1).items())]
    return any(len(set(rgb)) > 1 for rgb in colours) or colours != sorted(colours)


def _describe_stack(folder: Path | RemoteFile, access: Access) -> Scene:
    if isinstance(folder, RemoteFile) or not folder.is_dir():
        raise MissingFileError(f"{folder}: with --stack each scene is a folder of single-band files on this machine")
    faults, bands = Faults(), []
    for path in list_rasters(folder):
        with faults.collect():
            band = describe_scene(path, access)
            bands.append(band)
            if len(band.band_names) != 1:
                raise RasterError(
                    f"{path}: {len(band.band_names)} bands found, --stack needs single-band files; put those wanted into a "
                    f"folder of their own (links will do)"
                )
            _refuse_other_grid(band, bands[0])
    faults.raise_any()
    first = bands[0]
    return Scene(
        name=folder.resolve().name,
        paths=tuple(path for band in bands for path in band.paths),
        height=first.height,
        width=first.width,
        band_names=tuple(band.name for band in bands),
        dtypes=tuple(band.dtypes[0] for band in bands),
        nodata=tuple(band.nodata[0] for band in bands),
        crs=first.crs,
        transform=first.transform,
        access=access,
        palette=any(band.palette for band in bands),
    )


def same_grid(scene: Scene, other: Scene) -> bool:
    """Whether two scenes have one size and CRS, and pixels that lie on each other to a hundredth of a pixel."""
    if (scene.height, scene.width, scene.crs) != (other.height, other.width, other.crs):
        return False
    corners = ((0, 0), (scene.width, 0), (0, scene.height))
    return all(math.dist(~scene.transform @ (other.transform @ corner), corner) < 0.01 for corner in corners)


def _refuse_other_grid(band: Scene, first: Scene) -> None:
    if same_grid(band, first):
        return
    left, top = first.transform @ (0, 0)
    right, bottom = first.transform @ (first.width, first.height)
    crs = shlex.quote(first.crs.to_string() if first.crs else "")
    raise RasterError(
        f"{band.path}: another grid than {first.path.name}; mend it with: gdalwarp -t_srs {crs} "
        f"-te {left} {bottom} {right} {top} -ts {first.width} {first.height} {band.path.name} OUT.tif, or put the bands "
        f"wanted into a folder of their own (links will do)"
    )


def _refuse_twins(scenes: Sequence[Scene]) -> None:
    seen: dict[str, Scene] = {}
    for scene in scenes:
        twin = seen.setdefault(scene.name.lower(), scene)
        if twin is not scene:
            raise RasterError(
                f"{scene.path} and {twin.path}: two scenes called '{scene.name}'; rename one, since outputs bear the name"
            )
