"""The command line as a person meets it, in real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def toolkit(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_version() -> None:
    run = toolkit("--version")
    assert (run.returncode, run.stdout) == (0, "landmark-toolkit 0.1.0\n")


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-flag"]])
def test_wrong_words_are_usage_errors(arguments: list[str]) -> None:
    run = toolkit(*arguments)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr and run.stderr.strip()


@pytest.mark.parametrize("name", ["train", "export", "runtime"])
def test_a_users_own_module_of_our_name_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("print('hello')\n")
    run = toolkit("--version", cwd=tmp_path)
    assert run.returncode == 2
    assert f"{name}.py stands in front" in run.stderr and "Traceback" not in run.stderr
