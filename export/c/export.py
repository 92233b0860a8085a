"""ONNX model + spec -> the C package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from export.c.dispatch import dispatch_order
from export.c.emit import emit, model_sha256
from export.c.isas import MICRO, NAMES, check_isas
from export.c.names import check_prefix
from export.c.package import Form
from export.c.passes import is_int8, optimise
from export.c.plan import Plan, Tuning, make_plan
from export.c.read import read
from runtime.errors import InputError
from runtime.files import write_text
from runtime.spec import ModelSpec


@dataclass(frozen=True)
class COptions:
    """What a user may choose.

    `dispatch`: one x86-64 build holds the kernels of all `isas` and chooses when it starts. `single_header`:
    everything is in landmarks.h, compiled where LM_IMPLEMENTATION is defined.
    """

    isas: tuple[str, ...] = NAMES
    dispatch: bool = False
    single_header: bool = False
    max_ram: int | None = None
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class CReport:
    """What was written."""

    files: tuple[Path, ...]
    arena_bytes: int
    arena_lower_bound: int
    weight_bytes: int
    macs: int
    layers: tuple[str, ...]
    model_sha256: str


MICRO_STREAMS = (1, 16 << 10, 64 << 10, 320 << 10)
"""From how many bytes on maps go through rings: what needs least memory differs from net to net."""
MICRO_TURNS = (1, 2, 4, 8)
"""Likewise in how many turns the first layers do a tick's work."""


def smallest_plan(model: onnx.ModelProto) -> Plan:
    """The schedule for microcontrollers: of several, the one that needs least memory."""
    plans = [
        make_plan(
            optimise(read(model)),
            Tuning(stream_bytes=bytes_moved, group_weights=1 << 30, max_rate=64, tight=True, turns=turns),
        )
        for bytes_moved in MICRO_STREAMS
        for turns in MICRO_TURNS
    ]
    return min(plans, key=lambda plan: plan.arena)


def export_c(
    model: onnx.ModelProto,
    spec: ModelSpec,
    directory: Path | str,
    *,
    prefix: str = "lm",
    precision: Literal["fp32", "int8"] = "fp32",
    options: COptions | None = None,
) -> CReport:
    """Write header and source into `directory`; nothing is written when anything is wrong."""
    options = options or COptions()
    check_prefix(prefix)
    check_isas(options.isas)
    if options.dispatch:
        dispatch_order(options.isas, precision == "int8")
    graph = optimise(read(model))
    if graph.input.shape.height != spec.input_size or graph.output.shape.channels != 2 * spec.points:
        raise InputError(
            f"C export: the model maps {graph.input.shape.height} px to {graph.output.shape.channels} values, "
            f"the spec says {spec.input_size} px and {2 * spec.points}"
        )
    if is_int8(graph) != (precision == "int8"):
        raise InputError(f"C export: {precision} was asked for, the model is {'int8' if is_int8(graph) else 'fp32'}")
    plan = smallest_plan(model) if precision == "int8" and MICRO in options.isas else make_plan(graph, options.tuning)
    sha = model_sha256(model.SerializeToString(deterministic=True))
    isas = tuple(isa for isa in (MICRO, *NAMES) if isa in options.isas or isa == "scalar")
    sources = emit(plan, spec, sha, prefix, Form(isas, options.dispatch, options.single_header))
    if options.max_ram is not None and sources.arena > options.max_ram:
        raise InputError(
            f"C export: the model needs {sources.arena} bytes of working memory, --max-ram allows {options.max_ram}"
        )
    target = Path(directory)
    for name, text in sources.files.items():
        write_text(target / name, text)
    files = tuple(target / name for name in sources.files)
    return CReport(
        files, sources.arena, plan.lower_bound, sources.weight_bytes, plan.graph.macs, tuple(sources.layers), sha
    )
