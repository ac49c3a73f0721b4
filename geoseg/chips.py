"""A chip folder: what stands in chips.json, and its chips one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from geoseg.display import Displayed
from geoseg.errors import FormatError, InputError, RasterError
from geoseg.files import from_json, read_json
from geoseg.legend import IGNORE, Legend
from geoseg.raster import open_raster
from geoseg.scenes import valid_pixels
from geoseg.spec import ImageSpec
from geoseg.split import SPLITS
from geoseg.version import VERSION

INDEX = "chips.json"
FOOTPRINTS = "index.gpkg"
_FORMAT = 1


@dataclass(frozen=True)
class Chip:
    """One training sample.

    Attributes:
        scene: name of the scene it was cut from.
        row: pixel row of its upper left corner in the scene.
        col: pixel column.
        split: `train`, `val` or `test`.
        block: number of its block of ground.
        valid: share of usable pixels.
        class_pixels: labelled pixels per class index.
    """

    scene: str
    row: int
    col: int
    split: str
    block: int
    valid: float
    class_pixels: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.scene}_{self.row:06d}_{self.col:06d}"

    @property
    def image(self) -> str:
        """Path of the image, relative to the chip folder."""
        return f"{self.split}/images/{self.name}.tif"

    @property
    def mask(self) -> str:
        """Path of the mask, relative to the chip folder."""
        return f"{self.split}/masks/{self.name}.tif"


@dataclass(frozen=True, repr=False)
class ChipFolder(Displayed):
    """A finished chip folder.

    Attributes:
        path: the folder.
        image: what the chips hold.
        legend: what the masks mean.
        chips: all of them.
        facts: how the folder was made: options, seed, split, what was left out.
    """

    path: Path
    image: ImageSpec
    legend: Legend
    chips: tuple[Chip, ...]
    facts: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        facts = self.facts["split"]
        return "\n".join(
            [
                f"{self.path}: {len(self.chips)} chips of {self.image.chip_size} x {self.image.chip_size}",
                f"  bands    {', '.join(self.image.names)} ({'/'.join(sorted(set(self.image.dtypes)))})",
                *split_lines(self.chips, self.legend),
                f"  split    by {facts['by']}; {100 * facts['shared_ground']:.1f} % of val and test ground is in another split too",
                *left_out_lines(self.facts["left_out"]),
                *outside_lines(self.facts["outside"]),
            ]
        )

    def of(self, split: str) -> list[Chip]:
        """The chips of one split."""
        return [chip for chip in self.chips if chip.split == split]

    def ground(self, *splits: str) -> dict[str, list[tuple[float, float]]]:
        """Longitude and latitude of the corners of the scenes that the chips of some splits were cut from.

        Pictures are left out, which have no place, and so is what was tiled before this was kept.
        """
        scenes = {chip.scene for split in splits for chip in self.of(split)}
        known: dict[str, Any] = self.facts.get("ground", {})
        return {name: corners for name, corners in known.items() if name in scenes and corners}

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all that chips.json says."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def class_pixels(self, split: str) -> np.ndarray:
        """Labelled pixels of each class in a split, (classes,) int64."""
        return class_pixels(self.of(split), self.legend)

    def read(self, chip: Chip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (bands, rows, cols), valid (rows, cols) bool and mask (rows, cols) uint8 class indices of one chip.

        Raises:
            RasterError: a file is missing, damaged, or not like the others.
        """
        pixels, valid = read_image(self.path / chip.image)
        bands, dtype = len(self.image.bands), np.result_type(*self.image.dtypes)
        if (len(pixels), pixels.dtype) != (bands, dtype):
            raise RasterError(
                f"{self.path / chip.image}: {len(pixels)} bands of {pixels.dtype} found, the chips of this folder have {bands} of "
                f"{dtype}; make them again"
            )
        with open_raster(self.path / chip.mask) as dataset:
            mask = dataset.read(1)
        if int(mask[mask != IGNORE].max(initial=0)) >= len(self.legend):
            raise InputError(
                f"{self.path / chip.mask}: class index {mask[mask != IGNORE].max()} found, the legend has "
                f"{len(self.legend)} classes; make the chips again"
            )
        return pixels, valid, mask

    def to_dict(self) -> dict[str, Any]:
        """As it stands in chips.json."""
        return {
            "format": _FORMAT,
            "geoseg_version": VERSION,
            "image": self.image.to_dict(),
            "legend": self.legend.to_list(),
            **self.facts,
            "splits": split_counts(self.chips, self.legend),
            "chips": [asdict(chip) for chip in self.chips],
        }


