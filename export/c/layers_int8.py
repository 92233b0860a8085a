"""One C function per int8 layer."""

from __future__ import annotations

from dataclasses import dataclass

from export.c import quantised
from export.c.fetch import Fetch
from export.c.ir import Add, Dense, Depthwise, Dequantise, Pool, Quantise
from export.c.layers import FLOAT, Dialect, LayerWriter, assign
from export.c.layout import WORD, padded
from export.c.literals import float_literal
from export.c.pack import Weights
from export.c.plan import InputLayer, Plan, Step, face_pad, gemm_mode

CODES = Dialect(
    "uint8_t",
    "lm_byte_row",
    "lm_byte_row_or_null",
    "lm_bytes",
    "groups",
    "lm_qgemm",
    "groups",
    "lm_qpatch_row",
    "lm_qzeros",
)


@dataclass(frozen=True)
class CodeWeights:
    """Where an int8 layer's numbers begin: codes, biases, multipliers."""

    codes: int
    bias: int
    scale: int


FACE_ROWS = {
    "formula": ("lm_qinput_row", "lm_face_factor, lm_face_shift"),
    "table": ("lm_qtable_row", "lm_face_codes"),
    "float": ("lm_face_floats", "lm_face_values"),
}
"""How bytes of the face become what the first layer reads -> function and numbers."""


