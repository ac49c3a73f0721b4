"""Optimisers and learning-rate schedules by name, as recipes and options spell them; all are torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from geoseg.errors import ModelError
from geoseg.named_parts import Part, parse_parts

_WARM_UP_START = 0.01  # of the learning rate: the first step of a warm-up is small, but not lost


def create_optimizer(
    text: str, weights: Iterable[torch.nn.Parameter], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimiser by name.

    Args:
        text: `adamw` (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), `adam`, or `sgd`, with its
            momentum after a colon: `sgd:0.9`.
        weights: what is learnt.
        lr: learning rate.
        weight_decay: decoupled from the gradient in `adamw`, an L2 penalty in the others.

    Raises:
        ModelError: an unknown name, or a momentum outside 0..1.
    """
    name, values = _one_part(text, "optimizer", {"adamw": 0, "adam": 0, "sgd": 1})
    momentum = values[0] if values else 0.0
    if not 0 <= momentum < 1:
        raise ModelError(f"--optimizer {text}: a momentum of 0 or more, and less than 1, is needed")
    if name == "sgd":
        return torch.optim.SGD(weights, lr, momentum=momentum, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(weights, lr, weight_decay=weight_decay)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes from the first step to the last; made by `parse_schedule`.

    Attributes:
        name: of the schedule that follows the warm-up.
        values: its numbers.
        warm_up: epochs in which the rate rises linearly before.
    """

    name: str
    values: tuple[float, ...]
    warm_up: float

    def create(self, optimizer: torch.optim.Optimizer, *, steps: int, epoch_steps: int) -> LRScheduler:
        """The schedule over all `steps`, to be advanced after each; `epoch_steps` make an epoch."""
        rising = min(round(self.warm_up * epoch_steps), steps - 1)
        schedule = _SCHEDULES[self.name][1](optimizer, max(steps - rising, 1), epoch_steps, *self.values)
        if rising == 0:
            return schedule
        before = lr_scheduler.LinearLR(optimizer, _WARM_UP_START, total_iters=rising)
        return lr_scheduler.SequentialLR(optimizer, [before, schedule], milestones=[rising])


def parse_schedule(text: str) -> Schedule:
    """Read a schedule such as `onecycle`, `step:20:0.5` or `warmup:5+cosine:0.01`.

    - `constant`.
    - `onecycle`: up in the first fifth, then down along a cosine to almost nothing (Smith and Topin 2019,
      https://arxiv.org/abs/1708.07120).
    - `cosine:END`: down along a half cosine to END times the rate, 0 unless given (Loshchilov and Hutter 2017,
      https://arxiv.org/abs/1608.03983).
    - `poly:POWER`: (1 - step / steps) ** POWER, 0.9 unless given (Liu et al. 2015, https://arxiv.org/abs/1506.04579).
    - `step:EPOCHS:FACTOR`: times FACTOR, 0.1 unless given, every so many epochs.

    Raises:
        ModelError: something else.
    """
    parts = parse_parts(text, "schedule", {"warmup": 1} | {name: count for name, (count, _) in _SCHEDULES.items()})
    *before, (name, values) = parts
    if name == "warmup" or len(before) > 1 or any(part.name != "warmup" or not part.values for part in before):
        raise ModelError(f"--schedule {text}: one schedule is needed, after warmup:EPOCHS+ or by itself")
    if name == "step" and (not values or round(values[0]) < 1):
        raise ModelError(f"--schedule {text}: the epochs of a step are needed, such as step:20:0.5")
    return Schedule(name, values, before[0].values[0] if before else 0.0)


def _constant(optimizer: torch.optim.Optimizer, steps: int, epoch_steps: int) -> LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, 1.0, total_iters=0)


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int, epoch_steps: int) -> LRScheduler:
    # A fifth of the steps; in the shortest runs more, since torch divides by the steps of a phase less one.
    rising = min(0.9, max(0.2, 1.5 / steps))
    return lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=steps, pct_start=rising)


def _cosine(optimizer: torch.optim.Optimizer, steps: int, epoch_steps: int, end: float = 0.0) -> LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=end * optimizer.param_groups[0]["lr"])


def _poly(optimizer: torch.optim.Optimizer, steps: int, epoch_steps: int, power: float = 0.9) -> LRScheduler:
    return lr_scheduler.PolynomialLR(optimizer, steps, power)


def _step(
    optimizer: torch.optim.Optimizer, steps: int, epoch_steps: int, epochs: float, factor: float = 0.1
) -> LRScheduler:
    return lr_scheduler.StepLR(optimizer, round(epochs) * epoch_steps, factor)


_SCHEDULES: dict[str, tuple[int, Callable[..., LRScheduler]]] = {
    "constant": (0, _constant),
    "onecycle": (0, _one_cycle),
    "cosine": (1, _cosine),
    "poly": (1, _poly),
    "step": (2, _step),
}


def _one_part(text: str, option: str, known: dict[str, int]) -> Part:
    parts = parse_parts(text, option, known)
    if len(parts) > 1:
        raise ModelError(f"--{option} {text}: one of {', '.join(known)} is needed")
    return parts[0]
