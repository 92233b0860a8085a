"""`bench --layers`: what each layer does, what this machine can do at best, and how far apart they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import golden
from c_nets import STRICT, compile_c, run_program

from export.c import export_c
from export.c.ir import Layer
from export.c.layers import layer_of
from export.c.passes import describe, optimise
from export.c.plan import Tuning, make_plan
from export.c.read import read
from export.c.traffic import factor_bytes, map_bytes, weight_bytes

ROW = re.compile(
    r"\s*(?P<layer>\d+|all) (?P<what>.*?)\s+(?P<us>[\d.]+)\s+(?P<share>[\d.]+)%\s+(?P<macs>\d+)\s+(?P<rate>[\d.]+)"
    r"(?:\s+(?P<peak>\d+)%\s+(?P<bytes>\d+)\s+(?P<moved>[\d.]+) (?P<limit>multiply|memory))?\s+(?P<of>\d+)%"
    r"\s+(?P<lost>-?[\d.]+)"
)
PEAK = re.compile(r"peak of (fp32|int8) arithmetic: ([\d.]+) (GFLOP|GOP)/s \((.+), registers only\)")
READ = re.compile(r"(\d+) KB at ([\d.]+) GB/s")


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    return layer_of(make_plan(optimise(read(model)), Tuning()))


def onnx_macs(model: onnx.ModelProto) -> int:
    """Multiply-adds by the shapes that onnx infers: one per weight and output position."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    sizes = {w.name: list(w.dims) for w in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weights = sizes[node.input[1]]
            count = 1
            for extent in weights:
                count *= extent
            output = shapes[node.output[0]]
            total += count * (output[2] * output[3] if node.op_type == "Conv" else 1)
    return total


def roofline(model: onnx.ModelProto, precision: str, folder: Path, *flags: str) -> str:
    export_c(model, golden.SPEC, folder, precision=precision)  # type: ignore[arg-type]
    program = compile_c([folder / "tools/bench.c"], folder / "bench", *STRICT, "-O2", *flags, f"-I{folder}")
    result = run_program(program, "30", "--layers")
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", ("-march=native",)), ("fp32", ("-DLM_FORCE_SCALAR",)), ("int8", ())]
)
def test_every_layer_stands_beside_what_the_machine_can_do(
    precision: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    model = golden.fp32_model() if precision == "fp32" else golden.int8_model()
    layers, text = layers_of(model), roofline(model, precision, tmp_path, *flags)
    found = [match for line in text.splitlines() if (match := ROW.fullmatch(line))]
    rows, total = found[:-1], found[-1]
    assert total["layer"] == "all" and [int(row["layer"]) for row in rows] == list(range(len(layers))), text
    for row, layer in zip(rows, layers, strict=True):
        assert row["what"] == describe(layer)
        assert int(row["macs"]) == layer.macs
        assert int(row["bytes"]) == map_bytes(layer) + weight_bytes(layer)
        assert float(row["us"]) > 0 and (int(row["macs"]) > 0 or row["limit"] == "memory")
        if float(row["us"]) > 1:  # the rate follows from count and time, as far as these are printed
            assert float(row["rate"]) == pytest.approx(2e-3 * layer.macs / float(row["us"]), rel=0.02, abs=0.06)
    assert int(total["macs"]) == sum(layer.macs for layer in layers)
    assert sum(float(row["share"]) for row in rows) == pytest.approx(100, abs=0.06 * len(rows))
    assert sum(float(row["us"]) for row in rows) == pytest.approx(float(total["us"]), abs=0.006 * len(rows))
    assert sum(float(row["lost"]) for row in rows) == pytest.approx(float(total["lost"]), abs=0.006 * len(rows))
    worst = max(rows, key=lambda row: float(row["lost"]))
    assert f"next bottleneck: layer {worst['layer']}, {worst['what']}\n" in text or float(worst["lost"]) < 0.02
    arithmetic = {factor_bytes(layer) for layer in layers if layer.macs}
    peaks = {match[1]: float(match[2]) for match in PEAK.finditer(text)}
    assert set(peaks) == {{1: "int8", 4: "fp32"}[size] for size in arithmetic}
    assert all(rate > 0.2 for rate in peaks.values())
    assert [int(match[1]) for match in READ.finditer(text)] == [16, 256, 1024, 2048, 4096, 32768]


def test_multiply_adds_are_those_of_the_onnx_file() -> None:
    model = golden.fp32_model()
    assert sum(layer.macs for layer in layers_of(model)) == onnx_macs(model) > 0
