"""What was built? The engine is asked for its tensors and for what each layer computes in; names prove nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.engine import Port, Precision, Profile
from runtime.errors import CheckFailedError

_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "FP8": "float8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""Names of TensorRT's types; its own `nptype` fails with newer versions of numpy."""
_WORDS = (
    (r"int8", "int8"),
    (r"bf16|bfloat16", "bfloat16"),
    (r"half|fp16|float16", "float16"),
    (r"fp32|float32|float\b", "float32"),
)
"""How the inspector's texts speak of types, over the versions."""
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
_MOVERS = re.compile(r"reformat|noop|shuffle|constant|cast|copy|quantize|shape|slice|signal|wait|identity", re.I)
"""Layers that move or convert values and compute nothing."""
_WANTED: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


@dataclass(frozen=True)
class Inspected:
    """What the engine says of itself."""

    ports: tuple[Port, ...]
    layers: Mapping[str, int]
    """How many computing layers there are of each precision; `unknown` where no type is told."""


def inspect_engine(trt: Any, engine: Any, profile: Profile) -> Inspected:
    """Ask a deserialised engine; its types are told for a context whose shapes are known."""
    ports = tuple(_ports(trt, engine))
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    given = next(port for port in ports if port.mode == "input")
    if context is not None:
        context.set_input_shape(given.name, (profile.opt, *given.shape[1:]))
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return Inspected(ports, dict(sorted(Counter(precisions(text)).items())))


def type_name(dtype: Any) -> str:
    """`DataType.HALF` and its like in our words."""
    name = str(dtype).rsplit(".", maxsplit=1)[-1].upper()
    return _TYPES.get(name, name.lower())


def _ports(trt: Any, engine: Any) -> Iterator[Port]:
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        yield Port(name, mode, type_name(engine.get_tensor_dtype(name)), tuple(engine.get_tensor_shape(name)))


def precisions(text: str) -> list[str]:
    """The precision of each computing layer in the inspector's JSON, of any version."""
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    return [_precision(layer) for layer in layers if not isinstance(layer, Mapping) or not _moves(layer)]


def _moves(layer: Mapping[str, Any]) -> bool:
    return bool(_MOVERS.search(str(layer.get("LayerType", "")))) and "Weights" not in layer


def _precision(layer: Any) -> str:
    """The type of the weights; else the narrowest type that is read, for that is what is computed with."""
    if not isinstance(layer, Mapping):
        return "unknown"
    weights = layer.get("Weights")
    if isinstance(weights, Mapping) and (found := _word(str(weights.get("Type", "")))):
        return found
    for side in ("Inputs", "Outputs"):
        told = [found for end in layer.get(side, []) if isinstance(end, Mapping) and (found := _type_of(end))]
        for _, name in _WORDS:
            if name in told:
                return name
    return "unknown"


def _type_of(end: Mapping[str, Any]) -> str | None:
    return next((found for key in _TYPE_KEYS if (found := _word(str(end.get(key, ""))))), None)


def _word(text: str) -> str | None:
    return next((name for pattern, name in _WORDS if re.search(pattern, text, re.I)), None)


def require_honest(found: Inspected, precision: Precision, names: tuple[str, str], where: str) -> None:
    """An engine must be what its name says: its tensors, and at least one layer of the precision that was asked for."""
    ports = {(port.name, port.mode): port.dtype for port in found.ports}
    for name, mode in zip(names, ("input", "output"), strict=True):
        if ports.get((name, mode)) != "float32":
            told = ports.get((name, mode), "missing")
            raise CheckFailedError(f"{where}: {mode} {name} of the engine is {told}, expected float32; it is not kept")
    if len(ports) != 1 + 1:
        raise CheckFailedError(f"{where}: the engine has {len(ports)} inputs and outputs, expected 2; it is not kept")
    wanted = _WANTED[precision]
    if not found.layers.get(wanted):
        told = ", ".join(f"{count} {name}" for name, count in found.layers.items()) or "none at all"
        raise CheckFailedError(
            f"{where}: asked for {precision}, but no layer of the engine computes in {wanted} (layers: {told}); "
            "an engine that is not what its name says is not kept"
        )
