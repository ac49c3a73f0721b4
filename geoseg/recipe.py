"""Recipes: whole training set-ups by name, as TOML files of the package."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from typing import Any, Literal, get_args

from geoseg.choices import Padding, Sampling, Scaling
from geoseg.errors import ModelError
from geoseg.files import from_json

_LEAST = {
    "width": 1, "lr": 0, "weight_decay": 0, "epochs": 1, "batch_size": 1, "accumulate": 1, "crop": 0, "early_stop": 0,
    "gradient_clip": 0, "save_every": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained; the options of `geoseg train` of the same names.

    Where a number is optional, 0 stands for its absence; `scale` is empty where the chips' own scaling is kept.
    """

    arch: str
    width: int
    encoder: str
    encoder_weights: str
    freeze_encoder: bool
    padding: Padding
    dropout: float
    scale: Scaling | Literal[""]
    loss: str
    class_weights: str
    optimizer: str
    schedule: str
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    accumulate: int
    augment: str
    crop: int
    sampling: Sampling
    ema: float
    early_stop: int
    gradient_clip: float
    save_every: int

    def override(self, **options: Any) -> Recipe:
        """The same recipe, but for the options that are not None.

        Raises:
            ModelError: a number out of range, or a word that is none of a few.
        """
        recipe = replace(self, **{name: value for name, value in options.items() if value is not None})
        for name, least in _LEAST.items():
            if not least <= getattr(recipe, name) < float("inf"):
                raise ModelError(f"--{name.replace('_', '-')} {getattr(recipe, name)}: {least} or more is needed")
        if not 0 <= recipe.ema < 1:
            raise ModelError(f"--ema {recipe.ema}: 0 (none) or more, and less than 1, is needed")
        for name, words in (("padding", Padding), ("sampling", Sampling), ("scale", Scaling)):
            if getattr(recipe, name) not in (*get_args(words), "" if name == "scale" else None):
                raise ModelError(f"--{name} {getattr(recipe, name)}: known are {', '.join(get_args(words))}")
        return recipe

    def crop_of(self, chip_size: int) -> int:
        """Rows and columns that a step sees: never more than a chip has, since what is filled up teaches nothing."""
        return min(self.crop or chip_size, chip_size)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """What `to_dict` gave."""
        return from_json(cls, values)


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(
        entry.name[:-5] for entry in files("geoseg").joinpath("recipes").iterdir() if entry.name.endswith(".toml")
    )


def describe_recipes() -> str:
    """A line for each recipe: its name, and the comment that its file begins with."""
    lines = {name: _read(name).splitlines()[0].removeprefix("# ") for name in recipe_names()}
    longest = max(map(len, lines))
    return "\n".join(f"{name:<{longest}}  {line}" for name, line in lines.items())


def load_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in recipe_names():
        raise ModelError(
            f"--recipe '{name}' is not known; known are {', '.join(recipe_names())}, of which --recipe list tells more"
        )
    return Recipe.from_dict(tomllib.loads(_read(name)))


def _read(name: str) -> str:
    return files("geoseg").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
