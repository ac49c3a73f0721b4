"""Each loss is its published formula, computed here by numpy in float64, over the labelled pixels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geoseg.errors import ModelError
from geoseg.losses import create_loss, output_channels, parse_class_weights
from geoseg.models import class_logits

IGNORE = 255
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0])
NAMES = ["ce", "ce:0.1", "dice", "jaccard", "focal", "focal:0", "focal:0.5", "lovasz", "tversky", "tversky:0.9:0.2"]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def masks() -> Tensor:
    """Classes 0, 1 and 3 (2 is absent), about a quarter ignored."""
    drawn = torch.randint(0, 4, (2, 9, 11), generator=torch.Generator().manual_seed(1))
    return torch.tensor([0, 1, 3, IGNORE])[drawn]


def formula(name: str, logits: np.ndarray, masks: np.ndarray, weights: np.ndarray) -> float:
    """A loss, from the definition in its paper."""
    kind, *numbers = name.split(":")
    labelled = masks != IGNORE
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = (scores / scores.sum(axis=1, keepdims=True)).transpose(1, 0, 2, 3)[:, labelled]
    truth = masks[labelled] == np.arange(len(p))[:, None]
    if kind in {"ce", "focal"}:
        smoothing = float(numbers[0]) if name == "ce:0.1" else 0.0
        gamma = 0.0 if kind == "ce" else float(*numbers or [2])
        target = (1 - smoothing) * truth + smoothing / len(p)
        losses = -(weights[:, None] * target * (1 - p) ** gamma * np.log(p)).sum(axis=0)
        return losses.sum() / (weights[:, None] * truth).sum()
    if kind == "lovasz":
        present = truth.any(axis=1)
        return np.average([lovasz(*pair) for pair in zip(p[present], truth[present], strict=True)], 0, weights[present])
    alpha, beta = {"dice": (0.5, 0.5), "jaccard": (1, 1)}.get(kind, numbers or (0.3, 0.7))
    hits, misses, false = (p * truth).sum(axis=1), ((1 - p) * truth).sum(axis=1), (p * ~truth).sum(axis=1)
    losses = 1 - hits / (hits + float(alpha) * false + float(beta) * misses)
    return np.average(losses * truth.any(axis=1), weights=weights)


def lovasz(p: np.ndarray, truth: np.ndarray) -> float:
    """Equation 8 of Berman et al.: errors, sorted, times the growth of the Jaccard loss |wrong| / |truth or wrong|."""
    errors = abs(truth - p)
    loss, wrong, before = 0.0, np.zeros(len(p), bool), 0.0
    for pixel in np.argsort(-errors):
        wrong[pixel] = True
        after = wrong.sum() / (truth | wrong).sum()
        loss, before = loss + errors[pixel] * (after - before), after
    return loss


def numpy(logits: Tensor) -> np.ndarray:
    return logits.detach().double().numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_loss_and_its_gradient_are_the_formula(name, weights, logits, masks):
    factors = np.ones(4) if weights is None else numpy(weights)
    logits.requires_grad_()
    loss = create_loss(name, class_weights=weights)(logits, masks)
    assert loss.item() == pytest.approx(formula(name, numpy(logits), masks.numpy(), factors), rel=1e-5)
    loss.backward()
    step = 1e-6 * np.random.default_rng(0).standard_normal(logits.shape)
    slope = formula(name, numpy(logits) + step, masks.numpy(), factors)
    slope -= formula(name, numpy(logits) - step, masks.numpy(), factors)
    assert (2 * numpy(logits.grad) * step).sum() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs_mean_over_labelled_pixels(logits, masks, weights, smoothing):
    expected = F.cross_entropy(logits, masks, weights, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(create_loss(f"ce:{smoothing}", class_weights=weights)(logits, masks), expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 3.0])])
def test_bce_is_binary_cross_entropy_over_labelled_pixels(logits, masks, weights):
    one, masks = logits[:, :1].requires_grad_(), torch.where(masks == 3, 1, masks)
    labelled = masks != IGNORE
    per_pixel = None if weights is None else weights[masks[labelled]]
    expected = F.binary_cross_entropy_with_logits(one[:, 0][labelled], masks[labelled].float(), per_pixel)
    expected = expected if per_pixel is None else expected / per_pixel.mean()
    loss = create_loss("bce", class_weights=weights)(one, masks)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, one)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(loss, create_loss("ce", class_weights=weights)(class_logits(one), masks))


@pytest.mark.parametrize("name", [*NAMES, "bce+dice"])
def test_every_loss_takes_the_logits_of_one_channel(name, logits, masks):
    masks = torch.where(masks == 3, 1, masks)
    one = logits[:, :1]
    two = torch.cat([torch.zeros_like(one), one], dim=1)
    assert torch.equal(class_logits(one), two)
    assert class_logits(logits) is logits
    torch.testing.assert_close(class_logits(one).softmax(dim=1)[:, 1:], one.sigmoid())
    assert create_loss(name)(one, masks).item() == create_loss(name)(two, masks).item() > 0


def test_a_sum_adds_its_parts(logits, masks):
    parts = (
        create_loss("ce")(logits, masks) + create_loss("focal:1")(logits, masks) + create_loss("dice")(logits, masks)
    )
    torch.testing.assert_close(create_loss("ce+focal:1+dice")(logits, masks), parts)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"ce:0.1"}))
def test_a_perfect_prediction_costs_nothing_and_moves_nothing(name, masks):
    perfect = (50.0 * F.one_hot(masks * (masks != IGNORE), 4).permute(0, 3, 1, 2)).requires_grad_()
    loss = create_loss(name)(perfect, masks)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert perfect.grad.abs().max() < 1e-6  # and not NaN
    assert create_loss(name)(-perfect, masks).item() > 0.5


@pytest.mark.parametrize("name", [*NAMES, "ce+dice"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ignored_pixels_neither_count_nor_learn(name, weights, logits, masks):
    ignored = (masks == IGNORE)[:, None].expand_as(logits)
    other = torch.where(ignored, logits.flip(1) * 5, logits).requires_grad_()
    loss = create_loss(name, class_weights=weights)(other, masks)
    torch.testing.assert_close(loss, create_loss(name, class_weights=weights)(logits, masks))
    loss.backward()
    assert other.grad[ignored].eq(0).all()
    assert other.grad[~ignored].abs().max() > 0


@pytest.mark.parametrize("name", [*NAMES, "bce", "ce+dice"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("channels", [4, 1])
def test_a_batch_with_no_labelled_pixel_gives_zero_and_a_gradient_of_zero(name, weights, channels, logits, masks):
    logits = logits[:, :channels].requires_grad_()
    weights = weights if weights is None or channels > 1 else weights[:2]
    loss = create_loss(name, class_weights=weights)(logits, torch.full_like(masks, IGNORE))
    loss.backward()
    assert (loss.item(), loss.shape, loss.dtype) == (0, (), torch.float32)
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_only_classes_of_weight_zero_give_zero(name, logits):
    weights = torch.tensor([0.0, 1.0, 1.0, 1.0])
    logits.requires_grad_()
    loss = create_loss(name, class_weights=weights)(logits, torch.zeros(2, 9, 11, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype, logits, masks):
    half = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = create_loss(name, class_weights=WEIGHTS)(half, masks)
    assert loss.dtype == torch.float32
    assert loss.item() == create_loss(name, class_weights=WEIGHTS)(half.float(), masks).item()
    loss.backward()
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_one_pixel_is_enough(name):
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0]).reshape(1, 4, 1, 1).requires_grad_()
    loss = create_loss(name)(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    assert loss.item() == pytest.approx(formula(name, numpy(logits), np.ones((1, 1, 1), int), np.ones(4)), rel=1e-5)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_many_pixels_do_not_lose_precision():
    logits = torch.randn(4, 2, 512, 512, generator=torch.Generator().manual_seed(0))
    masks = (logits[:, 1] > 0).long()
    expected = F.cross_entropy(logits.double(), masks).item()
    assert create_loss("ce")(logits, masks).item() == pytest.approx(expected, rel=1e-5)


def test_the_steps_of_lovasz_are_exact_for_many_pixels():
    """The only pixel of class 1 is the least wrong: the i-th worst of the others makes a step of 1 / (i (i + 1))."""
    number = 1_000_000
    masks = F.one_hot(torch.tensor([[number]]), number + 1)
    logits = torch.linspace(1, 0, number + 1).index_fill(0, torch.tensor([number]), 1).reshape(1, 1, 1, -1)
    logits.requires_grad_()
    create_loss("lovasz", class_weights=torch.tensor([0.0, 1.0]))(logits, masks).backward()
    place, slope = torch.arange(1.0, number + 1), logits.sigmoid() * (1 - logits.sigmoid())
    expected = slope.detach()[0, 0, 0, :number] / place / (place + 1)
    torch.testing.assert_close(logits.grad[0, 0, 0, :number], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["ce+", "", "xyz"])
def test_an_unknown_loss_names_the_known_ones(name):
    with pytest.raises(ModelError, match="known are ce, bce, dice, jaccard, focal, lovasz, tversky"):
        create_loss(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dise", "did you mean dice"),
        ("ce:1", "label smoothing"),
        ("focal:-1", "focal takes 1 number of 0 or more"),
        ("focal:1:2", "focal takes 1 number of 0 or more"),
        ("tversky:0.3", "two weights"),
        ("tversky:0:0", "two weights"),
        ("dice:1", "dice takes no numbers"),
    ],
)
def test_a_loss_that_cannot_be_is_one_line(name, reason):
    for function in (create_loss, lambda name: output_channels(name, 2)):
        with pytest.raises(ModelError, match=reason) as caught:
            function(name)
        assert "\n" not in str(caught.value)


def test_output_channels_are_one_for_bce_and_one_per_class_else():
    assert [output_channels(name, 2) for name in ("bce", "dice+bce", "ce", "ce+dice")] == [1, 1, 2, 2]
    assert output_channels("ce+focal", 5) == 5
    with pytest.raises(ModelError, match=r"--loss ce\+bce: bce needs a legend of two classes, found are 3"):
        output_channels("ce+bce", 3)


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
