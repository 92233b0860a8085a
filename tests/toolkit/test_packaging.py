"""What a user installs: names, extras, pins, and a wheel that holds everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from export.formats.convert import CONVERTERS
from runtime.backends.formats import FORMATS

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
    assert set(EXTRAS) == {"runtime", "train", "export", "bench", "dev", "tensorrt", "all"} | set(FORMATS)


def test_each_format_has_an_extra_that_brings_its_engine_and_converter() -> None:
    for name, form in FORMATS.items():
        assert set(form.distributions) | set(CONVERTERS[name].distributions) <= expanded(name)


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone with a source archive and, made from that, a wheel in dist/."""
    place = tmp_path_factory.mktemp("built")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place / "tree")], check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "-o", str(place / "dist"), str(place / "tree")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.slow
def test_the_wheel_holds_the_five_folders_and_nothing_else(built: Path) -> None:
    (wheel,) = (built / "dist").glob("landmark_toolkit-*.whl")
    (archive,) = (built / "dist").glob("landmark_toolkit-*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"toolkit", "train", "export", "runtime", "calib"}
    tracked = subprocess.run(
        ["git", "ls-files", *tops], cwd=built / "tree", capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(tracked) - set(names), "tracked files that the wheel lost"
    with tarfile.open(archive) as sources:
        inside = {name.partition("/")[2] for name in sources.getnames()}
    assert not {*tracked, "pyproject.toml", "README.md", "LICENSE"} - inside, "files that the source archive lost"


SMOKE = """
import sys
import numpy as np
import runtime
from runtime.bundle import Bundle
from runtime.geometry import Box, crop_region, network_input, output_to_points, points_to_target
bundle = Bundle.open(sys.argv[1])
data = {artefact.name: content for artefact, content in bundle.read_all()}
assert data["fp32"][:1] == b"\\x08" and len(data) >= 3
region = crop_region(Box(10, 20, 110, 140), bundle.spec.crop)
points = np.random.default_rng(0).uniform(20, 120, (bundle.spec.points, 2))
back = output_to_points(points_to_target(points, region, bundle.spec), region, bundle.spec)
assert np.abs(back - points).max() < 1e-9
size = bundle.spec.input_size
assert network_input(np.zeros((2, size, size, 3), np.uint8), bundle.spec).shape == (2, 3, size, size)
assert "site-packages" in runtime.__file__ and not {"torch", "onnx", "cv2"} & set(sys.modules)
print("runtime works")
"""


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(built: Path, small: Path, tmp_path: Path) -> None:
    (wheel,) = (built / "dist").glob("landmark_toolkit-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        words = [str(part) for part in command]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=plain)

    install = (programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    done = run(*install, "-c", ROOT / "constraints.txt", wheel)
    if done.returncode and "No matching distribution found for numpy" in done.stderr:
        pytest.skip("no package index can be reached from here, so nothing can be installed")
    assert done.returncode == 0, done.stderr
    shown = run(programs / "toolkit", "--help")
    assert shown.returncode == 0 and "bench" in shown.stdout, shown.stderr
    smoke = run(programs / "python", "-c", SMOKE, small)
    assert smoke.stdout == "runtime works\n", smoke.stderr
    facts = {f["name"]: f for f in json.loads(run(programs / "toolkit", "doctor", "--json").stdout)["findings"]}
    assert facts["torch"]["fix"] == "pip install 'landmark-toolkit[train]'" and facts["numpy"]["state"] == "ok"
    missing = run(programs / "toolkit", "inspect", small)
    assert missing.returncode == 2 and "Traceback" not in missing.stderr and "pip install" in missing.stderr
