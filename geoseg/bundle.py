"""A model bundle: weights and every fact that prediction needs, as data that is never run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from geoseg.display import Displayed
from geoseg.errors import FormatError, InputError, MissingFileError, ModelError
from geoseg.files import from_json, read_json, sha256, write_json
from geoseg.legend import Legend
from geoseg.models import Architecture, Segmenter
from geoseg.reach import NEXT_TO_NOTHING
from geoseg.spec import ImageSpec
from geoseg.version import VERSION

CARD = "model.json"
WEIGHTS = "model.safetensors"
HISTORY = "history.csv"
CURVES = "curves.png"
_FORMAT = 1
_MARGIN, _FURTHEST = 64, 1024
_AT_ODDS = 0.01


@dataclass(frozen=True, repr=False)
class Bundle(Displayed):
    """A trained model on disk.

    Attributes:
        path: the folder.
        architecture: what the network is built from.
        image: what it expects of an image.
        legend: what its classes mean.
        training: recipe, options, epochs and library versions.
        metrics: of the validation chips at the best epoch.
        weights_sha256: hexadecimal SHA-256 of the weights file.
        threshold: of a one-channel network: least probability of the second class where a pixel is said to be of it.
        reach: share of the pixels along a window's border that change their class for want of what lies further off than
            a margin, per margin in pixels (see `measure_reach`); empty where it is not known.

    Raises:
        FormatError: a threshold that is none, or a network and a legend that do not go together.
    """

    path: Path
    architecture: Architecture
    image: ImageSpec
    legend: Legend
    training: dict[str, Any]
    metrics: dict[str, Any]
    weights_sha256: str
    threshold: float = 0.5
    reach: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, int | float) or not 0 < self.threshold < 1:
            raise FormatError(f"threshold {self.threshold!r} found, a number above 0 and below 1 is needed")
        for margin, share in self.reach.items():
            if not (0 <= margin <= _FURTHEST and 0 <= share <= 1):
                raise FormatError(f"reach {share} at a margin of {margin} pixels found, which is none")
        if self.architecture.in_channels != len(self.image.bands):
            raise FormatError(
                f"a network for {self.architecture.in_channels} bands found, and {len(self.image.bands)} bands"
            )
        if self.architecture.classes != len(self.legend) and not self.one_channel:
            raise FormatError(
                f"{self.architecture.classes} channels found for {len(self.legend)} classes; needed is one each, "
                "or one channel for two classes"
            )

    @property
    def one_channel(self) -> bool:
        """Whether the network has one logit for two classes, of which the second is likelier the higher it is."""
        return self.architecture.classes == 1 and len(self.legend) == 2

    @property
    def stopped(self) -> bool:
        """Whether the training was stopped by hand, and might have learnt more."""
        return self.training.get("stopped") is True

    @property
    def margin(self) -> int:
        """Pixels that a window must see around the ground it answers for: what lies further off changes next to nothing."""
        if not self.reach:
            return _MARGIN
        enough = [margin for margin, share in sorted(self.reach.items()) if share <= NEXT_TO_NOTHING]
        return enough[0] if enough else max(self.reach)

    @property
    def looks_far(self) -> bool:
        """Whether even the widest margin leaves neighbouring windows at odds, as where a network looks at all of one."""
        return bool(self.reach) and self.reach[self.margin] > _AT_ODDS

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        arch = self.architecture
        scale = f"pixels of {self.image.pixel_size_m:.3g} m" if self.image.pixel_size_m else "pixels of unknown size"
        return "\n".join(
            [
                f"{self.path}: {arch.arch}, {len(self.legend)} classes, {len(self.image.bands)} bands, {scale}",
                f"  bands      {', '.join(self.image.names)} ({'/'.join(sorted(set(self.image.dtypes)))})",
                f"  classes    {self.legend}",
                *([f"  threshold  {self.threshold:g}"] if self.one_channel else []),
                f"  epochs     best {self.training.get('best_epoch', '?')} of {self.training.get('epochs_run', '?')}"
                + (f"; stopped by hand, {self.training.get('epochs', '?')} were planned" if self.stopped else ""),
                *(f"  val {name:<20} {value:.3f}" for name, value in self.metrics.items() if isinstance(value, float)),
                f"  weights    {self.weights_sha256[:16]}",
            ]
        )

    def network(self) -> Segmenter:
        """The trained network in evaluation mode, in float32 on the CPU.

        Raises:
            ModelError: the weights are missing, damaged, or not those that the card speaks of.
        """
        path = self.path / WEIGHTS
        if not path.exists():
            raise MissingFileError(f"{path}: not found; the bundle needs its weights beside {CARD}")
        if sha256(path) != self.weights_sha256:
            raise ModelError(
                f"{path}: not the weights that {CARD} speaks of (SHA-256 differs); copy the whole folder again"
            )
        try:
            self._refuse_other_sizes(path)
            network = self.architecture.build()
        except ModelError as error:
            raise ModelError(f"{self.path / CARD}: {error}") from error
        try:
            network.load_state_dict(safetensors.torch.load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise ModelError(
                f"{path}: does not fit {CARD} ({str(error).splitlines()[0]}); train the model again"
            ) from None
        return network.eval()

    def _refuse_other_sizes(self, weights: Path) -> None:
        """Hold card and weights against each other before a network is made: a card can ask for any amount of memory."""
        try:
            with safe_open(weights, "pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            needed = self.architecture.weight_shapes()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{weights.name} is damaged ({error}); copy the whole folder again") from None
        if needed is not None and found != needed:
            raise ModelError(f"{weights.name} does not fit (weights of other sizes); train the model again")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in model.json."""
        return {
            "format": _FORMAT,
            "geoseg_version": VERSION,
            "architecture": self.architecture.to_dict(),
            "image": self.image.to_dict(),
            "legend": self.legend.to_list(),
            "threshold": self.threshold,
            "reach": {str(margin): share for margin, share in self.reach.items()},
            "training": self.training,
            "metrics": self.metrics,
            "weights_sha256": self.weights_sha256,
        }


