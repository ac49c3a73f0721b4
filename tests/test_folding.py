"""Folded networks answer as before, whatever stands between their layers."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from geoseg.borders import MirroredConv2d
from geoseg.folding import fold_batch_norm
from geoseg.models import create_model


def trained(network: nn.Module) -> nn.Module:
    """In evaluation mode, with the batch norm of a network that has seen something."""
    generator = torch.Generator().manual_seed(1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.3, 3, generator=generator)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(norm.bias, 0, 0.3, generator=generator)
    return network.eval()


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


def fold(network: nn.Module, example: Tensor, other: Tensor, tolerance: float) -> int:
    """Fold a copy and hold it against the network, on an image it has not been folded on."""
    folded = copy.deepcopy(network)
    count = fold_batch_norm(folded, example)
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}
    assert norms(folded) == norms(network) - count
    with torch.no_grad():
        expected, found = network(other), folded(other)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    return count


@pytest.mark.parametrize(
    ("arch", "encoder", "folded", "kept"),
    [
        ("unet", "none", 18, 0),
        ("fcn32s", "resnet18", 20, 0),
        ("fcn4s", "vgg11_bn", 8, 0),
        ("fcn-features", "resnet18", 20, 5),  # features are added between these and the convolutions
        ("smp-unet", "resnet18", 30, 0),
        ("smp-unet", "efficientnet-b0", 58, 1),  # the classifier's, which is never run
        ("smp-unet", "tu-regnety_002", 54, 0),  # activations inside the batch norm
        ("smp-unet", "densenet121", 69, 62),  # batch norm of maps that were concatenated
        ("manet", "resnet18", 38, 0),  # attention, which in float32 amplifies rounding
        ("linknet", "resnet18", 35, 0),  # transposed convolutions
        ("pspnet", "resnet18", 14, 10),
        ("deeplabv3plus", "resnet18", 29, 0),
        ("segformer", "mit_b0", 1, 0),
    ],
)
def test_every_network(arch, encoder, folded, kept):
    torch.manual_seed(0)
    network = trained(create_model(arch, encoder=encoder, width=4))
    size = network.least_size
    tolerance = 1e-3 if arch == "manet" else 2e-5
    assert fold(network, image(1, 3, size, size), image(2, 3, size, size + 5), tolerance) == folded
    assert norms(network) == folded + kept


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        MirroredConv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 6, 2, stride=2),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_every_convolution(convolution, affine):
    network = trained(nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, affine=affine), nn.ReLU()))
    assert fold(network, image(1, 4, 9, 9), image(2, 4, 12, 15), 1e-5) == 1


class SquaredNorm(nn.BatchNorm2d):
    def forward(self, maps):
        return super().forward(maps) ** 2


@pytest.mark.parametrize(
    ("convolution", "norm"),
    [
        (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4)),
        (nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        (nn.Conv2d(4, 4, 3), SquaredNorm(4)),
        (nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)),
    ],
)
def test_what_cannot_be_folded_is_left_alone(convolution, norm):
    network = nn.Sequential(convolution, norm).eval()
    before = copy.deepcopy(network)
    assert fold_batch_norm(network, image(1, 4, 9, 9)) == 0
    assert torch.equal(network(image(1, 4, 9, 9)), before(image(1, 4, 9, 9)))


class Pair(nn.Module):
    """A convolution and a batch norm; `use` says what becomes of their maps."""

    def __init__(self, use):
        super().__init__()
        self.convolution, self.norm, self.use = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), use

    def forward(self, maps):
        return self.use(self, maps)


def skip(pair, maps):
    convolved = pair.convolution(maps)
    return pair.norm(convolved) + convolved


def concatenation(pair, maps):
    convolved = pair.convolution(maps)
    return torch.cat([pair.norm(convolved), convolved])


def view(pair, maps):
    convolved = pair.convolution(maps)
    return pair.norm(convolved) * convolved[:, :, :1]


def changed_in_place(pair, maps):
    return pair.norm(pair.convolution(maps).relu_())


def run_twice(pair, maps):
    return pair.norm(pair.convolution(pair.norm(pair.convolution(maps))))


def one_norm_for_two(pair, maps):
    return pair.norm(pair.convolution(maps)) + pair.norm(maps)


def other_weights(pair, maps):
    return pair.norm(nn.functional.conv2d(maps, pair.convolution.weight * 2, padding=1))


@pytest.mark.parametrize(
    "use", [skip, concatenation, view, changed_in_place, run_twice, one_norm_for_two, other_weights]
)
def test_a_map_that_something_else_takes_is_left_alone(use):
    assert fold(trained(Pair(use)), image(1, 4, 9, 9), image(2, 4, 9, 12), 0) == 0


def test_a_network_that_computes_in_float32_whatever_it_is_given_is_left_alone():
    network = trained(Pair(lambda pair, maps: pair.norm(pair.convolution(maps.float()))))
    assert fold(network, image(1, 4, 9, 9), image(2, 4, 9, 12), 0) == 0


def test_a_fold_that_changes_the_answer_is_undone_to_the_bit():
    runs = itertools.count()
    network = trained(Pair(lambda pair, maps: pair.norm(pair.convolution(maps)) + next(runs)))
    before = copy.deepcopy(network.state_dict())
    assert fold_batch_norm(network, image(1, 4, 9, 9)) == 0
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
