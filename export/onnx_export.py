"""A fused model becomes an ONNX graph, by either of PyTorch's exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

import onnx
import torch
from onnx import ModelProto
from torch import nn

from export.onnx_file import opset_of, parse_onnx
from export.tidy import BATCH, INPUT, OUTPUT, means_to_pools
from runtime.errors import InputError, UsageError
from runtime.lazy import require
from runtime.spec import ModelSpec

Exporter = Literal["dynamo", "torchscript"]
OPSETS = range(17, 22)
DEFAULT_OPSET = 18
_SCRIPT_OPSETS = range(17, 21)
_SEED = 2


def check_export_options(opset: int, exporter: str) -> None:
    """Refuse an impossible operator set or exporter before anything slow starts."""
    if exporter not in get_args(Exporter):
        raise UsageError(f"unknown exporter {exporter!r}; choose dynamo or torchscript")
    allowed = OPSETS if exporter == "dynamo" else _SCRIPT_OPSETS
    if opset not in allowed:
        raise UsageError(
            f"opset {opset}: the {exporter} exporter writes {allowed.start}..{allowed.stop - 1} here; "
            "17 suits TensorRT 8.6, 18 everything newer"
        )


def export_graph(
    model: nn.Module, spec: ModelSpec, *, opset: int = DEFAULT_OPSET, exporter: Exporter = "dynamo"
) -> ModelProto:
    """Trace a model in eval mode with a dynamic batch; the graph is raw, as the exporter writes it."""
    check_export_options(opset, exporter)
    require("onnxscript", "exporting ONNX")
    if model.training:
        raise UsageError("export needs the model in eval mode; call model.eval() first")
    example = torch.rand(
        (2, 3, spec.input_size, spec.input_size), generator=torch.Generator().manual_seed(_SEED), dtype=torch.float32
    )
    with _quiet(), torch.no_grad():
        raw = _dynamo(model, example, opset) if exporter == "dynamo" else _torchscript(model, example, opset)
    if opset_of(raw) != opset:
        raise InputError(f"the {exporter} exporter wrote opset {opset_of(raw)} instead of {opset}; choose another one")
    return raw


def _dynamo(model: nn.Module, example: torch.Tensor, opset: int) -> ModelProto:
    batch = torch.export.Dim(BATCH, min=1, max=4096)
    # 17 is below what this exporter writes natively; ReduceMean is the one operator of ours that changed since.
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=max(opset, DEFAULT_OPSET),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: batch},),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise InputError("the dynamo exporter gave no graph; try --exporter torchscript")
    raw: ModelProto = program.model_proto
    if opset < DEFAULT_OPSET:
        means_to_pools(raw)
        raw = onnx.version_converter.convert_version(raw, opset)
    return raw


def _torchscript(model: nn.Module, example: torch.Tensor, opset: int) -> ModelProto:
    buffer: Any = io.BytesIO()
    torch.onnx.export(
        model,
        (example,),
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
    )
    return parse_onnx(buffer.getvalue(), "exported graph")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk about packages and deprecations that nobody here can act on."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
