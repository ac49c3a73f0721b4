"""Image and mask pairs made elsewhere as a chip folder: which files belong together, and what stands in the masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np

from geoseg.chips import INDEX, Chip, ChipFolder, left_out_lines, open_chips, read_image, split_lines
from geoseg.errors import Faults, InputError, LabelError, RasterError
from geoseg.legend import IGNORE
from geoseg.picture_layouts import Pair, Pairs, find_pairs, refuse_unfinished
from geoseg.picture_masks import Facts, masks_legend, read_mask
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache, driver_of
from geoseg.scenes import describe_scene
from geoseg.spec import ImageSpec, StatisticsSum, scale_bands
from geoseg.split import SPLITS

_MAX_FAULTS = 20


@dataclass(frozen=True)
class Picture(Chip):
    """An image and its mask, made elsewhere: a scene that is one chip as a whole.

    Attributes:
        image_file: path relative to the folder.
        mask_file: likewise.
    """

    image_file: str
    mask_file: str

    @property
    def name(self) -> str:
        return self.scene

    @property
    def image(self) -> str:
        return self.image_file

    @property
    def mask(self) -> str:
        return self.mask_file


@dataclass(frozen=True)
class PictureFolder(ChipFolder):
    """A folder of pictures, read as a chip folder is; the pictures may be of any sizes.

    Attributes:
        codes: what stands in the masks for each class index, rising: a value, or 0xrrggbb where three bands tell a
            colour. All else is ignored.
    """

    codes: tuple[int, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {len(self.chips)} pairs of image and mask, their longer side mostly {self.image.chip_size}",
            f"  bands    {', '.join(self.image.names)} ({'/'.join(sorted(set(self.image.dtypes)))})",
            *split_lines(self.chips, self.legend),
            f"  split    by {self.facts['split']['by']}",
        ]
        return "\n".join([*lines, *left_out_lines(self.facts["left_out"])])

    def read(self, chip: Chip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `ChipFolder.read` has it.

        Raises:
            RasterError, LabelError: a file is missing or damaged.
        """
        pixels, valid = read_image(self.path / chip.image)
        codes = read_mask(self.path / chip.mask).codes
        # The codes rise with the class indices, so the place of one among them is its index.
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        known = valid & (np.array(self.codes)[places] == codes)
        return pixels, valid, np.where(known, places, IGNORE).astype(np.uint8)


def open_samples(path: str | Path, *, progress: Progress = silent) -> ChipFolder:
    """Open what training takes: a chip folder made by `geoseg tile`, or a folder of image and mask pairs made elsewhere.

    Pairs may lie in twin folders (`images` and `masks`), side by side (`NAME.png` and `NAME_mask.png`), either of these in
    `train`, `val` and `test`, or as in Pascal VOC and in the Oxford-IIIT pets. Where the folder has no split, a hash of the
    name shares them out 8:1:1. Nothing is written. All of them are read once, for the classes and the statistics.

    Args:
        path: the folder.
        progress: called after each pair.

    Raises:
        MissingFileError: neither is there, or the chips are there but not their index.
        GeosegError: pairs that do not go together, damaged files, masks that are none.
    """
    path = Path(path)
    if (path / INDEX).exists() or not path.is_dir():
        return open_chips(path)
    refuse_unfinished(path)
    pairs = find_pairs(path)
    with bounded_cache():
        return _survey(path, pairs, progress)


def _survey(path: Path, found: Pairs, progress: Progress) -> PictureFolder:
    statistics, faults, facts = StatisticsSum(), Faults(), list[Facts]()
    for done, pair in enumerate(found.pairs, 1):
        with faults.collect():
            entry, pixels, valid = _look(pair)
            facts.append(entry)
            if pair.split == "train" and entry.scene.dtypes == facts[0].scene.dtypes:
                statistics.add(pixels, valid)
        if len(faults.errors) == _MAX_FAULTS:
            break
        progress("read pictures", done, len(found.pairs))
    _refuse_unlike(facts, faults)
    faults.raise_any()
    if not statistics.count:
        raise InputError(f"{path}: no pixel of an image to train on; put pairs into {SPLITS[0]} or check the images")
    legend, codes = masks_legend(path, found.kind, facts)
    chips = tuple(_picture(path, number, entry, codes) for number, entry in enumerate(facts))
    told = {
        "options": {},
        "split": {"by": found.split_by},
        "left_out": {reason: len(names) for reason, names in found.left_out.items()},
        "outside": None,
    }
    return PictureFolder(path, _image_spec(facts, statistics), legend, chips, told, codes)


