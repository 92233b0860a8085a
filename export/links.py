"""The links of the chain and their measures: export writes these numbers down, verification measures them again."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import nn

from export.contract import check_contract, refusals
from export.fp16 import half_outputs, half_weights_differ
from export.fuse import fuse
from export.onnx_file import to_bytes
from export.oracle import Oracle
from export.shift import landmark_shift
from export.tidy import tidy
from export.ulp import limit_from, ulps_apart
from runtime.backends.ort import OrtModel
from runtime.bundle import Check
from runtime.errors import CheckFailedError
from runtime.geometry import network_input
from runtime.spec import ModelSpec

BATCHES = (1, 4, 7)
MIN_PROBES = sum(BATCHES)
FUSED_WEIGHT_LIMIT = 2.0
HALF_SHIFT_LIMIT = 0.05
MOST_INT8_SHIFT = 10.0
"""No int8 model that moves landmarks by more is worth a proof, whatever limit was asked for."""
ENGINE_SHIFT_LIMIT = 0.5
"""A float engine may round a tie the other way; one int8 step here and there moves the landmarks by about this."""
NOISE_IMAGES, NOISE_SEED = 4, 11
INTEGERS = "int8-integers"
"""Name of the layers' fingerprints among the probes' arrays."""
REPEAT_SHIFT_LIMIT = 0.02
"""Two CPUs may round a half-precision sum differently; a changed file moves the landmarks by more."""


def require_passed(checks: Sequence[Check], link: str) -> None:
    """Stop the road at the first number that breaks its limit."""
    for check in checks:
        if not check.passed:
            raise CheckFailedError(
                f"{link}: {check.name} is {check.value:.4g} ({check.metric}), the limit is {check.limit:.4g}; "
                "nothing was written"
            )


def torch_outputs(model: nn.Module, probes: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the float32 model puts out."""
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(probes)).numpy())


