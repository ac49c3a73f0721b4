"""GeoTIFF files as they are written here: aside, read back, and cloud-optimised where they are to stay."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from geoseg.errors import DiskError
from geoseg.files import room_beside
from geoseg.raster import georeference_optional

BLOCK = 512
"""Side of the blocks of the rasters written here; where cores are multiples of it, each block is written once."""
_COMPRESSING = max(1, (os.cpu_count() or 1) // 4)  # threads of a writer; more would be taken from the network


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
    with georeference_optional(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with writing_raster(path), rasterio.open(path, "w", **profile) as dataset:
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
        raise DiskError(f"{path.name}: what was written cannot be read back; {room_beside(path)}")


def _written(transform: Affine) -> Affine | None:
    # Written down, the identity of a picture becomes a geotransform, and QGIS shows the raster upside down.
    return None if transform.is_identity else transform


@contextmanager
def writing_raster(path: Path) -> Iterator[None]:
    """Turn GDAL's errors while writing into one line; about a disk that fills at close it says nothing."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:  # rasterio.shutil.copy lets the latter through
        cause = error.__cause__ or error
        raise DiskError(f"{path.name}: could not be written ({cause}); {room_beside(path)}") from error


class TiledWriter:
    """Writes a plain tiled GeoTIFF window by window; pixels that no window covers are nodata, and take no room.

    Args:
        path: a staged path.
        height: rows.
        width: columns.
        count: bands.
        dtype: `uint8` or `uint16`.
        nodata: of every band.
        crs: the scene's own.
        transform: of the upper left pixel.

    Attributes:
        dataset: for what stands beside the pixels.
        checksums: column, row, width and height of each window written, and the CRC-32 of its pixels.
    """

    def __init__(
        self, path: Path, *, height: int, width: int, count: int, dtype: str, nodata: int, crs: CRS | None,
        transform: Affine,
    ) -> None:  # fmt: skip
        self.path = path
        self.checksums: list[tuple[int, int, int, int, int]] = []
        with writing_raster(path), georeference_optional():
            self.dataset: DatasetWriter = rasterio.open(
                path, "w", driver="GTiff", height=height, width=width, count=count, dtype=dtype, crs=crs,
                transform=_written(transform), nodata=nodata, tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
                compress="deflate", zlevel=1, bigtiff="if_safer", photometric="minisblack", sparse_ok=True,
                num_threads=_COMPRESSING,
            )  # fmt: skip

    def write(self, pixels: np.ndarray, window: Window) -> None:
        """Write (bands, rows, cols) at a window."""
        with writing_raster(self.path):
            self.dataset.write(pixels, window=window)
        self.checksums.append((*window.flatten(), zlib.crc32(np.ascontiguousarray(pixels).data)))

    def close(self) -> None:
        """Write what is still in memory."""
        with writing_raster(self.path):
            self.dataset.close()


def write_cog(source: Path, target: Path, *, resampling: Resampling, predictor: bool) -> None:
    """Copy a raster into a cloud-optimised GeoTIFF with overviews.

    GDAL's COG driver holds the whole raster in memory when written to window by window, but not when it copies one.

    Args:
        source: trusted; a VRT may stand for many files.
        target: a staged path.
        resampling: of the overviews; the driver's own choice, CUBIC, makes up classes that are not in the map.
        predictor: whether neighbouring pixels differ by little, so that differences compress better.
    """
    with writing_raster(target), georeference_optional():
        rasterio.shutil.copy(
            source, target, driver="COG", compress="DEFLATE", blocksize=BLOCK, bigtiff="IF_SAFER", sparse_ok=True,
            overview_resampling=resampling.name.upper(), predictor="YES" if predictor else "NO",
            num_threads="ALL_CPUS",
        )  # fmt: skip


def verify(path: Path, checksums: Iterable[Sequence[int]], *, down: int = 0) -> None:
    """Compare a raster with what was written into it.

    Args:
        path: to read back.
        checksums: of a `TiledWriter`.
        down: rows between the top of that one and the top of this.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """
    try:
        with georeference_optional(), rasterio.open(path, driver="GTiff") as dataset:
            for col, row, width, height, checksum in checksums:
                found = zlib.crc32(dataset.read(window=Window(col, row + down, width, height)).data)
                if found != checksum:
                    first = row + down
                    raise DiskError(f"{path.name}: rows {first}-{first + height} are not what was written")
    except RasterioError as error:
        raise DiskError(f"{path.name}: what was written cannot be read back; {room_beside(path)}") from error
