"""What differs between a float and an int8 build: kernels, numbers, layers, what the self-test expects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c import quantised, reference, reference_int8
from export.c.fetch import plan_fetches
from export.c.ir import Add, Dense, Depthwise, Pool, Tensor
from export.c.isas import source_text
from export.c.layers import LayerWriter, k_runs, layer_of
from export.c.layers_int8 import CodeWeights, CodeWriter
from export.c.layers_more import number_tables, row_kernels
from export.c.layout import padded
from export.c.literals import float_rows, int_rows
from export.c.literals import rows as rows_of
from export.c.pack import (
    Weights,
    byte_order,
    pack_all,
    pack_dense,
    pack_dense_int8,
    pack_depthwise,
    pack_depthwise_int8,
    to_lanes,
)
from export.c.plan import Plan, face_pad, gemm_mode
from runtime.spec import ModelSpec

TEST_SEED = 2024


@dataclass(frozen=True)
class Body:
    """The parts of landmarks.c that depend on the precision."""

    numbers: str
    shifted_numbers: str
    """Numbers that depend on LM_ZERO, and so on the instruction set."""
    rows: str
    expected: str
    writer: LayerWriter
    weight_bytes: int


def _pack_float(plan: Plan) -> tuple[NDArray[np.float32], dict[int, Weights]]:
    parts: list[NDArray[np.float32]] = []
    owners: list[Dense | Depthwise] = []
    for layer in layer_of(plan):
        if isinstance(layer, (Dense, Depthwise)) and layer.steps is None:
            pixel = plan.place(layer.output).pixel
            if isinstance(layer, Dense):
                spans = plan.place(layer.inputs[0]).pixel.spans_of(layer.picks)
                parts.extend(pack_dense(layer, pixel, [count for _, count in spans]))
            else:
                parts.extend(pack_depthwise(layer, pixel))
            owners.append(layer)
    blob, at = pack_all(parts)
    return blob, {id(layer): Weights(at[2 * i], at[2 * i + 1]) for i, layer in enumerate(owners)}


def _needed(plan: Plan, int8: bool) -> list[str]:
    """Row kernels that this model needs."""
    layers = layer_of(plan)
    patches = any(isinstance(x, Dense) and gemm_mode(x, plan.graph.input) == "patch" for x in layers)
    names = ["add"] if any(isinstance(x, Add) for x in layers) and not int8 else []
    names += ["pool"] if any(isinstance(x, Pool) for x in layers) and not int8 else []
    names += ["patch"] if patches else []
    return [f"q{name}-s8" if int8 else f"{name}-f32" for name in names] + row_kernels(layers)


def _expected(plan: Plan, values: dict[int, NDArray[np.float64]]) -> str:
    """The self-test's sums; few digits, because the last ones depend on the machine and the files must not."""
    rows, codes = "", list[str]()
    for layer in layer_of(plan):
        value = values[id(layer.output)]
        exact = layer.output.step is not None
        weighted, size = (0.0, 0.0) if exact else reference.checksums(value)
        if not (math.isfinite(weighted) and math.isfinite(size)):
            weighted = size = 0.0
        rows += f"    {{{weighted:.6e}, {size:.6e}}},\n"
        codes.append(f"{reference.code_sum(value) if exact else 0}u")
    table = f"static const double lm_expected[LM_LAYER_COUNT][2] = {{\n{rows}}};\n"
    return table + f"static const uint32_t lm_expected_codes[LM_LAYER_COUNT] = {{\n{rows_of(codes, 8)}}};\n"


def float_body(plan: Plan, spec: ModelSpec) -> Body:
    """The float build."""
    blob, weights = _pack_float(plan)
    scale = np.tile(np.float32(1 / 255) / np.asarray(spec.std, np.float32), 16).astype(np.float32)
    shift = np.tile(np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32), 16).astype(np.float32)
    numbers = f"static const float LM_ALIGNED lm_weights[{blob.size}] = {{\n{float_rows(blob)}}};\n"
    numbers += f"static const float lm_input_scale[48] = {{\n{float_rows(scale)}}};\n"
    numbers += f"static const float lm_input_shift[48] = {{\n{float_rows(shift)}}};\n"
    numbers += f"static const float lm_zeros[{(spec.input_size + 2 * face_pad(plan.graph)) * 3}] = {{0.0f}};\n"
    rows = "".join(source_text(f"kernels/{name}.c") for name in ["input-f32", *_needed(plan, False)])
    rows = f"#define LM_CODE(byte) ((int)(byte))\n{rows}"
    face = reference.face_input(reference.test_face(spec.input_size, TEST_SEED), spec)
    expected = _expected(plan, reference.run(plan.graph, face))
    writer = LayerWriter(plan, weights, plan_fetches(plan, weights, blob.size))
    tables, table_bytes = number_tables(plan)
    return Body(numbers + tables, "", rows, expected, writer, 4 * int(blob.size) + table_bytes)


