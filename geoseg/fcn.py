"""Fully convolutional networks that add scores, or features, of several depths; decoders for any pyramid of features.

Long, Shelhamer and Darrell 2015, https://arxiv.org/abs/1411.4038, sections 4.1 and 4.2. A pyramid is a list of maps
(batch, channels[i], rows / 2^i, cols / 2^i), the image's own resolution first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from geoseg.borders import PaddedConv2d

_CLASSIFIER_CHANNELS = 4096
_DEEPEST = 5  # a map of stride 32


class VGGPools(nn.Module):
    """VGG's convolutions, giving what the paper takes: the image, and the outputs of the five poolings.

    Args:
        features: the layers of a VGG, as torchvision numbers them; weights keep these names.
    """

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> list[Tensor]:
        """A pyramid of six maps."""
        pyramid, x = [image], image
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pyramid.append(x)
        return pyramid


class ScoreDecoder(nn.Module):
    """Scores of the deepest map, doubled and added to those of finer ones, then brought to full size at once.

    Args:
        channels: of the pyramid.
        classes: channels of the result.
        finest: stride of the finest map that is scored: 32, 16, 8 or 4.
        dropout: probability, before the deepest score.
        classifier: whether the two layers of 4096 channels of VGG's classifier come before the deepest score.
    """

    def __init__(self, channels: Sequence[int], classes: int, *, finest: int, dropout: float, classifier: bool):
        super().__init__()
        deep = channels[_DEEPEST]
        self.classifier = _classifier(deep, dropout) if classifier else nn.Dropout2d(dropout)
        self._levels = range(_DEEPEST - 1, finest.bit_length() - 2, -1)
        self.scores = nn.ModuleList(
            nn.Conv2d(count, classes, 1)
            for count in (_CLASSIFIER_CHANNELS if classifier else deep, *(channels[level] for level in self._levels))
        )
        self.ups = nn.ModuleList(_bilinear(classes, 2) for _ in self._levels)
        self.last = _bilinear(classes, finest)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Logits (batch, classes, rows, cols)."""
        score = self.scores[0](self.classifier(pyramid[_DEEPEST]))
        for level, up, finer in zip(self._levels, self.ups, self.scores[1:], strict=True):
            score = up(score) + finer(pyramid[level])
        return self.last(score)


class FeatureDecoder(nn.Module):
    """The deepest map, doubled and added to the next, then doubled four times with ever fewer channels.

    Args:
        channels: of the pyramid.
    """

    out_channels = 32

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        steps = (channels[_DEEPEST], channels[_DEEPEST - 1], 256, 128, 64, self.out_channels)
        pairs = list(pairwise(steps))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(*pair, 3, stride=2, padding=1, output_padding=1) for pair in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _, out in pairs)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """(batch, 32, rows, cols)."""
        decoded = pyramid[_DEEPEST]
        for step, (up, norm) in enumerate(zip(self.ups, self.norms, strict=True)):
            decoded = torch.relu(up(decoded))
            decoded = norm(decoded + pyramid[_DEEPEST - 1] if step == 0 else decoded)
        return decoded


def _classifier(channels: int, dropout: float) -> nn.Sequential:
    """VGG's fully connected layers as convolutions: the first saw the 7 x 7 pixels of its deepest map."""
    wide = _CLASSIFIER_CHANNELS
    return nn.Sequential(
        PaddedConv2d(channels, wide, 7, padding=3), nn.ReLU(), nn.Dropout2d(dropout),
        nn.Conv2d(wide, wide, 1), nn.ReLU(), nn.Dropout2d(dropout),
    )  # fmt: skip


def _bilinear(classes: int, stride: int) -> nn.ConvTranspose2d:
    """A transposed convolution that begins as bilinear interpolation, class by class (section 3.3 of the paper)."""
    up = nn.ConvTranspose2d(classes, classes, 2 * stride, stride=stride, padding=stride // 2, bias=False)
    slope = 1 - (torch.arange(2 * stride) - stride + 0.5).abs() / stride
    with torch.no_grad():
        up.weight.zero_()
        up.weight[range(classes), range(classes)] = slope[:, None] * slope
    return up
