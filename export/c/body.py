"""What differs between a float and an int8 build: kernels, numbers, layers, what the self-test expects."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.c import quantised, reference, reference_int8
from export.c.fetch import plan_fetches
from export.c.ir import Dense, Depthwise, Tensor
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
    pack_dense_micro,
    pack_depthwise,
    pack_depthwise_int8,
    pack_depthwise_taps,
    pack_ordered,
    to_lanes,
)
from export.c.plan import Plan, face_pad, gemm_mode
from runtime.spec import ModelSpec

TEST_SEED = 2024


ROW_KERNELS = {
    "lm_qtable_row": "qtable-s8",
    "lm_face_floats": "facefloat-s8",
    "lm_add_row": "add-f32",
    "lm_pool_row": "pool-f32",
    "lm_patch_row": "patch-f32",
    "lm_qpatch_row": "qpatch-s8",
    "lm_quantise_row": "quantise-s8",
    "lm_dequantise_row": "dequantise-s8",
    "lm_qdw_float_row": "qdwfloat3x3-s8",
    "lm_dw_ordered_row": "dwordered3x3-f32",
}
"""What layers call -> the plain kernel that they call, the same for every instruction set."""


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


def _pack_float(plan: Plan, ordered: bool) -> tuple[NDArray[np.float32], dict[int, Weights]]:
    parts: list[NDArray[np.float32]] = []
    owners: list[Dense | Depthwise] = []
    for layer in layer_of(plan):
        if isinstance(layer, (Dense, Depthwise)) and layer.steps is None:
            pixel = plan.place(layer.output).pixel
            vector = layer.output.shape.height == layer.output.shape.width == 1
            if isinstance(layer, Dense) and ordered and not (layer.kernel == 1 and vector):
                parts.extend(pack_ordered(layer, pixel))
            elif isinstance(layer, Dense):
                spans, order = plan.place(layer.inputs[0]).pixel.reading(layer.picks)
                parts.extend(pack_dense(layer, pixel, [count for _, count in spans], order))
            else:
                parts.extend(pack_depthwise(layer, pixel))
            owners.append(layer)
    blob, at = pack_all(parts)
    return blob, {id(layer): Weights(at[2 * i], at[2 * i + 1]) for i, layer in enumerate(owners)}


def _needed(writer: LayerWriter, plan: Plan) -> list[str]:
    """Row kernels that this model's layers call."""
    text = "".join(writer.function(step) for group in plan.groups for step in group.steps)
    plain = [kernel for call, kernel in ROW_KERNELS.items() if re.search(rf"\b{call}\(", text)]
    return plain + row_kernels(layer_of(plan))


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
    blob, weights = _pack_float(plan, ordered=False)
    scale = np.tile(np.float32(1 / 255) / np.asarray(spec.std, np.float32), 16).astype(np.float32)
    shift = np.tile(np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32), 16).astype(np.float32)
    numbers = f"static const float LM_ALIGNED lm_weights[{blob.size}] = {{\n{float_rows(blob)}}};\n"
    numbers += f"static const float lm_input_scale[48] = {{\n{float_rows(scale)}}};\n"
    numbers += f"static const float lm_input_shift[48] = {{\n{float_rows(shift)}}};\n"
    numbers += f"static const float lm_zeros[{(spec.input_size + 2 * face_pad(plan.graph)) * 3}] = {{0.0f}};\n"
    face = reference.face_input(reference.test_face(spec.input_size, TEST_SEED), spec)
    expected = _expected(plan, reference.run(plan.graph, face))
    writer = LayerWriter(plan, weights, plan_fetches(plan, weights, blob.size))
    rows = "".join(source_text(f"kernels/{name}.c") for name in _needed(writer, plan))
    rows = f"#define LM_CODE(byte) ((int)(byte))\n{rows}"
    tables, table_bytes = number_tables(plan)
    return Body(numbers + tables, "", rows, expected, writer, 4 * int(blob.size) + table_bytes)


def _bias_literals(bias: NDArray[np.int64], sums: NDArray[np.int64]) -> list[str]:
    return [f"LM_BIAS({b}, {s})" if b or s else "0" for b, s in zip(bias.tolist(), sums.tolist(), strict=True)]


def _face_numbers(spec: ModelSpec, face: Tensor) -> tuple[str, str]:
    """How bytes become what the first layer reads, and which of layers_int8.FACE_ROWS does it."""
    if face.step is None:
        values = reference.face_input(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1), spec)
        rows = float_rows(values.astype(np.float32).reshape(-1))
        return f"static const float lm_face_values[768] = {{\n{rows}}};\n", "float"
    codes = quantised.face_codes(spec, np.float32(quantised.step_of(face)))
    formula = quantised.face_formula(codes)
    if formula is None:
        return f"static const int8_t lm_face_codes[768] = {{\n{int_rows(codes.reshape(-1))}}};\n", "table"
    factor, shift = (np.tile(np.asarray(values, np.int64), 16) for values in formula)
    text = f"static const int32_t lm_face_factor[48] = {{\n{int_rows(factor)}}};\n"
    return text + f"static const int32_t lm_face_shift[48] = {{\n{int_rows(shift + 2**30)}}};\n", "formula"


