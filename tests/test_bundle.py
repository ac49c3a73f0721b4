"""A bundle carries every fact, and one that is damaged is told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import geoseg
from geoseg.bundle import CARD, WEIGHTS, open_bundle, write_bundle
from geoseg.errors import FormatError, GeosegError, MissingFileError, ModelError
from geoseg.legend import parse_legend
from geoseg.models import Architecture
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

LEGEND = parse_legend("0=background,7=crop:#e5b52a")
STATISTICS = [BandStatistics(100.5, 20.25, 1, 255, 60, 180), BandStatistics(50, 10, 0, 200, 20, 90)]
IMAGE = ImageSpec(
    scale_bands(STATISTICS, names=["red", "nir"], sources=[3, 4], dtypes=["uint16"] * 2, nodata=[0, None]), 6, 9.5, 64
)
FACTS: dict[str, Any] = {
    "architecture": Architecture(in_channels=2, classes=2, width=1, padding="zeros", dropout=0.25),
    "image": IMAGE,
    "legend": LEGEND,
    "training": {"recipe": "default", "best_epoch": 3, "epochs_run": 5, "crop": None},
    "metrics": {"miou": 0.625, "classes": [{"iou": None}]},
}
ONE_CHANNEL = replace(FACTS["architecture"], classes=1)


def write(folder: Path, **facts: Any) -> dict[str, torch.Tensor]:
    """A bundle of random weights; returns these."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    weights = {**FACTS, **facts}["architecture"].build().state_dict()
    write_bundle(folder, weights, **{**FACTS, **facts})
    return weights


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write(tmp_path / "model")
    return tmp_path / "model"