def write_bundle(
    folder: Path,
    weights: dict[str, torch.Tensor],
    *,
    architecture: Architecture,
    image: ImageSpec,
    legend: Legend,
    training: dict[str, Any],
    metrics: dict[str, Any],
    threshold: float = 0.5,
    reach: dict[int, float] | None = None,
) -> None:
    """Write weights and card into a staged folder.

    Raises:
        FormatError: as `Bundle` does.
        ModelError: weights for another network.
    """
    path = folder / WEIGHTS
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    bundle = Bundle(folder, architecture, image, legend, training, metrics, sha256(path), threshold, reach or {})
    write_json(folder / CARD, bundle.to_dict())
    bundle.network()  # what cannot be loaded again must not take the place of what can


@dataclass(frozen=True)
class _Card:
    """What stands in model.json."""

    architecture: Architecture
    image: ImageSpec
    legend: list[dict[str, Any]]
    training: dict[str, Any]
    metrics: dict[str, Any]
    weights_sha256: str
    threshold: float = 0.5
    reach: dict[int, float] = field(default_factory=dict)


def open_bundle(path: str | Path) -> Bundle:
    """Read a bundle's card; the weights are read by `Bundle.network`.

    Raises:
        MissingFileError: no model.json.
        FormatError: damaged, from a newer version, or facts that do not go together.
    """
    path = Path(path)
    path = path.parent if path.name == CARD else path
    document = read_json(path / CARD, newest=_FORMAT, what="a model made by geoseg train")
    try:
        card = from_json(_Card, document)
        return Bundle(
            path, card.architecture, card.image, Legend.from_list(card.legend), card.training, card.metrics, card.weights_sha256,
            card.threshold, card.reach,
        )  # fmt: skip
    except InputError as error:
        raise FormatError(f"{path / CARD}: {error}; train the model again") from None
