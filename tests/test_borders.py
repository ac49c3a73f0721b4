"""Mirrored borders in the dtype that a convolution computes in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.borders import MirroredConv2d, reflect_borders
from geoseg.errors import ModelError
from geoseg.models import create_model


def image(rows: int, cols: int, bands: int = 3) -> Tensor:
    return torch.randn(2, bands, rows, cols, generator=torch.Generator().manual_seed(rows * cols))


def plainly(network: nn.Module) -> nn.Module:
    """A copy whose convolutions are torch's own, with the same padding mode."""
    plain = copy.deepcopy(network)
    for conv in plain.modules():
        if isinstance(conv, MirroredConv2d):
            conv.__class__ = nn.Conv2d
    return plain


def test_without_autocast_it_is_torchs_own_to_the_bit():
    network = create_model("unet", width=2, dropout=0.0)
    plain = plainly(network)
    assert type(plain.encoder.stages[0][0]) is nn.Conv2d
    found, expected = network(image(40, 33)), plain(image(40, 33))
    assert torch.equal(found, expected)
    found.square().mean().backward()
    expected.square().mean().backward()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_autocast_pads_the_rounded_map(stride, dilation, groups):
    conv = nn.Conv2d(4, 6, 3, padding=dilation, stride=stride, dilation=dilation, groups=groups)
    reflect_borders(conv, "any")
    padded = F.pad(image(9, 12, 4), 4 * [dilation], mode="reflect").bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv2d(padded, conv.weight, conv.bias, stride, 0, dilation, groups)
        found = conv(image(9, 12, 4))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_autocast_never_widens_a_rounded_map(monkeypatch):
    """Autocast itself would: that is the time this saves."""
    dtypes = []
    pad = F.pad
    monkeypatch.setattr(F, "pad", lambda given, *rest, **more: dtypes.append(given.dtype) or pad(given, *rest, **more))
    network = create_model("unet", width=2)
    dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        network(image(32, 32)).square().mean().backward()
        assert pad(image(4, 4).bfloat16(), [1, 1, 1, 1], mode="reflect").dtype == torch.float32
    assert dtypes == 18 * [torch.bfloat16]
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())


def test_a_convolution_with_code_of_its_own_is_one_line():
    class Odd(nn.Conv2d):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) + 1

    with pytest.raises(ModelError, match=r"any pads inside its own Odd, .* use --padding zeros") as caught:
        reflect_borders(nn.Sequential(Odd(1, 1, 3, padding=1)), "any")
    assert "\n" not in str(caught.value)


def test_mirroring_twice_is_mirroring_once():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    reflect_borders(conv, "any")
    once = conv(image(5, 5, 1))
    reflect_borders(conv, "any")
    assert torch.equal(conv(image(5, 5, 1)), once)
