"""The C link: files generated from an ONNX artefact, compiled on this machine, measured on the probes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from export.c import COptions, CReport, export_c
from export.c.dispatch import dispatch_order
from export.c.isas import MICRO, NAMES, check_isas
from export.c.names import check_prefix
from export.links import NOISE_IMAGES, NOISE_SEED
from export.oracle import Oracle
from export.ulp import ulps_apart
from runtime.backends.c import FOLDERS, CLibrary, Precision
from runtime.backends.c_build import COMPILERS, WARNING_FLAGS, Compiler, compile_library, find_compiler
from runtime.bundle import Check
from runtime.errors import InputError, UsageError
from runtime.geometry import network_input
from runtime.spec import ModelSpec

PARENT: dict[str, str] = {"c": "fp32", "c-int8": "int8"}
"""Folder of the generated files -> the artefact they are made from."""
SOURCE = "landmarks.c"
SHIFT_LIMIT_PX = 0.01
"""Largest distance of a landmark from ONNX Runtime's, in pixels of the crop: far below what anybody can see."""
NO_COMPILER = f"no C compiler here ({', '.join(COMPILERS)} on the PATH, or CC)"
_SETTINGS: dict[str, type] = {
    "prefix": str,
    "isas": list,
    "dispatch": bool,
    "single header": bool,
    "max ram": int,
}


@dataclass(frozen=True)
class CRequest:
    """What C was asked for."""

    precisions: tuple[Precision, ...] = ("fp32",)
    prefix: str = "lm"
    isas: tuple[str, ...] = NAMES
    dispatch: bool = False
    single_header: bool = False
    max_ram: int | None = None

    def settings(self) -> dict[str, Any]:
        """What the manifest keeps, enough to generate the files again."""
        return {
            "prefix": self.prefix,
            "isas": list(self.isas),
            "dispatch": self.dispatch,
            "single header": self.single_header,
            "max ram": self.max_ram,
        }

    @staticmethod
    def of_settings(settings: Mapping[str, Any], where: str) -> CRequest:
        """The other way round; what cannot be a request is refused."""
        for name, kind in _SETTINGS.items():
            value = settings.get(name)
            if type(value) is not kind and not (name == "max ram" and value is None):
                raise InputError(f"{where}: records {name} as {value!r}, expected {kind.__name__}")
        request = CRequest(
            prefix=settings["prefix"],
            isas=tuple(map(str, settings["isas"])),
            dispatch=settings["dispatch"],
            single_header=settings["single header"],
            max_ram=settings["max ram"],
        )
        try:
            refuse_c_request(request)
        except UsageError as error:
            raise InputError(f"{where}: {error}") from error
        return request


def refuse_c_request(request: CRequest) -> None:
    """Everything that can be wrong with a request before there is a model."""
    check_prefix(request.prefix)
    for isa in request.isas:
        if isa not in (*NAMES, MICRO):
            raise UsageError(f"--c-isa {isa}: unknown instruction set; known: {', '.join(NAMES)}, or {MICRO} alone")
    if not request.isas:
        raise UsageError(f"--c-isa: expected at least one of {', '.join(NAMES)}")
    check_isas(request.isas)
    if request.dispatch:
        for precision in request.precisions:
            dispatch_order(request.isas, precision == "int8")
    if request.max_ram is not None and request.max_ram < 1:
        raise UsageError(f"--max-ram {request.max_ram}: expected a positive number of bytes")


FLOAT_OPERATORS = frozenset({"HardSigmoid", "HardSwish", "Mul", "Resize", "Sigmoid", "Softmax"})
"""Operators that stay float in an int8 network, between convolutions where int8 C has no float layers."""


def refuse_int8_c(model: ModelProto, spec: ModelSpec) -> None:
    """A float network whose int8 form C cannot compute: known before anything is calibrated."""
    found = sorted({node.op_type for node in model.graph.node} & FLOAT_OPERATORS)
    if found:
        raise UsageError(
            f"int8 C: {spec.architecture} has {', '.join(found)}, which stay float between int8 layers, and int8 C "
            "does not mix the two there; add --c-precision fp32 (the int8 ONNX model is made all the same)"
        )


@dataclass(frozen=True)
class Generated:
    """The files of one folder, by their path in it, and what the exporter said about them."""

    files: dict[str, bytes]
    report: CReport

    def settings(self) -> dict[str, Any]:
        """Facts for the manifest."""
        return {
            "arena bytes": self.report.arena_bytes,
            "arena lower bound": self.report.arena_lower_bound,
            "weight bytes": self.report.weight_bytes,
            "multiply-adds": self.report.macs,
            "layers": len(self.report.layers),
        }


