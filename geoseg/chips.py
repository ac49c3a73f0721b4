"""A chip folder: what stands in chips.json, and its chips one by one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

import geoseg
from geoseg.errors import FormatError, InputError
from geoseg.files import read_json
from geoseg.legend import IGNORE, Legend
from geoseg.raster import open_raster
from geoseg.scenes import valid_pixels
from geoseg.spec import ImageSpec
from geoseg.split import SPLITS

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


@dataclass(frozen=True)
class ChipFolder:
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
        lines = [f"{self.path}: {len(self.chips)} chips of {self.image.chip_size} x {self.image.chip_size}"]
        lines.append(f"  bands    {', '.join(self.image.names)} ({'/'.join(sorted(set(self.image.dtypes)))})")
        for split in SPLITS:
            chips = self.of(split)
            pixels = self.class_pixels(split)
            shares = ", ".join(
                f"{name} {100 * count / max(pixels.sum(), 1):.1f} %"
                for name, count in zip(self.legend.names, pixels, strict=True)
            )
            lines.append(f"  {split:<8} {len(chips):>6} chips" + (f"   {shares}" if len(chips) else ""))
        facts = self.facts["split"]
        lines.append(
            f"  split    by {facts['by']}, {100 * facts['shared_ground']:.1f} % of val and test ground also in train"
        )
        return "\n".join(lines)

    def of(self, split: str) -> list[Chip]:
        """The chips of one split."""
        return [chip for chip in self.chips if chip.split == split]

    def class_pixels(self, split: str) -> np.ndarray:
        """Labelled pixels of each class in a split, (classes,) int64."""
        return (
            np.array([chip.class_pixels for chip in self.of(split)], np.int64).reshape(-1, len(self.legend)).sum(axis=0)
        )

    def read(self, chip: Chip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (bands, rows, cols), valid (rows, cols) bool and mask (rows, cols) uint8 class indices of one chip.

        Raises:
            RasterError: a file is missing or damaged.
        """
        with open_raster(self.path / chip.image) as dataset:
            pixels = dataset.read()
            window = Window(0, 0, dataset.width, dataset.height)
            valid = valid_pixels(pixels, dataset.nodatavals, [dataset], window)
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
        splits = {
            split: {
                "chips": len(self.of(split)),
                "class_pixels": dict(zip(self.legend.names, self.class_pixels(split).tolist(), strict=True)),
            }
            for split in SPLITS
        }
        return {
            "format": _FORMAT,
            "geoseg_version": geoseg.__version__,
            "image": self.image.to_dict(),
            "legend": self.legend.to_list(),
            **self.facts,
            "splits": splits,
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
        known = dict.fromkeys(Chip.__dataclass_fields__)
        chips = tuple(
            Chip(**{**{key: entry[key] for key in known}, "class_pixels": tuple(entry["class_pixels"])})
            for entry in document["chips"]
        )
        facts = {key: document[key] for key in ("options", "split", "left_out")}
        return ChipFolder(
            path, ImageSpec.from_dict(document["image"]), Legend.from_list(document["legend"]), chips, facts
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path / INDEX}: {error} is missing or not as it should be; make the chips again") from None