@dataclass
class _Codes:
    """Int8 weights, biases and multipliers as they are laid one behind the other; equal weights lie there once."""

    codes: list[NDArray[np.int8]] = field(default_factory=list)
    scales: list[NDArray[np.float32]] = field(default_factory=list)
    bias: list[str] = field(default_factory=list)
    size: int = 0
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, packed: NDArray[np.int8], rows: list[NDArray[Any]]) -> CodeWeights:
        at = self.known.setdefault(packed.tobytes(), self.size)
        if at == self.size:
            self.codes.append(np.pad(packed, (0, padded(packed.size, 64) - packed.size)))
            self.size += self.codes[-1].size
        place = CodeWeights(at, len(self.bias), len(self.bias))
        self.bias.extend(_bias_literals(rows[0], rows[1]))
        self.scales.append(rows[2])
        return place


def _pack_codes(plan: Plan) -> tuple[_Codes, dict[int, CodeWeights]]:
    packs, places = _Codes(), dict[int, CodeWeights]()
    for layer in layer_of(plan):
        if not isinstance(layer, (Dense, Depthwise)) or layer.steps is None:
            continue
        pixel = plan.place(layer.output).pixel
        numbers = quantised.scales(layer)
        sums = layer.weights.reshape(len(layer.weights), -1).sum(axis=1).astype(np.int64)
        to_float = isinstance(layer, Depthwise) and layer.output.step is None
        columns: list[NDArray[Any]] = [numbers.bias, np.zeros_like(sums) if to_float else sums, numbers.multiplier]
        rows = [to_lanes(values, pixel) for values in columns]
        if isinstance(layer, Dense):
            spans = plan.place(layer.inputs[0]).pixel.spans_of(layer.picks)
            pack = pack_dense_micro if plan.tight else pack_dense_int8
            packed = pack(layer, pixel, k_runs(layer, gemm_mode(layer, plan.graph.input), spans))
        elif to_float or plan.tight:
            packed = pack_depthwise_taps(layer, pixel)
        else:
            packed = pack_depthwise_int8(layer, pixel)
            rows = [values[byte_order(pixel.lanes)] for values in rows]
        places[id(layer)] = packs.add(packed, rows)
    return packs, places


def _input_places(plan: Plan, writer: CodeWriter) -> str:
    """The table of where float layers find their inputs."""
    at: list[int] = []
    for layer in layer_of(plan):
        vector = layer.output.shape.height == layer.output.shape.width == 1
        if isinstance(layer, Dense) and layer.steps is None and not (layer.kernel == 1 and vector):
            writer.places[id(layer)] = len(at)
            at.extend(writer.inputs_in_order(layer))
    return f"static const int32_t lm_at[{len(at)}] = {{\n{int_rows(np.asarray(at))}}};\n" if at else ""


def int8_body(plan: Plan, spec: ModelSpec) -> Body:
    """The int8 build."""
    blob, weights = _pack_float(plan, ordered=True)
    packs, places = _pack_codes(plan)
    bias = packs.bias
    text = f"static const int8_t LM_ALIGNED lm_codes[{packs.size}] = {{\n{int_rows(np.concatenate(packs.codes))}}};\n"
    lines = "".join(f"    {', '.join(bias[i : i + 8])},\n" for i in range(0, len(bias), 8))
    shifted = f"static const int32_t LM_ALIGNED lm_bias[{len(bias)}] = {{\n{lines}}};\n"
    text += f"static const float LM_ALIGNED lm_scale[{len(bias)}] = {{\n{float_rows(np.concatenate(packs.scales))}}};\n"
    if blob.size:
        text += f"static const float LM_ALIGNED lm_weights[{blob.size}] = {{\n{float_rows(blob)}}};\n"
    face_text, face = _face_numbers(spec, plan.graph.input)
    writer = CodeWriter(plan, weights, places, face)
    text += face_text + _input_places(plan, writer)
    if face != "float":
        size = (spec.input_size + 2 * face_pad(plan.graph)) * 3 + 16
        shifted += f"static const uint8_t lm_qzeros[{size}] = {{\n{rows_of(['LM_ZERO'] * size, 16)}}};\n"
    row_text = "".join(source_text(f"kernels/{name}.c") for name in _needed(writer, plan))
    pixels = reference.test_face(spec.input_size, TEST_SEED)
    if face == "float":
        start: NDArray[Any] = reference.face_input(pixels, spec).astype(np.float32)
    else:
        face_codes = quantised.face_codes(spec, np.float32(quantised.step_of(plan.graph.input)))
        start = np.stack([face_codes[pixels[..., channel], channel] for channel in range(3)], axis=2)
    expected = _expected(plan, reference_int8.run(plan.graph, start))
    size_in_bytes = packs.size + 8 * len(bias) + 4 * int(blob.size)
    return Body(text, shifted, row_text, expected, writer, size_in_bytes)
