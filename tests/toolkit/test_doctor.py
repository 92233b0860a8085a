"""The doctor on machines that are not here: a bare one, a mixed-up one, a Jetson; and on this one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from runtime.gpu_pieces import Piece
from toolkit import doctor
from toolkit.cli import main
from toolkit.doctor import Finding, examine
from toolkit.machine import Imported, Machine

X86 = "processor\t: 0\nmodel name\t: Testium 9\nflags\t\t: fpu sse2 avx2 fma avx512f\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"
ALL = {
    "numpy": "2.4.6",
    "opencv-python": "5.0",
    "onnxruntime": "1.31",
    "torch": "2.13",
    "matplotlib": "3.11",
    "tensorboard": "2.21",
    "onnx": "1.23",
    "onnxscript": "0.7",
    "onnxsim": "0.8",
    "onnxslim": "0.1",
    "onnxconverter-common": "1.16",
}
GOOD = {
    "cv2": Imported("5.0", gui="YES"),
    "onnxruntime": Imported("1.31", providers=("CPUExecutionProvider",)),
}
PIECES = (
    Piece("GPU and driver", "missing", "no driver", "install the driver"),
    Piece("tensorrt", "missing", "not installed", "pip install tensorrt"),
    Piece("trtexec", "missing", "not on the path", "it comes with TensorRT"),
)


@dataclass
class Fake(Machine):
    """A machine made of tables."""

    version: tuple[int, int, int] = (3, 12, 1)
    files: dict[str, str] = field(default_factory=lambda: {"/proc/cpuinfo": X86})
    programs: dict[str, str] = field(default_factory=dict)
    """Command line (or name) -> what it prints."""
    wheels: dict[str, str] = field(default_factory=lambda: dict(ALL))
    loads: dict[str, Imported] = field(default_factory=lambda: dict(GOOD))
    os: str = "Linux"
    pieces: list[Piece] = field(default_factory=lambda: list(PIECES))

    def python(self) -> tuple[int, int, int]:
        return self.version

    def in_environment(self) -> bool:
        return True

    def system(self) -> str:
        return self.os

    def architecture(self) -> str:
        return "x86_64"

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if any(p.split()[0] == program for p in self.programs) else None

    def run(self, *command: str) -> str | None:
        return self.programs.get(" ".join(command), self.programs.get(command[0]))

    def gpu_pieces(self) -> list[Piece]:
        return self.pieces

    def bench_packages(self) -> dict[str, str]:
        return {"ncnn": "1.0"}

    def packages(self) -> dict[str, str]:
        return self.wheels

    def imports(self, names: Sequence[str]) -> dict[str, Imported]:
        return {name: self.loads.get(name, Imported("1")) for name in names}


def by_name(machine: Machine) -> dict[str, Finding]:
    return {f.name: f for f in examine(machine)}


def test_everything_missing_comes_with_one_line_each() -> None:
    found = examine(Fake(version=(3, 8, 2), wheels={}, programs={"apt-get": ""}))
    missing = {f.name: f for f in found if f.state == "missing"}
    assert set(missing) == {"version", *doctor.PACKAGES, *doctor.PROGRAMS}
    for f in missing.values():
        assert f.fix and "\n" not in f.fix and shlex.split(f.fix)[0] in ("pip", "sudo"), f
    assert missing["torch"].fix == "pip install 'landmark-toolkit[train]'"
    assert missing["C compiler"].fix == "sudo apt-get install -y gcc"
    assert "3.8.2" in missing["version"].found and "3.10" in missing["version"].found


def test_extras_named_by_the_lines_exist() -> None:
    from importlib.metadata import metadata

    known = set(metadata("landmark-toolkit").get_all("Provides-Extra") or ())
    assert {p.extra for p in doctor.PACKAGES.values()} <= known


@pytest.mark.parametrize(
    ("system", "programs", "line"),
    [
        ("Linux", {"dnf": ""}, "sudo dnf install -y gcc"),
        ("Linux", {"apt-get": "", "dnf": ""}, "sudo apt-get install -y gcc"),
        ("Darwin", {}, "brew install gcc"),
    ],
)
def test_the_line_fits_the_system(system: str, programs: dict[str, str], line: str) -> None:
    assert by_name(Fake(os=system, programs=programs))["C compiler"].fix == line


def test_two_opencvs_are_a_conflict() -> None:
    assert not any(f.state == "conflict" for f in examine(Fake()))
    found = by_name(Fake(wheels={**ALL, "opencv-python-headless": "4.9"}))
    conflict = found["OpenCV flavours"]
    assert conflict.state == "conflict" and "opencv-python 5.0 and opencv-python-headless 4.9" in conflict.found
    wanted = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python"
    assert conflict.fix == wanted
    both = by_name(Fake(wheels={**ALL, "onnxruntime-gpu": "1.31"}))
    assert both["ONNX Runtime flavours"].fix.endswith("pip install onnxruntime-gpu")


def test_opencv_without_windows_and_without_its_library() -> None:
    headless = {n: v for n, v in ALL.items() if n != "opencv-python"} | {"opencv-python-headless": "4.9"}
    found = by_name(Fake(wheels=headless, loads={**GOOD, "cv2": Imported("4.9")}))
    assert found["OpenCV windows"].state == "note" and found["cv2"].state == "ok"
    broken = Imported(error="ImportError: libGL.so.1: cannot open shared object file")
    found = by_name(Fake(loads={**GOOD, "cv2": broken}, programs={"apt-get": ""}))
    assert found["cv2"].state == "conflict" and found["cv2"].fix == "sudo apt-get install -y libgl1 libglib2.0-0"


def test_instruction_sets() -> None:
    assert by_name(Fake())["instruction sets"].found == "AVX-512, AVX2, SSE2"
    assert by_name(Fake(files={"/proc/cpuinfo": ARM}))["instruction sets"].found == "NEON dot product, NEON"
    assert by_name(Fake(files={}))["instruction sets"].state == "note"


def test_a_gpu_misses_pieces_that_a_machine_without_one_does_not() -> None:
    assert by_name(Fake())["tensorrt"].state == "note" and not by_name(Fake())["tensorrt"].fix
    gpu = [
        Piece("GPU and driver", "ok", "Tester 100 (SM 8.9)"),
        Piece("CUDA runtime", "broken", "too old", "pip a"),
        *PIECES[1:],
    ]
    found = by_name(Fake(pieces=gpu))
    assert found["GPU and driver"].found == "Tester 100 (SM 8.9)" and found["CUDA runtime"].state == "conflict"
    assert found["tensorrt"].state == "missing" and found["tensorrt"].fix == "pip install tensorrt"
    assert found["trtexec"].state == "note"


def test_other_engines_are_looked_for_in_their_own_place() -> None:
    found = by_name(Fake())
    assert (found["ncnn"].state, found["ncnn"].found) == ("ok", "1.0")
    assert found["openvino"].state == "note" and "make bench-env" in found["openvino"].fix


def test_a_jetson() -> None:
    files = {
        "/proc/cpuinfo": ARM,
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081",
    }
    found = by_name(Fake(files=files, programs={"nvpmodel -q": "NV Power Mode: 15W\n0"}))
    assert found["L4T"].found == "36.4.3" and found["tensorrt"].state == "missing"
    assert [f.found for f in examine(Fake(files=files)) if f.area == "Jetson" and f.name == "model"] == [
        "NVIDIA Jetson Orin Nano Developer Kit"
    ]
    assert found["power mode"].state == "note" and "15W" in found["power mode"].found
    assert "nvpmodel" in found["power mode"].fix
    fast = by_name(Fake(files=files, programs={"nvpmodel -q": "NV Power Mode: MAXN\n0"}))
    assert fast["power mode"].state == "ok"


def test_a_package_that_kills_its_process_is_named(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    place = Path(str(tmp_path))
    (place / "killer.py").write_text("import os; os._exit(7)")
    (place / "fine.py").write_text("__version__ = '1.5'")
    (place / "odd.py").write_text("raise RuntimeError('no\\nway')")
    monkeypatch.setenv("PYTHONPATH", str(place))
    found = Machine().imports(["fine", "killer", "odd", "json"])
    assert found["fine"] == Imported("1.5") and found["json"].error == ""
    assert "exit code 7" in found["killer"].error and found["odd"].error == "RuntimeError: no"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert isinstance(ended.value.code, int)
    return int(ended.value.code)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "Machine", lambda: Fake(wheels={**ALL, "opencv-contrib-python": "5.0"}))
    assert run() == 0
    text = capsys.readouterr().out
    assert "to mend:" in text and "pip uninstall -y opencv-python opencv-contrib-python" in text
    assert run("--strict") == 1
    capsys.readouterr()
    assert run("--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"area", "name", "state", "found", "needed_for", "fix"} == set(facts["findings"][0])
    complete = dict.fromkeys([n for p in doctor.PROGRAMS.values() for n in p.names], "")
    monkeypatch.setattr(doctor, "Machine", lambda: Fake(programs=complete))
    assert run("--strict") == 0


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    facts = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert facts["numpy"]["state"] == "ok" and facts["version"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert "CPU" in facts["ONNX Runtime providers"]["found"]
