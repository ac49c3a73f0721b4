"""Batch norm folded into the convolutions before it: the same numbers, with a pass over each map less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Share of the largest output, in float64. In float32 attention alone can turn the rounding of a sum into a thousandth.
_ROUNDING = 1e-9

_Convolution = nn.Conv2d | nn.ConvTranspose2d


def fold_batch_norm(network: nn.Module, example: Tensor) -> int:
    """Fold each batch norm into the convolution whose output it alone takes; it then hands the map on as it is.

    The network is run on the example, whatever its code does, to see which pairs there are. Should the folded one
    answer otherwise, beyond rounding, it is put back as it was.

    Args:
        network: in evaluation mode and float32; changed in place.
        example: an input that it takes, (batch, bands, rows, cols), of values that vary.

    Returns:
        How many were folded.
    """
    network.double()
    try:
        return _fold_all(network, example.double())
    finally:
        network.float()


def _fold_all(network: nn.Module, example: Tensor) -> int:
    convolutions = {id(convolution.weight): convolution for convolution in _convolutions(network)}
    norms = {id(norm.mean): norm for norm in _norms(network)}
    if not norms:
        return 0
    with torch.no_grad():
        try:
            with _Uses(convolutions, norms) as uses:
                expected = network(example)
        except RuntimeError:  # it makes maps of float32 by itself, which do not go together with those of float64
            return 0
        undo = [_fold(network, convolutions[weight], norms[mean]) for weight, mean in uses.pairs()]
        difference = (network(example) - expected).abs().max()
    if difference <= _ROUNDING * expected.abs().max():  # not where either is NaN
        return len(undo)
    for step in undo:
        step()
    return 0


class _Norm(NamedTuple):
    """A batch norm, its name in the network, and what is left of it once it is folded."""

    name: str
    norm: nn.BatchNorm2d
    mean: Tensor
    variance: Tensor
    remainder: nn.Module


def _norms(network: nn.Module) -> Iterator[_Norm]:
    """Those that do no more than is known."""
    for name, part in network.named_modules():
        if not isinstance(part, nn.BatchNorm2d) or part.running_mean is None or part.running_var is None:
            continue
        if type(part) is nn.BatchNorm2d:
            yield _Norm(name, part, part.running_mean, part.running_var, nn.Identity())
        elif type(part).__name__ == "BatchNormAct2d":  # timm's, which holds the activation
            rest = nn.Sequential(part.get_submodule("drop"), part.get_submodule("act"))
            yield _Norm(name, part, part.running_mean, part.running_var, rest)


def _convolutions(network: nn.Module) -> Iterator[_Convolution]:
    """All but the grouped transposed ones, whose weights torch's fusion does not know how to scale."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) or (isinstance(part, nn.ConvTranspose2d) and part.groups == 1):
            yield part


def _fold(network: nn.Module, convolution: _Convolution, norm: _Norm) -> Callable[[], None]:
    """Fold one; returns what undoes it."""
    name, before, mean, variance, remainder = norm
    weight, bias = convolution.weight, convolution.bias
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        weight, bias, mean, variance, before.eps, before.weight, before.bias,
        transpose=isinstance(convolution, nn.ConvTranspose2d),
    )  # fmt: skip
    network.set_submodule(name, remainder)

    def undo() -> None:
        network.set_submodule(name, before)
        convolution.weight, convolution.bias = weight, bias

    return undo


class _Uses(TorchDispatchMode):
    """Watches what torch computes, and keeps which operations take the output of each convolution.

    torch.fx would have to understand the network's own code, and hooks do not see a map that is also added or
    concatenated somewhere.

    Args:
        weights: ids of the convolutions' weights.
        means: ids of the batch norms' running means.
    """

    def __init__(self, weights: Collection[int], means: Collection[int]) -> None:
        super().__init__()
        self._weights, self._means = weights, means
        self._runs: list[tuple[int, Tensor]] = []  # the outputs too: the id of one that is gone could come again
        self._takers: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        taken = [id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        mean = next((known for known in taken if known in self._means), 0)
        for known in taken:
            if known in self._takers:
                self._takers[known].append(mean)
        weight = next((known for known in taken if known in self._weights), 0)
        if weight:
            self._runs.append((weight, found))
            # Anything but a plain convolution with these weights themselves is not one that can be folded.
            self._takers[id(found)] = [] if func is torch.ops.aten.convolution.default else [0]
        return found

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Ids of a weight and of the running mean that alone takes what it gives; each of the two is used only once."""
        weights = Counter(weight for weight, _ in self._runs)
        means = Counter(mean for takers in self._takers.values() for mean in takers)
        for weight, found in self._runs:
            match self._takers[id(found)]:
                case [mean] if mean and weights[weight] == means[mean] == 1:
                    yield weight, mean
