"""One C function per layer, and the loops that run them."""

from __future__ import annotations

from dataclasses import dataclass

from export.c.fetch import Fetch
from export.c.ir import Add, Dense, Depthwise, Dequantise, Layer, Pool, Quantise, Tensor
from export.c.layers_more import after_rows, large_depthwise, more_rows
from export.c.layout import VECTOR
from export.c.names import comment_text
from export.c.pack import Weights, tail_group
from export.c.passes import describe
from export.c.plan import Buffer, Group, InputLayer, Plan, Step, face_pad, gemm_mode, patch_band, read_step


@dataclass(frozen=True)
class Dialect:
    """The words in which float and int8 layers differ."""

    value: str
    row: str
    row_or_null: str
    run: str
    length: str
    gemm: str
    total: str
    patch: str
    zeros: str


FLOAT = Dialect(
    "float", "lm_row", "lm_row_or_null", "lm_span", "length", "lm_gemm", "k_total", "lm_patch_row", "lm_zeros"
)


def assign(values: dict[str, object]) -> str:
    """Statements that fill a kernel's arguments.

    >>> assign({"pixels": 56})
    '        a.pixels = 56;\\n'
    """
    return "".join(f"        a.{name} = {value};\n" for name, value in values.items())


def k_runs(layer: Dense, mode: str, spans: list[tuple[int, int]]) -> list[int]:
    """Lengths of the runs that make up one pixel's inputs, in the order of the packed weights."""
    if mode == "face":
        return [layer.kernel * layer.inputs[0].shape.channels] * layer.kernel
    return [count for _ in range(layer.kernel**2) for _, count in spans]


