from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geoseg.errors import ModelError
from geoseg.losses import create_loss, parse_class_weights

IGNORE = 255


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def masks() -> Tensor:
    """Classes 0, 1 and 3 (2 is absent), about a quarter ignored."""
    drawn = torch.randint(0, 4, (2, 9, 11), generator=torch.Generator().manual_seed(1))
    return torch.tensor([0, 1, 3, IGNORE])[drawn]


def soft_dice(logits: Tensor, masks: Tensor) -> np.ndarray:
    """1 - Dice of every class by the formula, pixel by pixel; 0 for a class that is absent."""
    scores = np.exp(logits.double().numpy())
    probability = (scores / scores.sum(axis=1, keepdims=True)).transpose(1, 0, 2, 3)[:, masks != IGNORE]
    labels = masks[masks != IGNORE].numpy()
    losses = np.zeros(len(probability))
    for value in np.unique(labels):
        overlap = probability[value, labels == value].sum()
        losses[value] = 1 - 2 * overlap / (probability[value].sum() + (labels == value).sum())
    return losses


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 4.0])])
def test_cross_entropy_is_torchs_mean_over_labelled_pixels(logits, masks, weights):
    expected = F.cross_entropy(logits, masks, weights, ignore_index=IGNORE)
    torch.testing.assert_close(create_loss("ce", class_weights=weights)(logits, masks), expected)


def test_dice_is_the_formula_with_ignored_pixels_left_out(logits, masks):
    expected = soft_dice(logits, masks)
    assert create_loss("dice")(logits, masks).item() == pytest.approx(expected.mean(), rel=1e-5)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    weighted = np.average(expected, weights=weights.numpy())
    assert create_loss("dice", class_weights=weights)(logits, masks).item() == pytest.approx(weighted, rel=1e-5)


def test_a_sum_adds_its_parts(logits, masks):
    parts = create_loss("ce")(logits, masks) + create_loss("dice")(logits, masks)
    torch.testing.assert_close(create_loss("ce+dice")(logits, masks), parts)


def test_a_perfect_prediction_costs_nothing(masks):
    perfect = 50.0 * F.one_hot(masks * (masks != IGNORE), 4).permute(0, 3, 1, 2)
    assert create_loss("ce+dice")(perfect, masks).item() == pytest.approx(0, abs=1e-6)
    assert create_loss("ce+dice")(-perfect, masks).item() > 1


@pytest.mark.parametrize("name", ["ce", "dice", "ce+dice"])
def test_ignored_pixels_neither_count_nor_learn(name, logits, masks):
    ignored = (masks == IGNORE)[:, None].expand_as(logits)
    other = torch.where(ignored, logits.flip(1) * 5, logits).requires_grad_()
    loss = create_loss(name)(other, masks)
    torch.testing.assert_close(loss, create_loss(name)(logits, masks))
    loss.backward()
    assert other.grad[ignored].eq(0).all()
    assert other.grad[~ignored].abs().max() > 0


@pytest.mark.parametrize("name", ["ce", "dice", "ce+dice"])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 4.0])])
def test_a_batch_with_no_labelled_pixel_gives_zero_and_a_gradient_of_zero(name, weights, logits, masks):
    logits.requires_grad_()
    loss = create_loss(name, class_weights=weights)(logits, torch.full_like(masks, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_only_classes_of_weight_zero_give_zero(logits):
    weights = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert create_loss("ce+dice", class_weights=weights)(logits, torch.zeros(2, 9, 11, dtype=torch.int64)).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, logits, masks):
    half = logits.to(dtype)
    loss = create_loss()(half, masks)
    assert loss.dtype == torch.float32
    assert loss.item() == create_loss()(half.float(), masks).item()


def test_many_pixels_do_not_lose_precision():
    logits = torch.randn(4, 2, 512, 512, generator=torch.Generator().manual_seed(0))
    masks = (logits[:, 1] > 0).long()
    expected = F.cross_entropy(logits.double(), masks).item()
    assert create_loss("ce")(logits, masks).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["dise", "ce+", "", "ce dice"])
def test_an_unknown_loss_names_the_known_ones(name):
    with pytest.raises(ModelError, match=r"unknown loss '.*': needed is ce or dice, or a sum such as ce\+dice"):
        create_loss(name)


def test_class_weights_auto_favours_rare_classes_and_keeps_the_mean_at_one():
    weights = parse_class_weights("auto", [900, 100, 0])
    assert weights[2] == 0
    assert weights[1] / weights[0] == pytest.approx(3)
    assert (weights[0] * 900 + weights[1] * 100) / 1000 == pytest.approx(1)


def test_class_weights_as_numbers_or_none():
    assert parse_class_weights("none", [1, 2]) is None
    assert parse_class_weights("1,2.5", [5, 5]).tolist() == [1, 2.5]


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,x", "-1,2", "inf,1", "0,0", ""])
def test_class_weights_that_cannot_be_are_one_line(text):
    with pytest.raises(ModelError, match="2 numbers") as caught:
        parse_class_weights(text, [5, 5])
    assert "\n" not in str(caught.value)
