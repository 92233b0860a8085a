"""The house: a folder imports only from below, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "runtime": {"runtime"},
    "train": {"train", "runtime"},
    "calib": {"calib", "train", "runtime"},
    "export": {"export", "calib", "train", "runtime"},
    "toolkit": {"toolkit", "export", "calib", "train", "runtime"},
}
NEVER_IN_RUNTIME = {"torch", "onnx", "onnxsim", "matplotlib"}
NOT_AT_IMPORT_OF_RUNTIME = {"cv2", "onnxruntime", "tensorrt", "torch", "onnx", "typer", "rich"}


def imported_names(source: str, top_level_only: bool = False) -> set[str]:
    """First components of everything a module imports."""
    tree = ast.parse(source)
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def modules() -> list[Path]:
    return sorted(path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_from_below(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    source = path.read_text(encoding="utf-8")
    above = imported_names(source) & set(ALLOWED) - ALLOWED[folder]
    assert not above, f"{path.relative_to(ROOT)} imports from above: {sorted(above)}"
    if folder == "runtime":
        heavy = imported_names(source) & NEVER_IN_RUNTIME
        assert not heavy, f"runtime must never import {sorted(heavy)}"
        eager = imported_names(source, top_level_only=True) & NOT_AT_IMPORT_OF_RUNTIME
        assert not eager, f"{path.name} imports {sorted(eager)} at module level; import it where it is used"


def test_the_guard_sees_a_breach() -> None:
    assert imported_names("def f():\n    from toolkit.cli import main\n") & {"toolkit"}
    assert imported_names("import export.fuse as f") == {"export"}


def seconds(code: str, repeats: int = 5) -> float:
    """Best of a few fresh processes: the processor time of `code` itself, without the interpreter's start.

    Processor time, so that whatever else the machine does is not counted.
    """
    timed = f"import time\nt = time.process_time()\n{code}\nprint(time.process_time() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True, cwd=ROOT)
        for _ in range(repeats)
    ]
    return min(float(run.stdout.split()[-1]) for run in runs)


def test_import_runtime_is_fast_and_light() -> None:
    assert seconds("import runtime") < 0.2
    heavy = sorted(NOT_AT_IMPORT_OF_RUNTIME)
    code = f"import sys, runtime; print([m for m in {heavy!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


def test_help_is_fast() -> None:
    code = (
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    from toolkit.cli import main\n    main(['--help'])"
    )
    assert seconds(code) < 0.4


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\ntry:\n    from toolkit.cli import main\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'cv2', 'onnx', 'onnxruntime', 'matplotlib', 'numpy.fft') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip().splitlines()[-1] == "[]"
