"""Networks: one table of architectures, one factory, one wrapper that gives them all the same manners.

Every network is an encoder, a decoder and a head. Those of segmentation-models-pytorch (smp) keep its weight names, so
`smp.Unet(...).load_state_dict(...)` reads what geoseg has trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geoseg.borders import reflect_borders
from geoseg.choices import Padding
from geoseg.errors import ModelError
from geoseg.fcn import FeatureDecoder, ScoreDecoder, VGGPools
from geoseg.quieting import quiet_loggers
from geoseg.unet import UNetDecoder, UNetEncoder

_SMP_NAMES = {
    "smp-unet": "unet",
    "unet++": "unetplusplus",
    "unetplusplus": "unetplusplus",
    "manet": "manet",
    "linknet": "linknet",
    "fpn": "fpn",
    "pspnet": "pspnet",
    "pan": "pan",
    "deeplabv3": "deeplabv3",
    "deeplabv3+": "deeplabv3plus",
    "deeplabv3plus": "deeplabv3plus",
    "upernet": "upernet",
    "segformer": "segformer",
    "dpt": "dpt",
}
# Stride of the finest map that is scored; the paper's three stand on VGG's classifier where the encoder is a VGG.
_FCN_STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8, "fcn4s": 4}
ARCHITECTURES = ("unet", *_FCN_STRIDES, "fcn-features", *_SMP_NAMES)

_LARGEST_LEAST_SIZE = 512


class Segmenter(nn.Module):
    """An encoder, a decoder and a head that take an image of any size, even of one pixel.

    Images are lengthened at the bottom and the right by mirroring, to the sizes the network can halve; the logits are
    cropped back. A window that is already such a size costs nothing.

    Attributes:
        size_divisor: rows and cols are run at multiples of this.
        least_size: and at no less than this.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Module, *, size_divisor: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.dropout = nn.Dropout2d(dropout)
        self.segmentation_head = head
        self.size_divisor = self.least_size = size_divisor

    def forward(self, image: Tensor) -> Tensor:
        """Float (batch, in_channels, rows, cols) to logits (batch, classes, rows, cols)."""
        rows, cols = image.shape[-2:]
        features = self.encoder(mirror(mirror(image, -2, self._run_size(rows)), -1, self._run_size(cols)))
        # The transformers of dpt return their prefix tokens beside the features.
        decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        return self.segmentation_head(self.dropout(decoded))[..., :rows, :cols]

    def _run_size(self, size: int) -> int:
        return max(self.least_size, math.ceil(size / self.size_divisor) * self.size_divisor)


def mirror(image: Tensor, dim: int, size: int) -> Tensor:
    """Lengthen a dimension at its end, mirrored back and forth as often as it takes (F.pad mirrors only once)."""
    if image.shape[dim] == size:
        return image
    period = max(2 * (image.shape[dim] - 1), 1)
    index = torch.arange(size, device=image.device) % period
    return image.index_select(dim, torch.minimum(index, period - index))


def class_logits(logits: Tensor) -> Tensor:
    """Logits with a channel per class: of one channel z, which means P(class 1) = sigmoid(z), the two channels [0, z].

    Args:
        logits: (batch, 1, rows, cols), to which a channel of zeros is put in front, or (batch, classes, rows, cols),
            which are left as they are.
    """
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


