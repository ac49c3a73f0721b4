"""The verb `export`: a model bundle to a file that other programs run."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.bundle import Bundle, open_bundle
from geoseg.choices import ExportFormat, Program, Rule, at_least, one_of, refuse_odd
from geoseg.deepness import UNIT, deepness_facts
from geoseg.display import Displayed
from geoseg.errors import Faults, InputError, ModelError
from geoseg.files import publish, refuse_existing, refuse_inputs
from geoseg.interchange import INPUT, OUTPUT, Runner, open_onnx, open_openvino, write_onnx, write_openvino
from geoseg.predictor import Predictor
from geoseg.progress import Progress, silent
from geoseg.standalone import StandaloneNetwork, imagined_windows
from geoseg.version import VERSION

_SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".xml": "openvino"}
_LEAST_AGREEMENT, _MOST_DIFFERENCE = 0.999, 0.01
_BATCHES = (1, 2, 3)
"""Windows at once that are tried: exporters have been seen to write networks down for one size of batch alone."""
_LARGEST = 8192
"""Rows of a window: larger ones hardly fit into the memory of any program that runs them."""


@dataclass(frozen=True, repr=False)
class ExportedModel(Displayed):
    """A network that was written for other programs.

    Attributes:
        path: the file.
        format: `onnx` or `openvino`.
        program: for which program; None for any.
        window: bands, rows and cols of what it takes, of which there may be any number at once.
        agreement: share of the pixels of imagined windows that get the class that geoseg gives them.
        difference: the largest difference between the probabilities there.
        looks_far: whether the network looks at all of a window, so that windows that lie elsewhere give other maps.
    """

    path: Path
    format: ExportFormat
    program: Program | None
    window: tuple[int, int, int]
    agreement: float
    difference: float
    looks_far: bool

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        bands, rows, cols = self.window
        return (
            f"{self.path}: {self.format}{f' for {self.program}' if self.program else ''}, windows of {bands} bands, {rows} x "
            f"{cols} pixels\n  {self.agreement:.3%} of the pixels of imagined windows get the class that geoseg gives them; "
            f"probabilities differ by {self.difference:.1e} at most"
            + "\n  it looks at all of a window: programs that lay windows elsewhere come to somewhat other maps"
            * self.looks_far
        )

    def to_dict(self) -> dict[str, Any]:
        """The attributes, with `path` as a text."""
        return asdict(self) | {"path": str(self.path)}


@dataclass(frozen=True)
class _Options:
    format: ExportFormat
    tile_size: int


def export(
    *,
    model: str | Path = "model",
    out: str | Path,
    format: ExportFormat | None = None,
    for_: Program | None = None,
    tile_size: int = 512,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ExportedModel:
    """Write a model's network for other programs: raw pixels in, probabilities out, with all scaling inside.

    The file is run, alone and in batches, and what it says is held against `geoseg predict` before it takes its name.

    Args:
        model: bundle.
        out: the file, .onnx or .xml (OpenVINO, whose weights go beside it, as `<stem>.bin`).
        format: None goes by the suffix of `out`.
        for_: `deepness` writes ONNX as that QGIS plugin takes it: pixels divided by 255, its metadata, tiles that overlap
            as far as the model must see around a pixel.
        tile_size: rows and cols of a window.
        overwrite: replace an earlier output.
        progress: called after each step.

    Raises:
        GeosegError: a bad option, a network that cannot be written so, a package that is not installed, or a file that
            does not say what geoseg says; then nothing is left behind.
    """
    out = Path(out)
    options = _Options(_find_format(out, format), tile_size)
    _refuse_odd(options, for_)
    bundle = open_bundle(model)
    targets = [out, out.with_suffix(".bin")] if options.format == "openvino" else [out]
    refuse_inputs(targets, [path for path in bundle.path.iterdir() if path.is_file()])
    refuse_existing(targets, overwrite)
    unit = UNIT if for_ else 1.0
    network = StandaloneNetwork(bundle, unit=unit, alone=for_ is not None).eval()
    facts = _facts(bundle) | (deepness_facts(bundle, tile_size, network.size_divisor) if for_ else {})
    if for_ and bundle.one_channel:
        facts[OUTPUT] = json.dumps(f"of {bundle.legend.names[1]}; 0 where the image is not valid", ensure_ascii=False)
    shape = (len(bundle.image.bands), tile_size, tile_size)
    with ExitStack() as stack:
        partials = [stack.enter_context(publish(path, overwrite=overwrite)) for path in targets]
        progress("export", 0, 2)
        if options.format == "onnx":
            write_onnx(network, partials[0], shape, facts)
            runner = open_onnx(partials[0])
        else:
            write_openvino(network, partials[0], partials[1], shape, facts)
            runner = open_openvino(partials[0], partials[1])
        progress("export", 1, 2)
        agreement, difference = _compare(bundle, runner, unit, tile_size)
        if not (agreement >= _LEAST_AGREEMENT and difference <= _MOST_DIFFERENCE):
            raise ModelError(
                f"--format {options.format}: {agreement:.2%} of the pixels of imagined windows get the class that geoseg "
                f"gives them, and probabilities differ by up to {difference:.3f}; needed are {_LEAST_AGREEMENT:.2%} and "
                f"{_MOST_DIFFERENCE:g}" + ("" if for_ else "; use the other format")
            )
        progress("export", 2, 2)
    return ExportedModel(out, options.format, for_, shape, agreement, difference, bundle.looks_far)


def _find_format(out: Path, format: ExportFormat | None) -> ExportFormat:
    found = format or _SUFFIXES.get(out.suffix.lower())
    if found is None:
        raise InputError(f"{out}: a name that ends in .onnx or .xml is needed, or --format")
    if found == "openvino" and out.suffix != ".xml":
        raise InputError(f"{out}: OpenVINO reads a file whose name ends in .xml; choose such an --out")
    return found


def _refuse_odd(options: _Options, program: Program | None) -> None:
    faults = Faults()
    refuse_odd(options, [one_of(options, "format", ExportFormat), at_least(options, "tile_size", 1),
                         Rule("tile_size", options.tile_size <= _LARGEST, f"{_LARGEST} at most are possible")], faults)  # fmt: skip
    with faults.collect():
        if program not in (None, "deepness"):
            raise InputError(f"--for {program}: known is deepness")
        if program == "deepness" and options.format != "onnx":
            raise InputError(f"--for deepness --format {options.format}: Deepness reads onnx")
    faults.raise_any()


def _facts(bundle: Bundle) -> dict[str, str]:
    """What a program or its user must know, each as JSON."""
    facts = {
        "geoseg_version": VERSION,
        "weights_sha256": bundle.weights_sha256,
        "architecture": bundle.architecture.to_dict(),
        "bands": [
            {"name": band.name, "source": band.source, "dtype": band.dtype, "nodata": band.nodata}
            for band in bundle.image.bands
        ],
        "pixel_size_m": bundle.image.pixel_size_m,
        "legend": bundle.legend.to_list(),
        "threshold": bundle.threshold if bundle.one_channel else None,
        "margin": bundle.margin,
        INPUT: "raw values of the bands, in their order",
        OUTPUT: "of the classes, in the order of the legend; 0 where the image is not valid",
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


def _compare(bundle: Bundle, runner: Runner, unit: float, tile_size: int) -> tuple[float, float]:
    """Share of the pixels of imagined windows with the class of geoseg, and the largest difference of probabilities.

    A batch that the file cannot take counts as all wrong.
    """
    predictor = Predictor(bundle, device="cpu", precision="fp32")
    equal, difference = [], 0.0
    for count in _BATCHES:
        pixels, valid = imagined_windows(bundle.image, count, tile_size)
        shares = predictor.shares(pixels, valid)
        expected = np.stack([predictor.decide(told, known).indices for told, known in zip(shares, valid, strict=True)])
        found = runner((pixels * (1.0 / unit)).astype(np.float32))
        told = shares.numpy()[:, -found.shape[1] :] * valid[:, None]
        if found.shape != told.shape:
            return 0.0, math.inf
        decided = found.argmax(axis=1) if predictor.threshold is None else found[:, -1] >= predictor.threshold
        equal.append(np.where(valid, decided == expected, ~found.any(axis=1)).mean())
        difference = max(difference, float(np.abs(found - told).max()))
    return float(np.mean(equal)), difference
