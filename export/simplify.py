"""The exported graph simplified, in canonical form, and proven equal to what the exporter wrote."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from export.onnx_file import to_bytes
from export.tidy import tidy
from export.ulp import MIN_LIMIT, ulps_apart
from runtime.backends.ort import OrtModel
from runtime.errors import CheckFailedError, InputError, MissingBackendError
from runtime.spec import ModelSpec


@dataclass(frozen=True)
class Simplified:
    """A simplified graph, and how far its outputs are from the raw graph's."""

    model: ModelProto
    simplifier: str
    nodes_before: int
    ulps: float


def simplify(raw: ModelProto, spec: ModelSpec, probes: NDArray[np.float32], limit: float = MIN_LIMIT) -> Simplified:
    """Simplify a raw graph; refuse the result when it differs by more than `limit` ULPs on the probes."""
    simpler, name = _simplify(raw)
    model = tidy(simpler, spec)
    before, after = OrtModel(to_bytes(raw))(probes), OrtModel(to_bytes(model))(probes)
    ulps = ulps_apart(after, before)
    if not ulps <= limit:
        raise CheckFailedError(
            f"simplify: outputs moved by {ulps:g} ULP on {len(probes)} probes, the limit is {limit:g}; "
            f"{name} changed the meaning of the graph, please report it with the checkpoint"
        )
    return Simplified(model, name, len(raw.graph.node), ulps)


def _simplify(raw: ModelProto) -> tuple[ModelProto, str]:
    copy = ModelProto()
    copy.CopyFrom(raw)
    try:
        onnxsim: Any = importlib.import_module("onnxsim")
    except ImportError:
        return _slim(copy), "onnxslim"
    try:
        model, _ = onnxsim.simplify(copy)
    except Exception as error:
        raise InputError(f"simplify: onnxsim cannot read the graph: {str(error).splitlines()[0]}") from error
    return model, "onnxsim"


def _slim(raw: ModelProto) -> ModelProto:
    try:
        onnxslim: Any = importlib.import_module("onnxslim")
    except ImportError as error:
        raise MissingBackendError(
            "simplifying needs onnxsim or onnxslim, neither is here; pip install 'landmark-toolkit[export]'"
        ) from error
    model: ModelProto = onnxslim.slim(raw)
    return model
