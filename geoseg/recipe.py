"""Recipes: whole training set-ups by name, as TOML files of the package."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from importlib.resources import files
from typing import Any

from geoseg.choices import Augment, Padding
from geoseg.errors import ModelError


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained; the options of `geoseg train` of the same names."""

    arch: str
    width: int
    encoder: str
    padding: Padding
    dropout: float
    loss: str
    class_weights: str
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    augment: Augment

    def override(self, **options: Any) -> Recipe:
        """The same recipe, but for the options that are not None.

        Raises:
            ModelError: a number out of range.
        """
        recipe = replace(self, **{name: value for name, value in options.items() if value is not None})
        for name, least in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0)):
            if getattr(recipe, name) < least:
                raise ModelError(f"--{name.replace('_', '-')} {getattr(recipe, name)}: {least} or more is needed")
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        return asdict(self)


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(
        entry.name[:-5] for entry in files("geoseg").joinpath("recipes").iterdir() if entry.name.endswith(".toml")
    )


def load_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in recipe_names():
        near = get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(recipe_names())}"
        raise ModelError(f"--recipe '{name}' is not known; {hint}")
    text = files("geoseg").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    return Recipe(**{field.name: values[field.name] for field in fields(Recipe)})
