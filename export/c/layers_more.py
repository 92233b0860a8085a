"""C for the layers of the networks that the field compares with: one row kernel each, named by its file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from export.c.ir import (
    Activate,
    After,
    CentreOfMass,
    Depthwise,
    Layer,
    MaxPool,
    Pick,
    Resize,
    Scale,
)
from export.c.literals import float_literal, float_rows

if TYPE_CHECKING:
    from export.c.layers import LayerWriter
    from export.c.plan import Plan

ROWS = "    for (int y = from; y < to; y++) {\n"


def _own_kernels(layer: Layer) -> tuple[str, ...]:
    after: After | None = getattr(layer, "after", None)
    names: tuple[str, ...] = ()
    if after is not None:
        names = ("exp-f32", "sigmoid-f32") if after.kind == "sigmoid" else (f"{after.kind}-f32",)
    if isinstance(layer, Scale):
        names += ("scale-f32",)
    elif isinstance(layer, MaxPool):
        names += ("maxpool-f32",) if layer.output.step is None else ("qmaxpool-s8",)
    elif isinstance(layer, Pick):
        names += ("pick-f32",) if layer.output.step is None else ("qpick-s8",)
    elif isinstance(layer, Resize):
        names += ("bilinear-f32" if layer.bilinear else "nearest-f32",)
    elif isinstance(layer, CentreOfMass):
        names += ("exp-f32", "mass-f32")
    return names


def row_kernels(layers: list[Layer]) -> list[str]:
    """Row kernels that these layers need, each once."""
    return list(dict.fromkeys(name for layer in layers for name in _own_kernels(layer)))


def simd_kernels(layers: list[Layer]) -> tuple[str, ...]:
    """Kernels with a form per instruction set that only some models need."""
    return ("dwk",) if any(isinstance(x, Depthwise) and x.kernel != 3 for x in layers) else ()


def has_depthwise(layers: list[Layer]) -> bool:
    """Whether anything calls the 3x3 kernels."""
    return any(isinstance(x, Depthwise) and x.kernel == 3 for x in layers)


def number_tables(plan: Plan) -> tuple[str, int]:
    """Tables beside the weights, and their bytes."""
    text, size = "", 0
    for group in plan.groups:
        for step in group.steps:
            if isinstance(step.layer, CentreOfMass):
                cells = step.layer.cells.reshape(-1)
                text += f"static const float lm_cells_{step.index}[{cells.size}] = {{\n{float_rows(cells)}}};\n"
                size += 4 * int(cells.size)
    return text, size


def _number(value: float) -> str:
    return "INFINITY" if math.isinf(value) else float_literal(value)


def after_rows(writer: LayerWriter, layer: Layer) -> str:
    """The activation that runs over the rows of a layer once they are there."""
    after: After | None = getattr(layer, "after", None)
    if after is None:
        return ""
    place, width = writer.plan.place(layer.output), layer.output.shape.width
    numbers = "" if after.kind == "sigmoid" else ", ".join(_number(v) for v in (after.slope, after.shift, after.high))
    call = f"        lm_{after.kind}_row({writer.row(layer.output, 'y')}, {place.buffer.pixel_step},\n"
    call += f"                    {width}, {place.pixel.lanes}{', ' if numbers else ''}{numbers});\n"
    return f"{ROWS}{call}    }}\n"


def large_depthwise(writer: LayerWriter, layer: Depthwise) -> str:
    source, target = writer.plan.place(layer.inputs[0]), writer.plan.place(layer.output)
    at = writer.weights[id(layer)]
    return (
        f"{_windows(writer, layer, layer.kernel)}"
        f"        lm_dwk_row(rows, {layer.kernel}, {source.buffer.pixel_step}, {layer.inputs[0].shape.width}, "
        f"{layer.stride},\n                   lm_weights + {at.weights}, lm_weights + {at.bias},\n"
        f"                   {writer.row(layer.output, 'y')}, {target.buffer.pixel_step}, {layer.output.shape.width},\n"
        f"                   {target.pixel.vectors}, {int(layer.relu)});\n    }}\n"
    )


def _windows(writer: LayerWriter, layer: Depthwise | MaxPool, kernel: int) -> str:
    """The head of a loop over rows in which `rows` point at the rows of the window."""
    lane = writer.plan.place(layer.inputs[0]).lane
    value = "float" if layer.inputs[0].step is None else "uint8_t"
    text = f"{ROWS}        const {value} *rows[{kernel}];\n        for (int k = 0; k < {kernel}; k++) {{\n"
    text += (
        f"            const {value} *x = {writer.row_of(layer.inputs[0], f'y * {layer.stride} - {layer.pad} + k')};\n"
    )
    return text + f"            rows[k] = x != NULL ? x + {lane} : NULL;\n        }}\n"


def more_rows(writer: LayerWriter, layer: Layer) -> str:
    """The body of a layer's function."""
    place = writer.plan.place(layer.output)
    step, lanes, width = place.buffer.pixel_step, place.pixel.lanes, layer.output.shape.width
    source = writer.plan.place(layer.inputs[0])
    x_step, y = source.buffer.pixel_step, writer.row(layer.output, "y")
    code = "" if layer.output.step is None else "q"
    in_width, in_height = layer.inputs[0].shape.width, layer.inputs[0].shape.height
    if isinstance(layer, Activate):
        x = writer.row(layer.inputs[0], "y")
        text = f"{ROWS}        const float *x = {x};\n        float *row = {y};\n"
        text += f"        for (int p = 0; p < {width}; p++) {{\n"
        return (
            text
            + f"            memcpy(row + p * {step}, x + p * {x_step}, {lanes} * sizeof *row);\n        }}\n    }}\n"
        )
    if isinstance(layer, Scale):
        x, factor = writer.row(layer.inputs[0], "y"), writer.row(layer.inputs[1], "0")
        call = f"lm_scale_row({x}, {x_step},\n                     {factor},\n                     "
        return f"{ROWS}        {call}{y}, {step}, {width}, {lanes});\n    }}\n"
    if isinstance(layer, MaxPool):
        call = f"lm_{code}maxpool_row(rows, {layer.kernel}, {x_step}, {in_width}, {layer.stride}, {layer.pad},\n"
        call += f"                       {y}, {step}, {width}, {lanes});\n"
        return f"{_windows(writer, layer, layer.kernel)}        {call}    }}\n"
    if isinstance(layer, Pick):
        table = _pick_table(source.pixel.lane_of_channel(), place.pixel.lane_of_channel(), layer.channels)
        rows = ", ".join(f"{{{a}, {b}, {count}}}" for a, b, count in table)
        text = f"    static const int runs[{len(table)}][3] = {{{rows}}};\n{ROWS}"
        text += f"        lm_{code}pick_row({writer.row(layer.inputs[0], 'y')}, {x_step}, runs, {len(table)},\n"
        return f"{text}                    {y}, {step}, {width});\n    }}\n"
    if isinstance(layer, Resize):
        return _resize(writer, layer, f"{y}, {step}", lanes)
    if isinstance(layer, CentreOfMass):
        index = next(s.index for g in writer.plan.groups for s in g.steps if s.layer is layer)
        text = f"    lm_mass({writer.row(layer.inputs[0], '0')}, {x_step}, {in_width * in_height}, "
        text += f"{layer.inputs[0].shape.channels}, lm_cells_{index},\n            {writer.row(layer.output, '0')});\n"
        return text + "    (void)from;\n    (void)to;\n"
    raise TypeError(type(layer).__name__)


