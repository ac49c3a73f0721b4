"""Raster files: opened by what they are, not by what they are called, and read back after they are written."""

from __future__ import annotations

import itertools
import math
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Interleaving, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from geoseg.errors import DiskError, MissingFileError, RasterError

BLOCK = 512
"""Side of the blocks of the rasters written here; cores are multiples of it, so each block is written once."""

# A file called scene.tif can hold a VRT or MRF, which read and write wherever they say (GDAL's security notes): the
# first bytes decide, and GDAL is told which driver to use.
_DRIVERS = (
    (b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"II+\0", "GTiff"), (b"MM\0+", "GTiff"),
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"), (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
)  # fmt: skip
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


def driver_of(path: Path) -> str:
    """The GDAL driver for a local file, by its first bytes.

    Raises:
        MissingFileError: there is no such file.
        RasterError: it is not a GeoTIFF, JPEG 2000, PNG or JPEG.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: not found; give the path of a raster") from None
    except OSError as error:
        raise RasterError(f"{path}: cannot be read ({error.strerror}); give the path of a raster") from None
    for magic, driver in _DRIVERS:
        if start.startswith(magic):
            return driver
    kind = "a VRT, which may point anywhere" if start.lstrip()[:4] == b"<VRT" else "none of these"
    raise RasterError(
        f"{path}: a GeoTIFF, JPEG 2000, PNG or JPEG is needed, found {kind}; convert it with: gdal_translate IN OUT.tif"
    )


@contextmanager
def open_raster(path: Path) -> Iterator[DatasetReader]:
    """Open a local raster for reading; faults in it are raised as `RasterError`, also while it is being read."""
    driver = driver_of(path)
    with reading(path):
        with _georeference_optional():
            dataset = rasterio.open(path.resolve(), driver=driver)
        with dataset:
            yield dataset


@contextmanager
def _georeference_optional() -> Iterator[None]:
    """Keep rasterio quiet: a scene's missing georeference is a fact that the verbs speak of where it matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn rasterio's errors into one line that names the file and the cause that GDAL gave."""
    try:
        yield
    except RasterioError as error:
        cause = error.__cause__ or error
        raise RasterError(f"{path}: damaged or not readable ({cause}); fetch or make the file again") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn GDAL's errors while writing into one line; about a disk that fills at close it says nothing."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:  # rasterio.shutil.copy lets the latter through
        cause = error.__cause__ or error
        raise DiskError(f"{path.name}: could not be written ({cause}); is the disk full?") from error


def refuse_truncated(path: Path, dataset: DatasetReader) -> None:
    """Raise `RasterError` when a block of a TIFF lies past the end of the file.

    A truncated TIFF opens well and fails when it is read, hours later; the offsets tell at once (6,000 blocks in 0.02 s).
    All are asked for, since a program that writes window by window leaves the blocks in any order.
    """
    if dataset.driver != "GTiff":
        return
    rows, cols = dataset.block_shapes[0]
    block_rows, block_cols = range(math.ceil(dataset.height / rows)), range(math.ceil(dataset.width / cols))
    bands = dataset.indexes if dataset.interleaving == Interleaving.band else dataset.indexes[:1]
    size = path.stat().st_size
    for row, col, band in itertools.product(block_rows, block_cols, bands):
        offset, length = (
            dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")
        )
        if offset and length and int(offset) + int(length) > size:
            raise RasterError(
                f"{path}: truncated: {size:,} bytes found, its blocks reach to {int(offset) + int(length):,}; "
                f"fetch the file again"
            )


def write_geotiff(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: CRS | None,
    transform: Affine,
    nodata: float | None = None,
    valid: np.ndarray | None = None,
    band_names: Sequence[str] = (),
) -> None:
    """Write a small raster in one go and read it back.

    Args:
        path: a staged path.
        pixels: (bands, rows, cols).
        crs: may be None, for a picture.
        transform: of the upper left pixel.
        nodata: written as the nodata value.
        valid: (rows, cols) bool; written as an internal mask, for data without a nodata value.
        band_names: written as band descriptions.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype,
               "crs": crs, "transform": _written(transform), "nodata": nodata, "compress": "deflate", "zlevel": 1,
               "alpha": "no"}  # GDAL takes the fourth of four byte bands for alpha  # fmt: skip
    with _georeference_optional(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with _writing(path), rasterio.open(path, "w", **profile) as dataset:
            dataset.write(pixels)
            for band, name in enumerate(band_names, 1):
                dataset.set_band_description(band, name)
            if valid is not None:
                dataset.write_mask(valid)
        # rasterio is silent when the disk fills at close (rasterio 1.4.4): only reading back tells.
        try:
            with rasterio.open(path) as dataset:
                same = np.array_equal(dataset.read(), pixels, equal_nan=pixels.dtype.kind == "f")
                if valid is not None:
                    same &= np.array_equal(dataset.read_masks(1) > 0, valid)
        except RasterioError:
            same = False
    if not same:
        raise DiskError(f"{path.name}: what was written cannot be read back; is the disk full?")


def _written(transform: Affine) -> Affine | None:
    # Written down, the identity of a picture becomes a geotransform, and QGIS shows the raster upside down.
    return None if transform.is_identity else transform


class RasterWriter:
    """Writes a raster window by window and turns it into a checked, cloud-optimised GeoTIFF.

    GDAL's COG driver holds the whole raster in memory when written to window by window, so the windows go into a plain
    tiled GeoTIFF first, which is copied.

    Args:
        path: where the finished raster stands; the plain one stands beside it until then.
        height: rows.
        width: columns.
        dtype: `uint8` or `uint16`.
        crs: the scene's own.
        transform: the scene's own.
        nodata: written to every pixel that no window covers.
        count: bands.
    """

    def __init__(
        self,
        path: Path,
        *,
        height: int,
        width: int,
        dtype: str,
        crs: CRS | None,
        transform: Affine,
        nodata: int,
        count: int = 1,
    ) -> None:
        self.path = path
        self._plain = path.with_name(path.stem + ".plain.tif")
        self._checksums: dict[tuple[int, int, int, int], int] = {}
        with _writing(path), _georeference_optional():
            self.dataset: DatasetWriter = rasterio.open(
                self._plain, "w", driver="GTiff", height=height, width=width, count=count, dtype=dtype, crs=crs,
                transform=_written(transform), nodata=nodata, tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
                compress="deflate", zlevel=1, bigtiff="if_safer", photometric="minisblack",
            )  # fmt: skip

    def write(self, pixels: np.ndarray, window: Window) -> None:
        """Write (bands, rows, cols) at a window."""
        with _writing(self.path):
            self.dataset.write(pixels, window=window)
        self._checksums[window.flatten()] = zlib.crc32(np.ascontiguousarray(pixels).data)

    def close(self) -> None:
        """Stop without a result."""
        self.dataset.close()
        self._plain.unlink(missing_ok=True)

    def finish(self, *, resampling: Resampling, predictor: bool, tags: Mapping[str, Any] | None = None) -> None:
        """Write the overviews and the final file, and compare it with what was written.

        Raises:
            DiskError: what stands on the disk is not what was written.
        """
        with _writing(self.path), _georeference_optional():
            self.dataset.update_tags(AREA_OR_POINT="Area", **(tags or {}))
            self.dataset.close()
            rasterio.shutil.copy(
                self._plain, self.path, driver="COG", compress="DEFLATE", blocksize=BLOCK, bigtiff="IF_SAFER",
                # The COG driver's own choice, CUBIC, makes up classes that are not in the map.
                overview_resampling=resampling.name.upper(), predictor="YES" if predictor else "NO",
                num_threads="ALL_CPUS",
            )  # fmt: skip
        self._plain.unlink()
        self._verify()

    def _verify(self) -> None:
        try:
            with _georeference_optional(), rasterio.open(self.path, driver="GTiff") as dataset:
                for (col, row, width, height), checksum in self._checksums.items():
                    found = zlib.crc32(dataset.read(window=Window(col, row, width, height)).data)
                    if found != checksum:
                        raise DiskError(f"{self.path.name}: rows {row}-{row + height} are not what was written")
        except RasterioError as error:
            raise DiskError(f"{self.path.name}: what was written cannot be read back; is the disk full?") from error
