"""The verb `suggest`: which windows of scenes to label next, so that a model learns the most from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rasterio.windows import Window

from geoseg.acquisition import Survey, choose_windows, describe_window, doubt
from geoseg.bundle import Bundle, open_bundle
from geoseg.chips import FOOTPRINTS, INDEX
from geoseg.choices import Precision, refuse_below
from geoseg.display import Displayed
from geoseg.errors import Faults, InputError, LabelError
from geoseg.files import publish, refuse_existing, refuse_inputs
from geoseg.grid import grid
from geoseg.labels import LabelReader
from geoseg.place_layer import write_place_layer
from geoseg.polygon_labels import Polygons, inside_of, read_polygons
from geoseg.predictor import Predictor
from geoseg.preflight import match_model, match_values, preflight_scenes
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.scenes import Scene

LAYER = "suggest"
_LEAST_VALID = 0.5
_HALF = 0.5  # of a window labelled, from which on it is


@dataclass(frozen=True, repr=False)
class Suggestion(Displayed):
    """Windows to label next.

    Attributes:
        path: the file.
        windows: each with rank, scene, row, col, uncertainty, novelty, valid_pct and likely, the first ones first.
        looked_at: windows that could have been chosen.
        labelled: windows that are labelled already.
    """

    path: Path
    windows: tuple[dict[str, Any], ...]
    looked_at: int
    labelled: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.windows)} of {self.looked_at} windows to label next"]
        for entry in self.windows[:10]:
            place = f"{entry['scene']} row {entry['row']}, column {entry['col']}"
            lines.append(f"  {entry['rank']:>3} {place:<40} uncertainty {entry['uncertainty']:.3f}  {entry['likely']}")
        if len(self.windows) > 10:
            lines.append(f"  and {len(self.windows) - 10} more")
        return "\n".join([*lines, "  open it in QGIS over the scenes, and draw what is in these windows"])

    def to_dict(self) -> dict[str, Any]:
        """`path`, `windows`, `looked_at` and `labelled`."""
        return {
            "path": str(self.path), "windows": list(self.windows), "looked_at": self.looked_at, "labelled": self.labelled,
        }  # fmt: skip


def suggest(
    scenes: str | Path | Sequence[str | Path],
    *,
    model: str | Path = "model",
    out: str | Path = "suggest.gpkg",
    count: int = 20,
    window: int | None = None,
    labelled: str | Path | None = None,
    bands: str | Sequence[int | str] | None = None,
    batch_size: int = 8,
    precision: Precision = "auto",
    device: str = "auto",
    stack: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Suggestion:
    """Say which windows of scenes to label next.

    Args:
        scenes: raster files, or folders of them; with `stack`, folders of single-band files.
        model: a bundle made by `train`.
        out: the GeoPackage to write.
        count: windows to suggest.
        window: rows and columns of a window; None takes those of the chips that the model has learned.
        labelled: ground that is labelled already: a chip folder, or a polygon file.
        bands: numbers or names of the scene's bands, in the model's order; None finds them.
        batch_size: windows a step.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        stack: each scene is a folder of single-band files.
        overwrite: replace an earlier file.
        progress: called after each step.

    Returns:
        The windows, the first ones first.

    Raises:
        GeosegError: bad input or a full disk; then nothing is left behind.
    """
    inputs, out = [scenes] if isinstance(scenes, str | Path) else list(scenes), Path(out)
    faults = Faults()
    with faults.collect():
        if out.suffix.lower() != ".gpkg":
            raise InputError(
                f"{out}: windows are written with their style into a GeoPackage; give a name that ends in .gpkg"
            )
        refuse_existing([out], overwrite)
    refuse_below(1, faults, count=count, window=window, batch_size=batch_size)
    with faults.collect():
        bundle = open_bundle(model)
    known: Polygons | None = None
    with faults.collect():
        known = None if labelled is None else _read_labelled(Path(labelled))
    found = preflight_scenes(inputs, stack=stack, faults=faults)
    for scene in found:
        with faults.collect():
            refuse_inputs([out], [*scene.paths, *([Path(labelled)] if labelled is not None else [])])
    faults.raise_any()
    for scene in found:
        with faults.collect():
            match_values(scene, bundle.image, match_model(scene, bundle.image, bands))
    faults.raise_any()
    size = window or bundle.image.chip_size
    with bounded_cache():
        predictor = Predictor(bundle, device=device, precision=precision)
        seen: list[_Seen] = []
        for scene in found:
            looking = _look(scene, match_model(scene, bundle.image, bands), bundle, predictor, size, batch_size, known)
            total = -(-scene.height // size) * -(-scene.width // size)
            for done, entry in enumerate(looking, 1):
                seen.append(entry)
                progress(f"look at {scene.name}", min(done, total), total)
    return _publish(seen, found, bundle, count, out, overwrite)


def _read_labelled(path: Path) -> Polygons:
    """The outlines of chips, or polygons."""
    return read_polygons(path / FOOTPRINTS if (path / INDEX).exists() else path)


class _Seen(NamedTuple):
    """A window, and what the model says of it."""

    scene: Scene
    window: Window
    valid: float
    labelled: bool
    doubt: np.ndarray
    pixels: np.ndarray
    features: np.ndarray


def _look(
    scene: Scene, sources: Sequence[int], bundle: Bundle, predictor: Predictor, size: int, batch_size: int,
    known: Polygons | None,
) -> Iterator[_Seen]:  # fmt: skip
    """The windows of a scene that hold enough data, and what the model says of them."""
    labels = None if known is None else _on_scene(known, scene)
    with scene.open() as reader:

        def read() -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
            for tile in grid(scene.height, scene.width, size):
                if not reader.is_empty(tile.read, sources):
                    pixels, valid = reader.read(tile.read, sources, edge="nodata")
                    if valid.mean() >= _LEAST_VALID:
                        yield tile.read, pixels, valid

        windows = read()
        while batch := list(islice(windows, batch_size)):
            pixels, valid = (np.stack([entry[part] for entry in batch]) for part in (1, 2))
            shares = predictor.shares(pixels, valid).cpu().numpy()
            for (place, raw, there), told in zip(batch, shares, strict=True):
                inside = labels is not None and labels.read(place)[1][there].mean() >= _HALF
                amount, counts = doubt(told, there)
                features = describe_window(bundle.image.normalise(raw, there), there)
                yield _Seen(scene, place, float(there.mean()), bool(inside), amount, counts, features)


def _on_scene(known: Polygons, scene: Scene) -> LabelReader | None:
    try:
        return inside_of(known, scene)
    except LabelError:  # nothing of this scene is labelled
        return None


def _publish(
    seen: Sequence[_Seen], scenes: Sequence[Scene], bundle: Bundle, count: int, out: Path, overwrite: bool
) -> Suggestion:
    free = [entry for entry in seen if not entry.labelled]
    if not free:
        raise InputError(
            f"{scenes[0].path}: no window holds enough data and is not labelled yet; name other scenes, or a smaller --window"
        )
    survey = Survey.of([(entry.doubt, entry.pixels, entry.features) for entry in seen])
    chosen, novelty = choose_windows(survey, np.array([entry.labelled for entry in seen]), count)
    names = bundle.legend.names
    rows = []
    for rank, (index, far) in enumerate(zip(chosen, novelty, strict=True), 1):
        entry = seen[index]
        rows.append({
            "rank": rank, "scene": entry.scene.name, "row": entry.window.row_off, "col": entry.window.col_off,
            "uncertainty": float(survey.uncertainty[index]), "novelty": far, "valid_pct": 100 * entry.valid,
            "likely": _mix(entry.pixels, names),
        })  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "rank"}
    outlines = [(seen[index].scene.outline(seen[index].window), seen[index].scene.crs) for index in chosen]
    with publish(out, overwrite=overwrite) as partial:
        write_place_layer(partial, LAYER, columns, outlines)
    return Suggestion(out, tuple(rows), len(free), len(seen) - len(free))


def _mix(pixels: np.ndarray, names: Sequence[str]) -> str:
    """The likeliest classes of a window, with their shares."""
    order = np.argsort(-pixels, kind="stable")[:3]
    return ", ".join(f"{names[index]} {100 * pixels[index] / pixels.sum():.0f} %" for index in order if pixels[index])
