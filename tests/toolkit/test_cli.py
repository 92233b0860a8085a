"""The command line as a person meets it, in real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
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


def test_help_keeps_what_stands_in_brackets() -> None:
    assert "(default: 1%)" in " ".join(toolkit("export", "--help").stdout.replace("│", " ").split())


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-m", "toolkit", "data", "synth", "200000", "-o", str(place / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not any(place.iterdir()) and time.monotonic() < until:
            time.sleep(0.05)
        assert any(place.iterdir()), "nothing was ever begun"
        time.sleep(0.5)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert list(place.iterdir()) == []
