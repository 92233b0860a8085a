"""One C function per layer, and the loops that run them."""

from __future__ import annotations

from export.c.ir import Add, Dense, Depthwise, Layer, Pool, Tensor
from export.c.fetch import Fetch
from export.c.names import comment_text
from export.c.pack import Weights
from export.c.passes import describe
from export.c.plan import Buffer, Group, InputLayer, Plan, Step, gemm_mode


class LayerWriter:
    """Writes the float layers of a plan."""

    def __init__(self, plan: Plan, weights: dict[int, Weights], fetches: dict[int, Fetch]) -> None:
        self.plan = plan
        self.weights = weights
        self.fetches = fetches

    def function(self, step: Step) -> str:
        """The function that computes rows [from, to) of a layer."""
        layer = step.layer
        inputs = ", ".join(tensor.name for tensor in layer.inputs)
        note = f"/* {describe(layer)}\n   ONNX: {comment_text(layer.name)} ({comment_text(inputs)} -> {comment_text(layer.output.name)}) */\n"
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
        else:
            raise TypeError(type(layer).__name__)
        return f"{note}static void lm_layer_{step.index}(const lm_net *net, int from, int to)\n{{\n{body}}}\n"

    def buffer(self, tensor: Tensor) -> Buffer:
        return self.plan.place(tensor).buffer

    def row(self, tensor: Tensor, y: str) -> str:
        place = self.plan.place(tensor)
        buffer = place.buffer
        return f"lm_row(net, {buffer.offset}, {buffer.rows}, {buffer.row_bytes}, {y}) + {place.lane}"

    def _input(self, layer: InputLayer) -> str:
        width = layer.output.shape.width
        return (
            "    for (int y = from; y < to; y++) {\n"
            f"        lm_input_row(net->face + (size_t)y * {3 * width}, {width}, lm_input_scale, lm_input_shift, {self.row(layer.output, 'y')});\n"
            "    }\n"
        )

    def _gemm_tail(self, layer: Dense, pixels: str) -> str:
        place = self.plan.place(layer.output)
        at = self.weights[id(layer)]
        add = layer.inputs[1] if len(layer.inputs) > 1 else None
        text = f"        a.w = lm_weights + {at.weights};\n        a.bias = lm_weights + {at.bias};\n"
        text += f"        a.y = {self.row(layer.output, 'y')};\n        a.y_step = {place.buffer.pixel_step};\n"
        text += f"        a.add = {self.row(add, 'y') if add else 'NULL'};\n        a.add_step = {self.buffer(add).pixel_step if add else 0};\n"
        text += f"        a.vectors = {place.pixel.vectors};\n        a.pixels = {pixels};\n        a.relu = {int(layer.relu)};\n"
        fetch = self.fetches.get(id(layer))
        text += f"        a.next = {f'lm_weights + {fetch.start}' if fetch else 'NULL'};\n        a.next_lines = {fetch.lines if fetch else 0};\n"
        return text + "        lm_gemm(&a);\n"

    def _dense(self, layer: Dense, step: Step) -> str:
        source = self.plan.place(layer.inputs[0])
        mode = gemm_mode(layer, self.plan.graph.input)
        spans = source.pixel.spans()
        k_total = layer.kernel**2 * layer.inputs[0].shape.channels
        width = layer.output.shape.width
        head = "        lm_gemm_args a;\n"
        loop = "    for (int y = from; y < to; y++) {\n"
        pixels = str(width)
        fill, count, x_step = "", len(spans), source.buffer.pixel_step
        if mode == "point":
            whole = all(self.buffer(t).full for t in (*layer.inputs, layer.output)) and step.rate >= step.height
            if whole and step.height > 1:
                loop, pixels = "    {\n        const int y = from;\n", f"(to - from) * {width}"
            fill = f"        const float *x = {self.row(layer.inputs[0], 'y')};\n"
            for i, (lane, channels) in enumerate(spans):
                fill += f"        runs[{i}].x = x + {lane};\n        runs[{i}].length = {channels};\n"
        elif mode == "face":
            count, x_step = layer.kernel, 3 * layer.stride
            face = self.plan.place(layer.inputs[0]).buffer
            fill = f"        for (int k = 0; k < {layer.kernel}; k++) {{\n"
            fill += (
                f"            const float *x = lm_row_or_null(net, {face.offset}, {face.rows}, {face.row_bytes}, "
                f"y * {layer.stride} - {layer.pad} + k, {face.height});\n"
            )
            fill += f"            runs[k].x = x != NULL ? x : lm_zeros;\n            runs[k].length = {3 * layer.kernel};\n        }}\n"
        elif mode == "whole":
            fill, count = self._whole_runs(layer, spans)
        else:
            fill, count = self._patches(layer, spans)
            x_step = layer.kernel**2 * source.buffer.pixel_step
        text = f"{loop}{head}        lm_span runs[{count}];\n{fill}"
        text += f"        a.runs = runs;\n        a.run_count = {count};\n        a.x_step = {x_step};\n        a.k_total = {k_total};\n"
        unused = "    (void)to;\n" if loop.startswith("    {") and "to" not in pixels else ""
        return f"{text}{self._gemm_tail(layer, pixels)}    }}\n{unused}"

    def _whole_runs(self, layer: Dense, spans: list[tuple[int, int]]) -> tuple[str, int]:
        place = self.plan.place(layer.inputs[0])
        shape = layer.inputs[0].shape
        channels = shape.channels
        if place.buffer.pixel_step == channels and place.lane == 0:
            fill = f"        runs[0].x = {self.row(layer.inputs[0], '0')};\n        runs[0].length = {channels * shape.height * shape.width};\n"
            return fill, 1
        count = len(spans)
        fill = f"        const float *x = {self.row(layer.inputs[0], '0')};\n"
        fill += f"        for (int i = 0; i < {shape.height * shape.width}; i++) {{\n"
        for i, (lane, length) in enumerate(spans):
            fill += f"            runs[{count} * i + {i}].x = x + {place.buffer.pixel_step} * i + {lane};\n"
            fill += f"            runs[{count} * i + {i}].length = {length};\n"
        return fill + "        }\n", count * shape.height * shape.width

    def _patches(self, layer: Dense, spans: list[tuple[int, int]]) -> tuple[str, int]:
        place = self.plan.place(layer.inputs[0])
        buffer, k = place.buffer, layer.kernel
        group = next(g for g in self.plan.groups if any(s.layer is layer for s in g.steps))
        scratch = next(b for b in group.scratch if b.name == f"patches of {layer.name}")
        step = buffer.pixel_step
        fill = f"        const float *rows[{k}];\n        float *patch = lm_row(net, {scratch.offset}, 1, {scratch.row_bytes}, 0);\n"
        fill += f"        for (int k = 0; k < {k}; k++) {{\n"
        fill += (
            f"            rows[k] = lm_row_or_null(net, {buffer.offset}, {buffer.rows}, {buffer.row_bytes}, "
            f"y * {layer.stride} - {layer.pad} + k, {buffer.height});\n        }}\n"
        )
        fill += (
            f"        lm_patch_row(rows, {k}, {step}, {layer.inputs[0].shape.width}, {layer.stride}, {layer.pad}, patch, "
            f"{layer.output.shape.width});\n"
        )
        fill += f"        for (int k = 0; k < {k * k}; k++) {{\n"
        count = len(spans)
        for i, (lane, length) in enumerate(spans):
            fill += f"            runs[{count} * k + {i}].x = patch + {step} * k + {place.lane + lane};\n"
            fill += f"            runs[{count} * k + {i}].length = {length};\n"
        return fill + "        }\n", count * k * k

    def _depthwise(self, layer: Depthwise) -> str:
        source, target = self.plan.place(layer.inputs[0]), self.plan.place(layer.output)
        at = self.weights[id(layer)]
        buffer = source.buffer
        count = 2 + layer.stride
        text = "    for (int y = from; y < to; y += 2) {\n        lm_dw_args a;\n        a.rows = to - y < 2 ? 1 : 2;\n"
        text += f"        for (int k = 0; k < {count + 1}; k++) {{\n            const float *x = lm_row_or_null(net, {buffer.offset}, {buffer.rows}, "
        text += f"{buffer.row_bytes}, y * {layer.stride} - 1 + k, {buffer.height});\n"
        text += f"            a.x[k] = x != NULL ? x + {source.lane} : NULL;\n        }}\n"
        text += f"        a.x_step = {buffer.pixel_step};\n        a.in_width = {layer.inputs[0].shape.width};\n        a.stride = {layer.stride};\n"
        text += f"        a.w = lm_weights + {at.weights};\n        a.bias = lm_weights + {at.bias};\n"
        text += (
            f"        a.y[0] = {self.row(layer.output, 'y')};\n        a.y[1] = {self.row(layer.output, 'y + 1')};\n"
        )
        text += f"        a.y_step = {target.buffer.pixel_step};\n"
        text += f"        a.out_width = {layer.output.shape.width};\n        a.vectors = {target.pixel.vectors};\n        a.relu = {int(layer.relu)};\n"
        return text + "        lm_dw(&a);\n    }\n"

    def _add(self, layer: Add) -> str:
        target = self.plan.place(layer.output)
        steps = [self.buffer(t).pixel_step for t in (*layer.inputs, layer.output)]
        a, b = (self.row(t, "y") for t in layer.inputs)
        return (
            "    for (int y = from; y < to; y++) {\n"
            f"        lm_add_row({a}, {steps[0]}, {b}, {steps[1]},\n                   {self.row(layer.output, 'y')}, {steps[2]}, "
            f"{layer.output.shape.width}, {target.pixel.lanes}, {int(layer.relu)});\n    }}\n"
        )

    def _pool(self, layer: Pool) -> str:
        shape = layer.inputs[0].shape
        return (
            "    for (int y = from; y < to; y++) {\n"
            f"        lm_pool_row({self.row(layer.inputs[0], 'y')}, {self.buffer(layer.inputs[0]).pixel_step}, {shape.width}, "
            f"{self.plan.place(layer.output).pixel.lanes},\n                    {self.row(layer.output, '0')}, "
            f"y == 0, y == {shape.height - 1}, 1.0f / {shape.height * shape.width}.0f);\n    }}\n"
        )


def group_loop(group: Group) -> str:
    """The loop of one group."""
    if group.ticks == 1:
        return "".join(f"    LM_ROWS({step.index}, 0, {step.height})\n" for step in group.steps)
    text = f"    for (int tick = 0; tick < {group.ticks}; tick++) {{\n"
    for step in group.steps:
        text += f"        LM_TICK({step.index}, {step.rate}, {step.lag}, {step.height})\n"
    return text + "    }\n"


def layer_of(plan: Plan) -> list[Layer]:
    """Layers in execution order; their places in this list are the layer numbers."""
    return [step.layer for group in plan.groups for step in group.steps]
