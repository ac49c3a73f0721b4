"""Vectorisers of other packages, as `polygonize.py` runs them; see README.md for how to install them.

What they import beside and do not use here (TensorFlow, command lines of other tools) is stood in for by empty modules.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import rasterio
from rasterio.windows import Window

Request = dict[str, Any]
Work = Callable[[], None]
CLASSES = 5
WINDOW = 2048
"""ftw-tools' default; orthoseg is given what a prediction of its own has at most."""
_PIXELS = 1.5


def gdal_polygonize(request: Request) -> Work:
    """GDAL's own program, to a GeoPackage: all values, pixel edges, no simplification, no areas."""
    program = shutil.which("gdal_polygonize.py")
    if program is None:
        raise SystemExit("gdal_polygonize.py: not found; apt install gdal-bin")

    def run() -> None:
        subprocess.run(
            [program, "-q", request["raster"], "-f", "GPKG", request["out"], "polygons", "value"], check=True
        )

    return run


def ftw(request: Request) -> Work:
    """ftw-tools' `polygonize`, class 1 alone, since it takes no other; no least size, and our distance."""
    _stand_in("vecorel_cli", "fiboa_cli")
    from ftw_tools.postprocess.polygonize import polygonize

    def run() -> None:
        with rasterio.open(request["raster"]) as raster:
            pixel = raster.transform.a
        polygonize(request["raster"], request["out"], simplify=_PIXELS * pixel, min_size=0)

    return run


def orthoseg(request: Request) -> Work:
    """orthoseg's `polygonize_pred_multiclass` with the simplification of its project defaults (LANG+, 1.5 pixels), window by window.

    Its own step that dissolves what windows have cut is left out: so there are more polygons.
    """
    _stand_in("tensorflow", "keras", "segmentation_models", "osgeo", "geofileops", "owslib", "pycron")
    import geopandas as gpd
    import pandas as pd
    from orthoseg.lib.postprocess_predictions import polygonize_pred_multiclass

    def run() -> None:
        tables = []
        with rasterio.open(request["raster"]) as raster:
            simplify = {
                "simplify_algorithm": "lang+", "simplify_tolerance": _PIXELS * raster.transform.a, "simplify_lookahead": 8,
                "simplify_topological": None,
            }  # fmt: skip
            for row in range(0, raster.height, WINDOW):
                for col in range(0, raster.width, WINDOW):
                    window = Window(col, row, min(WINDOW, raster.width - col), min(WINDOW, raster.height - row))
                    # Its first class is the background, which it leaves out: here nothing is.
                    shares = np.concatenate(
                        [np.zeros((window.height, window.width, 1), np.uint8),
                         np.eye(CLASSES, dtype=np.uint8)[raster.read(1, window=window)] * np.uint8(255)], axis=2,
                    )  # fmt: skip
                    table = polygonize_pred_multiclass(
                        shares, raster.crs.to_string(), raster.window_transform(window),
                        ["background", *(f"class_{number}" for number in range(CLASSES))],
                        postprocess={"simplify": simplify},
                    )  # fmt: skip
                    if table is not None:
                        tables.append(table)
        gpd.GeoDataFrame(pd.concat(tables, ignore_index=True)).to_file(request["out"], layer="polygons", driver="GPKG")

    return run


PEERS: dict[str, Callable[[Request], Work]] = {"gdal": gdal_polygonize, "ftw": ftw, "orthoseg": orthoseg}


class _Empty(MagicMock):
    __version__ = "3.9"


class _Nothing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self._names else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _Empty(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _stand_in(*names: str) -> None:
    sys.meta_path.insert(0, _Nothing(names))
