"""How far a network looks: what a window must see around the ground that it answers for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from geoseg.models import class_logits, mirror

COARSEST = 32
"""Side in pixels of the coarsest cells of any network. These lie alike in all windows, if cores are whole multiples of it."""

MARGINS = (32, 64, 96, 128, 192)
"""The margins that are tried."""

NEXT_TO_NOTHING = 0.002
"""The share of a border that may change its class for want of what lies further off than a margin that is enough."""

_WIDEST = 256
_CORE = 128
_BORDER = 8


def measure_reach(network: nn.Module, images: Iterable[Tensor]) -> dict[int, float]:
    """Share of the pixels along a window's border that change their class for want of what lies further off.

    Around each image more of it is laid, mirrored; of the middle, 128 pixels wide, the network tells the class once in a
    window with a margin of 256 pixels, and once with each of `MARGINS`. Compared are the outermost 8 pixels of the
    middle, which is where windows meet. A margin that is enough is the last to be tried.

    Args:
        network: in evaluation mode.
        images: normalised, (bands, rows, cols) of any size, of what the network was trained for.

    Returns:
        Per margin that was tried a share from 0 to 1; empty without an image.
    """
    reach: dict[int, float] = {}
    with torch.inference_mode():
        scenes = [_laid_around(image) for image in images]
        expected = [_border_classes(network, around, _WIDEST) for around in scenes]
        for margin in MARGINS if scenes else ():
            found = (_border_classes(network, around, margin) for around in scenes)
            shares = [float((one != other).double().mean()) for one, other in zip(found, expected, strict=True)]
            reach[margin] = round(sum(shares) / len(shares), 5)
            if reach[margin] <= NEXT_TO_NOTHING:
                break
    return reach


def _laid_around(image: Tensor) -> Tensor:
    """(1, bands, size, size) that begins in the middle of the mirrored image, so that its centre is no axis."""
    size = _CORE + 2 * _WIDEST
    rows, cols = image.shape[-2:]
    long = mirror(mirror(image[None], -2, size + rows // 3), -1, size + cols // 3)
    return long[..., rows // 3 :, cols // 3 :]


def _border_classes(network: nn.Module, around: Tensor, margin: int) -> Tensor:
    start, size = _WIDEST - margin, _CORE + 2 * margin
    window = around[..., start : start + size, start : start + size]
    classes = class_logits(network(window))[..., margin:-margin, margin:-margin].argmax(dim=1)
    border = torch.ones(_CORE, _CORE, dtype=torch.bool, device=around.device)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return classes[:, border]
