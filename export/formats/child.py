"""Scripts in a child process: a time limit, one-line errors, and no words of theirs on our streams."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ALONE = Path(__file__).parent / "alone"
ROOT = Path(__file__).resolve().parents[2]
"""The folder that our packages lie in."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Packages that converters pull in would otherwise ask the network."""


class ChildError(Exception):
    """A child died, hung or could not do what it was asked; the text is one line."""


def child_environment(threads: int) -> dict[str, str]:
    """Our packages can be found, thread pools are as wide as asked for, nothing is downloaded."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **pools, **_OFFLINE, **own}


def run_script(
    python: str, script: Path, arguments: Sequence[str], timeout: float, environment: Mapping[str, str]
) -> None:
    """Run a script to its end; an error is its last line."""
    try:
        child = subprocess.Popen(
            [python, str(script), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ChildError(f"{python}: {error.strerror or error}") from error
    try:
        words, _ = child.communicate(timeout=timeout)
    except BaseException as error:
        _end(child)
        if isinstance(error, subprocess.TimeoutExpired):
            raise ChildError(f"{script.name} took more than {timeout:g} s") from None
        raise
    if child.returncode:
        raise ChildError(_last_words(script, child.returncode, words))


def _end(child: subprocess.Popen[str]) -> None:
    """With whatever it started."""
    if os.name == "posix":
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.communicate()


def _last_words(script: Path, code: int, words: str) -> str:
    if code < 0:
        return f"{script.name} crashed ({signal.Signals(-code).name})"
    lines = words.strip().splitlines()
    return lines[-1][:300] if lines else f"{script.name} ended with code {code}"
