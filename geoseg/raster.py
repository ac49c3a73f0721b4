"""Raster files: opened by what they are, not by what they are called, and read back after they are written."""

from __future__ import annotations

import itertools
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.dtypes import dtype_ranges
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geoseg.errors import MissingFileError, RasterError
from geoseg.remote import LOCAL, Access, RemoteFile, files_of_vrt, network, refuse_remote

# A file called scene.tif can hold a VRT or MRF, which read and write wherever they say (GDAL's security notes): the
# first bytes decide, and GDAL is told which driver to use.
_DRIVERS = (
    (b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"II+\0", "GTiff"), (b"MM\0+", "GTiff"),
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"), (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
)  # fmt: skip
# GDAL opens masks and overviews beside a raster with any driver, and so a VRT in their place (GDAL 3.10).
_SIDECARS = (".msk", ".MSK", ".ovr", ".OVR")
_LARGEST_BLOCK = 2**30
"""Bytes; a block is read as a whole, and a file of 200 bytes can say that its one block has 10 GB."""
RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".j2k", ".png", ".jpg", ".jpeg"})


@contextmanager
def bounded_cache(mebibytes: int = 64) -> Iterator[None]:
    """Keep GDAL's block cache small, unless the user's environment says how large it shall be.

    Without it the cache may take 5 % of the machine's memory, and reading a tall scene looks like a leak.
    """
    # rasterio passes a plain number on as bytes, where the environment variable of the same name means MiB.
    options = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": mebibytes * 2**20}
    with rasterio.Env(**options):
        yield


def driver_of(path: Path, *, vrt: bool = False) -> str:
    """The GDAL driver for a local file, by its first bytes.

    Args:
        path: the file.
        vrt: whether it may be a VRT.

    Raises:
        MissingFileError: there is no such file.
        RasterError: it is not a GeoTIFF, JPEG 2000, PNG or JPEG.
    """
    try:
        if path.exists() and not path.is_file():  # to read from a pipe is to wait for ever
            raise RasterError(f"{path}: cannot be read (no regular file); give the path of a raster")
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: not found; give the path of a raster") from None
    except OSError as error:
        raise RasterError(f"{path}: cannot be read ({error.strerror}); give the path of a raster") from None
    for magic, driver in _DRIVERS:
        if start.startswith(magic):
            return driver
    found, way_out = "none of these", ""
    if start.lstrip()[:4] == b"<VRT":
        if vrt:
            return "VRT"
        found, way_out = "a VRT, which may point anywhere", "; predict and check read one as a scene with --allow-vrt"
    raise RasterError(
        f"{path}: a GeoTIFF, JPEG 2000, PNG or JPEG is needed, found {found}; "
        f"convert it with: gdal_translate IN OUT.tif{way_out}"
    )


@contextmanager
def open_raster(source: Path | RemoteFile, access: Access = LOCAL) -> Iterator[DatasetReader]:
    """Open a raster for reading; faults in it are raised as `RasterError`, also while it is being read.

    Args:
        source: a local file, or a GeoTIFF at an address.
        access: whether it may be at an address, and whether it may be a VRT.
    """
    name: str | Path
    if isinstance(source, RemoteFile):
        refuse_remote(source, access)
        name, driver = source.url, "GTiff"
    else:
        # Absolute, so that it is no address; not resolved: masks stand beside the name that was given, also of a link.
        name, driver = source.absolute(), driver_of(source, vrt=access.vrt)
        _refuse_strange_sidecars(source)
        if driver == "VRT":
            _checked_sources(source, access)
    with reading(source):
        with georeference_optional(), network(source, access):
            dataset = rasterio.open(name, driver=driver)
        with dataset:
            _refuse_lies(source, dataset)
            yield dataset


def _refuse_strange_sidecars(path: Path) -> None:
    for ending in _SIDECARS:
        beside = path.with_name(path.name + ending)
        if beside.exists():
            try:
                driver_of(beside)
            except RasterError:
                raise RasterError(
                    f"{path}: beside it stands {beside.name}, which is no raster and may point anywhere; take that away"
                ) from None


def _refuse_lies(source: Path | RemoteFile, dataset: DatasetReader) -> None:
    """Raise `RasterError` where a header promises blocks that memory does not hold, or more of them than the file can list."""
    rows, cols = dataset.block_shapes[0]
    pixel = max(np.dtype(dtype).itemsize if dtype in dtype_ranges else 16 for dtype in dataset.dtypes)  # 16: complex
    if not bands_apart(dataset):
        pixel *= dataset.count
    if rows * cols * pixel > _LARGEST_BLOCK:
        raise RasterError(
            f"{source}: blocks of {rows} x {cols} pixels found, of which each takes {rows * cols * pixel / 2**30:.1f} GiB of "
            f"memory; make smaller ones with: gdal_translate -co TILED=YES IN OUT.tif"
        )
    blocks = math.ceil(dataset.height / rows) * math.ceil(dataset.width / cols)
    if dataset.driver == "GTiff" and isinstance(source, Path) and blocks > source.stat().st_size:
        raise RasterError(
            f"{source}: {dataset.height:,} x {dataset.width:,} pixels in {blocks:,} blocks found, more than a file of "
            f"{source.stat().st_size:,} bytes can hold; fetch or make the file again"
        )


