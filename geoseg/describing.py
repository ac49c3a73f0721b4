"""The verb `info`: what a file is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.chips import INDEX, open_chips
from geoseg.display import Displayed
from geoseg.errors import FormatError, MissingFileError
from geoseg.files import read_json
from geoseg.labels import read_legend
from geoseg.legend import Legend
from geoseg.scenes import Scene, describe_scene


@dataclass(frozen=True, repr=False)
class Description(Displayed):
    """What a file or folder is.

    Attributes:
        path: as asked for.
        kind: `scene`, `class raster`, `chips`, `model` or `prediction`.
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
    """Describe a scene, a class raster, a chip folder, a model bundle, or a prediction's run file.

    Raises:
        MissingFileError: nothing is there, or a folder of nothing geoseg knows.
        RasterError, FormatError: it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: not found; give a scene, a chip folder, a model or a prediction's _run.json")
    if path.is_dir():
        return _describe_folder(path)
    if path.suffix.lower() == ".json":
        facts = read_json(path, newest=1, what="a run file made by geoseg predict")
        if "outputs" not in facts:
            raise FormatError(
                f"{path}: no run file made by geoseg predict (no 'outputs' in it); name its folder or raster"
            )
        return Description(path, "prediction", json.dumps(facts, indent=1, ensure_ascii=False), facts)
    scene, legend = describe_scene(path), read_legend(path)
    kind = "class raster" if legend else "scene"
    return Description(
        path, kind, _scene_text(scene, legend), {**scene.to_dict(), "legend": legend.to_list() if legend else None}
    )


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
