"""The verb `info`: what a file is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.chips import INDEX, open_chips
from geoseg.display import Displayed
from geoseg.errors import FormatError, MissingFileError, without_controls
from geoseg.files import read_json
from geoseg.labels import is_vector, read_legend
from geoseg.legend import Legend
from geoseg.scenes import Scene, describe_scene
from geoseg.vector import open_layer

_HEAD = 10_000
_MOST_VALUES = 6
"""Values of a column that are told."""


@dataclass(frozen=True, repr=False)
class Description(Displayed):
    """What a file or folder is.

    Attributes:
        path: as asked for.
        kind: `scene`, `class raster`, `vector`, `chips`, `model` or `prediction`.
        text: for reading.
        facts: for programs.
    """

    path: Path
    kind: str
    text: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The facts, with the kind and the path."""
        return {"kind": self.kind, "path": str(self.path), **self.facts}


def info(path: str | Path) -> Description:
    """Describe a scene, a class raster, a file of polygons or points, a chip folder, a model bundle, or a prediction's run file.

    Raises:
        MissingFileError: nothing is there, or a folder of nothing geoseg knows.
        RasterError, LabelError, FormatError: it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(
            f"{path}: not found; give a scene, labels, a chip folder, a model or a prediction's _run.json"
        )
    if path.is_dir():
        return _describe_folder(path)
    if path.suffix.lower() == ".json" and not _is_geojson(path):
        facts = read_json(path, newest=1, what="a run file made by geoseg predict")
        if "outputs" not in facts:
            raise FormatError(
                f"{path}: no run file made by geoseg predict (no 'outputs' in it); name its folder or raster"
            )
        return Description(path, "prediction", json.dumps(facts, indent=1, ensure_ascii=False), facts)
    if is_vector(path):
        return _describe_vector(path)
    scene, legend = describe_scene(path), read_legend(path)
    kind = "class raster" if legend else "scene"
    return Description(
        path, kind, _scene_text(scene, legend), {**scene.to_dict(), "legend": legend.to_list() if legend else None}
    )


def _is_geojson(path: Path) -> bool:
    with open(path, "rb") as file:
        return (
            re.search(rb'"type"\s*:\s*"(FeatureCollection".*"features"|Feature")', file.read(_HEAD), re.DOTALL)
            is not None
        )


def _describe_vector(path: Path) -> Description:
    layer = open_layer(path)
    table = layer.read()
    crs = table.crs.to_string() if table.crs else None
    kinds = sorted(set(table.geometry.geom_type.dropna()))
    lines = [f"{path}: {len(table):,} features ({', '.join(kinds) or 'without geometry'}), {(crs or 'no CRS')[:40]}"]
    columns = {}
    for name in (name for name in layer.fields if name in table and name != table.geometry.name):
        values = sorted({without_controls(str(value)) for value in table[name].dropna()})
        columns[name] = len(values)
        more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
        lines.append(f"  {without_controls(name):<24} {', '.join(value[:24] for value in values[:_MOST_VALUES])}{more}")
    facts = {"layer": layer.name, "crs": crs, "features": len(table), "geometries": kinds, "distinct_values": columns}
    return Description(path, "vector", "\n".join(lines), facts)


def _describe_folder(path: Path) -> Description:
    if (path / INDEX).exists():
        chips = open_chips(path)
        return Description(path, "chips", str(chips), {key: v for key, v in chips.to_dict().items() if key != "chips"})
    from geoseg.bundle import CARD, open_bundle  # torch takes seconds to load, and nothing else here needs it

    if (path / CARD).exists():
        bundle = open_bundle(path)
        return Description(path, "model", str(bundle), bundle.to_dict())
    raise MissingFileError(
        f"{path}: neither {INDEX} nor {CARD} in it; name a chip folder, a model, a raster or a prediction's _run.json"
    )


def _scene_text(scene: Scene, legend: Legend | None) -> str:
    lines = [str(scene)]
    for number, (name, dtype, nodata) in enumerate(zip(scene.band_names, scene.dtypes, scene.nodata, strict=True), 1):
        lines.append(f"  {number:>3} {name:<24} {dtype:<8} nodata {'-' if nodata is None else f'{nodata:g}'}")
    if legend:
        lines.append(f"  classes {legend}")
    return "\n".join(lines)
