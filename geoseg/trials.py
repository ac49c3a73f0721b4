"""What is put to the test: a model on the chips of a split, or a map against a reference; both give ground to count."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.bundle import Bundle, open_bundle
from geoseg.chips import Chip, ChipFolder, read_image
from geoseg.choices import Precision
from geoseg.devices import precision_name
from geoseg.errors import DataWarning, FormatError, InputError, MismatchError
from geoseg.figures import chip_picture
from geoseg.files import from_json, sha256
from geoseg.footprints import ground_of
from geoseg.ground import SQUARE, Ground, MapPair, Place, chip_ground
from geoseg.labels import read_model_sha256
from geoseg.legend import Legend
from geoseg.pictures import open_samples
from geoseg.place_layer import Outline
from geoseg.predictor import Predictor
from geoseg.scenes import describe_scene

_SHARED = 0.01
"""Share of a scene above which it lies on known ground: neighbours on grids of different CRSs overlap a little."""


class Trial(Protocol):
    """What is put to the test.

    Attributes:
        what: the two that are held against each other, in words.
        legend: the classes.
        pixel_size_m: side of a pixel on the ground; None where it is not known.
        squares: what the places are called.
        count: how many pieces of ground there are.
    """

    @property
    def what(self) -> str: ...
    @property
    def legend(self) -> Legend: ...
    @property
    def pixel_size_m(self) -> float | None: ...
    @property
    def squares(self) -> str: ...
    @property
    def count(self) -> int: ...

    def ground(self, margin: int) -> Iterator[Ground]:
        """All ground, with `margin` rows around that are seen where they belong to the same map."""
        ...

    def picture(self, place: Place) -> np.ndarray | None:
        """What a place looks like, (rows, cols, 3) uint8, where there is an image."""
        ...

    def outline(self, place: Place) -> Outline:
        """Where it lies."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What was used, to be found again: files with their SHA-256, the split and its leak."""
        ...


@dataclass(frozen=True)
class ChipTrial:
    """A model on the chips of a split; made by `open_chip_trial`.

    Attributes:
        folder: of the chips.
        split: which of them.
        bundle: the model.
        predictor: of the model.
        batch_size: chips a step.
        other: of a model to compare it with.
    """

    folder: ChipFolder
    split: str
    bundle: Bundle
    predictor: Predictor
    batch_size: int
    other: tuple[Bundle, Predictor] | None = None

    squares: str = field(default="chips", init=False)

    @property
    def what(self) -> str:
        names = self.bundle.path.resolve().name, self.folder.path.resolve().name  # a report is given away: no paths
        return f"{names[0]} on {len(self.chips)} {self.split} chips of {names[1]}"

    @property
    def legend(self) -> Legend:
        return self.folder.legend

    @property
    def pixel_size_m(self) -> float | None:
        return self.folder.image.pixel_size_m

    @property
    def count(self) -> int:
        return len(self.chips)

    @cached_property
    def chips(self) -> list[Chip]:
        """The chips of the split."""
        return self.folder.of(self.split)

    @cached_property
    def known_ground(self) -> list[str]:
        """Scenes of the chips that lie where the model, or the one it is compared with, has learned from other chips."""
        models = [self.bundle, *(() if self.other is None else (self.other[0],))]
        return sorted({name for bundle in models for name in _known_ground(self.folder, self.split, bundle)})

    @cached_property
    def _by_name(self) -> dict[str, Chip]:
        return {chip.name: chip for chip in self.chips}

    def ground(self, margin: int) -> Iterator[Ground]:
        """The chips; each is a map of its own, so there is nothing around it."""
        rival = None if self.other is None else self.other[1]
        return chip_ground(self.folder, self.chips, self.predictor, self.batch_size, rival)

    def picture(self, place: Place) -> np.ndarray:
        pixels, valid = read_image(self.folder.path / self._by_name[place.name].image)
        return chip_picture(self.folder.image, pixels, valid)

    def outline(self, place: Place) -> Outline:
        scene = describe_scene(self.folder.path / self._by_name[place.name].image)
        window = place.window
        own = Window(0, 0, window.width, window.height)
        return scene.outline(own if scene.crs else window), scene.crs

    def provenance(self) -> dict[str, Any]:
        facts = self.folder.facts
        split = facts.get("split", {})
        return {
            "model": _model_facts(self.bundle),
            "other_model": None if self.other is None else _model_facts(self.other[0]),
            "chips": {"folder": str(self.folder.path), "split": self.split, "count": len(self.chips)},
            "scenes": sorted({chip.scene for chip in self.chips}),
            "on_ground_of_training": self.known_ground,
            "split": {
                key: split[key] for key in ("by", "ratio", "block_size", "shared_ground", "seed") if key in split
            },
            "chip_options": facts.get("options", {}),
            "device": str(self.predictor.device),
            "precision": precision_name(self.predictor.dtype),
        }


