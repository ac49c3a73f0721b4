"""The fully convolutional networks have the layers of their sources."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geoseg.borders import PaddedConv2d
from geoseg.errors import ModelError
from geoseg.fcn import FeatureDecoder, ScoreDecoder, VGGPools
from geoseg.models import create_model


def pyramid(channels: list[int], size: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, count, size >> level, size >> level, generator=generator) for level, count in enumerate(channels)
    ]


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module]


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_upsampling_begins_as_bilinear_interpolation(stride):
    """Away from the border, which torch's interpolation repeats and a transposed convolution leaves black."""
    decoder = ScoreDecoder([1] * 6, 3, finest=stride if stride > 2 else 16, dropout=0.0, classifier=False)
    up = decoder.last if stride > 2 else decoder.ups[0]
    scores = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    inside = slice(stride, -stride)
    torch.testing.assert_close(up(scores)[..., inside, inside], expected[..., inside, inside])
    assert up.bias is None


def test_fcn8s_is_vgg16_with_its_classifier_as_convolutions():
    with torch.device("meta"):
        decoder = ScoreDecoder([3, 64, 128, 256, 512, 512], 21, finest=8, dropout=0.5, classifier=True)
    conv6, conv7 = decoder.classifier[0], decoder.classifier[3]
    assert kinds(decoder.classifier) == ["PaddedConv2d", "ReLU", "Dropout2d", "Conv2d", "ReLU", "Dropout2d"]
    assert (conv6.in_channels, conv6.out_channels, conv6.kernel_size) == (512, 4096, (7, 7))
    assert (conv7.in_channels, conv7.out_channels, conv7.kernel_size) == (4096, 4096, (1, 1))
    assert [score.in_channels for score in decoder.scores] == [4096, 512, 256]  # fc7, pool4, pool3
    assert {score.kernel_size for score in decoder.scores} == {(1, 1)}
    assert [(up.kernel_size[0], up.stride[0], up.padding[0]) for up in decoder.ups] == [(4, 2, 1), (4, 2, 1)]
    assert (decoder.last.kernel_size[0], decoder.last.stride[0], decoder.last.padding[0]) == (16, 8, 4)


@pytest.mark.parametrize(("finest", "skips"), [(32, []), (16, [512]), (8, [512, 256]), (4, [512, 256, 128])])
def test_scores_of_each_depth_are_added(finest, skips):
    channels = [3, 64, 128, 256, 512, 512]
    decoder = ScoreDecoder(channels, 2, finest=finest, dropout=0.0, classifier=False).eval()
    maps = pyramid(channels)
    score = decoder.scores[0](maps[5])
    for number, (count, finer) in enumerate(zip(skips, (maps[4], maps[3], maps[2]), strict=False)):
        assert finer.shape[1] == count
        score = F.conv_transpose2d(score, decoder.ups[number].weight, stride=2, padding=1)
        score = score + decoder.scores[number + 1](finer)
    expected = F.conv_transpose2d(score, decoder.last.weight, stride=finest, padding=finest // 2)
    assert len(decoder.ups) == len(skips)
    torch.testing.assert_close(decoder(maps), expected)
    assert expected.shape == (1, 2, 64, 64)


def test_where_a_kernel_is_larger_than_the_map_its_gradient_is_whole():
    """On AMX, that of torch's own convolution holds what stood in memory before."""
    found = []
    for precise in (True, False):
        torch.manual_seed(0)
        conv, image = PaddedConv2d(256, 64, 7, padding=3), torch.randn(4, 256, 1, 1, requires_grad=True)
        littered = [torch.full((256 * 64 * 49,), 1e36, dtype=torch.bfloat16) for _ in range(4)]
        del littered
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
            told = conv(image)
        told.float().square().sum().backward()
        found.append(conv.weight.grad)
    assert (found[0] - found[1]).abs().max() < 0.02 * found[0].abs().max()


def test_fcn_resnet18_is_features_a_score_and_one_transposed_convolution():
    network = create_model("fcn32s", encoder="resnet18", classes=21, dropout=0.0)
    assert isinstance(network.decoder.classifier, nn.Dropout2d)
    (score,) = network.decoder.scores
    assert (score.in_channels, score.out_channels, score.kernel_size) == (512, 21, (1, 1))
    last = network.decoder.last
    assert (last.kernel_size, last.stride, last.padding) == ((64, 64), (32, 32), (16, 16))
    learned = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert learned == {"encoder", "decoder"}


def test_fcn_features_adds_once_and_narrows_five_times():
    channels = [3, 64, 128, 256, 512, 512]
    decoder = FeatureDecoder(channels).eval()
    assert [(up.in_channels, up.out_channels) for up in decoder.ups] == [
        (512, 512), (512, 256), (256, 128), (128, 64), (64, 32),
    ]  # fmt: skip
    assert {(up.kernel_size[0], up.stride[0], up.padding[0], up.output_padding[0]) for up in decoder.ups} == {
        (3, 2, 1, 1)
    }
    maps = pyramid(channels)
    x = decoder.norms[0](torch.relu(decoder.ups[0](maps[5])) + maps[4])
    for up, norm in zip(decoder.ups[1:], decoder.norms[1:], strict=True):
        x = norm(torch.relu(up(x)))
    torch.testing.assert_close(decoder(maps), x)
    assert x.shape == (1, 32, 64, 64)


def test_vgg_gives_what_its_poolings_give():
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1), nn.MaxPool2d(2)
    )
    image = torch.randn(1, 3, 8, 8)
    found = VGGPools(layers)(image)
    assert [tuple(x.shape[1:]) for x in found] == [(3, 8, 8), (4, 4, 4), (5, 2, 2)]
    torch.testing.assert_close(found[1], layers[:3](image))


def test_only_vgg_has_the_classifier_and_fcn4s_goes_without():
    networks = {
        ("fcn8s", "resnet18"): False, ("fcn4s", "vgg11"): False, ("fcn8s", "vgg11"): True, ("fcn16s", "vgg11_bn"): True,
    }  # fmt: skip
    for (arch, encoder), there in networks.items():
        network = create_model(arch, encoder=encoder)
        assert isinstance(network.decoder.classifier, nn.Sequential) == there
        if encoder.startswith("vgg"):
            assert [score.in_channels for score in network.decoder.scores][1:] == [512, 256, 128][
                : len(network.decoder.ups)
            ]


@pytest.mark.parametrize("arch", ["fcn32s", "fcn-features"])
def test_an_encoder_without_the_maps_is_one_line(arch):
    with pytest.raises(ModelError, match=rf"{arch} cannot be built on tu-vit_tiny_patch16_224 .*choose another"):
        create_model(arch, encoder="tu-vit_tiny_patch16_224")
