"""docs/c.md is true: its program compiles without a warning and runs, its Python works, its tables are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "c.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler called cc on the PATH")
def test_the_program_compiles_and_finds_landmarks(c_bundle_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(c_bundle_dir, tmp_path / "bundle")
    (tmp_path / "program.c").write_text(block("c"))
    line = "cc -O3 -march=native -I bundle/c program.c bundle/c/landmarks.c -o program"
    assert f"    {line}\n" in PAGE
    strict = "-O1 -std=c99 -pedantic -Wall -Wextra -Wconversion -Wshadow -Werror"
    subprocess.run(line.replace("-O3 -march=native", strict).split(), cwd=tmp_path, check=True)
    said = subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=True).stdout
    points = np.array([line.split() for line in said.splitlines()], dtype=float)
    assert points.shape == (Bundle.open(c_bundle_dir).spec.points, 2)
    assert (points > 100).all()
    assert (points < 450).all()


def test_the_python_finds_the_same_as_the_c(
    c_bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(c_bundle_dir, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"image": np.zeros((480, 640, 3), np.uint8)}
    exec(block("python"), names)  # noqa: S102
    assert np.asarray(names["points"]).shape == (98, 2)


def test_every_status_stands_in_the_table() -> None:
    header = (ROOT / "export" / "c" / "templates" / "landmarks.h").read_text(encoding="utf-8")
    names = set(re.findall(r"\bLM_(?:OK|ERR_\w+)", header.split("typedef enum lm_status")[1].split("}")[0]))
    assert names
    assert names == set(re.findall(r"`(LM_(?:OK|ERR_\w+))`", PAGE))


def test_every_option_of_c_stands_in_the_table() -> None:
    from inspect import signature

    from toolkit.cli.export import run

    hints = signature(run).parameters
    flags = {f"--{name.replace('_', '-')}" for name in hints if name.startswith("c_")}
    assert {f for f in flags if f not in PAGE} == set()


def test_every_file_of_the_package_stands_in_the_table() -> None:
    from export.c.package import PACKAGE

    assert {name for name in PACKAGE if name != "README.md" and f"`{name}`" not in PAGE} == set()
