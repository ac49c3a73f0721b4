"""Every recipe of the package can be loaded, and any option overrides it."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from importlib.resources import files
from typing import get_args

import pytest

from geoseg.choices import Padding
from geoseg.errors import ModelError
from geoseg.recipe import Recipe, describe_recipes, load_recipe, recipe_names


def test_there_is_a_default():
    assert "default" in recipe_names()
    assert recipe_names() == sorted(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_each_thing_once_and_nothing_else(name):
    written = tomllib.loads(files("geoseg").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8"))
    assert written.keys() == {field.name for field in fields(Recipe)}
    recipe = load_recipe(name)
    assert recipe.to_dict() == written
    assert recipe.padding in get_args(Padding)
    assert recipe.override() == recipe  # every number within its range


def test_only_what_is_given_overrides():
    recipe = load_recipe("default")
    other = recipe.override(epochs=3, lr=None, dropout=0.0)
    assert (other.epochs, other.dropout, other.lr) == (3, 0.0, recipe.lr)
    assert recipe.epochs != 3


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("epochs", 0, "--epochs 0: 1 or more"),
        ("batch_size", -1, "--batch-size -1: 1 or more"),
        ("lr", -0.1, "--lr -0.1: 0 or more"),
        ("weight_decay", -1e-9, "--weight-decay -1e-09: 0 or more"),
        ("accumulate", 0, "--accumulate 0: 1 or more"),
        ("crop", -1, "--crop -1: 0 or more"),
        ("ema", 1.0, r"--ema 1\.0: 0 \(none\) or more, and less than 1"),
        ("sampling", "fair", "--sampling fair: known are uniform, balanced"),
        ("scale", "z", "--scale z: known are dataset, unit, percentile, imagenet"),
        ("padding", "mirror", "--padding mirror: known are reflect, zeros"),
    ],
)
def test_numbers_out_of_range_are_refused(option, value, said):
    with pytest.raises(ModelError, match=said):
        load_recipe("default").override(**{option: value})


def test_another_name_is_met_with_a_guess():
    with pytest.raises(ModelError, match=r"--recipe 'defualt' is not known; known are deeplab, default, "):
        load_recipe("defualt")
    with pytest.raises(ModelError, match=r"--recipe '\.\./default' is not known"):
        load_recipe("../default")
    with pytest.raises(ModelError, match=r"'xyz' is not known; known are .*default"):
        load_recipe("xyz")


def test_the_list_says_what_each_recipe_is():
    lines = describe_recipes().splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 5 for line in lines)
