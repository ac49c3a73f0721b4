"""Test-time augmentation: the ways in which a network looks at one window, and how its answers are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geoseg.choices import TestTimeAugmentation
from geoseg.models import mirror

_SHIFTS = 4
"""Shifts per axis of `shifts`: all of them would be as many as the network's stride, 1,024 passes for a stride of 32."""

_SYMMETRIES = {"none": 1, "flips": 4, "d4": 8}


class View(NamedTuple):
    """One way to look at a window.

    Attributes:
        transform: the window (batch, bands, rows, cols) to what the network is shown.
        inverse: what it answers to where that lies in the window, (batch, classes, rows, cols).
        weights: rows and cols of the window to how much each pixel of the answer counts, a tensor that is broadcast to
            (rows, cols); over all views these add up to 1.
    """

    transform: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    weights: Callable[[int, int], Tensor]


def views(tta: TestTimeAugmentation, stride: int) -> list[View]:
    """How a window is looked at; `stride` is that of the network's coarsest map."""
    if tta == "shifts":
        shifts = sorted({number * stride // _SHIFTS for number in range(_SHIFTS)})
        return [_shifted(down, right, shifts, stride) for down in shifts for right in shifts]
    count = _SYMMETRIES[tta]
    return [_symmetric(number, 1 / count) for number in range(count)]


def _symmetric(number: int, weight: float) -> View:
    """One of the eight symmetries of the square: bit 0 mirrors columns, bit 1 rows, bit 2 then swaps them."""
    mirrored = [dim for bit, dim in ((1, -1), (2, -2)) if number & bit]

    def swap(batch: Tensor) -> Tensor:
        return batch.transpose(-1, -2) if number & 4 else batch

    return View(
        transform=lambda batch: swap(batch.flip(mirrored)),
        inverse=lambda batch: swap(batch).flip(mirrored),
        weights=lambda rows, cols: torch.full((rows, cols), weight),
    )


def _shifted(down: int, right: int, shifts: Sequence[int], stride: int) -> View:
    """The window moved against the network's coarse cells; it counts at the pixels that lie best in their cells then.

    Shift-and-stitch (Long, Shelhamer and Darrell 2015, section 3.2, https://arxiv.org/abs/1411.4038), on a grid of
    shifts rather than all of them.
    """
    return View(
        transform=lambda batch: _lengthen_before(_lengthen_before(batch, -2, down), -1, right),
        inverse=lambda batch: batch[..., down:, right:],
        weights=lambda rows, cols: torch.outer(
            _most_central(rows, down, shifts, stride), _most_central(cols, right, shifts, stride)
        ),
    )


def _lengthen_before(batch: Tensor, dim: int, extra: int) -> Tensor:
    return mirror(batch.flip(dim), dim, batch.shape[dim] + extra).flip(dim)


def _most_central(size: int, shift: int, shifts: Sequence[int], stride: int) -> Tensor:
    """1 at the pixels of an axis that this shift, rather than another, brings nearest to the centre of a cell, else 0."""
    places = (torch.arange(size) + torch.tensor(shifts)[:, None]) % stride
    off_centre = 2 * places - (stride - 1)
    nearest = (2 * off_centre + 1).abs().argmin(dim=0)  # 1: of two cells that are as near, always the later
    return (nearest == shifts.index(shift)).float()
