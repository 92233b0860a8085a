"""The C kernels alone, on the shapes of real nets: GFLOP/s (float) and GOP/s (int8) of every kernel on every shape.

    python -m tests.bench.c_kernels [--architecture ghostone] [--width 1] [--isa avx512] [--int8]

Best of several rounds on data in the first-level cache: the ceiling that `bench --layers` can reach in the whole net.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from export.c.passes import optimise
from export.c.plan import Tuning, make_plan
from export.c.read import read
from runtime.spec import ModelSpec
from tests.bench.measure import environment, pinned

sys.path.insert(0, str(Path(__file__).parents[1] / "export" / "c"))

from c_kernels import FOLDER, write_harness
from c_nets import fp32_model, int8_model
from c_shapes import shapes_of

FLAGS = {
    "scalar": (),
    "sse2": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx2vnni": ("-mavx2", "-mavxvnni"),
    "avx512": ("-march=native",),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="ghostone")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--isa", choices=list(FLAGS), default="avx512")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--cc", default="gcc")
    options = parser.parse_args(argv)
    model = fp32_model(ModelSpec(options.architecture, options.width))
    graph = optimise(read(int8_model(model) if options.int8 else model))
    shapes = shapes_of([make_plan(graph, Tuning())])
    with pinned(), tempfile.TemporaryDirectory() as place:
        source = write_harness(Path(place), options.isa, shapes, options.int8)
        program = Path(place) / "kernels"
        command = [options.cc, "-O3", *FLAGS[options.isa], f"-I{FOLDER}", "-o", str(program), str(source), "-lm"]
        subprocess.run(command, check=True)
        result = subprocess.run([str(program), "0", "bench"], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"a kernel is wrong, nothing was timed: {result.stdout}")
    print(f"{environment()['cpu']}, {options.isa}, {'int8' if options.int8 else 'fp32'}")
    print(f"{'kernel':8} {'shape':30} {'us':>9} {'GOP/s' if options.int8 else 'GFLOP/s':>9}")
    for line in result.stdout.splitlines():
        if line.count(",") == 3:
            kernel, shape, macs, seconds = line.split(",")
            rate = 2e-9 * int(macs) / float(seconds)
            print(f"{kernel:8} {shape:30} {1e6 * float(seconds):9.3f} {rate:9.1f}")


if __name__ == "__main__":
    main()
