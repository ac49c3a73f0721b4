"""What the tests of `tile` and of its parts share: label files, options by their names, and what a folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
import torch
from affine import Affine
from shapely.geometry.base import BaseGeometry

from geoseg.errors import DataWarning, PreflightError
from geoseg.models import Architecture

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
"""That of `write_scene`."""


def box(row: float, col: float, height: float, width: float, transform: Affine = TRANSFORM) -> shapely.Polygon:
    """A window in pixels as a polygon."""
    corners = ((col, row), (col + width, row), (col + width, row + height), (col, row + height))
    return shapely.Polygon([transform @ corner for corner in corners])


def write_polygons(
    path: Path, shapes: Iterable[BaseGeometry | None], crs: Any = "EPSG:32614", to: Any = None, **fields: Any
) -> Path:
    """A vector file of shapes given in `crs`, written in `to` where that is named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = gpd.GeoDataFrame(fields, geometry=list(shapes), crs=crs)
    (frame.to_crs(to) if to else frame).to_file(path)
    return path


def write_vrt(
    path: Path, *sources: str, bands: str = "<VRTRasterBand dataType='Byte' band='1'>{}</VRTRasterBand>"
) -> Path:
    """A VRT of 64 x 64 pixels whose one band holds these elements."""
    path.write_text(f"<VRTDataset rasterXSize='64' rasterYSize='64'>{bands.format(''.join(sources))}</VRTDataset>")
    return path


def named(name: object, tag: str = "SourceFilename", relative: int = 0) -> str:
    """A source as gdalbuildvrt writes it."""
    return (
        f"<SimpleSource><{tag} relativeToVRT='{relative}'>{name}</{tag}><SourceBand>1</SourceBand>"
        "<SrcRect xOff='0' yOff='0' xSize='64' ySize='64'/><DstRect xOff='0' yOff='0' xSize='64' ySize='64'/></SimpleSource>"
    )


def moved(transform: Affine, rows: float, cols: float) -> Affine:
    """A transform moved by pixels down and right."""
    return transform @ Affine.translation(cols, rows)


def checkers(height: int, width: int, side: int, values: Iterable[int] = (0, 1)) -> np.ndarray:
    """Squares of `side` pixels that take turns in the values, (rows, cols) uint8."""
    rows, cols = np.indices((height, width)) // side
    values = np.array(list(values), np.uint8)
    return values[(rows + cols) % len(values)]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Hold that the block changes, makes and removes nothing in a folder."""
    before = contents(folder)
    yield
    assert contents(folder) == before


def one_line_each(error: BaseException) -> list[str]:
    """The faults of an error, of which each must be a line that names something and says what to do."""
    faults = error.faults if isinstance(error, PreflightError) else [error]
    lines = [str(fault) for fault in faults]
    for line in lines:
        assert line.strip()
        assert "\n" not in line, f"several lines: {line!r}"
    assert len(set(lines)) == len(lines)
    return lines


def said(match: str) -> Any:
    """A `DataWarning` that is expected."""
    return pytest.warns(DataWarning, match=match)


def degrees(x: float, y: float, crs: Any = "EPSG:32614") -> tuple[float, float]:
    """Longitude and latitude of a place."""
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)


def lively_weights(architecture: Architecture, size: int = 64) -> dict[str, torch.Tensor]:
    """Weights of a network that tells pixels apart, as trained ones do: its batch norms have seen some noise."""
    torch.manual_seed(1)
    network = architecture.build().train()
    with torch.no_grad():
        for _ in range(40):
            network(torch.randn(2, architecture.in_channels, size, size))
    return network.state_dict()