def _bias_literals(bias: NDArray[np.int64], sums: NDArray[np.int64]) -> list[str]:
    return [f"LM_BIAS({b}, {s})" if b or s else "0" for b, s in zip(bias.tolist(), sums.tolist(), strict=True)]


def _face_numbers(spec: ModelSpec, face: Tensor) -> tuple[str, bool]:
    """How bytes become codes: by a formula where there is one, by a table otherwise."""
    codes = quantised.face_codes(spec, np.float32(quantised.step_of(face)))
    formula = quantised.face_formula(codes)
    if formula is None:
        return f"static const int8_t lm_face_codes[768] = {{\n{int_rows(codes.reshape(-1))}}};\n", True
    factor, shift = (np.tile(np.asarray(values, np.int64), 16) for values in formula)
    text = f"static const int32_t lm_face_factor[48] = {{\n{int_rows(factor)}}};\n"
    return text + f"static const int32_t lm_face_shift[48] = {{\n{int_rows(shift + 2**30)}}};\n", False


def int8_body(plan: Plan, spec: ModelSpec) -> Body:
    """The int8 build."""
    blob, weights = _pack_float(plan)
    codes: list[NDArray[np.int8]] = []
    scales: list[NDArray[np.float32]] = []
    bias: list[str] = []
    places: dict[int, CodeWeights] = {}
    at = 0
    for layer in layer_of(plan):
        if not isinstance(layer, (Dense, Depthwise)) or layer.steps is None:
            continue
        pixel = plan.place(layer.output).pixel
        numbers = quantised.scales(layer)
        sums = layer.weights.reshape(len(layer.weights), -1).sum(axis=1).astype(np.int64)
        columns: list[NDArray[Any]] = [numbers.bias, sums, numbers.multiplier]
        rows = [to_lanes(values, pixel) for values in columns]
        if isinstance(layer, Dense):
            spans = plan.place(layer.inputs[0]).pixel.spans_of(layer.picks)
            packed = pack_dense_int8(layer, pixel, k_runs(layer, gemm_mode(layer, plan.graph.input), spans))
        else:
            packed = pack_depthwise_int8(layer, pixel)
            rows = [values[byte_order(pixel.lanes)] for values in rows]
        places[id(layer)] = CodeWeights(at, len(bias), len(bias))
        codes.append(np.pad(packed, (0, padded(packed.size, 64) - packed.size)))
        at += codes[-1].size
        bias.extend(_bias_literals(rows[0], rows[1]))
        scales.append(rows[2])
    text = f"static const int8_t LM_ALIGNED lm_codes[{at}] = {{\n{int_rows(np.concatenate(codes))}}};\n"
    lines = "".join(f"    {', '.join(bias[i : i + 8])},\n" for i in range(0, len(bias), 8))
    shifted = f"static const int32_t LM_ALIGNED lm_bias[{len(bias)}] = {{\n{lines}}};\n"
    text += f"static const float LM_ALIGNED lm_scale[{len(bias)}] = {{\n{float_rows(np.concatenate(scales))}}};\n"
    if blob.size:
        text += f"static const float LM_ALIGNED lm_weights[{blob.size}] = {{\n{float_rows(blob)}}};\n"
    face_text, table = _face_numbers(spec, plan.graph.input)
    size = (spec.input_size + 2 * face_pad(plan.graph)) * 3 + 16
    text += face_text
    shifted += f"static const uint8_t lm_qzeros[{size}] = {{\n{rows_of(['LM_ZERO'] * size, 16)}}};\n"
    names = [*(["qtable-s8"] if table else []), *_needed(plan, True)]
    row_text = "".join(source_text(f"kernels/{name}.c") for name in names)
    pixels = reference.test_face(spec.input_size, TEST_SEED)
    face_codes = quantised.face_codes(spec, np.float32(quantised.step_of(plan.graph.input)))
    start = np.stack([face_codes[pixels[..., channel], channel] for channel in range(3)], axis=2)
    expected = _expected(plan, reference_int8.run(plan.graph, start))
    writer = CodeWriter(plan, weights, places, table)
    size_in_bytes = at + 8 * len(bias) + 4 * int(blob.size)
    return Body(text, shifted, row_text, expected, writer, size_in_bytes)
