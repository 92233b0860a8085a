"""What a user installs: names, extras, pins, and a wheel that holds everything."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def name_of(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def expanded(extra: str) -> set[str]:
    """Package names of an extra, our own extras inside it resolved."""
    names: set[str] = set()
    for requirement in EXTRAS[extra]:
        own = re.match(r"landmark-toolkit\[(.+)\]", requirement)
        names |= set().union(*map(expanded, own.group(1).split(","))) if own else {name_of(requirement)}
    return names


def test_names_and_extras() -> None:
    assert PROJECT["name"] == "landmark-toolkit"
    assert PROJECT["scripts"] == {"toolkit": "toolkit.cli:main"}
    assert {name_of(r) for r in PROJECT["dependencies"]} == {"numpy", "typer", "rich"}
    assert set(EXTRAS) == {"runtime", "train", "export", "bench", "dev", "tensorrt", "all"}


def test_all_is_everything_but_tensorrt() -> None:
    everything = expanded("all")
    required = {"torch", "onnx", "onnxruntime", "onnxsim", "onnxconverter-common", "opencv-python"}
    assert required <= everything
    assert not any(name.startswith("tensorrt") for name in everything)
    assert expanded("tensorrt") == {"tensorrt"}


def test_runtime_stays_light() -> None:
    assert expanded("runtime") == {"onnxruntime", "opencv-python"}


def test_ci_pins_every_direct_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name_of(line): line for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in pins.values())
    direct = {name_of(r) for r in PROJECT["dependencies"]} | expanded("dev")
    missing = sorted(direct - set(pins) - {"tomli"})  # tomli is for Python 3.10 alone
    assert not missing


@pytest.mark.slow
def test_the_wheel_holds_the_five_folders_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "tree")], check=True)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "-o",
        str(tmp_path / "dist"),
        str(tmp_path / "tree"),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("landmark_toolkit-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"toolkit", "train", "export", "runtime", "calib"}
    tracked = subprocess.run(
        ["git", "ls-files", *tops], cwd=tmp_path / "tree", capture_output=True, text=True, check=True
    )
    missing = set(tracked.stdout.split()) - set(names)
    assert not missing, f"tracked files that the wheel lost: {sorted(missing)}"
