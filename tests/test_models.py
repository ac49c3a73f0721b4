from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder_names
from torch import Tensor, nn

from geoseg.errors import FormatError, ModelError
from geoseg.files import from_json
from geoseg.models import ARCHITECTURES, Architecture, create_model

VIT = "tu-vit_tiny_patch16_224"
NETWORKS = [
    *(
        (arch, VIT if arch == "dpt" else "resnet18")
        for arch in ARCHITECTURES
        if arch not in ("unet", "unet++", "deeplabv3+") and not arch.startswith("fcn")
    ),
    ("smp-unet", "mit_b0"),
    ("segformer", "mit_b0"),
]
FCNS = [
    *((arch, "resnet18") for arch in ARCHITECTURES if arch.startswith("fcn")),
    ("fcn8s", "mit_b0"),
    ("fcn4s", "vgg11_bn"),
    ("fcn-features", "vgg11"),
]
SAME_PADDING = ["efficientnet-b0", "tu-tf_efficientnetv2_b0"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from threads, and lose tenfold where another process keeps a core busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image(rows: int, cols: int, bands: int = 3, batch: int = 1) -> Tensor:
    return torch.randn(batch, bands, rows, cols, generator=torch.Generator().manual_seed(rows * cols))


def convolutions(network: nn.Module, kernel_size: int) -> list[nn.Conv2d]:
    found = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [conv for conv in found if conv.kernel_size == (kernel_size, kernel_size)]


# The farmland U-Net


def test_unet_has_the_published_number_of_parameters():
    network = create_model("unet", width=64, in_channels=3, classes=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_043_586


def test_unet_stages_are_the_published_layers():
    network = create_model("unet", width=4)
    for stage in (*network.encoder.stages, *network.decoder.stages):
        kinds = 2 * [nn.Conv2d, nn.BatchNorm2d, nn.Dropout2d, nn.LeakyReLU]
        assert all(isinstance(layer, kind) for layer, kind in zip(stage, kinds, strict=True))
        assert {layer.p for layer in stage if isinstance(layer, nn.Dropout2d)} == {0.3}
    assert [stage[0].out_channels for stage in network.encoder.stages] == [4, 8, 16, 32, 64]
    assert [(up.kernel_size, up.stride, up.out_channels) for up in network.decoder.ups] == [
        ((2, 2), (2, 2), channels) for channels in (32, 16, 8, 4)
    ]
    assert [stage[0].in_channels for stage in network.decoder.stages] == [64, 32, 16, 8]
    assert Counter(conv.padding_mode for conv in convolutions(network, 3)) == {"reflect": 18}
    assert network.segmentation_head.kernel_size == (1, 1)


def test_unet_puts_the_skip_before_what_comes_up():
    """The other order would learn as well, and make nonsense of every model saved before."""
    network = create_model("unet", width=4, dropout=0.0).eval()
    merged = []
    network.decoder.stages[-1].register_forward_pre_hook(lambda _, inputs: merged.append(inputs[0]))
    with torch.no_grad():
        network(image(32, 32))
        assert torch.equal(merged[0][:, :4], network.encoder.stages[0](image(32, 32)))


def test_unet_moves_with_its_input():
    """A scene shifted by a whole number of the coarsest pixels gives shifted logits, away from the border."""
    network = create_model("unet", width=2).eval()
    scene = image(288, 272)
    with torch.no_grad():
        logits, shifted = network(scene[:, :, :272]), network(scene[:, :, 16:])
    torch.testing.assert_close(logits[:, :, 128:144, 128:144], shifted[:, :, 112:128, 128:144])
    assert logits[:, :, 128:144, 128:144].std() > 0


@pytest.mark.parametrize("bands", [1, 4, 13])
def test_any_number_of_bands(bands):
    assert create_model("unet", width=2, in_channels=bands, classes=5)(image(32, 48, bands)).shape == (1, 5, 32, 48)


# Sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 33), (64, 64), (250, 129)])
@pytest.mark.parametrize("arch", ["unet", "smp-unet"])
def test_an_image_of_any_size_is_mirrored_to_one_that_fits(arch, size):
    network = create_model(arch, width=2).eval()
    whole = [max(network.least_size, -(-side // network.size_divisor) * network.size_divisor) for side in size]
    small = image(*size)
    ends = [(0, 0), (0, 0), *((0, to - side) for side, to in zip(size, whole, strict=True))]
    mirrored = torch.from_numpy(np.pad(small.numpy(), ends, mode="reflect"))
    with torch.no_grad():
        logits = network(small)
        expected = network(mirrored)[..., : size[0], : size[1]]
    assert logits.shape == (1, 2, *size)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_finding_the_least_size_leaves_no_trace():
    network = create_model("smp-unet")
    assert all(module.training for module in network.modules())
    assert all(norm.num_batches_tracked == 0 for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))
    assert (network.size_divisor, network.least_size) == (32, 64)
    assert create_model("smp-unet", padding="zeros").least_size == 32


# Every architecture


@pytest.mark.parametrize("bands", [4, *(pytest.param(bands, marks=pytest.mark.slow) for bands in (1, 13))])
@pytest.mark.parametrize(("arch", "encoder"), [("unet", ""), *NETWORKS, *FCNS])
def test_every_architecture_learns_and_is_rebuilt_from_its_facts(arch, encoder, bands):
    torch.manual_seed(0)
    network = create_model(arch, encoder=encoder, in_channels=bands, classes=3, width=4)
    batch = image(40, 33, bands, batch=2)
    logits = network(batch)
    assert logits.shape == (2, 3, 40, 33)
    logits.square().mean().backward()
    # pspnet keeps the two deepest stages of its encoder without using them.
    learning = [parameter.grad.any() for parameter in network.parameters() if parameter.grad is not None]
    assert sum(learning) > (0.6 if arch == "pspnet" else 0.9) * len(list(network.parameters()))

    facts = json.loads(json.dumps(Architecture(arch, encoder, in_channels=bands, classes=3, width=4).to_dict()))
    rebuilt = from_json(Architecture, facts).build()
    rebuilt.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(batch), network.eval()(batch))


@pytest.mark.parametrize(
    ("arch", "encoder"), [*NETWORKS, ("fcn4s", "vgg11"), *(("smp-unet", encoder) for encoder in SAME_PADDING)]
)
def test_reflection_reaches_every_border_and_changes_nothing_inside(arch, encoder):
    """A mirrored constant is constant; a convolution that pads with zeros makes an edge in it."""
    torch.manual_seed(0)
    reflect = create_model(arch, encoder=encoder)
    zeros = create_model(arch, encoder=encoder, padding="zeros")
    zeros.load_state_dict(reflect.state_dict())
    reached = 0
    pairs = zip(reflect.modules(), zeros.modules(), strict=True)
    for conv, plain in [(conv, plain) for conv, plain in pairs if isinstance(plain, nn.Conv2d)]:
        if not 1 < conv.kernel_size[0] <= 9 or conv.dilation[0] > 4 or conv.kernel_size[0] == conv.stride[0]:
            continue
        reached += 1
        constant, scene = torch.ones(1, conv.in_channels, 32, 32), image(32, 32, conv.in_channels)
        with torch.no_grad():
            flat, mirrored, padded = conv(constant), conv(scene), plain(scene)
        torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat), rtol=1e-4, atol=1e-4)
        # Sums of 18,000 products, in an order that the processor and the kind of padding choose.
        torch.testing.assert_close(mirrored[..., 4:-4, 4:-4], padded[..., 4:-4, 4:-4], rtol=1e-4, atol=1e-4)
        assert mirrored.shape == padded.shape
        assert not torch.allclose(mirrored, padded)
    assert reached > 0


def test_widely_dilated_convolutions_keep_their_zeros():
    network = create_model("deeplabv3", padding="reflect")
    modes = {conv.dilation[0]: conv.padding_mode for conv in convolutions(network, 3)}
    assert modes == {1: "reflect", 2: "reflect", 4: "reflect", 12: "zeros", 24: "zeros", 36: "zeros"}


@pytest.mark.parametrize("arch", ["smp-unet", "deeplabv3plus"])
def test_dropout_silences_channels_before_the_head(arch):
    torch.manual_seed(0)
    network = create_model(arch, dropout=0.5)
    seen = []
    network.segmentation_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(image(64, 64, batch=8))
    silent = seen[0].flatten(2).eq(0).all(dim=2).float().mean()
    assert 0.3 < silent < 0.7
    network.eval()(image(64, 64, batch=8))
    assert seen[1].flatten(2).eq(0).all(dim=2).float().mean() < silent / 2


def test_weights_carry_the_names_of_segmentation_models_pytorch():
    network = create_model("smp-unet").eval()
    plain = smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=2).eval()
    plain.load_state_dict(network.state_dict())
    zeros = create_model("smp-unet", padding="zeros").eval()
    zeros.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(image(64, 64)), zeros(image(64, 64)))