def files_behind(path: Path, access: Access) -> list[Path]:
    """The files that pixels come from: the raster itself, all that a VRT names, and the masks beside them."""
    files = sorted(_checked_sources(path, access)) if access.vrt and driver_of(path, vrt=True) == "VRT" else [path]
    masks = [file.with_name(f"{file.name}.msk") for file in files]
    return [*files, *(mask for mask in masks if mask.exists())]


def _checked_sources(vrt: Path, access: Access) -> set[Path]:
    """A VRT, and all that it and the VRTs in it name.

    Raises:
        RasterError: one of them is no raster that would open by itself. GDAL opens them with any of its drivers, of which
            some make requests or write files.
    """
    waiting = [vrt.parent.resolve() / vrt.name]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if driver_of(path, vrt=True) == "VRT":
            named = set(files_of_vrt(path, access)) - seen
            for file in named:
                _refuse_strange_sidecars(file)
            seen |= named
            waiting += named
    return seen


_filters = threading.RLock()


@contextmanager
def georeference_optional() -> Iterator[None]:
    """Keep rasterio quiet: a scene's missing georeference is a fact that the verbs speak of where it matters.

    One thread at a time: filters of warnings belong to the process, and threads that take turns in setting them and putting
    them back leave each other without. rasterio does the same within `rasterize`.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def reading(path: Path | RemoteFile) -> Iterator[None]:
    """Turn rasterio's errors into one line that names the file and the cause that GDAL gave."""
    try:
        yield
    # rasterio lets some of GDAL's own errors through, and trips over names that are no UTF-8 (rasterio 1.4.4).
    except (RasterioError, CPLE_BaseError, UnicodeDecodeError) as error:
        cause = error.__cause__ or error
        if isinstance(path, RemoteFile):
            raise path.fault(cause) from error
        raise RasterError(f"{path}: damaged or not readable ({cause}); fetch or make the file again") from error


def refuse_truncated(path: Path, dataset: DatasetReader) -> None:
    """Raise `RasterError` when a block of a TIFF lies past the end of the file.

    A truncated TIFF opens well and fails when it is read, hours later; the offsets tell at once. All are asked for,
    since a program that writes window by window leaves the blocks in any order. The size is asked for only of the block
    that begins last: the others end before it.
    """
    if dataset.driver != "GTiff":
        return
    rows, cols = dataset.block_shapes[0]
    block_rows, block_cols = range(math.ceil(dataset.height / rows)), range(math.ceil(dataset.width / cols))
    bands = dataset.indexes if bands_apart(dataset) else dataset.indexes[:1]
    blocks = itertools.product(block_cols, block_rows, bands)
    last, *place = max((_block(dataset, "OFFSET", *block), *block) for block in blocks)
    end, size = last + _block(dataset, "SIZE", *place), path.stat().st_size
    if end > size:
        raise RasterError(f"{path}: truncated: {size:,} bytes found, its blocks reach to {end:,}; fetch the file again")


def bands_apart(dataset: DatasetReader) -> bool:
    """Whether each band has blocks of its own; else all bands stand in the blocks of the first."""
    if dataset.driver not in {"GTiff", "VRT"}:  # of a damaged JPEG 2000, GDAL 3.10 looks for the answer without an end
        return False
    try:
        return bool(dataset.interleaving == Interleaving.band)
    except ValueError:  # a VRT can call it what it likes
        return False


def has_blocks(dataset: DatasetReader, band: int, window: Window) -> bool:
    """Whether any block of a band that touches a window inside the raster stands in the file, by the block index.

    Blocks of a TIFF that were never written read as the nodata value, else as 0. Other formats do not tell: True.
    """
    if dataset.driver != "GTiff":
        return True
    (rows, cols), (col, row, width, height) = dataset.block_shapes[band - 1], window.flatten()
    block_rows = range(row // rows, (row + height - 1) // rows + 1)
    block_cols = range(col // cols, (col + width - 1) // cols + 1)
    return any(_block(dataset, "OFFSET", *place, band) for place in itertools.product(block_cols, block_rows))


def _block(dataset: DatasetReader, what: str, col: int, row: int, band: int) -> int:
    """`OFFSET` or `SIZE`, in bytes, of a TIFF's block; 0 where it was never written."""
    return int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band) or 0)