def _known_ground(folder: ChipFolder, split: str, bundle: Bundle) -> Iterator[str]:
    if bundle.training.get("chips_sha256") == folder.fingerprint:
        return  # the split of its own chips keeps ground apart
    try:
        learned = from_json(dict[str, list[tuple[float, float]]], bundle.training.get("ground") or {})
    except FormatError as error:
        raise FormatError(f"{bundle.path}: ground of training: {error}; train the model again") from None
    known = shapely.union_all([ground_of(corners) for corners in learned.values() if len(corners) > 2])
    for name, corners in folder.ground(split).items():
        scene = ground_of(corners)
        if scene.intersection(known).area > _SHARED * scene.area:
            yield name


def _model_facts(bundle: Bundle) -> dict[str, Any]:
    training = bundle.training
    return {
        "folder": str(bundle.path), "weights_sha256": bundle.weights_sha256, "arch": bundle.architecture.arch,
        **{key: training[key] for key in ("recipe", "epochs_run", "best_epoch", "seed") if key in training},
    }  # fmt: skip


def open_chip_trial(
    chips: str | Path, model: str | Path, split: str, *, batch_size: int, precision: Precision, device: str,
    threshold: float | None, other: str | Path | None = None,
) -> ChipTrial:  # fmt: skip
    """Open chips and the model that is to be tried on them.

    Raises:
        MismatchError: the model knows other classes or bands.
        InputError: the split holds no chips.
    """
    folder, bundle = open_samples(chips), open_bundle(model)
    rival = None if other is None else open_bundle(other)
    for one in filter(None, (bundle, rival)):
        _refuse_other_data(folder, one)
    if not folder.of(split):
        raise InputError(f"{folder.path}: no chips in the {split} split; make the chips with another --split")
    predictor = Predictor(bundle, device=device, precision=precision, threshold=threshold)
    compared = None if rival is None else (rival, Predictor(rival, device=device, precision=precision))
    trial = ChipTrial(folder, split, bundle, predictor, batch_size, compared)
    if trial.known_ground:
        warnings.warn(
            f"{folder.path}: the model has learned from scenes of the same ground ({', '.join(trial.known_ground)}), so the scores "
            f"are too good; test on other ground",
            DataWarning,
            stacklevel=3,
        )
    return trial


def _refuse_other_data(folder: ChipFolder, bundle: Bundle) -> None:
    if folder.legend.values != bundle.legend.values:
        raise MismatchError(
            f"{folder.path}: classes {folder.legend} found, {bundle.path} knows {bundle.legend}; evaluate on its own chips"
        )
    if folder.image.names != bundle.image.names or folder.image.dtypes != bundle.image.dtypes:
        raise MismatchError(
            f"{folder.path}: bands {', '.join(folder.image.names)} found, {bundle.path} takes {', '.join(bundle.image.names)}"
        )


@dataclass(frozen=True)
class PairTrial:
    """A map against a reference.

    Attributes:
        pair: both, on the grid of the map.
        paths: of the map, the reference, and perhaps of a map to compare it with.
        aoi: polygon file; None where all ground counts.
    """

    pair: MapPair
    paths: Sequence[Path]
    aoi: str | Path | None = None

    squares: str = field(default=f"squares of {SQUARE} pixels", init=False)

    @property
    def what(self) -> str:
        return f"{self.paths[0].name} against {self.paths[1].name}" + (
            f", inside {Path(self.aoi).name}" if self.aoi else ""
        )

    @property
    def legend(self) -> Legend:
        return self.pair.legend

    @property
    def pixel_size_m(self) -> float | None:
        return self.pair.scene.pixel_size_m

    @property
    def count(self) -> int:
        return -(-self.pair.scene.height // SQUARE)

    def ground(self, margin: int) -> Iterator[Ground]:
        """The strips of the map."""
        return self.pair.ground(margin)

    def picture(self, place: Place) -> None:
        """None: nobody has said what the map was made of."""

    def outline(self, place: Place) -> Outline:
        return self.pair.scene.outline(place.window), self.pair.scene.crs

    def provenance(self) -> dict[str, Any]:
        files = dict(zip(("map", "reference", "other_map"), self.paths, strict=False))
        return {what: file_facts(path) for what, path in files.items()}


def file_facts(path: Path) -> dict[str, Any]:
    """What tells a map or a reference from others, and which model made it, as far as it says so."""
    return {"file": str(path), "sha256": sha256(path), "model_sha256": read_model_sha256(path)}
