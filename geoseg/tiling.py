"""The verb `tile`: scenes and labels to a chip folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window, transform

from geoseg.chips import FOOTPRINTS, INDEX, Chip, ChipFolder, open_chips
from geoseg.choices import Other, Scaling, SplitBy, Unlabelled
from geoseg.errors import Faults, GeosegError, RasterError
from geoseg.files import refuse_existing, refuse_inputs, stage, warn_of_little_room, write_json
from geoseg.geopackage import write_layer
from geoseg.geotiff import write_geotiff
from geoseg.legend import IGNORE
from geoseg.pairs import PairReader, TileOptions
from geoseg.preflight import alike_bands, preflight_scenes
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.scenes import Scene
from geoseg.spec import ImageSpec, StatisticsSum, refuse_odd_scaling, scale_bands
from geoseg.survey import Plan, survey

_WILD = 1e30
"""No sensor or index measures this; -3.4e38 and the like are what some programs write for nodata."""


def tile(
    scenes: str | Path | Sequence[str | Path],
    *,
    labels: str | Path,
    out: str | Path = "chips",
    chip_size: int = 256,
    stride: int | None = None,
    bands: str | Sequence[int | str] | None = None,
    classes: str | Path | None = None,
    class_field: str | None = None,
    background: str | None = None,
    other: Other = "error",
    label_nodata: int | None = None,
    all_touched: bool = False,
    unlabelled: Unlabelled = "background",
    aoi: str | Path | None = None,
    split: str = "8:1:1",
    split_by: SplitBy = "block",
    block_size: int | None = None,
    max_nodata: float = 0.5,
    min_label: float = 0.0,
    negatives: float = 1.0,
    boundary: int | None = None,
    instances: bool = False,
    scale: Scaling = "dataset",
    stack: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ChipFolder | Plan:
    """Cut scenes and their labels into chips with masks, split for training, validation and test.

    Args:
        scenes: raster files, or folders of them; with `stack`, folders of single-band files.
        labels: a mask raster, a polygon file, or a folder of either with the scenes' stems.
        out: the chip folder.
        chip_size: rows and columns of a chip.
        stride: pixels from one chip to the next; None is the chip size.
        bands: numbers or names, such as `4,3,2`; None takes all.
        classes: `0=background,1=cultivated:#e5b52a`, or a CSV or JSON file; None reads them off the labels.
        class_field: column of a polygon file that tells the class.
        background: name or value of the class that is not vectorised.
        other: what to do about label values outside the legend: `error`, or `ignore`.
        label_nodata: a label value that means unknown, besides the file's own nodata.
        all_touched: burn every pixel a polygon touches, rather than those whose centre it covers.
        unlabelled: what valid pixels outside every polygon are: `background`, or `ignore`.
        aoi: polygon file; labels are complete inside it and ignored outside.
        split: shares of train, val and test.
        split_by: what is kept together: `block` of ground, `scene`, or nothing (`random`).
        block_size: chips per side of a block; None takes the largest of 8, 4, 2, 1 that leaves 30 blocks.
        max_nodata: largest share of a chip that may be nodata, 0 to 1.
        min_label: least share of a chip that must be labelled, 0 to 1.
        negatives: share of the training chips with nothing but background that is kept, 0 to 1.
        boundary: pixels of the rim of each field that become a class of their own, called `boundary`, so that fields that
            touch can be told apart; None makes no such class. A polygon is a field, or what has one class in a mask raster.
        instances: each value of a mask raster is the number of a field, and 0 is background.
        scale: how bands are brought to the network's range; see `geoseg.spec.scale_bands`.
        stack: each scene is a folder of single-band files.
        dry_run: only say what would be written.
        seed: of the split.
        overwrite: replace an earlier chip folder.
        progress: called after each chip.

    Returns:
        The chip folder; with `dry_run` the plan.

    Raises:
        GeosegError: bad input or a full disk; nothing is left behind.
    """
    options = TileOptions(
        chip_size=chip_size, stride=stride, classes=classes, class_field=class_field, background=background, other=other,
        label_nodata=label_nodata, all_touched=all_touched, unlabelled=unlabelled, aoi=aoi, split=split,
        split_by=split_by, block_size=block_size, max_nodata=max_nodata, min_label=min_label, negatives=negatives,
        boundary=boundary, instances=instances, seed=seed,
    )  # fmt: skip
    inputs, out, faults = [scenes] if isinstance(scenes, str | Path) else list(scenes), Path(out), Faults()
    with bounded_cache():
        with faults.collect():
            refuse_existing([out / INDEX], overwrite or dry_run)
        found = preflight_scenes(inputs, stack=stack, faults=faults)
        sources = alike_bands(found, bands, faults)
        if sources:
            with faults.collect():
                refuse_odd_scaling(scale, len(sources))
        plan = survey(found, labels, sources, options, faults, progress)
        if dry_run:
            return plan
        earlier = _earlier_files(out)
        read = [*plan.pairs.label_paths.values(), *(path for scene in found for path in scene.paths)]
        read += [Path(path) for path in (aoi, classes) if path]
        refuse_inputs([out / name for name in (INDEX, *earlier, *_files(plan.chips))], read)
        warn_of_little_room(out, plan.most_bytes)
        with stage(out, last=INDEX, replaces=earlier, overwrite=overwrite) as staging:
            _write(plan, staging, out, scale, progress)
    return open_chips(out)


def _earlier_files(out: Path) -> list[str]:
    try:
        return _files(open_chips(out).chips)
    except GeosegError:
        return []


def _files(chips: Sequence[Chip]) -> list[str]:
    return [FOOTPRINTS, *(name for chip in chips for name in (chip.image, chip.mask))]


def _write(plan: Plan, staging: Path, out: Path, scale: Scaling, progress: Progress) -> None:
    statistics = StatisticsSum()
    for split in {chip.split for chip in plan.chips}:
        for kind in ("images", "masks"):
            (staging / split / kind).mkdir(parents=True)
    done = 0
    for name, chips in groupby(plan.chips, attrgetter("scene")):
        with plan.pairs.open(name) as pair:
            for chip in chips:
                pixels, valid = _write_chip(plan, chip, pair, staging)
                if chip.split == "train":
                    statistics.add(pixels, valid)
                done += 1
                progress("write chips", done, len(plan.chips))
    image = _image_spec(plan, statistics, scale)
    folder = ChipFolder(out, image, plan.legend, plan.chips, _facts(plan))
    _write_footprints(plan, staging / FOOTPRINTS)
    write_json(staging / INDEX, folder.to_dict())


def _write_chip(plan: Plan, chip: Chip, pair: PairReader, staging: Path) -> tuple[np.ndarray, np.ndarray]:
    scene, size = plan.pairs.scenes[chip.scene], plan.pairs.options.chip_size
    window = Window(chip.col, chip.row, size, size)
    pixels, valid, values, known = pair.read(window)
    _refuse_unnamed_nodata(scene, pixels, valid)
    nodata = _common_nodata([scene.nodata[source - 1] for source in plan.pairs.sources], pixels.dtype)
    if nodata is not None:
        pixels[:, ~valid] = nodata
    place: dict[str, Any] = {"crs": scene.crs, "transform": transform(window, scene.transform)}
    names = [scene.band_names[source - 1] for source in plan.pairs.sources]
    # Without a nodata value to tell them, pixels that are not valid are told by an internal mask.
    masked = valid if nodata is None and not valid.all() else None
    write_geotiff(staging / chip.image, pixels, nodata=nodata, valid=masked, band_names=names, **place)
    mask = plan.mask(values, known)
    write_geotiff(staging / chip.mask, mask[None], nodata=IGNORE, band_names=["class index"], **place)
    return pixels, valid


def _refuse_unnamed_nodata(scene: Scene, pixels: np.ndarray, valid: np.ndarray) -> None:
    if pixels.dtype.kind == "f" and valid.any():
        wild = max(pixels[:, valid].min(), pixels[:, valid].max(), key=abs)
        if abs(wild) > _WILD:
            raise RasterError(
                f"{scene.path}: value {wild:g} found, which can only mean nodata; say so with: "
                f"gdal_edit.py -a_nodata {wild!s} {scene.path.name}"
            )


def _common_nodata(values: Sequence[float | None], dtype: np.dtype) -> float | None:
    """The nodata value that all bands share, if they do and the chips' dtype can hold it (7.5 marks no whole number)."""
    first = values[0]
    if first is None or not all(value == first or (value != value and first != first) for value in values):
        return None
    return first if dtype.kind == "f" or float(first).is_integer() else None


