"""Asks TensorRT-RTX through our adapter; writes JSON. Usage: rtx_build.py BUNDLE ANSWERS"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import export.tensorrt as adapter
from export.tensorrt import build_plan, find_tensorrt
from export.tensorrt_rules import BuildOptions, abilities_of
from runtime.backends.tensorrt_log import make_logger
from runtime.bundle import Bundle
from runtime.engine import Profile
from runtime.errors import ToolkitError

FILES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}


def quantised(zero: int = 0, kind: int = TensorProto.INT8, bias: bool = False) -> bytes:
    """A convolution between Q/DQ pairs, right unless it is told to be wrong."""
    signed = np.int8 if kind == TensorProto.INT8 else np.uint8
    weight = np.random.default_rng(0).integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)
    constants = [
        numpy_helper.from_array(np.float32(0.05), "s"),
        numpy_helper.from_array(np.array(zero, signed), "z"),
        numpy_helper.from_array(np.int8(0), "zw"),
        numpy_helper.from_array(weight, "w"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["wd"]),
    ]
    if bias:
        constants += [
            numpy_helper.from_array(np.arange(4, dtype=np.int32), "b"),
            numpy_helper.from_array(np.int32(0), "zb"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["b", "s", "zb"], ["bd"]))
    nodes.append(helper.make_node("Conv", ["xd", "wd", *(["bd"] if bias else [])], ["y"]))
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6]),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def complaint(trt: Any, model: bytes, options: BuildOptions | None = None) -> str:
    try:
        build_plan(trt, model, "int8", options or BuildOptions())
    except ToolkitError as error:
        return str(error)
    return "accepted"


def main(bundle: Bundle) -> dict[str, Any]:
    trt = find_tensorrt("tensorrt_rtx")
    answers: dict[str, Any] = {"abilities": asdict(abilities_of(trt)), "built": {}, "refused": {}, "options": {}}
    plans = {}
    for precision, name in FILES.items():
        told: list[tuple[str, float]] = []
        options = BuildOptions(Profile(1, 4, 8), workspace_mib=256)
        plan = build_plan(
            trt, bundle.read(name), precision, options, progress=lambda p, s, told=told: told.append((p, s))
        )  # type: ignore[arg-type, misc]
        plans[precision] = plan.data
        phases = len({phase for phase, _ in told})
        answers["built"][precision] = {
            "bytes": len(plan.data), "typing": plan.typing, "phases": phases, "steps": len(told),
        }  # fmt: skip
    wrong = {
        "int32 bias": quantised(bias=True),
        "uint8": quantised(zero=128, kind=TensorProto.UINT8),
        "zero point": quantised(zero=3),
    }
    assert complaint(trt, quantised()) == "accepted"
    answers["refused"] = {name: {"contract": complaint(trt, model)} for name, model in wrong.items()}
    answers["options"] = {
        "legacy": complaint(trt, quantised(), BuildOptions(legacy="entropy")),
        "dla": complaint(trt, quantised(), BuildOptions(dla=True)),
    }
    answers["interrupted"] = interrupted(trt, bundle.read("fp32"))
    real, adapter.check_graph = adapter.check_graph, lambda *_: None
    for name, model in wrong.items():
        answers["refused"][name]["parser"] = complaint(trt, model)
    adapter.check_graph = real
    runtime = trt.Runtime(make_logger(trt))
    answers["loads here"] = runtime.deserialize_cuda_engine(plans["fp32"]) is not None
    return answers


def interrupted(trt: Any, model: bytes) -> dict[str, Any]:
    """Press Ctrl-C when the first phase is told; a shell starts its background jobs with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told: list[str] = []

    def press(phase: str, _: float) -> None:
        told.append(phase)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            import time

            time.sleep(0.3)

    try:
        build_plan(trt, model, "fp32", BuildOptions(), progress=press)
    except KeyboardInterrupt:
        return {"raised": "KeyboardInterrupt", "steps": len(told)}
    return {"raised": "", "steps": len(told)}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(Bundle.open(sys.argv[1]))))
