"""Run commands on many bad files in one process, and tell what each said and how much memory it took.

Usage: bad_files.py FILE...   (JSON on stdout: for each command and file its exit code, streams and seconds)
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.cli import main

GOOD = "good.ckpt"
OUT = Path("out.ckpt")


def attempt(arguments: list[str]) -> dict[str, Any]:
    """What one run of the command line gives."""
    out, err = io.StringIO(), io.StringIO()
    code: object = "returned"
    started = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    wrote = OUT.exists()
    OUT.unlink(missing_ok=True)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds, "wrote": wrote}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


COMMANDS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "import": ("good.pth", lambda path: ["import", path, "-o", str(OUT), "--spec", "upstream-pfld"]),
    "verify": ("good-branches.ckpt", lambda path: ["verify", path, "--probes", "2"]),
    "compare": (GOOD, lambda path: ["compare", path, GOOD, "--data", "synth:1", "--no-layers"]),
    "compare-second": (GOOD, lambda path: ["compare", GOOD, path, "--data", "synth:1", "--no-layers"]),
    "eval": (GOOD, lambda path: ["eval", path, "--data", "synth:1"]),
}
"""A good file for each command, and how a file is given to it."""

if __name__ == "__main__":
    good = {name: attempt(make(path)) for name, (path, make) in COMMANDS.items()}
    before = peak_mb()
    bad = {name: {path: attempt(make(path)) for path in sys.argv[1:]} for name, (_, make) in COMMANDS.items()}
    json.dump({"good": good, "bad": bad, "before_mb": before, "after_mb": peak_mb()}, sys.stdout)
