"""The generated files that are kept under version control: regenerating gives the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import golden
from c_nets import STRICT, compile_c, run_program

RENEW = "look at the difference; if it is wanted: python -m tests.export.c.golden"


def test_the_kept_files_are_what_the_exporter_writes(tmp_path: Path) -> None:
    golden.write_golden(tmp_path)
    for folder in (golden.FOLDER, tmp_path):
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"fp32.onnx"}
        assert {"fp32/landmarks.c", "fp32/landmarks.h", "int8-abridged.c.txt"} <= names
        for name in sorted(names):
            kept, new = golden.FOLDER / name, tmp_path / name
            assert kept.is_file() and new.is_file(), f"{name} is in one of the two only; {RENEW}"
            assert kept.read_text() == new.read_text(), f"{name} differs; {RENEW}"


def test_the_kept_float_package_builds_and_is_right(tmp_path: Path) -> None:
    folder = golden.folder_of("fp32")
    sources = [folder / "landmarks.c", folder / "tools/selftest.c"]
    result = run_program(compile_c(sources, tmp_path / "selftest", *STRICT, "-O1", f"-I{folder}"))
    assert result.returncode == 0 and "layers are right" in result.stdout


@pytest.mark.parametrize("text", ["a[2] = {\n    1, 2,\n};", "b[99] = {\n" + "    1, 2,\n" * 30 + "};"])
def test_only_long_tables_are_abridged(text: str) -> None:
    assert (golden.abridged(text) == text) == text.startswith("a")
    assert golden.abridged(text) != golden.abridged(text.replace("1", "3", 1))
