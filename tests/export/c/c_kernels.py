"""Builds the kernel harness: the kernels of one instruction set, the shapes of real nets, a small main program."""

from __future__ import annotations

from pathlib import Path

from c_shapes import RowShape, Shapes

from export.c.isas import ENTRIES_F32, ENTRIES_S8, F32, S8, header_text, source_text, target_words

FOLDER = Path(__file__).parent
NEAR_TOO = {5, 33}
"""Pixel steps that random products have now and then."""

REPORT = """#include <stdio.h>
static int timing;
static void report(const char *what, const char *name, long macs, double seconds)
{
    printf("%s,%s,%ld,%.9f\\n", what, name, macs, seconds);
}
"""


def shape_tables(shapes: Shapes) -> str:
    """The shapes as C tables."""
    text, rows = "", ""
    for i, s in enumerate(shapes.gemm):
        runs = ", ".join(f"{{{first}, {length}}}" for first, length in s.runs)
        text += f"static const int runs_{i}[{len(s.runs)}][2] = {{{runs}}};\n"
        rows += (
            f'    {{"{s}", {s.pixels}, {len(s.runs)}, runs_{i}, {s.x_step}, {s.vectors}, {s.y_step}, '
            f"{int(s.relu)}, {int(s.add)}, {int(s.to_float)}, {s.macs}, {s.tail}}},\n"
        )
    text += f"static const gemm_shape gemm_shapes[] = {{\n{rows}}};\n"
    rows = "".join(
        f'    {{"{s}", {s.width}, {s.stride}, {s.x_step}, {s.vectors}, {s.lanes}, {s.y_step}, '
        f"{int(s.relu)}, {s.macs}}},\n"
        for s in shapes.depthwise
    )
    text += f"static const dw_shape dw_shapes[] = {{\n{rows}}};\n"
    for name, table in (("pool", shapes.pool), ("add", shapes.add)):
        rows = "".join(_row(s) for s in table or (RowShape(7, 64, 64),))
        text += f"static const row_shape {name}_shapes[] = {{\n{rows}}};\n"
    return text


def _row(shape: RowShape) -> str:
    return f'    {{"{shape}", {shape.pixels}, {shape.lanes}, {shape.step}}},\n'


def harness(isa: str, shapes: Shapes, int8: bool, break_kernel: tuple[str, str] | None = None) -> str:
    """The whole program as one C file; `break_kernel` replaces a piece of the tested kernels, to see the test fail."""
    table = S8 if int8 else F32
    chosen = table[isa]
    text = "#define _POSIX_C_SOURCE 199309L\n"
    text += "".join(f"#define LM_TARGET_{word}\n" for word in target_words(isa))
    text += "#define LM_ALIGNED __attribute__((aligned(64)))\n#include <stddef.h>\n#include <stdint.h>\n"
    text += "#include <math.h>\n#include <string.h>\n" + header_text("kernels/kernel.h")
    if int8:
        text += f"#define LM_ZERO {chosen.zero}\n" + header_text("kernels/kernel-s8.h")
    else:
        text += f"#define LM_NEAR_STEPS(X) {' '.join(f'X({step})' for step in sorted(shapes.near | NEAR_TOO))}\n"
    reference = (*table["scalar"].kernels, "ordered-f32-scalar") if int8 else ()
    text += "".join(source_text(f"kernels/{name}.c") for name in reference)
    kernels = (*chosen.kernels, f"ordered-f32-{chosen.ordered}") if int8 else chosen.kernels
    tested = "".join(source_text(f"kernels/{name}.c") for name in kernels if name not in reference)
    if break_kernel is not None:
        assert break_kernel[0] in tested, f"{isa}: {break_kernel[0]!r} is not in the kernels"
        tested = tested.replace(*break_kernel, 1)
    text += tested
    for entry, suffix in zip(ENTRIES_S8 if int8 else ENTRIES_F32, chosen.suffixes, strict=True):
        name = entry.replace("_row", "").replace("ordered_", "")
        text += f"#define {name}_tested lm_{entry}_{suffix}\n"
    text += f"#define ordered_tested lm_ordered_{chosen.ordered}\n" if int8 else ""
    text += REPORT + '#include "kernels.h"\n' + shape_tables(shapes)
    return text + f'#include "kernels_{"s8" if int8 else "f32"}.c"\n#include "kernels_main.c"\n'


def write_harness(folder: Path, isa: str, shapes: Shapes, int8: bool, **changes: tuple[str, str]) -> Path:
    """Write the program; compile it with `-I` FOLDER."""
    path = folder / f"kernels_{isa}_{'s8' if int8 else 'f32'}.c"
    path.write_text(harness(isa, shapes, int8, **changes), encoding="utf-8")
    return path
