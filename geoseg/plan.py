"""What a training run is to do: settled before it begins, kept beside its checkpoints, read again to go on with it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from geoseg.augment import parse_augment
from geoseg.bundle import Bundle, open_bundle
from geoseg.chips import ChipFolder
from geoseg.errors import DataWarning, FormatError, MismatchError, ModelError
from geoseg.files import from_json, read_json
from geoseg.losses import create_loss, output_channels, parse_class_weights
from geoseg.models import Architecture, Segmenter
from geoseg.optimisation import create_optimizer, parse_schedule
from geoseg.recipe import Recipe, load_recipe
from geoseg.spec import ImageSpec
from geoseg.transfer import carry_scaling, check_same_network, start_from

_FORMAT = 1


@dataclass(frozen=True)
class TrainingPlan:
    """Enough to begin a run, or to go on with it in another process.

    Attributes:
        recipe_name: what was asked for.
        recipe: with all options in their place.
        init: the bundle to start from; None for none.
        seed: of everything random.
    """

    recipe_name: str
    recipe: Recipe
    init: str | None
    seed: int

    def to_dict(self, folder: ChipFolder) -> dict[str, Any]:
        """As it stands beside the checkpoints, with what tells these chips from others."""
        return {
            "format": _FORMAT, "recipe_name": self.recipe_name, "recipe": self.recipe.to_dict(), "init": self.init,
            "seed": self.seed, "chips_sha256": folder.fingerprint, "init_sha256": _weights_of(self.init),
        }  # fmt: skip


def make_plan(recipe: str, options: dict[str, Any], init: str | Path | None, seed: int) -> TrainingPlan:
    """Settle a run.

    Args:
        recipe: name of a recipe.
        options: fields of the recipe that override it; None leaves one as it is.
        init: a bundle whose network is taken over.
        seed: of everything random.

    Raises:
        GeosegError: an unknown name, a number out of range, or options that do not go with the bundle.
    """
    chosen = load_recipe(recipe)
    if init is not None:
        for name in ("encoder_weights", "scale"):
            if options[name] is not None:
                option = f"--{name.replace('_', '-')}"
                raise MismatchError(f"{option} {options[name]}: --init {init} brings its own; leave {option} out")
        known = open_bundle(init).architecture
        taken = {name: getattr(known, name) for name in ("arch", "encoder", "width", "padding", "dropout")}
        chosen = replace(chosen, **taken, encoder_weights="none", scale="")
    chosen = chosen.override(**options)
    Architecture(chosen.arch, padding=chosen.padding, dropout=chosen.dropout)
    if chosen.arch == "unet" and options["encoder"] is not None:
        raise ModelError(f"--encoder {options['encoder']}: unet has its own; give --arch smp-unet, or another, with it")
    if chosen.arch != "unet" and options["width"] is not None:
        raise ModelError(f"--width {options['width']}: is of unet, and {chosen.arch} has none; leave it out")
    if chosen.freeze_encoder and chosen.encoder_weights == "none" and init is None:
        warnings.warn(
            "--freeze-encoder: the encoder is frozen with random weights; give --encoder-weights or --init", DataWarning,
            stacklevel=3,
        )  # fmt: skip
    create_loss(chosen.loss)
    create_optimizer(chosen.optimizer, [torch.nn.Parameter()], lr=chosen.lr, weight_decay=chosen.weight_decay)
    parse_schedule(chosen.schedule)
    parse_augment(chosen.augment)
    return TrainingPlan(recipe, chosen, None if init is None else str(Path(init).resolve()), seed)


@dataclass(frozen=True)
class _Begun:
    """What stands in the plan of an unfinished run."""

    recipe_name: str
    recipe: Recipe
    init: str | None
    seed: int
    chips_sha256: str
    init_sha256: str | None


def read_plan(
    path: Path, folder: ChipFolder, options: dict[str, Any], *, recipe: str, init: str | Path | None, seed: int
) -> TrainingPlan:
    """The plan of a run that was cut off; what is given now, other than by default, has to agree with it.

    Raises:
        MismatchError: other options or other chips are given now, or the model to start from is another.
        FormatError: damaged, or written by a version with other recipes.
    """
    document = read_json(path, newest=_FORMAT, what="the plan of an unfinished run")
    try:
        begun = from_json(_Begun, document)
    except FormatError as error:
        raise FormatError(f"{path}: {error}; begin anew with --overwrite") from None
    plan = TrainingPlan(begun.recipe_name, begun.recipe, begun.init, begun.seed)
    given = {**options, "recipe": None if recipe == "default" else recipe, "seed": seed or None}
    given["init"] = None if init is None else str(Path(init).resolve())
    known = {**plan.recipe.to_dict(), "recipe": plan.recipe_name, "seed": plan.seed, "init": plan.init}
    for name, value in given.items():
        if value is None or value == known[name]:
            continue
        option = f"--{name.replace('_', '-')}"
        if name in ("batch_size", "accumulate"):  # may have been changed to fit into memory
            warnings.warn(f"{path.parent}: goes on with {option} {known[name]}", DataWarning, stacklevel=3)
        else:
            raise MismatchError(
                f"{path.parent}: this run has {option} {known[name]}, not {value}; leave {option} out to go on with it, or "
                "begin anew with --overwrite"
            )
    if begun.chips_sha256 != folder.fingerprint:
        raise MismatchError(
            f"{path.parent}: this run was begun with other chips than {folder.path} holds now; begin anew with --overwrite"
        )
    if begun.init_sha256 != _weights_of(plan.init):
        raise MismatchError(
            f"{path.parent}: this run was begun from another model than {plan.init} holds now; begin anew with --overwrite"
        )
    return plan


def _weights_of(init: str | None) -> str | None:
    return None if init is None else open_bundle(init).weights_sha256


@dataclass(frozen=True)
class Lesson:
    """A plan and the chips it is for, with everything that follows from the two.

    Attributes:
        plan: what to do.
        folder: the chips.
        image: how they are scaled.
        architecture: of the network.
        loss: logits and masks to a number.
    """

    plan: TrainingPlan
    folder: ChipFolder
    image: ImageSpec
    architecture: Architecture
    loss: torch.nn.Module

    def network(self, *, blank: bool = False) -> Segmenter:
        """The network to begin with; `blank` where a checkpoint will fill it."""
        torch.manual_seed(self.plan.seed)
        if blank:
            return self.architecture.build()
        if self.plan.init is not None:
            return start_from(open_bundle(self.plan.init), self.architecture, self.folder.legend)
        return self.architecture.build(self.plan.recipe.encoder_weights)


def prepare(plan: TrainingPlan, folder: ChipFolder) -> Lesson:
    """Bring plan and chips together.

    Raises:
        GeosegError: they do not go together.
    """
    recipe, legend = plan.recipe, folder.legend
    bundle: Bundle | None = None if plan.init is None else open_bundle(plan.init)
    image = folder.image if bundle is None else carry_scaling(bundle, folder.image)
    if recipe.scale:
        image = image.scaled(recipe.scale)
    weights = parse_class_weights(recipe.class_weights, folder.class_pixels("train").tolist())
    architecture = Architecture(
        recipe.arch, recipe.encoder, len(image.bands), output_channels(recipe.loss, len(legend)), recipe.width,
        recipe.padding, recipe.dropout,
    )  # fmt: skip
    if bundle is not None:
        check_same_network(bundle, architecture)
    return Lesson(plan, folder, image, architecture, create_loss(recipe.loss, class_weights=weights))
