"""Files of a network that other programs run: ONNX and OpenVINO's own."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geoseg.devices import out_of_memory
from geoseg.errors import ModelError
from geoseg.extras import import_openvino, refuse_missing
from geoseg.quieting import quiet_loggers

INPUT, OUTPUT = "pixels", "probabilities"

# Those of ONNX 1.13 (December 2022): what QGIS plugins run refuses later ones.
_OPSET, _IR_VERSION = 18, 8

Runner = Callable[[np.ndarray], np.ndarray]
"""From pixels, float32 (batch, bands, rows, cols), to probabilities (batch, classes, rows, cols)."""


def write_onnx(network: nn.Module, path: Path, shape: tuple[int, int, int], facts: Mapping[str, str]) -> None:
    """Write a network as ONNX, for batches of any size.

    Args:
        network: in evaluation mode.
        path: the file.
        shape: bands, rows and cols of its input.
        facts: metadata, by name.

    Raises:
        MissingPackageError: the extra `onnx` is not installed.
        ModelError: ONNX has no word for something that the network does.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        refuse_missing(package, extra="onnx", asked="--format onnx")
    import onnx

    with _quiet(), _operators_named("onnx"):
        program = torch.onnx.export(
            network, (torch.zeros(2, *shape),), dynamo=True, opset_version=_OPSET, input_names=[INPUT],
            output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    model.ir_version = _IR_VERSION
    del model.metadata_props[:]
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]  # where in whose source each step stands
    for name, text in facts.items():
        model.metadata_props.add(key=name, value=text)
    onnx.save(model, path)


def open_onnx(path: Path) -> Runner:
    """Load an ONNX file into ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([OUTPUT], {INPUT: pixels})[0]


def write_openvino(
    network: nn.Module, path: Path, weights: Path, shape: tuple[int, int, int], facts: Mapping[str, str]
) -> None:
    """Write a network in OpenVINO's own format, for batches of any size, with weights in float32.

    Args:
        network: in evaluation mode.
        path: the file of the graph, XML.
        weights: that of the weights; OpenVINO looks for it under the same stem.
        shape: bands, rows and cols of its input.
        facts: metadata, by name.

    Raises:
        MissingPackageError: the extra `openvino` is not installed.
        ModelError: OpenVINO has no word for something that the network does.
    """
    openvino = import_openvino("--format openvino")
    with _quiet(), _operators_named("openvino"):
        model = openvino.convert_model(network, example_input=torch.zeros(2, *shape), input=[-1, *shape])
    model.set_friendly_name("network")
    for number, step in enumerate(model.get_ordered_ops()):  # else their names count all steps since the process began
        step.set_friendly_name(f"{step.get_type_name()}_{number}")
    model.inputs[0].tensor.set_names({INPUT})
    model.outputs[0].tensor.set_names({OUTPUT})
    for name, text in facts.items():
        model.set_rt_info(text, ["model_info", name])
    try:
        openvino.serialize(model, str(path), str(weights))
    except RuntimeError as error:  # its streams do not say which trouble a disk made
        raise OSError(errno.EIO, str(error)) from error


def open_openvino(path: Path, weights: Path) -> Runner:
    """Load a network in OpenVINO's own format, on the CPU in float32."""
    openvino = import_openvino("--format openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        model = core.read_model(str(path), str(weights))
    except RuntimeError as error:  # older versions are silent where they cannot write
        raise OSError(errno.EIO, "what was written cannot be read back") from error
    compiled = core.compile_model(model, "CPU", options)
    return lambda pixels: compiled(pixels)[0]


@contextmanager
def _quiet() -> Any:
    """Hear nothing of how the exporters go about their work; what they cannot do they raise."""
    with (
        quiet_loggers("torch.onnx", "torch.export", "onnxscript", "onnx_ir"),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _operators_named(format: str) -> Any:
    try:
        yield
    except Exception as error:  # the exporters' own, torch's, or what the network itself raises when it is traced
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        if isinstance(first, OSError):
            raise first from None
        if isinstance(first, MemoryError) or (isinstance(first, RuntimeError) and out_of_memory(first)):
            raise ModelError(
                f"--format {format}: the export does not fit into memory; make a smaller --tile-size"
            ) from error
        unknown = sorted(set(re.findall(r"\b(?:aten|prims?|torchvision)(?:::|\.)\w+", f"{error} {first}")))
        reason = ", ".join(unknown) or str(first).strip().splitlines()[-1]
        raise ModelError(f"--format {format}: it has no word for {reason}; use another format or --arch") from error