@dataclass(frozen=True)
class Architecture:
    """What a network is built from: all a bundle needs to rebuild it with no network access.

    Attributes:
        arch: one of `ARCHITECTURES`.
        encoder: a name of smp's (`resnet18`, `mit_b0`, `tu-...` for timm); `unet` has an encoder of its own.
        in_channels: bands of the input.
        classes: channels of the output.
        width: channels of the first stage of `unet`, doubled in each of the next four; the others take no notice.
        padding: how 3x3 convolutions and the like see past the border.
        dropout: Dropout2d, in every stage of `unet`, before the deepest score of `fcn...s`, before the head of the others
            (whose own dropout stays).
    """

    arch: str = "unet"
    encoder: str = "resnet18"
    in_channels: int = 3
    classes: int = 2
    width: int = 64
    padding: Padding = "reflect"
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ModelError(
                f"unknown architecture '{self.arch}'; known are {', '.join(ARCHITECTURES)}{_as_encoder(self.arch)}"
            )
        if self.padding not in get_args(Padding):
            raise ModelError(f"unknown padding '{self.padding}': needed is one of {', '.join(get_args(Padding))}")
        for name in ("in_channels", "classes", "width"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: needed is 1 or more")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout is {self.dropout}: needed is 0 or more, and less than 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def weight_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """The shape of every weight, for which no memory is taken; None where the encoder's name says how large it is.

        Raises:
            ModelError: no network has such sizes.
        """
        if self.arch != "unet":
            return None
        try:
            with torch.device("meta"):
                return {name: tuple(weight.shape) for name, weight in _build_unet(self, None).state_dict().items()}
        except (RuntimeError, TypeError, ValueError, OverflowError):
            raise ModelError(f"a unet of width {self.width} found, which cannot be built") from None

    def build(self, encoder_weights: str | Path | None = None) -> Segmenter:
        """Build the network, in training mode, with random or given weights; see `create_model`."""
        weights = None if encoder_weights == "none" else encoder_weights
        if self.arch == "unet":
            network = _build_unet(self, weights)
        elif self.arch in _SMP_NAMES:
            network = _build_smp(self, weights)
        else:
            network = _build_fcn(self, weights)
        if self.padding == "reflect":
            reflect_borders(network, self.encoder)
        network.least_size = _find_least_size(network, self)
        return network


def create_model(
    arch: str = "unet",
    *,
    encoder: str = "resnet18",
    encoder_weights: str | Path | None = None,
    in_channels: int = 3,
    classes: int = 2,
    width: int = 64,
    padding: Padding = "reflect",
    dropout: float = 0.3,
) -> Segmenter:
    """Build a segmentation network, from float (batch, in_channels, rows, cols) to logits (batch, classes, rows, cols).

    Args:
        encoder_weights: None or "none" (random), "imagenet" (fetched), or a file of the encoder's weights, read with
            `weights_only`: .safetensors or .pt, also a whole network's. Weights for three bands are spread over
            `in_channels`.
        arch, encoder, in_channels, classes, width, padding, dropout: as in `Architecture`.

    Raises:
        ModelError: an unknown name, an architecture and encoder that do not go together, or weights that cannot be
            fetched or do not fit.
    """
    architecture = Architecture(arch, encoder, in_channels, classes, width, padding, dropout)
    return architecture.build(encoder_weights)


def _build_unet(architecture: Architecture, encoder_weights: str | Path | None) -> Segmenter:
    if encoder_weights is not None:
        raise ModelError("unet has no pretrained encoder: leave --encoder-weights at none, or use --arch smp-unet")
    widths = [architecture.width * 2**level for level in range(5)]
    encoder = UNetEncoder(architecture.in_channels, widths, architecture.dropout)
    decoder = UNetDecoder(widths, architecture.dropout)
    head = nn.Conv2d(architecture.width, architecture.classes, 1)
    return Segmenter(encoder, decoder, head, size_divisor=16, dropout=0.0)


def _build_fcn(architecture: Architecture, encoder_weights: str | Path | None) -> Segmenter:
    from segmentation_models_pytorch.encoders import get_encoder

    arch, classes, dropout = architecture.arch, architecture.classes, architecture.dropout
    with _encoder_named(architecture, encoder_weights) as fetch:
        encoder = get_encoder(architecture.encoder, in_channels=architecture.in_channels, depth=5, weights=fetch)
        channels = list(encoder.out_channels)
        if len(channels) != 6 or 0 in channels[2:]:
            raise ValueError(f"its maps have {channels} channels, needed are six of strides 1 to 32")
    if encoder_weights is not None and fetch is None:
        _load_encoder_weights(encoder, Path(encoder_weights), architecture.in_channels)
    vgg = architecture.encoder.startswith("vgg")
    if vgg:
        # smp gives each map before it is pooled, which is a block of convolutions further on than in the paper.
        encoder, channels = VGGPools(encoder.features), [channels[0], *channels[:4], channels[5]]
    if arch == "fcn-features":
        head = nn.Conv2d(FeatureDecoder.out_channels, classes, 1)
        return Segmenter(encoder, FeatureDecoder(channels), head, size_divisor=32, dropout=dropout)
    finest = _FCN_STRIDES[arch]
    decoder = ScoreDecoder(channels, classes, finest=finest, dropout=dropout, classifier=vgg and finest > 4)
    return Segmenter(encoder, decoder, nn.Identity(), size_divisor=32, dropout=0.0)


def _build_smp(architecture: Architecture, encoder_weights: str | Path | None) -> Segmenter:
    # Importing smp takes longer than importing torch, and a `unet` bundle needs none of it.
    import segmentation_models_pytorch as smp

    arch = architecture.arch
    extra = {"dynamic_img_size": True} if arch == "dpt" else {}
    with _encoder_named(architecture, encoder_weights) as fetch:
        network = smp.create_model(
            _SMP_NAMES[arch], architecture.encoder, fetch, architecture.in_channels, architecture.classes, **extra
        )
    if encoder_weights is not None and fetch is None:
        _load_encoder_weights(network.encoder, Path(encoder_weights), architecture.in_channels)
    # Encoders may halve five times whatever `output_stride` says: some do for a decoder that uses three halvings.
    parts = network.encoder, network.decoder, network.segmentation_head
    return Segmenter(*parts, size_divisor=32, dropout=architecture.dropout)


@contextmanager
def _encoder_named(architecture: Architecture, encoder_weights: str | Path | None) -> Iterator[str | bool | None]:
    """Says in one line what is wrong with an encoder; yields what smp is told of weights to fetch."""
    arch, encoder = architecture.arch, architecture.encoder
    _check_encoder(encoder)
    try:
        if encoder_weights == "imagenet":
            with quiet_loggers("huggingface_hub"):  # it tells of each of its attempts, twice
                yield True if encoder.startswith("tu-") else "imagenet"
        else:
            yield None
    except OSError as error:
        raise ModelError(
            f"the imagenet weights of {encoder} could not be fetched from huggingface.co, and are not in its cache: "
            "check the network, or give --encoder-weights none or the PATH of a weights file"
        ) from error
    except (ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:
        reason = _one_line(error) or "it does not support this encoder"
        raise ModelError(f"{arch} cannot be built on {encoder} ({reason}): choose another --encoder") from error


def _check_encoder(encoder: str) -> None:
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    if encoder in get_encoder_names() or (encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))):
        return
    known = [*get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
    raise ModelError(
        f"unknown encoder '{encoder}'; did you mean {' or '.join(get_close_matches(encoder, known, n=3, cutoff=0.0))}?"
    )


def _load_encoder_weights(encoder: nn.Module, path: Path, in_channels: int) -> None:
    from timm.models import adapt_input_conv

    weights = _read_weights(path)
    if any(name.startswith("encoder.") for name in weights):
        weights = {name[8:]: weight for name, weight in weights.items() if name.startswith("encoder.")}
    first = next(name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    if in_channels != 3 and first in weights and weights[first].shape[1] == 3:
        weights[first] = adapt_input_conv(in_channels, weights[first])
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{path}: not the weights of this encoder ({_one_line(error)})") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file: --encoder-weights takes none, imagenet or the PATH of a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError, LookupError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read as weights; needed is a .safetensors file, or one that torch.save has made of a state_dict()"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ModelError(f"{path}: needed is a plain dictionary of weights, as `state_dict()` returns it")
    return weights


def _find_least_size(network: Segmenter, architecture: Architecture) -> int:
    """The smallest square the network takes: its coarsest map must be larger than the borders it reflects."""
    network.eval()
    size = network.size_divisor
    while size <= _LARGEST_LEAST_SIZE:
        network.least_size = size
        try:
            with torch.no_grad():
                network(torch.zeros(1, architecture.in_channels, size, size))
        except (RuntimeError, AssertionError):
            size *= 2
        else:
            network.train()
            return size
    raise ModelError(f"{architecture.encoder} takes images of one fixed size only: choose another --encoder")


def _as_encoder(name: str) -> str:
    from segmentation_models_pytorch.encoders import get_encoder_names

    return f"; as an encoder: --arch smp-unet --encoder {name}" if name in get_encoder_names() else ""


def _one_line(error: Exception) -> str:
    return shorten(" ".join(map(str, error.args)), 160, placeholder=" ...")