def _look(pair: Pair) -> tuple[Facts, np.ndarray, np.ndarray]:
    for path in (pair.image, pair.mask):
        _refuse_truncated_png(path)
    scene, (pixels, valid), mask = describe_scene(pair.image), read_image(pair.image), read_mask(pair.mask)
    if mask.codes.shape != valid.shape:
        sizes = [f"{height} x {width}" for height, width in (mask.codes.shape, valid.shape)]
        raise LabelError(
            f"{pair.mask}: {sizes[0]} found, its image {pair.image.name} has {sizes[1]}; make them of one size"
        )
    codes = _count(mask.codes.ravel() if valid.all() else mask.codes[valid])
    palette = {code: mask.palette[code] for code in codes if code in mask.palette}
    return Facts(pair, scene, float(valid.mean()), mask.bands, codes, palette), pixels, valid


def _refuse_truncated_png(path: Path) -> None:
    """GDAL reads garbage out of a PNG that was cut off, without a word (GDAL 3.10); the last chunk of a whole one is IEND."""
    if driver_of(path) == "PNG":
        with open(path, "rb") as file:
            file.seek(max(path.stat().st_size - 4096, 0))
            if b"IEND" not in file.read():
                raise RasterError(f"{path}: truncated, the end of a PNG is missing; fetch the file again")


def _count(codes: np.ndarray) -> dict[int, int]:
    """How often each code stands there; of a photograph's many colours, enough to tell that they are no classes."""
    if codes.dtype == np.uint8:
        counts = np.bincount(codes)
        values = np.flatnonzero(counts)
        return dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    values, counts = np.unique(codes, return_counts=True)
    return {code: n for code, n in zip(values[: 2 * IGNORE].tolist(), counts.tolist(), strict=False) if code >= 0}


def _refuse_unlike(facts: Sequence[Facts], faults: Faults) -> None:
    """Collect the first image, and the first mask, that differs from those before it in what all must have in common."""
    image = next((entry.scene for entry in facts if entry.scene.dtypes != facts[0].scene.dtypes), None)
    if image:
        one, other = (f"{len(s.dtypes)} bands of {'/'.join(sorted(set(s.dtypes)))}" for s in (image, facts[0].scene))
        with faults.collect():
            raise RasterError(
                f"{image.path}: {one} found, {facts[0].scene.path.name} has {other}; all images need the same"
            )
    mask = next((entry for entry in facts if entry.bands != facts[0].bands), None)
    if mask:
        first = facts[0]
        with faults.collect():
            raise LabelError(
                f"{mask.pair.mask}: {mask.bands} bands found, {first.pair.mask.name} has {first.bands}; all masks need the same"
            )


def _picture(path: Path, number: int, entry: Facts, codes: Sequence[int]) -> Picture:
    image, mask = (file.relative_to(path).as_posix() for file in (entry.pair.image, entry.pair.mask))
    class_pixels = tuple(entry.codes.get(code, 0) for code in codes)
    valid = round(entry.valid, 4)
    return Picture(entry.pair.image.stem, 0, 0, entry.pair.split, number, valid, class_pixels, image, mask)


def _image_spec(facts: Sequence[Facts], statistics: StatisticsSum) -> ImageSpec:
    first = facts[0].scene
    count = len(first.dtypes)
    picture = driver_of(first.paths[0]) in ("PNG", "JPEG")
    names = {1: ("grey",), 3: ("red", "green", "blue")}.get(count, first.band_names) if picture else first.band_names
    bands = scale_bands(
        statistics.result(), names=names, sources=range(1, count + 1), dtypes=first.dtypes,
        nodata=[value if value is not None and math.isfinite(value) else None for value in first.nodata],
    )  # fmt: skip
    side = median_low(max(entry.scene.height, entry.scene.width) for entry in facts)
    return ImageSpec(bands, count, first.pixel_size_m, side, map_pixel_size_m=first.map_pixel_size_m)