def open_chips(path: str | Path) -> ChipFolder:
    """Open a chip folder made by `geoseg tile`.

    Raises:
        MissingFileError: no chips.json, so it is not there or was not finished.
        FormatError: damaged, or from a newer version.
    """
    path = Path(path)
    document = read_json(path / INDEX, newest=_FORMAT, what="a chip folder made by geoseg tile")
    try:
        index = from_json(_Index, document)
        legend = Legend.from_list(index.legend)
        for chip in index.chips:
            _refuse_odd(chip, len(legend))
        told = ("options", "split", "left_out", "outside", "ground")
        facts: dict[str, Any] = {key: document[key] for key in told if key in document}
        return ChipFolder(path, index.image, legend, index.chips, facts)
    except InputError as error:
        raise FormatError(f"{path / INDEX}: {error}; make the chips again") from None


@dataclass(frozen=True)
class _SplitFacts:
    by: str
    shared_ground: float


@dataclass(frozen=True)
class _Index:
    """What stands in chips.json."""

    image: ImageSpec
    legend: list[dict[str, Any]]
    chips: tuple[Chip, ...]
    options: dict[str, Any]
    split: _SplitFacts
    left_out: dict[str, int]
    outside: float | None
    ground: dict[str, list[tuple[float, float]] | None] = field(default_factory=dict)


def _refuse_odd(chip: Chip, classes: int) -> None:
    if Path(chip.image).parts[:-1] != (chip.split, "images") or chip.split not in SPLITS or "\0" in chip.scene:
        raise FormatError(f"a chip of '{chip.scene}' in '{chip.split}' found, which lies outside the folder")
    if len(chip.class_pixels) != classes or not all(0 <= count < 2**40 for count in chip.class_pixels):
        raise FormatError(
            f"{chip.name}: counts of {len(chip.class_pixels)} classes found, where {classes} of 0 or more are needed"
        )


def read_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (bands, rows, cols) of a whole image, and where they are valid, (rows, cols) bool; alpha is no band.

    Raises:
        RasterError: missing, damaged, or of colours by number.
    """
    with open_raster(path) as dataset:
        if dataset.colorinterp[0] == ColorInterp.palette:
            raise RasterError(
                f"{path}: an image with a palette found; turn it into bands with: gdal_translate -expand rgb IN OUT"
            )
        kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
        bands = [number for number, kind in kinds if kind != ColorInterp.alpha]
        pixels = dataset.read(bands)
        nodata = [dataset.nodatavals[number - 1] for number in bands]
        return pixels, valid_pixels(pixels, nodata, [dataset], Window(0, 0, dataset.width, dataset.height))


def class_pixels(chips: Iterable[Chip], legend: Legend) -> np.ndarray:
    """Labelled pixels of each class in some chips, (classes,) int64."""
    return np.array([chip.class_pixels for chip in chips], np.int64).reshape(-1, len(legend)).sum(axis=0)


def split_counts(chips: Sequence[Chip], legend: Legend) -> dict[str, dict[str, Any]]:
    """Chips and labelled pixels per class of each split."""
    counts = {}
    for split in SPLITS:
        own = [chip for chip in chips if chip.split == split]
        pixels = dict(zip(legend.names, class_pixels(own, legend).tolist(), strict=True))
        counts[split] = {"chips": len(own), "class_pixels": pixels}
    return counts


def split_lines(chips: Sequence[Chip], legend: Legend) -> list[str]:
    """A line for each split: how many chips, and what is in them."""
    lines = []
    for split, counts in split_counts(chips, legend).items():
        total = max(sum(counts["class_pixels"].values()), 1)
        shares = ", ".join(f"{name} {100 * pixels / total:.1f} %" for name, pixels in counts["class_pixels"].items())
        blocks = len({chip.block for chip in chips if chip.split == split})
        told = f" in {blocks} block{'s' * (blocks != 1)} of ground   {shares}" if blocks else ""
        lines.append(f"  {split:<8} {counts['chips']:>5} chips{told}")
    return lines


def left_out_lines(left_out: dict[str, int]) -> list[str]:
    """A line on the chips that were left out, if any were."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    return [f"  left out {reasons}"] if reasons else []


def outside_lines(share: float | None) -> list[str]:
    """A line on the ground outside every polygon, where it was taken for background."""
    if share is None:
        return []
    return [
        f"  outside  {100 * share:.1f} % of the labelled pixels are background, as is all ground outside the polygons; "
        f"where these are incomplete, use --unlabelled ignore or --aoi"
    ]