# Every encoder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("encoder", get_encoder_names())
def test_every_encoder_of_smp_runs_at_an_odd_size(encoder, padding):
    torch.manual_seed(0)
    network = create_model("smp-unet", encoder=encoder, in_channels=4, padding=padding).eval()
    with torch.no_grad():
        logits = network(image(41, 67, bands=4))
    assert logits.shape == (1, 2, 41, 67)
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["fcn32s", "fcn16s", "fcn8s"])
def test_fcn_on_vgg16_learns(arch):
    torch.manual_seed(0)
    network = create_model(arch, encoder="vgg16_bn", in_channels=4, classes=3)
    logits = network(image(40, 33, bands=4, batch=2))
    assert logits.shape == (2, 3, 40, 33)
    logits.square().mean().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


# Encoder weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("whole", [True, False], ids=["network", "encoder"])
def test_encoder_weights_from_a_file(tmp_path, suffix, whole):
    donor = create_model("smp-unet")
    weights = (donor if whole else donor.encoder).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    network = create_model("fpn", encoder_weights=path)
    for name, weight in donor.encoder.state_dict().items():
        assert torch.equal(weight, network.encoder.state_dict()[name])


@pytest.mark.parametrize("whole", [True, False], ids=["network", "encoder"])
@pytest.mark.parametrize(
    ("arch", "encoder", "first", "deep"),
    [
        ("smp-unet", "resnet18", "conv1", "layer4.1.conv2"),
        ("fcn-features", "vgg11_bn", "features.0", "features.25"),
    ],
)
def test_weights_for_three_bands_are_spread_over_any_number(tmp_path, arch, encoder, first, deep, whole):
    """Bands take the colours in turn, scaled so that a grey image excites as much as before."""
    donor = create_model(arch, encoder=encoder)
    save_file((donor if whole else donor.encoder).state_dict(), tmp_path / "rgb.safetensors")
    rgb = donor.encoder.get_submodule(first).weight
    for bands, expected in {1: rgb.sum(dim=1, keepdim=True), 7: rgb[:, [0, 1, 2, 0, 1, 2, 0]] * 3 / 7}.items():
        network = create_model(arch, encoder=encoder, encoder_weights=tmp_path / "rgb.safetensors", in_channels=bands)
        torch.testing.assert_close(network.encoder.get_submodule(first).weight, expected)
        assert torch.equal(network.encoder.get_submodule(deep).weight, donor.encoder.get_submodule(deep).weight)


