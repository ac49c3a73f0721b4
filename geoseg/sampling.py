"""The verb `sample`: points to look at, so that the areas of a map can be corrected and its accuracy be known."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.area_estimation import allocate, sample_size
from geoseg.choices import refuse_below
from geoseg.class_map import open_class_map
from geoseg.display import Displayed
from geoseg.errors import Faults, InputError, LegendError
from geoseg.files import publish, refuse_existing, refuse_inputs
from geoseg.legend import Legend
from geoseg.pixel_areas import ClassAmounts
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.reference_points import draw_points, write_points


@dataclass(frozen=True, repr=False)
class PointSample(Displayed):
    """A points file that was written.

    Attributes:
        path: the file.
        predicted: the map that the points were drawn on.
        classes: per class on the map: value, name, pixels, area_ha and points.
    """

    path: Path
    predicted: Path
    classes: tuple[dict[str, Any], ...]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        total = sum(entry["points"] for entry in self.classes)
        lines = [f"{self.path}: {total} points to label"]
        for entry in self.classes:
            lines.append(f"  {entry['name']:<20} {entry['area_ha']:>14,.1f} ha {entry['points']:>6} points")
        return "\n".join(
            [
                *lines,
                "  open it in QGIS over an image that shows the truth, say in `reference` what each square is, then:",
                f"  geoseg evaluate {self.predicted} {self.path}",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """`path`, `predicted` and `classes`."""
        return {"path": str(self.path), "predicted": str(self.predicted), "classes": list(self.classes)}


def sample(
    predicted: str | Path,
    *,
    out: str | Path = "points.gpkg",
    size: int | None = None,
    standard_error: float = 0.01,
    expected_accuracy: str | float = "0.8",
    minimum: int = 50,
    aoi: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> PointSample:
    """Draw a stratified random sample of the pixels of a map, to be labelled in QGIS.

    The strata are the classes on the map. Their points are a minimum for each, so that rare classes are seen at all, and
    the others in proportion to area (Olofsson et al. 2014).

    Args:
        predicted: a class raster.
        out: the GeoPackage to write.
        size: points in all; None takes what `standard_error` and `expected_accuracy` need by Cochran's formula.
        standard_error: aimed at for the overall accuracy, above 0 and below 0.5.
        expected_accuracy: share of each class on the map that is guessed to be right, above 0 and below 1: a number, or
            numbers by class with one for the others, such as `0.8,water=0.95`.
        minimum: points of each class.
        aoi: polygon file; only pixels inside are drawn, and areas are those inside.
        seed: of the draw.
        overwrite: replace an earlier file.
        progress: called after each strip of the map.

    Returns:
        The file, with how many points each class has.

    Raises:
        GeosegError: bad input or a full disk; then nothing is left behind.
    """
    path, out = Path(predicted), Path(out)
    faults = Faults()
    with faults.collect():
        if out.suffix.lower() != ".gpkg":
            raise InputError(f"{out}: the form to label in is kept in a GeoPackage; give a name that ends in .gpkg")
        refuse_inputs([out], [path] if aoi is None else [path, Path(aoi)])
        refuse_existing([out], overwrite)
    refuse_below(1, faults, size=size)
    refuse_below(0, faults, seed=seed)
    _refuse_odd(faults, standard_error, minimum)
    with bounded_cache(), ExitStack() as stack:
        with faults.collect():
            found = open_class_map(path, stack, aoi=aoi)
            scene, legend = found.scene, found.legend
            expected = _expected(str(expected_accuracy), legend)
        faults.raise_any()
        classes = found.measure(progress)
        there = classes.pixels > 0
        if not there.any():
            raise InputError(f"{path}: no pixel has a class{' inside the --aoi' if aoi else ''}; nothing can be drawn")
        areas = classes.area_m2[there]
        points = np.zeros(len(legend), int)
        total = sample_size(areas.tolist(), expected[there].tolist(), standard_error) if size is None else size
        points[there] = allocate(total, areas.tolist(), classes.pixels[there].tolist(), minimum)
        table = draw_points(found, classes, points, np.random.default_rng(seed), progress)
        with publish(out, overwrite=overwrite) as partial:
            write_points(table, legend, math.sqrt(abs(scene.transform.determinant)), partial)
    return PointSample(out, path, tuple(_rows(legend, classes, points)))


def _refuse_odd(faults: Faults, standard_error: float, minimum: int) -> None:
    with faults.collect():
        if not 0 < standard_error < 0.5:
            raise InputError(f"--standard-error {standard_error:g}: above 0 and below 0.5 is needed, such as 0.01")
    with faults.collect():
        if minimum < 2:
            raise InputError(f"--minimum {minimum}: 2 points or more are needed, or a class has no error")


def _expected(text: str, legend: Legend) -> np.ndarray:
    """Expected user's accuracy of every class."""
    expected = np.full(len(legend), 0.8)
    named: dict[int, float] = {}
    for part in text.split(","):
        name, separator, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise InputError(
                f"--expected-accuracy {text}: '{part}' is no share above 0 and below 1; write 0.8 or 0.8,water=0.95"
            )
        if separator:
            try:
                named[legend.index(name)] = value
            except LegendError as error:
                raise InputError(f"--expected-accuracy {text}: {error}") from None
        else:
            expected[:] = value
    expected[list(named)] = list(named.values())
    return expected


def _rows(legend: Legend, classes: ClassAmounts, points: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "value": entry.value, "name": entry.name, "pixels": int(classes.pixels[index]),
            "area_ha": float(classes.area_m2[index]) / 1e4, "points": int(points[index]),
        }
        for index, entry in enumerate(legend)
    ]  # fmt: skip
