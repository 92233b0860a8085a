"""The demo's C: built with the commands that people would type, self-tested and timed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runtime.backends.c_build import HOW, Compiler, find_compiler
from runtime.errors import CheckFailedError
from runtime.files import write_text

FLAGS = ("-O3", "-march=native")
RUNS = "300"
SECONDS = 300


def build_and_run(bundle: Path, out: Path, folders: tuple[str, ...] = ("c", "c-int8")) -> tuple[str, tuple[Path, ...]]:
    """What each folder's self-test and bench say; a plain sentence where there is no compiler."""
    compiler = find_compiler()
    if compiler is None:
        return f"C was generated but not run: no C compiler here; {HOW}", ()
    lines: list[str] = []
    made: list[Path] = []
    for folder in (bundle / name for name in folders if (bundle / name).is_dir()):
        program, bench = out / f"{folder.name}-demo", out / f"{folder.name}-bench"
        _run([*compiler.command, *FLAGS, *_sources(folder), "-o", str(program), "-lm"])
        source = str(folder / "tools" / "bench.c")
        _run([*compiler.command, *FLAGS, f"-I{folder}", source, "-o", str(bench), "-lm"])
        lines += [_run([str(program.absolute())]), _run([str(bench.absolute()), RUNS])]
        made.append(program)
    report = out / "c.txt"
    write_text(report, f"{_said(compiler)}\n" + "\n".join(lines) + "\n")
    return "; ".join(lines[::2]), (report, *made)


def _sources(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.c"))


def _said(compiler: Compiler) -> str:
    return f"{compiler.name} {' '.join(FLAGS)}"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise CheckFailedError(f"{Path(command[0]).name}: exit code {done.returncode}: {said[0]}")
    return done.stdout.strip()