def exact_outputs(model: nn.Module, probes: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the model puts out in double precision: the truth that float32 engines are measured against."""
    wide = copy.deepcopy(model).double()
    with torch.inference_mode():
        return np.asarray(wide(torch.from_numpy(probes.astype(np.float64))).numpy())


def fuse_checks(branched: nn.Module, fused: nn.Module, spec: ModelSpec, probes: NDArray[np.float32]) -> list[Check]:
    """Multi-branch against fused: fused again and compared weight by weight, and outputs in double precision."""
    again = fuse(branched, spec).state_dict()
    found = fused.state_dict()
    ulps = max((_weight_ulps(found[name].numpy(), again[name].numpy()) for name in again), default=float("inf"))
    wanted = exact_outputs(branched, probes)
    limit = limit_from(torch_outputs(branched, probes), wanted)
    apart = ulps_apart(exact_outputs(fused, probes), wanted)
    return [
        Check("weights", "ULP between the fused weights and fusing again", ulps, FUSED_WEIGHT_LIMIT),
        Check("outputs", "ULP from the multi-branch model, both in double precision", apart, limit),
    ]


def _weight_ulps(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Sums that cancel may leave a few bits less; below a thousandth of the largest weight that does not matter."""
    return ulps_apart(found, wanted, float(np.abs(wanted).max(initial=0.0)) * 2.0**-10 or 1.0)


def truth(model: nn.Module, probes: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """The model's exact outputs, and how many ULPs a float32 engine may be away from them."""
    exact = exact_outputs(model, probes)
    return exact, limit_from(torch_outputs(model, probes), exact)


def onnx_checks(
    model: nn.Module,
    graph: ModelProto,
    spec: ModelSpec,
    probes: NDArray[np.float32],
    exact: NDArray[np.float64],
    limit: float,
) -> list[Check]:
    """Fused model against ONNX: canonical form, constants bit for bit, outputs at several batch sizes."""
    form = float(to_bytes(tidy(graph, spec)) != to_bytes(graph))
    weights = float(foreign_weights(model, graph))
    return [
        Check("form", "graphs that are not in canonical form", form, 0),
        Check("weights", "constants that are not the checkpoint's, bit for bit", weights, 0),
        Check(
            "outputs", "ULP from double precision, batches of 1, 4 and 7", _batched_ulps(graph, probes, exact), limit
        ),
    ]


def foreign_weights(model: nn.Module, graph: ModelProto) -> int:
    """How many constants of the graph and tensors of the model have no equal partner of the same name.

    Integers (indices, shapes) are wiring, not weights: the outputs and a fresh export tell whether they are right.
    """
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    mine = {name: tensor.numpy() for name, tensor in tensors.items() if tensor.is_floating_point()}
    constants = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.graph.initializer}
    its = {name: values for name, values in constants.items() if not np.issubdtype(values.dtype, np.integer)}
    wrong = sum(name not in mine or not _same_bits(mine[name], values) for name, values in its.items())
    # A bias of zeros may be left out; everything else must be there.
    return wrong + sum(name not in its and bool(values.any()) for name, values in mine.items())


def _same_bits(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _batched_ulps(graph: ModelProto, probes: NDArray[np.float32], exact: NDArray[np.float64]) -> float:
    session, worst, start = OrtModel(to_bytes(graph)), 0.0, 0
    for size in BATCHES:
        part = slice(start, start + size)
        worst = max(worst, ulps_apart(session(probes[part]), exact[part]))
        start += size
    return worst if start == len(probes) else max(worst, ulps_apart(session(probes[start:]), exact[start:]))


def simplify_check(ulps: float, limit: float) -> Check:
    """Raw export against the simplified graph."""
    return Check("simplify", "ULP between the graph as exported and as simplified", ulps, limit)


def half_checks(
    full: ModelProto, half: ModelProto, kept: Collection[str], spec: ModelSpec, probes: NDArray[np.float32]
) -> list[Check]:
    """float32 against float16: weights correctly rounded, landmarks hardly moved."""
    wrong = half_weights_differ(half, full, kept) is not None
    shift = landmark_shift(half_outputs(half, probes), OrtModel(to_bytes(full))(probes), spec)
    limit_pixels = HALF_SHIFT_LIMIT / 100 * spec.input_size
    return [
        Check("weights", "constants that are not the float32 ones rounded", float(wrong), 0),
        Check(
            "shift",
            f"mean landmark shift against float32, % of {shift.normaliser}",
            shift.mean_percent,
            HALF_SHIFT_LIMIT,
        ),
        Check("shift-pixels", "mean landmark shift against float32, crop pixels", shift.mean_pixels, limit_pixels),
    ]


def int8_checks(
    full: ModelProto, quantised: ModelProto, spec: ModelSpec, probes: NDArray[np.float32], limit: float
) -> tuple[list[Check], dict[str, NDArray[Any]]]:
    """float32 against exact integers, these against ONNX Runtime, what TensorRT refuses; and what to store of them."""
    ran = Oracle(quantised, "model.int8.onnx").run(np.concatenate([probes, _noise(spec)]), keep=True)
    exact = ran.output[: len(probes)]
    shift = landmark_shift(exact, OrtModel(to_bytes(full))(probes), spec)
    engine = landmark_shift(OrtModel(to_bytes(quantised), optimise=False)(probes), exact, spec)
    refused = float(len(refusals(check_contract(quantised))))
    checks = [
        Check("contract", "reasons for TensorRT to refuse the graph", refused, 0),
        Check("shift", f"mean landmark shift against float32, % of {shift.normaliser}", shift.mean_percent, limit),
        Check(
            "engine",
            f"mean landmark shift between ONNX Runtime and exact integers, % of {engine.normaliser}",
            engine.mean_percent,
            ENGINE_SHIFT_LIMIT,
        ),
    ]
    return checks, {"int8": exact, INTEGERS: _fingerprints(ran.stored)}


def _noise(spec: ModelSpec) -> NDArray[np.float32]:
    """Inputs that wake channels which sleep on faces; for comparing integers only, nothing is calibrated on them."""
    size = (NOISE_IMAGES, spec.input_size, spec.input_size, 3)
    return network_input(np.random.default_rng(NOISE_SEED).integers(0, 256, size, dtype=np.uint8), spec)


def _fingerprints(stored: Mapping[str, NDArray[np.int8]]) -> NDArray[np.uint8]:
    """sha256 of the integers of every layer, in the graph's order, one row each."""
    rows = [hashlib.sha256(np.ascontiguousarray(codes).data).digest() for codes in stored.values()]
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), 32)


def integers_check(found: NDArray[np.uint8], stored: NDArray[np.uint8]) -> Check:
    """The integers of every layer against those stored with the probes."""
    differ = float(np.any(found != stored, axis=1).sum()) if found.shape == stored.shape else float("inf")
    return Check("repeat-integers", "layers whose integers differ from those stored with the probes", differ, 0)


def repeat_check(name: str, found: NDArray[np.float32], stored: NDArray[np.float32], limit: float) -> Check:
    """Outputs of an artefact against those stored with the probes."""
    return Check(
        f"repeat-{name}", f"ULP of {name} from the outputs stored with the probes", ulps_apart(found, stored), limit
    )
