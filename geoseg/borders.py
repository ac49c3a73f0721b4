"""Borders that mirror the map: any network's convolutions pad by reflection, in the dtype that they compute in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import ModelError

# Dilated convolutions pad by more than this, often by more than the map is wide, which no reflection can fill.
_WIDEST_REFLECTION = 4
# Convolutions of timm and smp that pad as TensorFlow does, with zeros and in their own `forward`.
_SAME_CONVOLUTIONS = ("Conv2dSame", "Conv2dStaticSamePadding")


class MirroredConv2d(nn.Conv2d):
    """A convolution with reflect padding that rounds the map before it pads it, where autocast is on.

    Autocast on a CPU pads by reflection in float32: it would widen the map, and round the padded one again.
    """

    def forward(self, image: Tensor) -> Tensor:
        """(batch, in_channels, rows, cols) to (batch, out_channels, ...), as `nn.Conv2d`."""
        device = image.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(image)
        with torch.autocast(device, enabled=False):
            rounded = image.to(torch.get_autocast_dtype(device))
            padded = F.pad(rounded, self._reversed_padding_repeated_twice, mode="reflect")
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class PaddedConv2d(nn.Conv2d):
    """A convolution whose zeros are laid around the map before it begins.

    In bfloat16 on AMX, oneDNN leaves parts of the gradient unwritten where a kernel is much larger than the map (torch 2.14,
    7 x 7 on 1 x 1): what stood in memory is learned.
    """

    def forward(self, image: Tensor) -> Tensor:
        """(batch, in_channels, rows, cols) to (batch, out_channels, ...), as `nn.Conv2d`."""
        padded = F.pad(image, self._reversed_padding_repeated_twice)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def reflect_borders(network: nn.Module, encoder: str) -> None:
    """Make convolutions mirror the map at its border, all but the widely dilated ones.

    Args:
        network: changed in place; weights and their names stay.
        encoder: its name, for the message.

    Raises:
        ModelError: a convolution that pads in code of its own.
    """
    for conv in network.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        border = _border(conv)
        if not 0 < max(border) <= _WIDEST_REFLECTION:
            continue
        # What the `forward` of these does beside the convolution is no more than to pad with zeros.
        known = type(conv).forward in (nn.Conv2d.forward, MirroredConv2d.forward, PaddedConv2d.forward)
        if not known and type(conv).__name__ not in _SAME_CONVOLUTIONS:
            raise ModelError(
                f"{encoder} pads inside its own {type(conv).__name__}, where reflection cannot reach: use --padding zeros"
            )
        conv.__class__ = MirroredConv2d
        conv.padding_mode = "reflect"
        # Derived in the constructor from the padding of that moment, and all that `forward` looks at in this mode.
        conv._reversed_padding_repeated_twice = border


def _border(conv: nn.Conv2d) -> list[int]:
    """What a convolution pads, in the order of F.pad: left, right, top, bottom."""
    static = getattr(conv, "static_padding", None)
    if isinstance(static, nn.ZeroPad2d):
        return list(static.padding)
    if type(conv).__name__ == "Conv2dSame":
        # It pads so that out = in / stride; as in is a multiple of stride (`size_divisor`), that is always this much.
        sizes = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
        totals = [max((kernel - 1) * dilation + 1 - stride, 0) for kernel, dilation, stride in sizes]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    if isinstance(conv.padding, str):
        return conv._reversed_padding_repeated_twice
    return [side for side in reversed(conv.padding) for _ in range(2)]
