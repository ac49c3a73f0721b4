"""The verb `tile`: scenes and labels to a chip folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window, transform

from geoseg.chips import FOOTPRINTS, INDEX, Chip, ChipFolder, open_chips
from geoseg.choices import Other, Scaling, SplitBy, Unlabelled
from geoseg.errors import Faults, GeosegError, InputError, MismatchWarning
from geoseg.files import refuse_existing, stage, write_json
from geoseg.legend import IGNORE
from geoseg.preflight import alike_bands, preflight_labels, preflight_scenes
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache, write_geotiff
from geoseg.scenes import Scene
from geoseg.spec import ImageSpec, StatisticsSum, scale_bands
from geoseg.split import parse_ratio
from geoseg.survey import PairReader, Plan, TileOptions, survey


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
        seed=seed,
    )  # fmt: skip
    inputs = [scenes] if isinstance(scenes, str | Path) else list(scenes)
    with bounded_cache():
        found, label_paths, sources = _preflight(inputs, labels, bands, stack, options, Path(out), overwrite or dry_run)
        plan = survey(found, label_paths, sources, options, progress)
        if dry_run:
            return plan
        with stage(out, last=INDEX, replaces=_earlier_files(Path(out)), overwrite=overwrite) as staging:
            _write(plan, staging, Path(out), scale, progress)
    return open_chips(out)


def _preflight(
    inputs: Sequence[str | Path],
    labels: str | Path,
    bands: str | Sequence[int | str] | None,
    stack: bool,
    options: TileOptions,
    out: Path,
    overwrite: bool,
) -> tuple[list[Scene], list[Path], tuple[int, ...]]:
    faults = Faults()
    with faults.collect():
        refuse_existing([out / INDEX], overwrite)
    with faults.collect():
        _refuse_odd_options(options)
    found = preflight_scenes(inputs, stack=stack, faults=faults)
    sources = alike_bands(found, bands, faults)
    label_paths = preflight_labels(found, labels, faults)
    faults.raise_any()
    return found, label_paths, sources


def _refuse_odd_options(options: TileOptions) -> None:
    parse_ratio(options.split)
    if options.chip_size < 1 or (options.stride is not None and not 1 <= options.stride <= options.chip_size):
        raise InputError(
            f"--chip-size {options.chip_size} --stride {options.stride}: 1 or more is needed, the stride at most the chip size"
        )
    for name in ("max_nodata", "min_label", "negatives"):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: a share from 0 to 1 is needed")


def _earlier_files(out: Path) -> list[str]:
    try:
        chips = open_chips(out).chips
    except GeosegError:
        return []
    return [FOOTPRINTS, *(name for chip in chips for name in (chip.image, chip.mask))]


def _write(plan: Plan, staging: Path, out: Path, scale: Scaling, progress: Progress) -> None:
    statistics = StatisticsSum()
    for split in {chip.split for chip in plan.chips}:
        for kind in ("images", "masks"):
            (staging / split / kind).mkdir(parents=True)
    done = 0
    for name in plan.scenes:
        with plan.open(name) as pair:
            for chip in (chip for chip in plan.chips if chip.scene == name):
                pixels, valid = _write_chip(plan, chip, pair, staging)
                if chip.split == "train":
                    statistics.add(pixels, valid)
                done += 1
                progress("write chips", done, len(plan.chips))
    image = _image_spec(plan, statistics, scale)
    facts = {"options": _jsonable(asdict(plan.options)), "split": _split_facts(plan), "left_out": plan.left_out}
    folder = ChipFolder(out, image, plan.legend, plan.chips, facts)
    _write_footprints(plan, staging / FOOTPRINTS)
    write_json(staging / INDEX, folder.to_dict())


def _write_chip(plan: Plan, chip: Chip, pair: PairReader, staging: Path) -> tuple[np.ndarray, np.ndarray]:
    scene, size = plan.scenes[chip.scene], plan.options.chip_size
    window = Window(chip.col, chip.row, size, size)
    pixels, valid, values, known = pair.read(window)
    nodata = _common_nodata([scene.nodata[source - 1] for source in plan.sources])
    if nodata is not None:
        pixels[:, ~valid] = nodata
    place: dict[str, Any] = {"crs": scene.crs, "transform": transform(window, scene.transform)}
    names = [scene.band_names[source - 1] for source in plan.sources]
    # Without a nodata value to tell them, pixels that are not valid are told by an internal mask.
    masked = valid if nodata is None and not valid.all() else None
    write_geotiff(staging / chip.image, pixels, nodata=nodata, valid=masked, band_names=names, **place)
    mask = plan.mask(values, known)
    write_geotiff(staging / chip.mask, mask[None], nodata=IGNORE, band_names=["class index"], **place)
    return pixels, valid


def _common_nodata(values: Sequence[float | None]) -> float | None:
    """The nodata value that all bands share, if they do."""
    first = values[0]
    return first if all(value == first or (value != value and first != first) for value in values) else None


def _image_spec(plan: Plan, statistics: StatisticsSum, scale: Scaling) -> ImageSpec:
    scenes = list(plan.scenes.values())
    sizes = sorted(scene.pixel_size_m for scene in scenes if scene.pixel_size_m)
    if sizes and sizes[-1] > 1.25 * sizes[0]:
        warnings.warn(
            f"pixels of {sizes[0]:.3g} to {sizes[-1]:.3g} m in one chip folder; scenes of one pixel size train better",
            MismatchWarning,
            stacklevel=3,
        )
    first = scenes[0]
    at = [source - 1 for source in plan.sources]
    # NaN cannot stand in JSON, and needs no saying: it is never data.
    nodata = [None if value is None or value != value else value for value in (first.nodata[band] for band in at)]
    bands = scale_bands(
        statistics.result(), names=[first.band_names[band] for band in at], sources=plan.sources,
        dtypes=[first.dtypes[band] for band in at], nodata=nodata, scaling=scale,
    )  # fmt: skip
    middle = sizes[len(sizes) // 2] if sizes else None
    return ImageSpec(bands, len(first.band_names), middle, plan.options.chip_size, scale)


def _split_facts(plan: Plan) -> dict[str, Any]:
    return {
        "by": plan.options.split_by,
        "ratio": plan.options.split,
        "block_size": plan.split.block_size,
        "shared_ground": plan.split.shared_ground,
        "seed": plan.options.seed,
    }


def _jsonable(options: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}


def _write_footprints(plan: Plan, path: Path) -> None:
    """The chips' outlines as a layer, so that the split can be seen on the map."""
    rows, outlines = [], []
    systems = {scene.crs.to_wkt() for scene in plan.scenes.values() if scene.crs}
    size = plan.options.chip_size
    for chip in plan.chips:
        place = plan.scenes[chip.scene].transform
        left, top, right, bottom = chip.col, chip.row, chip.col + size, chip.row + size
        outlines.append(
            shapely.Polygon([place @ at for at in ((left, top), (right, top), (right, bottom), (left, bottom))])
        )
        labelled = max(sum(chip.class_pixels), 1)
        shares = {
            f"{name}_pct": 100 * n / labelled for name, n in zip(plan.legend.names, chip.class_pixels, strict=True)
        }
        rows.append({"chip": chip.name, "split": chip.split, "scene": chip.scene, "row": chip.row, "col": chip.col,
                     "block": chip.block, "valid_pct": 100 * chip.valid, **shares})  # fmt: skip
    frame = gpd.GeoDataFrame(rows, geometry=outlines)
    if systems:
        parts = []
        for name, scene in plan.scenes.items():
            part = frame[frame.scene == name]
            # A picture without a CRS has no place among scenes that have one.
            parts.append(
                part.set_crs(scene.crs).to_crs("EPSG:4326")
                if scene.crs
                else part.set_geometry([None] * len(part), crs="EPSG:4326")
            )
        frame = gpd.GeoDataFrame(gpd.pd.concat(parts), crs="EPSG:4326")
    frame.to_file(path, layer="chips", driver="GPKG", VERSION="1.3")