def test_weights_of_a_vgg_with_its_classifier_are_taken_without_it(tmp_path):
    """As torchvision saves them."""
    donor = create_model("fcn4s", encoder="vgg11").encoder
    save_file(donor.state_dict() | {"classifier.0.bias": torch.zeros(9)}, tmp_path / "vgg.safetensors")
    network = create_model("fcn4s", encoder="vgg11", encoder_weights=tmp_path / "vgg.safetensors")
    assert torch.equal(network.encoder.features[18].weight, donor.features[18].weight)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0", "tu-resnet18"])
def test_imagenet_weights_without_a_network_are_one_clear_line(encoder):
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"could not be fetched .* --encoder-weights none or the PATH") as caught:
        create_model("smp-unet", encoder=encoder, encoder_weights="imagenet")
    assert f"imagenet weights of {encoder}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20


def test_files_that_are_no_weights_of_the_encoder(tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(Architecture(), tmp_path / "code.pt")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "little.pt")
    for name, message in {
        "absent.pt": "no such weights file",
        "text.pt": r"cannot be read as weights; needed is a \.safetensors file, or one that torch\.save has made",
        "text.safetensors": "cannot be read as weights",
        "code.pt": "cannot be read as weights",
        "list.pt": "plain dictionary of weights",
        "little.pt": "not the weights of this encoder",
    }.items():
        with pytest.raises(ModelError, match=message) as caught:
            create_model("smp-unet", encoder_weights=tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


# What cannot be built


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "unett"}, "unknown architecture 'unett'; known are unet, "),
        ({"arch": "resnet18"}, "unknown architecture 'resnet18'.*; as an encoder: --arch smp-unet --encoder resnet18"),
        ({"arch": "fpn", "encoder": "resnet81"}, "unknown encoder 'resnet81'; did you mean resnet18"),
        ({"arch": "fpn", "encoder": "tu-resnet81"}, "unknown encoder 'tu-resnet81'; did you mean tu-resnet18"),
        ({"arch": "unet++", "encoder": "mit_b0"}, r"unet\+\+ cannot be built on mit_b0 .*choose another --encoder"),
        ({"arch": "dpt"}, "dpt cannot be built on resnet18 .*tu-.*choose another --encoder"),
        ({"arch": "smp-unet", "encoder": "tu-swin_tiny_patch4_window7_224"}, "images of one fixed size only"),
        ({"arch": "smp-unet", "encoder": "tu-nf_resnet26"}, "reflection cannot reach: use --padding zeros"),
        ({"encoder_weights": "imagenet"}, "unet has no pretrained encoder: .*--arch smp-unet"),
        ({"padding": "mirror"}, "unknown padding 'mirror': needed is one of reflect, zeros"),
        ({"in_channels": 0}, "in_channels is 0: needed is 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0: needed is 0 or more, and less than 1"),
    ],
)
def test_what_cannot_be_built_is_one_line_with_a_way_out(options, message):
    with pytest.raises(ModelError, match=message) as caught:
        create_model(**options)
    assert "\n" not in str(caught.value)


def test_facts_of_later_versions_are_left_alone():
    facts = Architecture("fpn", width=8).to_dict()
    assert from_json(Architecture, facts | {"attention": True}) == Architecture("fpn", width=8)
    with pytest.raises(FormatError, match="unknown architecture 'transformer9000'"):
        from_json(Architecture, facts | {"arch": "transformer9000"})


def test_no_weights_has_two_spellings():
    assert create_model("smp-unet", encoder_weights="none").least_size == create_model("smp-unet").least_size