def edit(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the card of a bundle."""
    card = json.loads((model / CARD).read_text(encoding="utf-8"))
    change(card)
    (model / CARD).write_text(json.dumps(card), encoding="utf-8")


def test_every_fact_comes_back(tmp_path):
    weights = write(tmp_path / "model", architecture=ONE_CHANNEL, threshold=0.375)
    bundle = open_bundle(tmp_path / "model")
    assert {name: getattr(bundle, name) for name in FACTS} == {**FACTS, "architecture": ONE_CHANNEL}
    assert bundle.threshold == 0.375
    network = bundle.network()
    assert not network.training
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(found, weights[name]) for name, found in network.state_dict().items())


def test_a_card_is_what_the_bundle_says_of_itself(model):
    card = json.loads((model / CARD).read_text(encoding="utf-8"))
    assert card == json.loads(json.dumps(open_bundle(model).to_dict()))
    assert (card["format"], card["geoseg_version"], card["threshold"]) == (1, geoseg.__version__, 0.5)


def test_a_card_from_before_thresholds_means_one_half(model):
    edit(model, lambda card: card.pop("threshold"))
    assert open_bundle(model).threshold == 0.5


def test_keys_of_later_versions_are_left_alone(model):
    before = open_bundle(model)
    edit(model, lambda card: [part.update(later=1) for part in (card, card["architecture"], card["image"])])
    assert open_bundle(model) == before


def test_only_one_channel_for_two_classes_needs_a_threshold(tmp_path):
    single = {"architecture": ONE_CHANNEL, "legend": parse_legend("1=crop")}
    told = {}
    for name, facts in (("both", {}), ("one", {"architecture": ONE_CHANNEL, "threshold": 0.25}), ("single", single)):
        write(tmp_path / name, **facts)
        told[name] = (open_bundle(tmp_path / name).one_channel, "threshold  0.25" in str(open_bundle(tmp_path / name)))
    assert told == {"both": (False, False), "one": (True, True), "single": (False, False)}


def other_weights(model: Path) -> None:
    weights = bytearray((model / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (model / WEIGHTS).write_bytes(weights)


def cut_weights(model: Path) -> None:
    """Cut short, and the card in accord with it: nothing but reading them tells."""
    from geoseg.files import sha256

    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-9])
    edit(model, lambda card: card.update(weights_sha256=sha256(model / WEIGHTS)))


def setting(**values: Any) -> Callable[[Path], None]:
    return lambda model: edit(model, lambda card: card.update(values))


def network(**values: Any) -> Callable[[Path], None]:
    return lambda model: edit(model, lambda card: card["architecture"].update(values))


def without(*keys: str) -> Callable[[Path], None]:
    def drop(card: dict[str, Any]) -> None:
        for key in keys[:-1]:
            card = card[key]
        del card[keys[-1]]

    return lambda model: edit(model, drop)


def text(content: str) -> Callable[[Path], Any]:
    return lambda model: (model / CARD).write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (other_weights, ModelError, "SHA-256 differs"),
        (cut_weights, ModelError, "damaged"),
        (network(width=2), ModelError, f"{CARD}: {WEIGHTS} does not fit"),
        (lambda model: (model / WEIGHTS).unlink(), MissingFileError, "needs its weights"),
        (lambda model: (model / CARD).unlink(), MissingFileError, "geoseg train is needed"),
        (setting(format=2, geoseg_version="7.0"), FormatError, "install geoseg 7.0"),
        (text('{"format": 1, '), FormatError, "cannot be read"),
        (text("[]"), FormatError, "no 'format' number"),
        (text("\xff\x00"), FormatError, "cannot be read"),
        (without("image", "bands"), FormatError, r"missing required field `bands` - at `\$\.image`"),
        (without("weights_sha256"), FormatError, "missing required field `weights_sha256`"),
        (setting(image=None), FormatError, "Expected `object`, got `null`"),
        (network(arch="unett"), FormatError, "known are unet"),
        (setting(legend=[]), FormatError, "classes: 0 found"),
        (setting(threshold=0), FormatError, "threshold 0.0 found"),
        (setting(threshold=1.0), FormatError, "threshold 1.0 found"),
        (setting(threshold=float("nan")), FormatError, "NaN found, which is no number"),
        (setting(threshold="0.5"), FormatError, "Expected `float`, got `str`"),
        (setting(threshold=None), FormatError, "Expected `float`, got `null`"),
        (network(width=10**6), ModelError, f"{WEIGHTS} does not fit"),
        (network(width=10**12), ModelError, "cannot be built"),
        (network(width=2.5), FormatError, "Expected `int`, got `float`"),
        (network(in_channels=5), FormatError, "a network for 5 bands found"),
        (text('{"format": 1, "threshold": 1e999}'), FormatError, "too large for a number"),
        (text('{"format": ' + "1" * 5000 + "}"), FormatError, "cannot be read"),
        (text("[" * 100_000), FormatError, "cannot be read"),
        (network(classes=3), FormatError, "3 channels found for 2 classes"),
        (setting(legend=parse_legend("0=a,1=b,2=c").to_list()), FormatError, "2 channels found for 3 classes"),
    ],
)
def test_a_damaged_bundle_is_one_line(model, damage, error, words):
    damage(model)
    with pytest.raises(GeosegError, match=words) as caught:
        open_bundle(model).network()
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{model}/")
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(str(model)) == 1


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"threshold": 1.5, "architecture": ONE_CHANNEL}, "threshold 1.5"),
        ({"architecture": replace(ONE_CHANNEL, classes=3)}, "3 channels found for 2"),
        ({"architecture": ONE_CHANNEL, "legend": parse_legend("0=a,1=b,2=c")}, "1 channels found for 3"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, facts, words):
    with pytest.raises(FormatError, match=words):
        write(tmp_path / "model", **facts)
    assert not (tmp_path / "model" / CARD).exists()


@pytest.mark.parametrize(
    ("reach", "margin", "far"),
    [
        ({}, 64, False), ({32: 0.001, 64: 0.0}, 32, False), ({32: 0.02, 64: 0.002, 96: 0.0}, 64, False),
        ({32: 0.02, 192: 0.004}, 192, False), ({32: 0.02, 192: 0.011}, 192, True),
    ],
)  # fmt: skip
def test_the_margin_is_the_smallest_that_suffices(tmp_path, reach, margin, far):
    write(tmp_path / "model", reach=reach)
    bundle = open_bundle(tmp_path / "model")
    assert (bundle.reach, bundle.margin, bundle.looks_far) == (reach, margin, far)


def test_a_card_from_before_reach_knows_none(model):
    edit(model, lambda card: card.pop("reach"))
    assert open_bundle(model).reach == {}


def test_the_card_of_a_model_stands_for_its_folder(model):
    assert open_bundle(model / CARD) == open_bundle(model)


@pytest.mark.parametrize("reach", [{"-100": 0.0}, {"1000000": 0.0}, {"64": 2.0}, {"64": -0.1}])
def test_a_reach_that_is_none_is_refused(tmp_path, reach):
    write(tmp_path)
    document = json.loads((tmp_path / CARD).read_text(encoding="utf-8"))
    (tmp_path / CARD).write_text(json.dumps(document | {"reach": reach}), encoding="utf-8")
    with pytest.raises(FormatError, match=r"at a margin of .* pixels found, which is none"):
        open_bundle(tmp_path)