def _image_spec(plan: Plan, statistics: StatisticsSum, scale: Scaling) -> ImageSpec:
    scenes = list(plan.pairs.scenes.values())
    first, at = scenes[0], [source - 1 for source in plan.pairs.sources]
    bands = scale_bands(
        statistics.result(), names=[first.band_names[band] for band in at], sources=plan.pairs.sources,
        dtypes=[first.dtypes[band] for band in at], nodata=[_finite(first.nodata[band]) for band in at], scaling=scale,
    )  # fmt: skip
    placed = sorted((scene for scene in scenes if scene.pixel_size_m), key=lambda scene: scene.pixel_size_m or 0)
    middle = placed[len(placed) // 2] if placed else None
    size, map_size = (middle.pixel_size_m, middle.map_pixel_size_m) if middle else (None, None)
    return ImageSpec(bands, len(first.band_names), size, plan.pairs.options.chip_size, scale, map_size)


def _finite(nodata: float | None) -> float | None:
    """NaN and infinity cannot stand in JSON, and need no saying: they are never data."""
    return nodata if nodata is not None and math.isfinite(nodata) else None


def _facts(plan: Plan) -> dict[str, Any]:
    options = asdict(plan.pairs.options)
    return {
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "split": {
            "by": options["split_by"],
            "ratio": options["split"],
            "block_size": plan.split.block_size,
            "shared_ground": plan.split.shared_ground,
            "seed": options["seed"],
        },
        "left_out": plan.left_out,
        "outside": plan.outside,
        "ground": {name: scene.footprint for name, scene in plan.pairs.scenes.items()},
    }


def _write_footprints(plan: Plan, path: Path) -> None:
    """The chips' outlines as a layer, so that the split can be seen on the map."""
    size = plan.pairs.options.chip_size
    crs = "EPSG:4326" if any(scene.crs for scene in plan.pairs.scenes.values()) else None
    # The value keeps apart what a GeoPackage does not: names that differ in their case.
    columns = [f"{entry.name}_{entry.value}_pct" for entry in plan.legend]
    rows: list[dict[str, Any]] = []
    outlines: list[shapely.Polygon | None] = []
    for name, own_chips in groupby(plan.chips, attrgetter("scene")):
        scene, chips = plan.pairs.scenes[name], list(own_chips)
        own = gpd.GeoSeries(
            [shapely.Polygon(scene.outline(Window(c.col, c.row, size, size))) for c in chips], crs=scene.crs
        )
        # A picture without a CRS has no place among scenes that have one.
        outlines.extend(own.to_crs(crs) if scene.crs else [None if crs else outline for outline in own])
        for chip in chips:
            shares = 100 * np.array(chip.class_pixels) / sum(chip.class_pixels)
            rows.append({"chip": chip.name, "split": chip.split, "scene": chip.scene, "row": chip.row, "col": chip.col,
                         "block": chip.block, "valid_pct": 100 * chip.valid,
                         **dict(zip(columns, shares.tolist(), strict=True))})  # fmt: skip
    write_layer(path, "chips", gpd.GeoDataFrame(rows, geometry=outlines, crs=crs), "Polygon")
