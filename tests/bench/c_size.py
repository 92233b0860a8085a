"""What the generated C weighs: code, weights, working memory, resident memory, and the first run in a new process.

    python -m tests.bench.c_size [--architecture ghostone] [--width 1] [--level=-O2]

The first run counts from the start of lm_init to the end of the first lm_run, weights being in the page cache.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from export.c import export_c
from runtime.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "export" / "c"))

from c_nets import fp32_model, int8_model

FLAGS = {
    "AVX-512": ("-march=native",),
    "AVX2 VNNI": ("-mavx2", "-mavxvnni"),
    "AVX2": ("-mavx2", "-mfma"),
    "SSE2": (),
    "C99": ("-DLM_FORCE_SCALAR",),
}
"""Build -> flags; int8 has no SSE2 kernels (its build without flags is plain C), float32 none for VNNI."""

PROBE = r"""
#define _POSIX_C_SOURCE 199309L
#include "landmarks.h"
#include <stdio.h>
#include <string.h>
#include <time.h>
static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];
static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS];
int main(void)
{
    struct timespec a, b;
    lm_ctx ctx;
    float xy[2 * LM_POINTS];
    char line[256];
    FILE *status;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES) != LM_OK || lm_run(&ctx, face, xy) != LM_OK) {
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("first_us %.1f\n", (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) * 1e-3);
    printf("arena %d\n", LM_ARENA_BYTES);
    status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            printf("rss_kb %s", line + 6);
        }
    }
    return 0;
}
"""


def measure(folder: Path, level: str, flags: tuple[str, ...]) -> dict[str, float]:
    """Compile, weigh, run ten new processes; the first run is the fastest of them."""
    object_file, program = folder / "net.o", folder / "probe"
    (folder / "probe.c").write_text(PROBE, encoding="utf-8")
    subprocess.run(["gcc", level, *flags, "-c", folder / "landmarks.c", "-o", object_file], check=True)
    subprocess.run(["gcc", "-O2", folder / "probe.c", object_file, "-o", program], check=True)
    sections = subprocess.run(["size", "-A", object_file], capture_output=True, text=True, check=True).stdout
    code = sum(int(n) for n in re.findall(r"^\.text\S*\s+(\d+)", sections, re.MULTILINE))
    runs = []
    for _ in range(10):
        text = subprocess.run([program], capture_output=True, text=True, check=True).stdout
        runs.append({key: float(value) for key, value in re.findall(r"^(\w+)\s+([\d.]+)", text, re.MULTILINE)})
    best = {key: min(run[key] for run in runs) for key in runs[0]}
    return {**best, "code": code}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="ghostone")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--level", default="-O3")
    options = parser.parse_args(argv)
    spec = ModelSpec(options.architecture, options.width)
    model = fp32_model(spec)
    print(f"{spec.architecture} x{spec.width:g}, gcc {options.level}; KB of 1024 bytes")
    print(f"{'build':14} {'code':>8} {'weights':>9} {'arena':>8} {'RSS':>8} {'first run':>12}")
    for precision, net in (("fp32", model), ("int8", int8_model(model))):
        with tempfile.TemporaryDirectory() as place:
            report = export_c(net, spec, place, precision=precision)  # type: ignore[arg-type]
            for title, flags in FLAGS.items():
                if title == {"int8": "SSE2", "fp32": "AVX2 VNNI"}[precision]:
                    continue
                found = measure(Path(place), options.level, flags)
                print(
                    f"{precision} {title:9} {found['code'] / 1024:5.1f} KB {report.weight_bytes / 1024:6.0f} KB "
                    f"{found['arena'] / 1024:5.0f} KB {found['rss_kb']:5.0f} KB {found['first_us'] / 1000:9.2f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
