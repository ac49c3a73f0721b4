"""Optimisers and schedules: the words become torch's own, and the rate goes as the docstring says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.named_parts import Part, parse_parts
from geoseg.optimisation import create_optimizer, parse_schedule

LR = 0.4


def rates(text: str, *, epochs: int = 10, epoch_steps: int = 5) -> list[float]:
    """The rate at every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], LR)
    schedule = parse_schedule(text).create(optimizer, steps=epochs * epoch_steps, epoch_steps=epoch_steps)
    found = []
    for _ in range(epochs * epoch_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("text", "kind", "momentum"),
    [
        ("adamw", torch.optim.AdamW, None),
        ("adam", torch.optim.Adam, None),
        ("sgd", torch.optim.SGD, 0.0),
        ("sgd:0.9", torch.optim.SGD, 0.9),
    ],
)
def test_an_optimiser_by_name(text, kind, momentum):
    optimizer = create_optimizer(text, [nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.01)
    assert type(optimizer) is kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.01)
    assert optimizer.defaults.get("momentum") == momentum


@pytest.mark.parametrize("text", ["sgd:1", "adam:0.9", "adam+sgd", "lion", "", "sgd:x", "sgd:-1"])
def test_an_optimiser_that_cannot_be_is_one_line(text):
    with pytest.raises(ModelError, match=rf"--optimizer {text.replace('+', chr(92) + '+')}: ") as caught:
        create_optimizer(text, [nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0)
    assert "\n" not in str(caught.value)


def test_constant():
    assert rates("constant") == [LR] * 50


def test_step_halves_every_so_many_epochs():
    assert rates("step:2:0.5") == pytest.approx([LR * 0.5 ** (step // 10) for step in range(50)])
    assert rates("step:5")[-1] == pytest.approx(LR / 10)


def test_cosine_and_poly_are_the_formulas():
    share = [step / 50 for step in range(50)]
    assert rates("cosine:0.01") == pytest.approx([LR * (0.01 + 0.99 * (1 + math.cos(math.pi * s)) / 2) for s in share])
    assert rates("poly") == pytest.approx([LR * (1 - s) ** 0.9 for s in share])
    assert rates("poly:2") == pytest.approx([LR * (1 - s) ** 2 for s in share])


def test_one_cycle_rises_for_a_fifth_and_ends_low():
    found = rates("onecycle")
    assert max(found) == pytest.approx(LR)
    assert found.index(max(found)) in (9, 10)
    assert found[-1] < LR / 1000


def test_a_warm_up_rises_to_where_the_schedule_begins():
    found = rates("warmup:2+cosine")
    assert found[0] == pytest.approx(0.01 * LR)
    assert found[:10] == sorted(found[:10])
    assert found[10] == pytest.approx(LR)
    assert found[-1] < LR / 100


@pytest.mark.parametrize("text", ["onecycle", "cosine", "poly", "step:1", "constant", "warmup:3+poly"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_the_shortest_runs_have_a_rate_too(text, epochs):
    assert all(0 <= rate <= LR * 1.0001 for rate in rates(text, epochs=epochs, epoch_steps=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cosin", "unknown is 'cosin'; did you mean cosine"),
        ("step", "the epochs of a step are needed, such as step:20:0.5"),
        ("step:0", "the epochs of a step are needed"),
        ("warmup:5", "one schedule is needed, after warmup"),
        ("warmup+poly", "one schedule is needed"),
        ("poly+cosine", "one schedule is needed"),
        ("cosine:0.1:2", "cosine takes 1 number"),
        ("poly:x", "needs numbers after its colons"),
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(text, said):
    with pytest.raises(ModelError, match=said) as caught:
        parse_schedule(text)
    assert "\n" not in str(caught.value)


def test_parts_are_names_and_numbers():
    known = {"one": 1, "two": 2, "none": 0}
    assert parse_parts("one:2+two:1:0.5+none", "x", known) == [
        Part("one", (2.0,)),
        Part("two", (1.0, 0.5)),
        Part("none", ()),
    ]
    for text, said in {
        "three": "known are one, two, none",
        "none:1": "none takes no numbers",
        "one:inf": "0 or more",
    }.items():
        with pytest.raises(ModelError, match=said):
            parse_parts(text, "x", known)