def _resize(writer: LayerWriter, layer: Resize, target: str, lanes: int) -> str:
    shape, out, x_step = layer.inputs[0].shape, layer.output.shape, writer.buffer(layer.inputs[0]).pixel_step
    if not layer.bilinear:
        x = writer.row(layer.inputs[0], f"(y * {shape.height} / {out.height})")
        call = f"lm_nearest_row({x}, {x_step}, {shape.width},\n"
        return f"{ROWS}        {call}                       {target}, {out.width}, {lanes});\n    }}\n"
    half = f"((2 * y + 1) * {shape.height} - {out.height})"  # the place between rows, times twice the height
    text = f"{ROWS}        const int place = {half} < 0 ? 0 : {half} / {2 * out.height};\n"
    text += f"        const int above = place < {shape.height} ? place : {shape.height - 1};\n"
    text += f"        const int below = above + 1 < {shape.height} ? above + 1 : above;\n"
    text += f"        lm_bilinear_row({writer.row(layer.inputs[0], 'above')},\n"
    text += f"                        {writer.row(layer.inputs[0], 'below')}, {x_step}, y,\n"
    text += f"                        {shape.height}, {out.height}, {target}, {shape.width}, {out.width}, {lanes});\n"
    return f"{text}    }}\n"


def _pick_table(source: list[int], target: list[int], channels: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(from lane, to lane, count) of the runs that a choice of channels copies."""
    table: list[tuple[int, int, int]] = []
    for position, channel in enumerate(channels):
        a, b = source[channel], target[position]
        if table and (a, b) == (table[-1][0] + table[-1][2], table[-1][1] + table[-1][2]):
            table[-1] = (table[-1][0], table[-1][1], table[-1][2] + 1)
        else:
            table.append((a, b, 1))
    return table