class CodeWriter(LayerWriter):
    """Writes the layers of an int8 plan; some may be float."""

    words = CODES

    def __init__(self, plan: Plan, weights: dict[int, Weights], codes: dict[int, CodeWeights], face: str) -> None:
        empty: dict[int, Fetch] = {}
        super().__init__(plan, weights, empty)
        self.codes = codes
        self.face = face
        self.places: dict[int, int] = {}
        """Where the inputs of a float layer begin in lm_at."""

    def length(self, count: int) -> int:
        return -(-count // 4)

    def _input(self, layer: InputLayer) -> str:
        width = layer.output.shape.width
        call = f"net->face + (size_t)y * {3 * width}, {width}, "
        name, numbers = FACE_ROWS[self.face]
        more = 0 if self.face == "float" else 3 * (face_pad(self.plan.graph) - 1)
        loop = "    for (int y = from; y < to; y++) {\n"
        if more:  # the kernel writes one pixel of code 0 on either side
            loop += f"        uint8_t *row = {self.row(layer.output, 'y')};\n        memset(row, LM_ZERO, {more});\n"
            loop += f"        {name}({call}{numbers}, row + {more});\n"
            return f"{loop}        memset(row + {more + 3 * width + 6}, LM_ZERO, {more + 16});\n    }}\n"
        return f"{loop}        {name}({call}{numbers}, {self.row(layer.output, 'y')});\n    }}\n"

    def _dense(self, layer: Dense, step: Step) -> str:
        if layer.steps is not None:
            return super()._dense(layer, step)
        vector = layer.kernel == 1 and layer.output.shape.height == layer.output.shape.width == 1
        return self._float_vector(layer) if vector else self._ordered(layer)

    def _low(self, layer: Dense | Depthwise | Add) -> int:
        return 0 if layer.relu else -128

    def _positive(self, layer: Dense | Depthwise) -> int:
        return int(quantised.never_negative(self.plan.graph, layer.inputs[0]))

    def _gemm_tail(self, layer: Dense, pixels: str) -> str:
        place, at, row = self.plan.place(layer.output), self.codes[id(layer)], self.row(layer.output, "y")
        add = layer.inputs[1] if len(layer.inputs) > 1 else None
        values: dict[str, object] = {
            "w": f"lm_codes + {at.codes}",
            "bias": f"lm_bias + {at.bias}",
            "scale": f"lm_scale + {at.scale}",
            "y": "NULL" if layer.output.step is None else row,
            "y_float": row if layer.output.step is None else "NULL",
            "y_step": place.buffer.pixel_step,
            "add": self.row(add, "y") if add else "NULL",
            "add_step": self.buffer(add).pixel_step if add else 0,
            "add_scale": float_literal(float(quantised.addend(add, layer.output))) if add else "0.0f",
            "vectors": place.pixel.vectors,
            **({"lanes": place.pixel.lanes} if self.plan.tight else {}),
            "pixels": pixels,
            "low": self._low(layer),
            "positive": self._positive(layer),
        }
        return assign(values) + "        lm_qgemm(&a);\n"

    def reading(self, layer: Dense) -> list[tuple[int, int]]:
        """Without lanes to spare only padding lies between two spans: its weights are zero, and one run reads both."""
        spans = self.plan.place(layer.inputs[0]).pixel.spans_of(layer.picks)
        found: list[tuple[int, int]] = []
        for lane, count in spans if self.plan.tight else ():
            first, before = found[-1] if found else (0, 0)
            if found and first + padded(before, WORD) == lane:
                found[-1] = (first, lane - first + count)
            else:
                found.append((lane, count))
        return found or spans

    def _float_vector(self, layer: Dense) -> str:
        place, at = self.plan.place(layer.inputs[0]), self.weights[id(layer)]
        spans = place.pixel.spans_of(layer.picks)
        lengths = ", ".join(str(count) for _, count in spans)
        text = f"    static const int lengths[{len(spans)}] = {{{lengths}}};\n    const float *x[{len(spans)}];\n"
        for i, (lane, _) in enumerate(spans):
            text += f"    x[{i}] = {self.row(layer.inputs[0], '0')} + {lane};\n"
        text += f"    lm_ordered_product(x, lengths, {len(spans)}, {layer.weights.shape[1]},\n"
        text += f"                       lm_weights + {at.weights}, lm_weights + {at.bias},\n"
        text += f"                       {self.row(layer.output, '0')},\n"
        text += f"                       {self.plan.place(layer.output).pixel.vectors}, {int(layer.relu)});\n"
        return text + "    (void)from;\n    (void)to;\n"

    def _ordered(self, layer: Dense) -> str:
        """A float convolution: rows of neighbourhoods where it reads them, then the ordered sums."""
        source, target, at = self.plan.place(layer.inputs[0]), self.plan.place(layer.output), self.weights[id(layer)]
        mode, width, step = gemm_mode(layer, layer.output), layer.output.shape.width, source.buffer.pixel_step
        text = "    for (int y = from; y < to; y++) {\n        lm_ordered_args a;\n"
        if mode == "patch":
            text += self._gathered(layer)
        else:
            first = "0" if mode == "whole" else "y" if layer.stride == 1 else f"y * {layer.stride}"
            text += f"        const float *x = {self.row(layer.inputs[0], first)};\n"
        values: dict[str, object] = {
            "x": "x",
            "at": f"lm_at + {self.places[id(layer)]}",
            "k_total": layer.weights[0].size,
            "x_step": step * (layer.kernel**2 if mode == "patch" else layer.stride),
            "w": f"lm_weights + {at.weights}",
            "bias": f"lm_weights + {at.bias}",
            "y": self.row(layer.output, "y"),
            "y_step": target.buffer.pixel_step,
            "vectors": target.pixel.vectors,
            "pixels": width,
            "relu": int(layer.relu),
        }
        return f"{text}{assign(values)}        lm_ordered(&a);\n    }}\n"

    def _gathered(self, layer: Dense) -> str:
        """Statements that lay the neighbourhoods of a row side by side and point `x` to the first."""
        place, k = self.plan.place(layer.inputs[0]), layer.kernel
        group = next(g for g in self.plan.groups if any(s.layer is layer for s in g.steps))
        scratch = next(b for b in group.scratch if b.name == f"patches of {layer.name}")
        source = self.row_of(layer.inputs[0], f"y * {layer.stride} - {layer.pad} + k")
        text = f"        const float *rows[{k}];\n"
        text += f"        float *x = {FLOAT.row}(net, {scratch.offset}, 1, {scratch.row_bytes}, 0);\n"
        text += f"        for (int k = 0; k < {k}; k++) {{\n            rows[k] = {source};\n"
        if layer.inputs[0] is self.plan.graph.input:  # behind the zero pixel
            text += "            rows[k] = rows[k] != NULL ? rows[k] + 3 : NULL;\n"
        return (
            f"{text}        }}\n        {FLOAT.patch}(rows, {k}, {place.buffer.pixel_step}, "
            f"{layer.inputs[0].shape.width}, {layer.stride}, {layer.pad}, x, {layer.output.shape.width});\n"
            f"        x += {place.lane};\n"
        )

    def inputs_in_order(self, layer: Dense) -> list[int]:
        """Where each input of an output pixel lies behind the first one, in the order of the weight's memory."""
        source = self.plan.place(layer.inputs[0])
        spans, step = source.pixel.spans_of(layer.picks), source.buffer.pixel_step
        lanes = [lane + i for lane, count in spans for i in range(count)]
        return [tap * step + lane for lane in lanes for tap in range(layer.kernel**2)]

    def _cross(self, layer: Quantise | Dequantise) -> str:
        source, target = layer.inputs[0], layer.output
        coded = target if target.step is not None else source
        name = "lm_quantise_row" if coded is target else "lm_dequantise_row"
        steps = self.buffer(source).pixel_step, self.buffer(target).pixel_step
        step, width = float_literal(float(quantised.step_of(coded))), target.shape.width
        text = "    for (int y = from; y < to; y++) {\n"
        spans = zip(self.plan.place(source).pixel.spans(), self.plan.place(target).pixel.spans(), strict=True)
        for (lane, count), (out, _) in spans:
            text += f"        {name}({self.row(source, 'y')} + {lane}, {steps[0]}, {width}, {count}, {step},\n"
            text += f"            {self.row(target, 'y')} + {out}, {steps[1]});\n"
        return text + "    }\n"

    def _rows_of_three(self, layer: Depthwise, value: str) -> str:
        source = self.plan.place(layer.inputs[0])
        row = self.row_of(layer.inputs[0], f"y * {layer.stride} - 1 + k")
        return (
            f"    for (int y = from; y < to; y++) {{\n        const {value} *rows[3];\n"
            f"        for (int k = 0; k < 3; k++) {{\n            const {value} *x = {row};\n"
            f"            rows[k] = x != NULL ? x + {source.lane} : NULL;\n        }}\n"
        )

    def _depthwise_ordered(self, layer: Depthwise) -> str:
        source, target, at = self.plan.place(layer.inputs[0]), self.plan.place(layer.output), self.weights[id(layer)]
        return (
            f"{self._rows_of_three(layer, 'float')}        lm_dw_ordered_row(rows, {source.buffer.pixel_step}, "
            f"{layer.inputs[0].shape.width}, {layer.stride}, lm_weights + {at.weights}, lm_weights + {at.bias},\n"
            f"            {self.row(layer.output, 'y')}, {target.buffer.pixel_step}, {layer.output.shape.width}, "
            f"{target.pixel.vectors}, {int(layer.relu)});\n    }}\n"
        )

    def _depthwise_to_float(self, layer: Depthwise) -> str:
        source, target, at = self.plan.place(layer.inputs[0]), self.plan.place(layer.output), self.codes[id(layer)]
        text, width = self._rows_of_three(layer, "uint8_t"), layer.inputs[0].shape.width
        for (lane, count), (out, _) in zip(source.pixel.spans(), target.pixel.spans(), strict=True):
            text += (
                f"        lm_qdw_float_row(rows, {lane}, {source.buffer.pixel_step}, {width}, {layer.stride}, "
                f"lm_codes + {at.codes + out}, {target.pixel.lanes},\n"
                f"            lm_bias + {at.bias + out}, lm_scale + {at.scale + out}, {count}, "
                f"{self.row(layer.output, 'y')} + {out}, {target.buffer.pixel_step}, {layer.output.shape.width}, "
                f"{int(layer.relu)});\n"
            )
        return text + "    }\n"

    def _depthwise(self, layer: Depthwise) -> str:
        if layer.steps is None:
            return self._depthwise_ordered(layer)
        if layer.output.step is None:
            return self._depthwise_to_float(layer)
        source, target, at = self.plan.place(layer.inputs[0]), self.plan.place(layer.output), self.codes[id(layer)]
        row = self.row_of(layer.inputs[0], f"y * {layer.stride} - 1 + k")
        values: dict[str, object] = {
            "x_step": source.buffer.pixel_step,
            "in_width": layer.inputs[0].shape.width,
            "stride": layer.stride,
            "w": f"lm_codes + {at.codes}",
            "bias": f"lm_bias + {at.bias}",
            "scale": f"lm_scale + {at.scale}",
            "y": self.row(layer.output, "y"),
            "y_step": target.buffer.pixel_step,
            "out_width": layer.output.shape.width,
            **({"lanes": target.pixel.lanes} if self.plan.tight else {"blocks": target.pixel.lanes // 64}),
            "low": self._low(layer),
            "positive": self._positive(layer),
        }
        return (
            "    for (int y = from; y < to; y++) {\n        lm_qdw_args a;\n        for (int k = 0; k < 3; k++) {\n"
            f"            const uint8_t *x = {row};\n"
            f"            a.x[k] = x != NULL ? x + {source.lane} : NULL;\n        }}\n"
            f"{assign(values)}        lm_qdw(&a);\n    }}\n"
        )

    def _add(self, layer: Add) -> str:
        if layer.output.step is None:
            return super()._add(layer)
        target = self.plan.place(layer.output)
        left, right = (float_literal(float(scale)) for scale in quantised.add_scales(layer))
        a, b = layer.inputs
        return (
            "    for (int y = from; y < to; y++) {\n"
            f"        lm_qadd_row({self.row(a, 'y')}, {self.buffer(a).pixel_step}, {left},\n"
            f"                    {self.row(b, 'y')}, {self.buffer(b).pixel_step}, {right},\n"
            f"                    {self.row(layer.output, 'y')}, {target.buffer.pixel_step}, "
            f"{layer.output.shape.width}, {target.pixel.lanes}, {self._low(layer)});\n    }}\n"
        )

    def _pool(self, layer: Pool) -> str:
        source, shape = self.plan.place(layer.inputs[0]), layer.inputs[0].shape
        spans = zip(source.pixel.spans(), self.plan.place(layer.output).pixel.spans(), strict=True)
        scale = float_literal(float(quantised.pool_scale(layer)))
        text = "    for (int y = from; y < to; y++) {\n"
        for (lane, count), (out, _) in spans:
            text += f"        lm_qpool_row({self.row(layer.inputs[0], 'y')} + {lane}, {source.buffer.pixel_step}, "
            text += f"{shape.width}, {count},\n                     {self.row(layer.output, '0')} + {out}, "
            text += f"y == 0, y == {shape.height - 1}, {scale});\n"
        return text + "    }\n"
