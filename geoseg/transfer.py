"""Fine-tuning: what a trained model hands on to a network for other chips and another legend."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product

from geoseg.bundle import Bundle
from geoseg.errors import DataWarning, MismatchError
from geoseg.fcn import ScoreDecoder
from geoseg.legend import Legend
from geoseg.models import Architecture, Segmenter
from geoseg.spec import ImageSpec


def carry_scaling(bundle: Bundle, image: ImageSpec) -> ImageSpec:
    """New chips, scaled as the model's own were: its weights know no other units.

    Args:
        bundle: the model to start from.
        image: of the new chips.

    Raises:
        MismatchError: other bands, or another dtype.
    """
    known = bundle.image
    for what, found, needed in (("bands", image.names, known.names), ("dtypes", image.dtypes, known.dtypes)):
        if found != needed:
            raise MismatchError(
                f"{bundle.path}: learned from the {what} {', '.join(needed)}, found in the chips are {', '.join(found)}; "
                "cut the chips with the same --bands, or train without --init"
            )
    bands = tuple(
        replace(band, offset=old.offset, scale=old.scale, clip=old.clip)
        for band, old in zip(image.bands, known.bands, strict=True)
    )
    return replace(image, bands=bands, scaling=known.scaling)


def check_same_network(bundle: Bundle, architecture: Architecture) -> None:
    """Refuse weights for another network.

    Raises:
        MismatchError: arch, encoder or width differ.
    """
    own = bundle.architecture
    for name in ("arch", "encoder", "width"):
        if getattr(own, name) != getattr(architecture, name):
            raise MismatchError(
                f"{bundle.path}: its weights are for --{name} {getattr(own, name)}, not {getattr(architecture, name)}; "
                f"leave --{name} out, or train without --init"
            )


def start_from(bundle: Bundle, architecture: Architecture, legend: Legend) -> Segmenter:
    """A network with a model's weights; of the layers that score classes, those of classes with the same name.

    What belongs to a class that the model does not know starts at random.

    Args:
        bundle: the model to start from.
        architecture: of the new network, the same but for padding, dropout and channels.
        legend: of the new network.

    Raises:
        ModelError: the model's weights cannot be read.
    """
    network = architecture.build()
    own, known = network.state_dict(), bundle.network().state_dict()
    names = bundle.legend.names
    shared = [(new, names.index(name)) for new, name in enumerate(legend.names) if name in names]
    if 1 in (architecture.classes, bundle.architecture.classes):  # one channel stands for two classes at once
        same = legend.names == names and architecture.classes == bundle.architecture.classes
        shared = [(0, 0)] if same else []
    for name, weight in own.items():
        over_classes = _class_dimensions(network, name)
        if over_classes == 1:
            for new, old in shared:
                weight[new] = known[name][old]
        elif over_classes == 2:
            for (new, old), (new_too, old_too) in product(shared, repeat=2):
                weight[new, new_too] = known[name][old, old_too]
        else:
            weight.copy_(known[name])
    network.load_state_dict(own)
    if bundle.architecture.classes != architecture.classes and 1 in (architecture.classes, bundle.architecture.classes):
        loss = bundle.training.get("loss", "bce") if bundle.architecture.classes == 1 else "ce+jaccard"
        warnings.warn(
            f"{bundle.path}: has {bundle.architecture.classes} channels and this network {architecture.classes}, so the last "
            f"layer begins at random; its own, for the same classes, goes on with --loss {loss}", DataWarning, stacklevel=3,
        )  # fmt: skip
    elif len(shared) < architecture.classes:
        begin = [name for new, name in enumerate(legend.names) if new not in dict(shared)]
        warnings.warn(
            f"{bundle.path}: knows nothing of {', '.join(begin)}, which begin at random", DataWarning, stacklevel=3
        )
    return network


def _class_dimensions(network: Segmenter, name: str) -> int:
    """How many of a weight's dimensions, the first ones, go over the classes."""
    if name.startswith("segmentation_head."):
        return 1
    if isinstance(network.decoder, ScoreDecoder):
        return {"scores": 1, "ups": 2, "last": 2}.get(name.split(".")[1], 0)
    return 0
