"""What works on this machine, and for each missing piece the one line that installs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from toolkit.machine import Imported, Machine

State = Literal["ok", "missing", "conflict", "note"]
"""`conflict` does harm; `missing` stops some command; `note` is good to know."""
OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Finding:
    """One fact about the machine."""

    area: str
    name: str
    state: State
    found: str
    needed_for: str = ""
    fix: str = ""
    """One line for a shell, or empty where nothing can be installed."""


@dataclass(frozen=True)
class Package:
    """A package we can use: distributions that bring it, what it is for, which extra of ours installs it."""

    distributions: tuple[str, ...]
    needed_for: str
    extra: str = ""


FLAVOURS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
ORT_FLAVOURS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
PACKAGES: dict[str, Package] = {
    "numpy": Package(("numpy",), "everything", "runtime"),
    "cv2": Package(FLAVOURS, "photos, crops, detectors, video", "runtime"),
    "onnxruntime": Package(ORT_FLAVOURS, "running ONNX files, int8 calibration", "runtime"),
    "torch": Package(("torch",), "training, fusing, proofs", "train"),
    "matplotlib": Package(("matplotlib",), "plots", "train"),
    "tensorboard": Package(("tensorboard",), "training curves in the browser", "train"),
    "onnx": Package(("onnx",), "export", "export"),
    "onnxscript": Package(("onnxscript",), "export by PyTorch's newer exporter", "export"),
    "onnxsim": Package(("onnxsim",), "simplified graphs", "export"),
    "onnxslim": Package(("onnxslim",), "simplified graphs where onnxsim is missing", "export"),
    "onnxconverter_common": Package(("onnxconverter-common",), "float16", "export"),
}
IMPORTED = ("numpy", "cv2", "onnxruntime", "torch")
"""Packages whose import is tried, because a wheel that is installed may still not load."""
PEERS: dict[str, Package] = {
    "openvino": Package(("openvino",), "toolkit export --openvino, run --backend openvino, bench", "openvino"),
    "litert": Package(("ai-edge-litert", "tflite-runtime"), "toolkit run --backend tflite, bench", "tflite"),
    "litert converter": Package(("litert-torch",), "toolkit export --tflite", "tflite"),
    "ncnn": Package(("ncnn",), "toolkit run --backend ncnn, bench", "ncnn"),
    "ncnn converter": Package(("pnnx",), "toolkit export --ncnn", "ncnn"),
    "mnn": Package(("mnn",), "toolkit export --mnn, run --backend mnn, bench", "mnn"),
}


@dataclass(frozen=True)
class Program:
    """A program outside Python: names it goes by, what it is for, the packages that bring it."""

    names: tuple[str, ...]
    needed_for: str
    apt: str
    dnf: str = ""
    brew: str = ""


PROGRAMS: dict[str, Program] = {
    "C compiler": Program(("cc", "gcc", "clang"), "building and timing the generated C", "gcc", "gcc", "gcc"),
    "CMake": Program(("cmake",), "building the C package as a project does", "cmake", "cmake", "cmake"),
    "make": Program(("make",), "make demo, make test", "make", "make", "make"),
    "AArch64 compiler": Program(
        ("aarch64-linux-gnu-gcc",), "cross-compiling for Jetson and phones", "gcc-aarch64-linux-gnu"
    ),
    "AArch64 emulator": Program(("qemu-aarch64-static", "qemu-aarch64"), "testing that build here", "qemu-user-static"),
    "Arm embedded compiler": Program(("arm-none-eabi-gcc",), "microcontrollers", "gcc-arm-none-eabi"),
    "Chromium": Program(
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"), "testing report.html", "chromium"
    ),
}
ISAS: dict[str, tuple[tuple[str, ...], ...]] = {
    "AVX-512 VNNI": (("avx512f",), ("avx512bw",), ("avx512vl",), ("avx512_vnni",)),
    "AVX-512": (("avx512f",),),
    "AVX2 VNNI": (("avx2",), ("avx_vnni",)),
    "AVX2": (("avx2",), ("fma",)),
    "NEON dot product": (("asimddp",),),
    "NEON": (("asimd", "neon"),),
    "SSE2": (("sse2",),),
}
"""Instruction sets that the generated C has kernels for, best first, and the CPU flags that each needs."""


def examine(machine: Machine | None = None) -> list[Finding]:
    """Every fact, in the order it is shown."""
    here = machine or Machine()
    findings: list[Finding] = []
    for probe in PROBES:
        findings.extend(probe(here))
    return findings


def _python(machine: Machine) -> Iterator[Finding]:
    version = machine.python()
    text = ".".join(map(str, version))
    recent = version[:2] >= OLDEST_PYTHON
    wanted = ".".join(map(str, OLDEST_PYTHON))
    yield Finding(
        "Python",
        "version",
        "ok" if recent else "missing",
        text if recent else f"{text}, the toolkit needs {wanted} or newer",
        "everything",
        "" if recent else _install(machine, Program((), "", "python3.11 python3.11-venv", "python3.11", "python@3.11")),
    )
    if not machine.in_environment():
        yield Finding(
            "Python",
            "environment",
            "note",
            "not a virtual environment: packages go into the system's Python",
            fix="python3 -m venv .venv && . .venv/bin/activate",
        )


def _packages(machine: Machine) -> Iterator[Finding]:
    installed = machine.packages()
    imported = machine.imports([n for n in IMPORTED if n in PACKAGES and _versions(PACKAGES[n], installed)])
    for name, package in PACKAGES.items():
        versions = _versions(package, installed)
        result = imported.get(name, Imported())
        fix = f"pip install 'landmark-toolkit[{package.extra}]'"
        if not versions:
            yield Finding("packages", name, "missing", "not installed", package.needed_for, fix)
        elif result.error:
            fix = _broken_fix(machine, name, next(iter(versions)), result.error)
            found = f"{_listed(versions)}, does not load: {result.error}"
            yield Finding("packages", name, "conflict", found, package.needed_for, fix)
        else:
            yield Finding("packages", name, "ok", _listed(versions), package.needed_for)
    yield from _flavours("OpenCV", FLAVOURS, "opencv-python", installed)
    yield from _flavours("ONNX Runtime", ORT_FLAVOURS, "onnxruntime", installed)
    if "cv2" in imported and not imported["cv2"].error and not imported["cv2"].gui:
        yield Finding(
            "packages",
            "OpenCV windows",
            "note",
            "this OpenCV has no windows (headless)",
            "toolkit run --show",
            "pip uninstall -y " + " ".join(n for n in FLAVOURS if n in installed) + " && pip install opencv-python",
        )
    if "onnxruntime" in imported and not imported["onnxruntime"].error:
        yield from _providers(imported["onnxruntime"])


def _versions(package: Package, installed: dict[str, str]) -> dict[str, str]:
    return {name: installed[name] for name in package.distributions if name in installed}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(version if len(versions) == 1 else f"{name} {version}" for name, version in versions.items())


def _broken_fix(machine: Machine, name: str, distribution: str, error: str) -> str:
    if name == "cv2" and "libGL" in error:
        return _install(machine, Program((), "", "libgl1 libglib2.0-0", "mesa-libGL glib2"))
    return f"pip install --force-reinstall --no-cache-dir {distribution}"


def _flavours(title: str, flavours: tuple[str, ...], kept: str, installed: dict[str, str]) -> Iterator[Finding]:
    """Wheels that put their files at the same place: the last one installed wins, and removing one breaks both."""
    found = {name: installed[name] for name in flavours if name in installed}
    if len(found) > 1:
        preferred = next((n for n in ("onnxruntime-gpu", "opencv-contrib-python") if n in found), kept)
        yield Finding(
            "packages",
            f"{title} flavours",
            "conflict",
            f"{' and '.join(f'{n} {v}' for n, v in found.items())} write the same files; one of them is broken",
            title,
            f"pip uninstall -y {' '.join(found)} && pip install {preferred}",
        )


def _providers(ort: Imported) -> Iterator[Finding]:
    names = [name.removesuffix("ExecutionProvider") for name in ort.providers]
    yield Finding("back ends", "ONNX Runtime providers", "ok", ", ".join(names) or "none")


def _programs(machine: Machine) -> Iterator[Finding]:
    for title, program in PROGRAMS.items():
        present = [name for name in program.names if machine.which(name)]
        if present:
            yield Finding("programs", title, "ok", "; ".join(_with_version(machine, n) for n in present))
        else:
            yield Finding("programs", title, "missing", "not found", program.needed_for, _install(machine, program))


def _with_version(machine: Machine, name: str) -> str:
    text = (machine.run(name, "--version") or "").splitlines()
    number = re.search(r"\d+(\.\d+)+", text[0]) if text else None
    return f"{name} {number.group()}" if number else name


INSTALLERS = (("apt-get", "sudo apt-get install -y {}", "apt"), ("dnf", "sudo dnf install -y {}", "dnf"))


def _install(machine: Machine, program: Program) -> str:
    """The line for this system's package manager; Debian's where none is found."""
    if machine.system() == "Darwin":
        return f"brew install {program.brew}" if program.brew else ""
    for manager, line, field in INSTALLERS:
        wanted = getattr(program, field)
        if wanted and machine.which(manager):
            return line.format(wanted)
    return f"sudo apt-get install -y {program.apt}"


def _cpu(machine: Machine) -> Iterator[Finding]:
    text = machine.read("/proc/cpuinfo") or ""
    if machine.system() == "Darwin":
        brand = machine.run("sysctl", "-n", "machdep.cpu.brand_string") or machine.architecture()
        yield Finding("CPU", "model", "ok", brand)
        return
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    yield Finding("CPU", "model", "ok", f"{model.group(1) if model else machine.architecture()}, {cores or '?'} cores")
    flags = cpu_flags(text)
    usable = [name for name, needed in ISAS.items() if all(any(f in flags for f in either) for either in needed)]
    if usable:
        yield Finding("CPU", "instruction sets", "ok", ", ".join(usable), "kernels of the generated C")
    else:
        yield Finding("CPU", "instruction sets", "note", "none that we have kernels for: plain C99 is used")
    governor = (machine.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "").strip()
    if governor and governor != "performance":
        yield Finding(
            "CPU",
            "governor",
            "note",
            f"{governor}: the clock moves while timing",
            "toolkit bench",
            "sudo cpupower frequency-set -g performance",
        )


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The feature flags of the first core, x86 or Arm.

    >>> sorted(cpu_flags("Features\\t: fp asimd\\n"))
    ['asimd', 'fp']
    """
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def _nvidia(machine: Machine) -> Iterator[Finding]:
    """The pieces between a face and a GPU; where there is no GPU, none of them is missed."""
    jetson = _jetson_model(machine)
    pieces = machine.gpu_pieces()
    gpu = bool(jetson) or machine.exists("/proc/driver/nvidia/version") or pieces[0].state == "ok"
    cuda = machine.run("nvcc", "--version") or machine.run("/usr/local/cuda/bin/nvcc", "--version")
    release = re.search(r"release (\S+),", cuda or "")
    if release:
        yield Finding("NVIDIA", "CUDA toolkit", "ok", release.group(1))
    for piece in pieces:
        state: State = "conflict" if piece.state == "broken" else piece.state
        if state == "missing" and (not gpu or piece.name in OPTIONAL_PIECES):
            state = "note"
        fix = piece.fix if gpu else ""
        yield Finding("NVIDIA", piece.name, state, piece.found, piece.needed_for, fix)
    if jetson:
        yield from _jetson(machine, jetson)