def generate(model: ModelProto, spec: ModelSpec, precision: Precision, request: CRequest) -> Generated:
    """Run the C exporter into memory."""
    options = COptions(request.isas, request.dispatch, request.single_header, request.max_ram)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        report = export_c(model, spec, place, prefix=request.prefix, precision=precision, options=options)
        files = {file.relative_to(place).as_posix(): file.read_bytes() for file in report.files}
    return Generated(files, report)


def artefact_name(folder: str, file: str) -> str:
    """The source carries the folder's name, the others stand below it: `c`, `c.landmarks.h`, `c.tools.bench.c`."""
    return folder if file == SOURCE else f"{folder}.{file.replace('/', '.').lower()}"


def folder_of(name: str) -> str | None:
    """The folder that an artefact's name belongs to, when it is generated C."""
    return next((folder for folder in FOLDERS.values() if name == folder or name.startswith(f"{folder}.")), None)


@dataclass(frozen=True)
class Truth:
    """What the C has to put out: exact outputs and limit for float, ONNX Runtime's beside them; codes for int8."""

    wanted: NDArray[Any]
    limit: float = 0.0
    engine: NDArray[np.float32] | None = None


def int8_truth(model: ModelProto, spec: ModelSpec, stored: NDArray[np.float32]) -> Truth:
    """The probes' exact outputs and behind them those of noise, which wakes what sleeps on faces."""
    noise = Oracle(model, "model.int8.onnx").run(network_input(noise_faces(spec), spec)).output
    return Truth(np.concatenate([stored.reshape(len(stored), -1), noise.reshape(len(noise), -1)]))


def noise_faces(spec: ModelSpec) -> NDArray[np.uint8]:
    """The noise of the int8 link, before normalisation."""
    size = (NOISE_IMAGES, spec.input_size, spec.input_size, 3)
    return np.random.default_rng(NOISE_SEED).integers(0, 256, size, dtype=np.uint8)


@dataclass(frozen=True)
class Measured:
    """Numbers of the compiled C and how it was compiled; without a compiler there are none."""

    checks: list[Check]
    settings: dict[str, Any]


def measure(made: Generated, spec: ModelSpec, request: CRequest, crops: NDArray[np.uint8], truth: Truth) -> Measured:
    """Compile for this machine, run the self-test and the probes."""
    compiler = find_compiler()
    if compiler is None:
        return Measured([], {"compiler": None, "not run": NO_COMPILER})
    return _measure(compiler, made, spec, request, crops, truth)


def _measure(
    compiler: Compiler, made: Generated, spec: ModelSpec, request: CRequest, crops: NDArray[np.uint8], truth: Truth
) -> Measured:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for file, data in made.files.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_bytes(data)
        built = compile_library(compiler, place / SOURCE, place / "library.so", WARNING_FLAGS)
        library = CLibrary(built.library, spec, request.prefix)
        wrong = library.selftest()
        arena = float(library.arena_bytes)
        checks = [
            Check("warnings", "warnings of the C compiler", float(built.warnings), 0),
            Check("self-test", _selftest_metric(wrong), float(wrong is not None), 0),
            Check("arena", "bytes of working memory", arena, float(request.max_ram or made.report.arena_bytes)),
            *_output_checks(library, spec, crops, truth),
        ]
    return Measured(checks, {"compiler": compiler.name, "flags": list(built.flags), "instruction set": library.isa})


def _selftest_metric(wrong: str | None) -> str:
    return "self-tests that failed" if wrong is None else f"self-tests that failed: {wrong}"


def _output_checks(library: CLibrary, spec: ModelSpec, crops: NDArray[np.uint8], truth: Truth) -> list[Check]:
    if truth.engine is None:
        found = library.run(np.concatenate([crops, noise_faces(spec)]))
        metric = "values that are not bit for bit those of the exact integers, probes and noise"
        return [Check("outputs", metric, _bits_apart(found, truth.wanted), 0)]
    found = library.run(crops).reshape(len(crops), -1)
    distance = _farthest(found, truth.engine.reshape(found.shape), spec)
    return [
        Check(
            "outputs", "ULP from double precision", ulps_apart(found, truth.wanted.reshape(found.shape)), truth.limit
        ),
        Check("shift-pixels", "largest landmark distance from ONNX Runtime, crop pixels", distance, SHIFT_LIMIT_PX),
    ]


def _bits_apart(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    mine, its = (np.ascontiguousarray(a, dtype=np.float32).reshape(-1).view(np.uint32) for a in (found, wanted))
    return float((mine != its).sum()) if mine.shape == its.shape else float(max(mine.size, its.size))


def _farthest(found: NDArray[np.float32], wanted: NDArray[np.float32], spec: ModelSpec) -> float:
    apart = (found.astype(np.float64) - wanted).reshape(len(found), -1, 2) * spec.input_size
    distance = float(np.sqrt((apart**2).sum(axis=-1)).max(initial=0.0))
    return distance if np.isfinite(distance) else 1e9
