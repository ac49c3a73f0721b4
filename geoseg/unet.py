"""The farmland U-Net: reflect-padded convolutions, Dropout2d and LeakyReLU, in the two halves of a segmentation network.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, with borders that keep the size, batch norm and spatial dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def stage(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Two rounds of 3x3 convolution, batch norm, Dropout2d and LeakyReLU.

    The convolutions keep their bias although batch norm undoes it: with it the network has its published 31,043,586
    parameters. They pad with zeros until `geoseg.models` sets the padding for the whole network.
    """
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
            nn.LeakyReLU(),
        ]
    return nn.Sequential(*layers)


class UNetEncoder(nn.Module):
    """The way down: a stage per width, halved by max pooling between them."""

    def __init__(self, in_channels: int, widths: Sequence[int], dropout: float):
        super().__init__()
        inputs = [in_channels, *widths]
        self.stages = nn.ModuleList(stage(*pair, dropout) for pair in zip(inputs, widths, strict=False))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every stage, the finest first: (batch, widths[i], rows / 2^i, cols / 2^i)."""
        features: list[Tensor] = []
        for level in self.stages:
            features.append(level(F.max_pool2d(features[-1], 2) if features else image))
        return features


class UNetDecoder(nn.Module):
    """The way up: a 2x2 transposed convolution doubles the map, the skip is concatenated, a stage merges them."""

    def __init__(self, widths: Sequence[int], dropout: float):
        super().__init__()
        coarse, fine = widths[:0:-1], widths[-2::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(*pair, 2, stride=2) for pair in zip(coarse, fine, strict=True))
        self.stages = nn.ModuleList(stage(2 * width, width, dropout) for width in fine)

    def forward(self, features: list[Tensor]) -> Tensor:
        """(batch, widths[0], rows, cols) from the encoder's features."""
        decoded = features[-1]
        for up, merge, skip in zip(self.ups, self.stages, features[-2::-1], strict=True):
            decoded = merge(torch.cat([skip, up(decoded)], dim=1))
        return decoded