OPTIONAL_PIECES = frozenset({"tensorrt_rtx", "onnx-cuda", "onnx-tensorrt", "trtexec"})
"""Good to have on a machine with a GPU, and missed by nobody who has the others."""


def _jetson_model(machine: Machine) -> str:
    """The board's name from the device tree; empty on anything but a Jetson."""
    model = (machine.read("/proc/device-tree/model") or "").strip()
    return model if "jetson" in model.lower() or machine.exists("/etc/nv_tegra_release") else ""


def _jetson(machine: Machine, model: str) -> Iterator[Finding]:
    yield Finding("Jetson", "model", "ok", model)
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", machine.read("/etc/nv_tegra_release") or "")
    if release:
        yield Finding("Jetson", "L4T", "ok", f"{release.group(1)}.{release.group(2)}")
    mode = re.search(r"NV Power Mode: (\S+)", machine.run("nvpmodel", "-q") or "")
    if mode is None:
        yield Finding("Jetson", "power mode", "note", "cannot be read", "timing", "sudo nvpmodel -q")
    elif mode.group(1).startswith("MAXN"):
        yield Finding("Jetson", "power mode", "ok", mode.group(1))
    else:
        found = f"{mode.group(1)}: not the fastest, timings are those of this mode"
        yield Finding("Jetson", "power mode", "note", found, "timing", "sudo nvpmodel -m 0 && sudo jetson_clocks")


def _peers(machine: Machine) -> Iterator[Finding]:
    """Engines of others: to export for, to run, to compare with; here or in the environments of `make bench-env`."""
    for name, found in peer_versions(machine).items():
        state: State = "ok" if found else "note"
        package = PEERS[name]
        fix = "" if found else f"pip install 'landmark-toolkit[{package.extra}]'  # or: make bench-env"
        yield Finding("other engines", name, state, found or "not installed", package.needed_for, fix)


def peer_versions(machine: Machine) -> dict[str, str]:
    """Version of each peer, here or in the bench environment; empty where it is missing."""
    installed = machine.bench_packages() | machine.packages()
    return {name: _listed(_versions(package, installed)) for name, package in PEERS.items()}


PROBES: tuple[Callable[[Machine], Iterator[Finding]], ...] = (_python, _packages, _programs, _cpu, _nvidia, _peers)
"""What is looked at, in the order it is shown."""