class LayerWriter:
    """Writes the float layers of a plan."""

    words = FLOAT

    def length(self, count: int) -> int:
        """What a run of so many channels counts as."""
        return count

    def row_of(self, tensor: Tensor, y: str) -> str:
        """First lane of a tensor's row, or NULL outside the map."""
        buffer = self.buffer(tensor)
        name = FLOAT.row_or_null if tensor.step is None else "lm_byte_row_or_null"
        return f"{name}(net, {buffer.offset}, {buffer.rows}, {buffer.row_bytes}, {y}, {buffer.height})"

    def __init__(self, plan: Plan, weights: dict[int, Weights], fetches: dict[int, Fetch]) -> None:
        self.plan = plan
        self.weights = weights
        self.fetches = fetches

    def reading(self, layer: Dense) -> list[tuple[int, int]]:
        """(first lane, channels) of the runs that a product reads of every pixel."""
        return self.plan.place(layer.inputs[0]).pixel.reading(layer.picks)[0]

    def function(self, step: Step) -> str:
        """The function that computes rows [from, to) of a layer."""
        layer = step.layer
        inputs = ", ".join(tensor.name for tensor in layer.inputs)
        origin = f"{comment_text(layer.name)} ({comment_text(inputs)} -> {comment_text(layer.output.name)})"
        note = f"/* {describe(layer)}\n   ONNX: {origin} */\n"
        if isinstance(layer, InputLayer):
            body = self._input(layer)
        elif isinstance(layer, Dense):
            body = self._dense(layer, step)
        elif isinstance(layer, Depthwise):
            body = self._depthwise(layer)
        elif isinstance(layer, Add):
            body = self._add(layer)
        elif isinstance(layer, Pool):
            body = self._pool(layer)
        elif isinstance(layer, (Quantise, Dequantise)):
            body = self._cross(layer)
        else:
            body = more_rows(self, layer)
        body += after_rows(self, layer)
        return f"{note}static void lm_layer_{step.index}(const lm_net *net, int from, int to)\n{{\n{body}}}\n"

    def buffer(self, tensor: Tensor) -> Buffer:
        return self.plan.place(tensor).buffer

    def row(self, tensor: Tensor, y: str) -> str:
        place = self.plan.place(tensor)
        buffer = place.buffer
        name = FLOAT.row if tensor.step is None else "lm_byte_row"
        return f"{name}(net, {buffer.offset}, {buffer.rows}, {buffer.row_bytes}, {y}) + {place.lane}"

    def _input(self, layer: InputLayer) -> str:
        width, more = layer.output.shape.width, 3 * (face_pad(self.plan.graph) - 1)
        row = self.row(layer.output, "y")
        if more:  # the kernel writes one zero pixel on either side
            return (
                f"    for (int y = from; y < to; y++) {{\n        float *row = {row};\n"
                f"        memset(row, 0, {more} * sizeof *row);\n"
                f"        lm_input_row(net->face + (size_t)y * {3 * width}, {width}, lm_input_scale, lm_input_shift,\n"
                f"                     row + {more});\n"
                f"        memset(row + {more + 3 * width + 6}, 0, {more} * sizeof *row);\n    }}\n"
            )
        return (
            "    for (int y = from; y < to; y++) {\n"
            f"        lm_input_row(net->face + (size_t)y * {3 * width}, {width}, lm_input_scale, lm_input_shift,\n"
            f"                     {row});\n"
            "    }\n"
        )

    def _gemm_tail(self, layer: Dense, pixels: str) -> str:
        place, at, fetch = self.plan.place(layer.output), self.weights[id(layer)], self.fetches.get(id(layer))
        add = layer.inputs[1] if len(layer.inputs) > 1 else None
        tail = tail_group(layer, place.pixel)
        values: dict[str, object] = {
            "w": f"lm_weights + {at.weights}",
            "bias": f"lm_weights + {at.bias}",
            "y": self.row(layer.output, "y"),
            "y_step": place.buffer.pixel_step,
            "add": self.row(add, "y") if add else "NULL",
            "add_step": self.buffer(add).pixel_step if add else 0,
            "vectors": place.pixel.vectors - (tail > 0),
            "tail": tail,
            "pixels": pixels,
            "relu": int(layer.relu),
            "next": f"lm_weights + {fetch.start}" if fetch else "NULL",
            "next_lines": fetch.lines if fetch else 0,
        }
        return assign(values) + "        lm_gemm(&a);\n"

    def _dense(self, layer: Dense, step: Step) -> str:
        words, source = self.words, self.plan.place(layer.inputs[0])
        mode = gemm_mode(layer, self.plan.graph.input)
        spans = self.reading(layer)
        runs = k_runs(layer, mode, spans)
        width = layer.output.shape.width
        loop, pixels = "    for (int y = from; y < to; y++) {\n", str(width)
        x_step = read_step(layer, source.buffer, self.plan.graph.input)
        if mode == "point":
            whole = all(self.buffer(t).full for t in (*layer.inputs, layer.output)) and step.rate >= step.height
            if whole and step.height > 1 and layer.stride == 1:
                loop, pixels = "    {\n        const int y = from;\n", f"(to - from) * {width}"
            first = "y" if layer.stride == 1 else f"y * {layer.stride}"
            fill = f"        const {words.value} *x = {self.row(layer.inputs[0], first)};\n" + self._runs(
                spans, "", "        "
            )
        elif mode == "face":
            fill = f"        for (int k = 0; k < {layer.kernel}; k++) {{\n"
            row = self.row_of(layer.inputs[0], f"y * {layer.stride} - {layer.pad} + k")
            shift = 3 * (face_pad(self.plan.graph) - layer.pad)
            fill += f"            const {words.value} *x = {row};\n"
            fill += f"            runs[k].x = x != NULL ? x{f' + {shift}' if shift else ''} : {words.zeros};\n"
            fill += f"            runs[k].{words.length} = {self.length(runs[0])};\n        }}\n"
        elif mode == "whole":
            fill, runs = self._whole_runs(layer, spans, runs)
        else:
            band = self._band(layer)
            if band > 1:
                loop = f"    for (int y = from; y < to; y += {band}) {{\n"
                loop += f"        const int rows_here = to - y < {band} ? to - y : {band};\n"
                pixels = f"rows_here * {width}"
            fill = self._patches(layer, spans, band)
        text = f"{loop}        {words.gemm}_args a;\n        {words.run} runs[{len(runs)}];\n{fill}"
        text += f"        a.runs = runs;\n        a.run_count = {len(runs)};\n        a.x_step = {x_step};\n"
        text += f"        a.{words.total} = {sum(self.length(count) for count in runs)};\n"
        return f"{text}{self._gemm_tail(layer, pixels)}    }}\n"

    def _runs(self, spans: list[tuple[int, int]], index: str, indent: str) -> str:
        """Point the runs at `index` to the spans of the pixel at x."""
        base = f"{len(spans)} * {index} + " if index else ""
        text = ""
        for i, (lane, count) in enumerate(spans):
            text += f"{indent}runs[{base}{i}].x = x + {lane};\n"
            text += f"{indent}runs[{base}{i}].{self.words.length} = {self.length(count)};\n"
        return text

    def _whole_runs(self, layer: Dense, spans: list[tuple[int, int]], runs: list[int]) -> tuple[str, list[int]]:
        place = self.plan.place(layer.inputs[0])
        shape = layer.inputs[0].shape
        words, pixels = self.words, shape.height * shape.width
        head = f"        const {words.value} *x = {self.row(layer.inputs[0], '0')};\n"
        if place.buffer.pixel_step == shape.channels and place.lane == 0:
            return head + self._runs([(0, sum(runs))], "", "        "), [sum(runs)]
        head += f"        for (int i = 0; i < {pixels}; i++) {{\n" + self._runs(spans, "i", "            ")
        return head + f"            x += {place.buffer.pixel_step};\n        }}\n", runs

    def _band(self, layer: Dense) -> int:
        """Rows of patches that are gathered at once."""
        group = next(g for g in self.plan.groups if any(s.layer is layer for s in g.steps))
        return patch_band(layer, group, self.plan.places)

    def _patches(self, layer: Dense, spans: list[tuple[int, int]], band: int = 1) -> str:
        place, words, k = self.plan.place(layer.inputs[0]), self.words, layer.kernel
        group = next(g for g in self.plan.groups if any(s.layer is layer for s in g.steps))
        scratch = next(b for b in group.scratch if b.name == f"patches of {layer.name}")
        step, width = place.buffer.pixel_step, layer.output.shape.width
        row = f"{words.row}(net, {scratch.offset}, 1, {scratch.row_bytes}, 0)"
        text = f"        const {words.value} *rows[{k}];\n        {words.value} *x = {row};\n"
        source_row, indent, target = "y", "        ", "x"
        if band > 1:
            text += "        for (int r = 0; r < rows_here; r++) {\n"
            source_row, indent, target = "(y + r)", "            ", f"x + r * {width * k * k * step}"
        text += f"{indent}for (int k = 0; k < {k}; k++) {{\n"
        source = self.row_of(layer.inputs[0], f"{source_row} * {layer.stride} - {layer.pad} + k")
        text += f"{indent}    rows[k] = {source};\n{indent}}}\n"
        text += f"{indent}{words.patch}(rows, {k}, {step}, {layer.inputs[0].shape.width}, {layer.stride}, {layer.pad}, "
        text += f"{target}, {width});\n" + ("        }\n" if band > 1 else "")
        text += f"        x += {place.lane};\n        for (int k = 0; k < {k * k}; k++) {{\n"
        return text + self._runs(spans, "k", "            ") + f"            x += {step};\n        }}\n"

    def _depthwise(self, layer: Depthwise) -> str:
        if layer.kernel != 3:
            return large_depthwise(self, layer)
        source, target = self.plan.place(layer.inputs[0]), self.plan.place(layer.output)
        at = self.weights[id(layer)]
        row = self.row_of(layer.inputs[0], f"y * {layer.stride} - 1 + k")
        values: dict[str, object] = {
            "x_step": source.buffer.pixel_step,
            "in_width": layer.inputs[0].shape.width,
            "stride": layer.stride,
            "w": f"lm_weights + {at.weights}",
            "bias": f"lm_weights + {at.bias}",
            "y[0]": self.row(layer.output, "y"),
            "y[1]": self.row(layer.output, "y + 1"),
            "y_step": target.buffer.pixel_step,
            "out_width": layer.output.shape.width,
            "vectors": target.pixel.vectors,
            "shift": 0 if target.left_over is None else target.left_over - VECTOR * (target.pixel.vectors - 1),
            "relu": int(layer.relu),
        }
        return (
            "    for (int y = from; y < to; y += 2) {\n        lm_dw_args a;\n"
            "        a.rows = to - y < 2 ? 1 : 2;\n"
            f"        for (int k = 0; k < {3 + layer.stride}; k++) {{\n            const float *x = {row};\n"
            f"            a.x[k] = x != NULL ? x + {source.lane} : NULL;\n        }}\n"
            f"{assign(values)}        lm_dw(&a);\n    }}\n"
        )

    def _add(self, layer: Add) -> str:
        target = self.plan.place(layer.output)
        operands = ", ".join(f"{self.row(t, 'y')}, {self.buffer(t).pixel_step}" for t in layer.inputs)
        return (
            f"    for (int y = from; y < to; y++) {{\n        lm_add_row({operands},\n"
            f"                   {self.row(layer.output, 'y')}, {target.buffer.pixel_step}, "
            f"{layer.output.shape.width}, {target.pixel.lanes}, {int(layer.relu)});\n    }}\n"
        )

    def _cross(self, layer: Quantise | Dequantise) -> str:
        raise TypeError(f"{type(layer).__name__} in a float network")

    def _pool(self, layer: Pool) -> str:
        shape = layer.inputs[0].shape
        source = f"{self.row(layer.inputs[0], 'y')}, {self.buffer(layer.inputs[0]).pixel_step}"
        return (
            f"    for (int y = from; y < to; y++) {{\n        lm_pool_row({source}, {shape.width}, "
            f"{self.plan.place(layer.output).pixel.lanes},\n                    {self.row(layer.output, '0')}, "
            f"y == 0, y == {shape.height - 1}, 1.0f / {shape.height * shape.width}.0f);\n    }}\n"
        )


def group_loop(group: Group) -> str:
    """The loop of one group."""
    if group.ticks == 1:
        return "".join(f"    LM_ROWS({step.index}, 0, {step.height})\n" for step in group.steps)
    text = f"    for (int tick = 0; tick < {group.ticks}; tick++) {{\n"
    turns = group.steps[0].turns
    if turns > 1:
        text += f"        for (int turn = {turns} * tick; turn < {turns} * (tick + 1); turn++) {{\n"
        text += "".join("    " + _tick(step, "turn") for step in group.steps if step.turns > 1) + "        }\n"
    return text + "".join(_tick(step, "tick") for step in group.steps if step.turns == 1) + "    }\n"


def _tick(step: Step, turn: str) -> str:
    return f"        LM_TICK({step.index}, {turn}, {step.rate}, {step.lag}, {step.height})\n"


def layer_of(plan: Plan) -> list[Layer]:
    """Layers in execution order; their places in this list are the layer numbers."""
    return [step.layer for group in plan.groups for step in group.steps]
