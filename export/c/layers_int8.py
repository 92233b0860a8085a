"""One C function per int8 layer."""

from __future__ import annotations

from dataclasses import dataclass

from export.c import quantised
from export.c.fetch import Fetch
from export.c.ir import Add, Dense, Depthwise, Pool
from export.c.layers import Dialect, LayerWriter, assign
from export.c.literals import float_literal
from export.c.pack import Weights
from export.c.plan import InputLayer, Plan, Step, face_pad

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


class CodeWriter(LayerWriter):
    """Writes the layers of an int8 plan; the last ones are float."""

    words = CODES

    def __init__(self, plan: Plan, weights: dict[int, Weights], codes: dict[int, CodeWeights], table: bool) -> None:
        empty: dict[int, Fetch] = {}
        super().__init__(plan, weights, empty)
        self.codes = codes
        self.table = table

    def length(self, count: int) -> int:
        return -(-count // 4)

    def _input(self, layer: InputLayer) -> str:
        width = layer.output.shape.width
        call = f"net->face + (size_t)y * {3 * width}, {width}, "
        name, numbers = (
            ("lm_qtable_row", "lm_face_codes") if self.table else ("lm_qinput_row", "lm_face_factor, lm_face_shift")
        )
        more = 3 * (face_pad(self.plan.graph) - 1)
        loop = "    for (int y = from; y < to; y++) {\n"
        if more:  # the kernel writes one pixel of code 0 on either side
            loop += f"        uint8_t *row = {self.row(layer.output, 'y')};\n        memset(row, LM_ZERO, {more});\n"
            loop += f"        {name}({call}{numbers}, row + {more});\n"
            return f"{loop}        memset(row + {more + 3 * width + 6}, LM_ZERO, {more + 16});\n    }}\n"
        return f"{loop}        {name}({call}{numbers}, {self.row(layer.output, 'y')});\n    }}\n"

    def _dense(self, layer: Dense, step: Step) -> str:
        return super()._dense(layer, step) if layer.steps is not None else self._float_vector(layer)

    def _low(self, layer: Dense | Depthwise | Add) -> int:
        return 0 if layer.relu else -128

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
            "pixels": pixels,
            "low": self._low(layer),
        }
        return assign(values) + "        lm_qgemm(&a);\n"

    def _float_vector(self, layer: Dense) -> str:
        place, at = self.plan.place(layer.inputs[0]), self.weights[id(layer)]
        spans = place.pixel.spans()
        lengths = ", ".join(str(count) for _, count in spans)
        text = f"    static const int lengths[{len(spans)}] = {{{lengths}}};\n    const float *x[{len(spans)}];\n"
        for i, (lane, _) in enumerate(spans):
            text += f"    x[{i}] = {self.row(layer.inputs[0], '0')} + {lane};\n"
        text += f"    lm_ordered_product(x, lengths, {len(spans)}, {layer.inputs[0].shape.channels},\n"
        text += f"                       lm_weights + {at.weights}, lm_weights + {at.bias},\n"
        text += f"                       {self.row(layer.output, '0')},\n"
        text += f"                       {self.plan.place(layer.output).pixel.vectors}, {int(layer.relu)});\n"
        return text + "    (void)from;\n    (void)to;\n"

    def _depthwise(self, layer: Depthwise) -> str:
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
            "blocks": target.pixel.lanes // 64,
            "low": self._low(layer),
        }
        return (
            "    for (int y = from; y < to; y++) {\n        lm_qdw_args a;\n        for (int k = 0; k < 3; k++) {\n"
            f"            const uint8_t *x = {row};\n"
            f"            a.x[k] = x != NULL ? x + {source.lane} : NULL;\n        }}\n"
            f"{assign(values)}        lm_qdw(&a);\n    }}\n"
        )

    def _add(self, layer: Add) -> str:
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
