"""Models, compilers and a ctypes wrapper for the tests of the C exporter."""

from __future__ import annotations

import ctypes
import io
import shutil
import subprocess
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from calib.graph import read_graph, run
from calib.plan import Plan, plain_weight_scales, torch_parameters
from calib.sites import find_sites
from export.c import COptions, CReport, export_c
from export.int8 import write_int8
from runtime.spec import ModelSpec
from train.models.zoo import build

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")


def spec_of(architecture: str, width: float = 0.25, size: int = 64, points: int = 68) -> ModelSpec:
    return ModelSpec(architecture, width, points, size, layout=f"plain{points}")


def fp32_model(spec: ModelSpec, seed: int = 0) -> ModelProto:
    """A fused net with random weights whose activations neither die nor explode."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = build(spec, fused=True).eval()

    def steady(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        spread = float(output.std()) or 1.0
        module.weight.div_(spread)  # type: ignore[operator, union-attr]
        if module.bias is not None:
            module.bias.normal_(0, 0.2)  # type: ignore[operator, union-attr]

    hooks = [m.register_forward_hook(steady) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        model(torch.rand(1, 3, spec.input_size, spec.input_size) * 2 - 1)
    for hook in hooks:
        hook.remove()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = (1, 3, spec.input_size, spec.input_size)
        torch.onnx.export(model, (torch.zeros(shape),), stream, dynamo=False, opset_version=13, input_names=["input"])
    return onnx.load_from_string(stream.getvalue())


def convolutions(model: ModelProto) -> list[str]:
    """Names of the nodes that calibration may leave in float."""
    return sorted(find_sites(read_graph(model)).quantised)


def int8_model(model: ModelProto, seed: int = 0, float_nodes: Collection[str] = ()) -> ModelProto:
    """The model with Q/DQ pairs, ranges from a few random pictures; some nodes stay float."""
    graph = read_graph(model)
    sites = find_sites(graph, float_nodes)
    generator = torch.Generator().manual_seed(seed)
    batch = torch.rand((4, *graph.input_shape), generator=generator) * 2 - 1
    keep: dict[str, torch.Tensor] = dict.fromkeys(sites.group, torch.zeros(1))
    with torch.no_grad():
        run(graph, torch_parameters(graph), batch, keep=keep)
    keep[graph.input] = batch
    peaks: dict[str, float] = {}
    for tensor, group in sites.group.items():
        peaks[group] = max(peaks.get(group, 1e-3), float(keep[tensor].abs().max()))
    scales = {group: np.float32(peak / 127) for group, peak in peaks.items()}
    return write_int8(model, Plan(graph, sites, scales, plain_weight_scales(graph, sites)))


def faces(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def compiler(name: str = "gcc") -> str:
    found = shutil.which(name) or (shutil.which("cc") if name == "gcc" else None)
    if found is None:
        pytest.skip(f"no C compiler {name!r} on this machine")
    return found


def cpu_has(*flags: str) -> bool:
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.is_file() else set()
    return all(flag in words for flag in flags)


def compile_c(sources: list[Path], out: Path, *flags: str, cc: str = "gcc") -> Path:
    """Compile, and fail with what the compiler said."""
    command = [compiler(cc), *flags, "-o", str(out), *map(str, sources)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr[:3000]}"
    return out


def run_program(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)


class Image(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_size_t),
        ("format", ctypes.c_int),
        ("chroma", ctypes.c_void_p),
        ("chroma_stride", ctypes.c_size_t),
    ]


def as_image(pixels: NDArray[np.uint8], form: int) -> Image:
    height, width = pixels.shape[:2]
    return Image(pixels.ctypes.data, width, height, pixels.strides[0], form, None, 0)


class Net:
    """A generated library, loaded."""

    def __init__(self, library: Path, spec: ModelSpec) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.lm_arena_bytes.restype = ctypes.c_size_t
        size = self.library.lm_arena_bytes()
        self.memory = np.zeros(size + 64, np.uint8)
        start = -(-self.memory.ctypes.data // 64) * 64
        self.context = (ctypes.c_uint8 * 64)()
        assert self.library.lm_init(self.context, ctypes.c_void_p(start), ctypes.c_size_t(size)) == 0
        self.points = spec.points

    def __call__(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        xy = np.zeros(2 * self.points, np.float32)
        face = np.ascontiguousarray(face)
        pointers = (ctypes.c_void_p(face.ctypes.data), ctypes.c_void_p(xy.ctypes.data))
        assert self.library.lm_run(self.context, *pointers) == 0
        return xy

    def selftest(self) -> tuple[int, int]:
        layer = ctypes.c_int(0)
        return int(self.library.lm_selftest(self.context, ctypes.byref(layer))), layer.value


def exported(model: ModelProto, spec: ModelSpec, folder: Path, int8: bool = False, **options: object) -> CReport:
    chosen = COptions(**options)  # type: ignore[arg-type]
    return export_c(model, spec, folder, precision="int8" if int8 else "fp32", options=chosen)


def built(model: ModelProto, spec: ModelSpec, folder: Path, *flags: str, int8: bool = False, cc: str = "gcc") -> Net:
    """Export, compile, load."""
    exported(model, spec, folder, int8)
    library = compile_c([folder / "landmarks.c"], folder / "net.so", *STRICT, *flags, "-fPIC", "-shared", cc=cc)
    return Net(library, spec)
