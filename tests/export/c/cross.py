"""Cross compilers and emulators: what builds for another machine, runs there, and how large it is.

`python -m tests.export.c.cross` prints the table of docs/c-embedding.md for GhostOne at width 0.25, int8, 112 px.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
BOARD = HERE / "cortexm"
ARM_GCC = "arm-none-eabi-gcc"
QEMU_ARM = "qemu-system-arm"
CORES = {
    "cortex-m4": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    "cortex-m33": ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "cortex-m55": ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
}
BOARDS = {"cortex-m7": ("mps2-an500", 40.0), "cortex-m55": ("mps3-an547", 31.25)}
"""qemu's machine with such a core, and how many instructions a tick of its timer is: one takes a nanosecond there."""
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-O2", "-mthumb", "-ffunction-sections")
LINK = ("-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments")


@dataclass(frozen=True)
class Firmware:
    """A linked program: its file, code and constants, RAM without the stack."""

    path: Path
    flash: int
    ram: int


@dataclass(frozen=True)
class BoardRun:
    """What the program printed."""

    landmarks: NDArray[np.float32]
    instructions: int
    """That one face took."""
    stack: int
    selftest: int


def missing(*tools: str) -> str | None:
    """The first tool that this machine lacks."""
    return next((tool for tool in tools if shutil.which(tool) is None), None)


def firmware(package: Path, out: Path, core: str = "cortex-m7") -> Firmware:
    sources = [BOARD / "startup.c", BOARD / "main.c", package / "landmarks.c"]
    command = [ARM_GCC, *FLAGS, *CORES[core], *LINK, "-T", BOARD / "link.ld", f"-I{package}", *sources, "-o", out]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        raise RuntimeError(result.stderr[:3000])
    text = subprocess.run(["arm-none-eabi-size", "-A", str(out)], capture_output=True, text=True, check=True).stdout
    sizes = {name: int(size) for name, size in re.findall(r"^(\.\w+)\s+(\d+)", text, re.MULTILINE)}
    return Firmware(out, sizes[".text"] + sizes.get(".data", 0), sizes[".bss"] + sizes.get(".data", 0))


def run_on_board(program: Path, points: int, core: str = "cortex-m7") -> BoardRun:
    """Under qemu's model of a board with that core."""
    machine, tick = BOARDS[core]
    command = [QEMU_ARM, "-M", machine, "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-icount", "shift=0"]  # every instruction takes a nanosecond
    command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    numbers = [int(line, 16) for line in (result.stdout + result.stderr).split()]
    assert result.returncode == 0 and len(numbers) == 1 + 2 * (1 + 2 * points) + 3, result.stderr[-500:]
    assert numbers[0] == 0 and numbers[1] == 0 and numbers[2 + 2 * points] == 0
    bits = np.array([numbers[2 : 2 + 2 * points], numbers[3 + 2 * points : -3]], np.uint32)
    return BoardRun(bits.view(np.float32), round(tick * numbers[-3]), numbers[-2], numbers[-1])


def board_faces(size: int) -> NDArray[np.uint8]:
    """The two faces that the program makes for itself."""
    values, state = bytearray(), 1
    for _ in range(2 * size * size * 3):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state >> 24)
    return np.frombuffer(bytes(values), np.uint8).reshape(2, size, size, 3)


def main() -> None:
    """The table of sizes, and one run."""
    sys.path.insert(0, str(HERE))
    from c_nets import exported, fp32_model, int8_model, spec_of

    spec = spec_of("ghostone", 0.25, 112, 98)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch)
        for isa in ("micro", "scalar"):
            report = exported(int8_model(fp32_model(spec)), spec, package, True, isas=(isa,))
            print(f"GhostOne 0.25, 98 points, 112 px, int8, --c-isa {isa}: weights {report.weight_bytes} bytes")
            for core in CORES:
                built = firmware(package, package / core, core)
                print(f"{core}: flash {built.flash} bytes, RAM {built.ram} bytes (arena {report.arena_bytes})")
            for core in BOARDS:
                run = run_on_board(package / core, spec.points, core)
                millions = run.instructions / 1e6
                print(f"{core}, qemu: {millions:.1f} M instructions, stack {run.stack} bytes, self-test {run.selftest}")


if __name__ == "__main__":
    main()
