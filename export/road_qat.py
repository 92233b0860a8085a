"""The int8 stretch of the road for a network that was trained for it: its own steps, and the same checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from calib.fake_net import net_of
from calib.graph import read_graph
from calib.plan import Plan, float_predictor, plan_predictor
from calib.quantize import SHIFT_LIMIT
from calib.result import relative_drop
from calib.steps import plan_with, tensor_names
from export.bundle import BundleWriter
from export.int8 import write_int8
from export.links import int8_checks, require_passed
from export.onnx_file import to_bytes
from export.oracle import Oracle
from export.road_int8 import PROBE_SLACK, labelled_by, labelled_source, public_name
from export.tidy import finish, refuse_host_traces
from runtime.bundle import Check
from runtime.errors import UsageError
from runtime.files import sha256_bytes
from train.checkpoint import Checkpoint
from train.evaluate import crop_faces

TRAINED = "qat"
"""The mode's name."""


@dataclass(frozen=True)
class LabelledGate:
    """Faces that the int8 file must not lose more than a share of NME on; no source, no gate."""

    source: str | None
    max_drop: float
    seed: int

    def refuse_empty(self) -> None:
        """Open the faces before any slow step."""
        if self.source is not None and not len(labelled_source(self.source)):
            raise UsageError(f"{self.source}: no faces in it")


def refuse_untrained(checkpoint: Checkpoint, where: str) -> None:
    """Only training with --qat leaves the steps that this needs."""
    if checkpoint.int8 is None:
        raise UsageError(
            f"--int8 qat: {where} carries no int8 steps; fine-tune it with 'toolkit train --qat --init {where}', "
            "or calibrate it with --int8 fast or --int8 best"
        )


def add_trained_int8(
    writer: BundleWriter,
    graph: ModelProto,
    checkpoint: Checkpoint,
    probes: NDArray[np.float32],
    gate: LabelledGate,
    say: Callable[[str], None],
) -> dict[str, NDArray[Any]]:
    """Write and measure the int8 model with the checkpoint's steps; returns what the probes file stores of it."""
    refuse_untrained(checkpoint, "the checkpoint")
    assert checkpoint.int8 is not None  # noqa: S101  (refused just above)
    spec = checkpoint.spec
    plan = plan_with(read_graph(graph, "model.onnx"), checkpoint.int8)
    quantised = finish(write_int8(graph, plan, "model.onnx"), spec)
    data = to_bytes(quantised)
    refuse_host_traces(data, "model.int8.onnx")
    limit = 100 * PROBE_SLACK * SHIFT_LIMIT
    checks, stored = int8_checks(graph, quantised, spec, probes, limit)
    checks.append(trained_check(checkpoint, plan, quantised, probes))
    nme: dict[str, tuple[float, float]] = {}
    if gate.source is not None:
        say("int8, labelled faces")
        nme, check = _drop(plan, checkpoint, gate)
        checks.append(check)
    require_passed(checks, "int8")
    settings = {
        "shift limit on the probes, %": limit,
        "mode": TRAINED,
        "steps": {"activations": len(checkpoint.int8.activations), "weights": len(checkpoint.int8.weights)},
        "float layers": [],
        "nme": {name: {"float32": exact, "int8": rough} for name, (exact, rough) in nme.items()},
    }
    writer.add("int8", "onnx", "model.int8.onnx", data, "fp32", settings, checks)
    return stored


def trained_check(checkpoint: Checkpoint, plan: Plan, quantised: ModelProto, probes: NDArray[np.float32]) -> Check:
    """The integers of the file against those of the module that training judged, on the probes."""
    net, kept = net_of(checkpoint), dict[str, torch.Tensor]()
    output = net.integers(torch.from_numpy(probes), kept).numpy()
    names, layers = tensor_names(net.graph), tensor_names(plan.graph)
    found = {names[tensor]: codes.numpy() for tensor, codes in kept.items()}
    ran = Oracle(quantised, "model.int8.onnx").run(probes, keep=True)
    read = {tensor for _, tensor in plan.sites.readers}
    wanted = {layers[tensor]: ran.stored[f"{tensor}_quantized"] for tensor in read}
    apart = float((output != ran.output).sum())
    if found.keys() == wanted.keys():
        apart += sum(float((found[name] != codes).sum()) for name, codes in wanted.items())
    else:
        apart = float("inf")
    return Check("trained-integers", "int8 values and outputs that are not those judged in training", apart, 0)


def _drop(plan: Plan, checkpoint: Checkpoint, gate: LabelledGate) -> tuple[dict[str, tuple[float, float]], Check]:
    crops = crop_faces(labelled_source(str(gate.source)), checkpoint.spec)
    name = public_name(str(gate.source))
    judge = labelled_by(crops, checkpoint.spec, name).nme
    exact, rough = judge(float_predictor(plan.graph)), judge(plan_predictor(plan))
    nme = {subset: (float(exact[subset]), float(rough[subset])) for subset in exact}
    data = sha256_bytes(crops.images.tobytes())
    metric = f"% NME increase on {name}"
    return nme, Check("nme-drop", metric, 100 * relative_drop(nme), 100 * gate.max_drop, data, gate.seed)
