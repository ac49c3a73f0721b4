"""Losses from (batch, classes, rows, cols) logits and (batch, rows, cols) masks of class indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from segmentation_models_pytorch.losses import MULTICLASS_MODE, TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import ModelError
from geoseg.models import class_logits
from geoseg.named_parts import Part, parse_parts


class CrossEntropy(nn.Module):
    """Mean cross entropy over the labelled pixels, weighted by class; 0 where no pixel is labelled.

    torch's own mean is 0 / 0 there, and one such chip would fill the network with NaN.
    """

    def __init__(self, ignore_index: int, class_weights: Tensor | None, smoothing: float = 0.0):
        super().__init__()
        self.ignore_index = ignore_index
        self.class_weights = class_weights
        self.smoothing = smoothing

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss, and a gradient of zero at pixels of `ignore_index`."""
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        ignored, smoothing = self.ignore_index, self.smoothing
        losses = F.cross_entropy(
            logits, masks, weights, ignore_index=ignored, reduction="none", label_smoothing=smoothing
        )
        return losses.sum() * _inverse(self._pixel_weights(logits, masks).sum())

    def _pixel_weights(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The weight of each pixel's class, and 0 where it is ignored."""
        labelled = masks != self.ignore_index
        weights = torch.ones(logits.shape[1]) if self.class_weights is None else self.class_weights
        return weights.to(logits)[masks * labelled] * labelled


class Focal(CrossEntropy):
    """Mean over the labelled pixels of (1 - p) ** gamma times the cross entropy -log(p), weighted by class.

    The one of segmentation-models-pytorch judges each class by a sigmoid of its own, where our networks are read by
    their softmax, and is NaN where no pixel is labelled.
    """

    def __init__(self, ignore_index: int, class_weights: Tensor | None, gamma: float = 2.0):
        super().__init__(ignore_index, class_weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss, and a gradient of zero at pixels of `ignore_index`."""
        entropy = F.cross_entropy(logits, masks, ignore_index=self.ignore_index, reduction="none")
        # 1 - p, exact where p is near 1. A power below 1 has an infinite slope at 0, and 0 times that is NaN.
        missing = (-torch.expm1(-entropy)).clamp_min(torch.finfo(torch.float32).tiny)
        weights = self._pixel_weights(logits, masks)
        return (weights * missing**self.gamma * entropy).sum() * _inverse(weights.sum())


class LovaszSoftmax(nn.Module):
    """Mean over the classes in the masks, weighted by class, of the Lovasz extension of the Jaccard loss.

    The one of segmentation-models-pytorch knows no class weights, gives an empty tensor where no pixel is labelled,
    and takes its steps as differences of float32 numbers near 1: its gradient is 1 % off at half a million pixels.
    """

    def __init__(self, ignore_index: int, class_weights: Tensor | None):
        super().__init__()
        self.ignore_index = ignore_index
        self.class_weights = class_weights

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss, and a gradient of zero at pixels of `ignore_index`."""
        labelled = masks != self.ignore_index
        probability = logits.softmax(dim=1).movedim(1, 0)[:, labelled]
        truth = masks[labelled] == torch.arange(len(probability), device=masks.device)[:, None]
        errors, order = (truth.float() - probability).abs().sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        # Over a class's pixels, the worst first, the Jaccard loss 1 - intersection / union grows by these steps.
        total, found = truth.sum(dim=1, keepdim=True), truth.cumsum(dim=1)
        union = (total + torch.arange(1, truth.shape[1] + 1, device=masks.device) - found).float()
        steps = torch.where(truth, 1, total - found) / torch.where(truth, union, union * (union - 1)).clamp_min(1)
        losses, weights = (errors * steps).sum(dim=1), (total[:, 0] > 0).float()
        if self.class_weights is not None:
            weights = weights * self.class_weights.to(logits)
        return (losses * weights).sum() * _inverse(weights.sum())


class SumOfLosses(nn.Module):
    """The sum of losses, computed in float32 whatever the network computed in."""

    def __init__(self, losses: Sequence[nn.Module]):
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Float logits (batch, classes or 1, rows, cols) and int64 masks (batch, rows, cols) to a scalar."""
        logits = class_logits(logits.float())
        return torch.stack([loss(logits, masks) for loss in self.losses]).sum()


def _inverse(weight: Tensor) -> Tensor:
    """1 / weight; and 0 for 0, so that a mean over nothing is 0 and passes back a gradient of 0, never of NaN."""
    return torch.where(weight > 0, 1 / weight, 0)


def _tversky(ignore_index: int, class_weights: Tensor | None, alpha: float = 0.3, beta: float = 0.7) -> nn.Module:
    return TverskyLoss(MULTICLASS_MODE, ignore_index=ignore_index, alpha=alpha, beta=beta, class_weights=class_weights)


def _dice(ignore_index: int, class_weights: Tensor | None) -> nn.Module:
    return _tversky(ignore_index, class_weights, 0.5, 0.5)


def _jaccard(ignore_index: int, class_weights: Tensor | None) -> nn.Module:
    return _tversky(ignore_index, class_weights, 1.0, 1.0)


_LOSSES: dict[str, tuple[int, Callable[..., nn.Module]]] = {
    "ce": (1, CrossEntropy),
    "bce": (0, CrossEntropy),
    "dice": (0, _dice),
    "jaccard": (0, _jaccard),
    "focal": (1, Focal),
    "lovasz": (0, LovaszSoftmax),
    "tversky": (2, _tversky),
}


def create_loss(name: str = "ce+dice", *, ignore_index: int = 255, class_weights: Tensor | None = None) -> nn.Module:
    """Build a loss by name.

    - `ce`, `ce:SMOOTHING`: cross entropy, its labels smoothed where a share is given (Szegedy et al. 2016,
      https://arxiv.org/abs/1512.00567).
    - `bce`: binary cross entropy, the same for a one-channel network; see `class_logits`, `output_channels`.
    - `focal:GAMMA`: (1 - p) ** GAMMA times cross entropy, 2 unless given (Lin et al. 2017,
      https://arxiv.org/abs/1708.02002), with the softmax's p of the pixel's own class.
    - `dice`: 1 - 2 |P T| / (|P| + |T|) with soft predictions P (Milletari et al. 2016,
      https://arxiv.org/abs/1606.04797).
    - `jaccard`: 1 - |P T| / |P or T|, likewise (Rahman and Wang 2016, https://doi.org/10.1007/978-3-319-50835-1_22).
    - `tversky:ALPHA:BETA`: 1 - TP / (TP + ALPHA FP + BETA FN), likewise; 0.3 and 0.7 unless given, which favours
      recall (Salehi et al. 2017, https://arxiv.org/abs/1706.05721).
    - `lovasz`: the Lovasz-Softmax surrogate of the Jaccard loss (Berman et al. 2018,
      https://arxiv.org/abs/1705.08790).

    `ce`, `bce` and `focal` are means over the labelled pixels, weighted with the weight of a pixel's class. The others
    take all pixels of the batch at once and are means over the classes, weighted with their weights: over all classes,
    where one that is absent from the masks adds 0, but `lovasz` over those in the masks, as its authors advise.

    Args:
        name: one of these, or a sum such as `ce+dice` or `focal:1+jaccard`.
        ignore_index: mask value of pixels that do not count.
        class_weights: (classes,) float.

    Returns:
        A module, (logits, masks) -> scalar float32: logits float (batch, classes, rows, cols) or (batch, 1, rows,
        cols), masks int64 (batch, rows, cols). A batch with no labelled pixel gives 0 and a gradient of zero.

    Raises:
        ModelError: an unknown name, or a number out of range.
    """
    return SumOfLosses([_LOSSES[part.name][1](ignore_index, class_weights, *part.values) for part in _parse(name)])


def _parse(name: str) -> list[Part]:
    parts = parse_parts(name, "loss", {known: count for known, (count, _) in _LOSSES.items()})
    for part in parts:
        if part.name == "ce" and part.values and part.values[0] >= 1:
            raise ModelError(f"--loss {name}: a label smoothing of 0 or more, and less than 1, is needed")
        if part.name == "tversky" and part.values and (len(part.values) == 1 or not any(part.values)):
            raise ModelError(f"--loss {name}: two weights, not both 0, are needed, such as tversky:0.3:0.7")
    return parts


def output_channels(loss_name: str, classes: int) -> int:
    """Channels of a network for a loss: 1 where `bce` is a part of it, else one per class.

    Raises:
        ModelError: `bce` for other than two classes, or an unknown name.
    """
    if all(part.name != "bce" for part in _parse(loss_name)):
        return classes
    if classes != 2:
        raise ModelError(f"--loss {loss_name}: bce needs a legend of two classes, found are {classes}; use ce instead")
    return 1


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
