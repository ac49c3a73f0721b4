"""Losses from (batch, classes, rows, cols) logits and (batch, rows, cols) masks of class indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import ModelError


class CrossEntropy(nn.Module):
    """Mean cross entropy over the labelled pixels, weighted by class; 0 where no pixel is labelled.

    torch's own mean is 0 / 0 there, and one such chip would fill the network with NaN.
    """

    def __init__(self, ignore_index: int, class_weights: Tensor | None):
        super().__init__()
        self.ignore_index = ignore_index
        self.class_weights = class_weights

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss, and a gradient of zero at pixels of `ignore_index`."""
        labelled = masks != self.ignore_index
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(logits, masks, weights, ignore_index=self.ignore_index, reduction="sum")
        weight = labelled.sum() if weights is None else (weights[masks * labelled] * labelled).sum()
        return total / weight.clamp_min(torch.finfo(total.dtype).tiny)


class SumOfLosses(nn.Module):
    """The sum of losses, computed in float32 whatever the network computed in."""

    def __init__(self, losses: Sequence[nn.Module]):
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Float logits (batch, classes, rows, cols) and int64 masks (batch, rows, cols) to a scalar."""
        logits = logits.float()
        return torch.stack([loss(logits, masks) for loss in self.losses]).sum()


def _dice(ignore_index: int, class_weights: Tensor | None) -> nn.Module:
    return DiceLoss(MULTICLASS_MODE, ignore_index=ignore_index, class_weights=class_weights)


_LOSSES = {"ce": CrossEntropy, "dice": _dice}


def create_loss(name: str = "ce+dice", *, ignore_index: int = 255, class_weights: Tensor | None = None) -> nn.Module:
    """Build a loss by name.

    Args:
        name: `ce` (cross entropy), `dice`, or a sum such as `ce+dice`. Dice is 1 - 2 |P T| / (|P| + |T|) with soft
            predictions, over all pixels of the batch, and averaged over all classes: one that is absent from the
            masks adds 0 (Milletari et al. 2016, https://arxiv.org/abs/1606.04797).
        ignore_index: mask value of pixels that do not count.
        class_weights: (classes,) float; both losses become means weighted with it.

    Returns:
        A module, (logits, masks) -> scalar: logits float (batch, classes, rows, cols), masks int64 (batch, rows, cols).
        A batch with no labelled pixel gives 0 and a gradient of zero.

    Raises:
        ModelError: an unknown name.
    """
    parts = name.split("+")
    unknown = [part for part in parts if part not in _LOSSES]
    if unknown:
        raise ModelError(f"unknown loss '{unknown[0]}': needed is {' or '.join(_LOSSES)}, or a sum such as ce+dice")
    return SumOfLosses([_LOSSES[part](ignore_index, class_weights) for part in parts])


def parse_class_weights(text: str, class_pixels: Sequence[int]) -> Tensor | None:
    """Class weights from `none`, `auto`, or numbers such as `1,2.5`, one per class.

    `auto` weights a class by one over the square root of its pixels, so that a rare class counts for more than its
    pixels without drowning the others; a class without any has no say. The mean weight of a labelled pixel is 1.

    Args:
        text: as given on the command line.
        class_pixels: labelled training pixels of each class.

    Raises:
        ModelError: neither of these, or another number of classes.
    """
    if text == "none":
        return None
    if text == "auto":
        pixels = torch.tensor(class_pixels, dtype=torch.float32)
        weights = torch.where(pixels > 0, pixels.clamp_min(1).rsqrt(), 0)
        return weights * pixels.sum() / (weights * pixels).sum()
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if (
        len(numbers) != len(class_pixels)
        or not all(0 <= number < float("inf") for number in numbers)
        or not any(numbers)
    ):
        raise ModelError(
            f"--class-weights {text}: none, auto, or {len(class_pixels)} numbers split by commas are needed"
        )
    return torch.tensor(numbers)
