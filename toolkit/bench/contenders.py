"""Who takes part: the bundle's artefacts and other engines on the same model; who cannot is listed with the reason."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.formats.child import ChildError, child_environment, run_script
from export.formats.homes import DEFAULT_ENVIRONMENT, Environment
from runtime.backends.formats import FORMATS
from runtime.bundle import Bundle
from runtime.errors import ToolkitError, UsageError
from runtime.files import sha256_bytes
from toolkit.bench.process import ALONE

CONVERT_SECONDS = 900.0
C_FLAGS = ("-O3", "-march=native")


@dataclass(frozen=True)
class Contender:
    """One engine with one model file, ready to be loaded by a worker."""

    title: str
    engine: str
    precision: str
    model: Path
    files: tuple[Path, ...]
    """What would be shipped: the sizes are theirs."""
    python: str = sys.executable
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A contender that could not take part, why, and what would help."""

    title: str
    reason: str
    fix: str = ""


@dataclass(frozen=True)
class Peer:
    """An engine of others: the distributions that run it, the artefact it starts from, what converts that."""

    title: str
    runs_with: tuple[str, ...]
    models: dict[str, str]
    """Precision -> the artefact of the bundle that it starts from."""
    install: str
    converter: tuple[str, ...] = ()
    """Distributions that the converter needs; none where the engine reads our file."""
    suffix: str = ""
    install_converter: str = ""


_ENGINES, _LITERT = f"{DEFAULT_ENVIRONMENT}/engines", f"{DEFAULT_ENVIRONMENT}/litert"
PEERS: dict[str, Peer] = {
    "onnxruntime": Peer(
        "ONNX Runtime",
        ("onnxruntime", "onnxruntime-gpu"),
        {"fp32": "fp32", "fp16": "fp16", "int8": "int8"},
        "pip install onnxruntime",
    ),
    "openvino": Peer(
        "OpenVINO", ("openvino",), {"fp32": "fp32", "int8": "int8"}, "pip install openvino", ("openvino",), ".xml",
        "pip install openvino",
    ),
    "litert": Peer(
        "LiteRT",
        ("ai-edge-litert", "tflite-runtime"),
        {"fp32": "fused", "int8": "fused"},
        "pip install ai-edge-litert",
        ("litert-torch", "ai-edge-quantizer"),
        ".tflite",
        f"python3 -m venv {_LITERT} && {_LITERT}/bin/pip install litert-torch ai-edge-quantizer",
    ),
    "ncnn": Peer("ncnn", ("ncnn",), {"fp32": "fp32"}, "pip install ncnn", ("pnnx",), ".param", "pip install pnnx"),
    "mnn": Peer("MNN", ("mnn",), {"fp32": "fp32"}, "pip install MNN", ("mnn",), ".mnn", "pip install MNN"),
    "opencv": Peer(
        "OpenCV", ("opencv-python", "opencv-python-headless", "opencv-contrib-python"), {"fp32": "fp32"},
        "pip install opencv-python",
    ),
    "torch": Peer("PyTorch", ("torch",), {"fp32": "fused"}, "pip install torch"),
}  # fmt: skip
FORMAT_OF = {"mnn": "mnn", "ncnn": "ncnn", "litert": "tflite", "openvino": "openvino"}
"""What a bundle's own files for an engine are called."""
OWN = ("onnxruntime", "c", "tensorrt")
"""What runs the bundle's own artefacts; always in."""


def parse_against(text: str | None) -> tuple[str, ...]:
    """The engines named by `--against`."""
    if text is None:
        return ()
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if "all" in names:
        return tuple(PEERS)
    unknown = [name for name in names if name not in PEERS]
    if unknown or not names:
        raise UsageError(f"--against {text}: unknown engine {''.join(unknown[:1])!r}; known: {', '.join(PEERS)}, all")
    return tuple(dict.fromkeys(names))


def own_contenders(bundle: Bundle, place: Path, say: Callable[[str], object]) -> list[Contender | Absent]:
    """The bundle's artefacts: ONNX files in ONNX Runtime, the generated C, TensorRT engines."""
    result: list[Contender | Absent] = []
    for name in ("fp32", "fp16", "int8"):
        if bundle.manifest.has(name):
            path = bundle.directory / bundle.manifest.artefact(name).file
            result.append(Contender(f"ONNX Runtime {name}", "onnxruntime", name, path, (path,)))
    result += [generated_c(bundle, name, place, say) for name in ("fp32", "int8") if bundle.manifest.has(name)]
    return result + _tensorrt(bundle)


def generated_c(bundle: Bundle, precision: str, place: Path, say: Callable[[str], object]) -> Contender | Absent:
    """The C of the bundle, or C generated now from its ONNX, as a shared library for this CPU."""
    title = f"C {precision}"
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return Absent(title, "no C compiler here", "sudo apt-get install -y gcc")
    inside = bundle.directory / ("c" if precision == "fp32" else "c-int8")
    folder, note = inside, ""
    if not (inside / "landmarks.c").is_file():
        folder, note = place / f"c-{precision}", "generated now; the bundle holds no C"
        try:
            _generate(bundle, precision, folder)
        except ToolkitError as error:
            return Absent(title, str(error))
    say(f"building {title}")
    library = place / f"c-{precision}.so"
    command = [compiler, *C_FLAGS, "-fPIC", "-shared", "-s", "-o", str(library), str(folder / "landmarks.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Absent(
            title, f"{Path(compiler).name} fails: {(done.stderr.strip().splitlines() or ['no words'])[0][:200]}"
        )
    prefix = re.search(r"#define (\w+)_ABI_VERSION", (folder / "landmarks.h").read_text(encoding="utf-8"))
    options = {"prefix": prefix.group(1).lower() if prefix else "lm", "points": bundle.spec.points}
    return Contender(title, "c", precision, library, (library,), options=options, note=note)


def _generate(bundle: Bundle, precision: str, folder: Path) -> None:
    from export.c import export_c
    from export.onnx_file import parse_onnx

    name = bundle.manifest.artefact(precision).file
    export_c(parse_onnx(bundle.read(precision), name), bundle.spec, folder, precision=precision)  # type: ignore[arg-type]


def _tensorrt(bundle: Bundle) -> list[Contender | Absent]:
    """The bundle's engines; each runs on the GPU it was built for, and says why it does not elsewhere."""
    plans = [(a.name, bundle.directory / a.file) for a in bundle.manifest.artefacts if a.kind == "tensorrt-plan"]
    return [Contender(f"TensorRT {name}", "tensorrt", _precision(name), plan, (plan,)) for name, plan in plans]


def _precision(name: str) -> str:
    return next((p for p in ("int8", "fp16") if p in name), "fp32")


def peer_contenders(
    bundle: Bundle,
    wanted: Sequence[str],
    homes: Sequence[Environment],
    inputs: Path,
    cache: Path,
    say: Callable[[str], object],
) -> list[Contender | Absent]:
    """The other engines that were asked for; ONNX Runtime is among the own ones already."""
    result: list[Contender | Absent] = []
    for name in wanted:
        if name in OWN:
            continue
        peer = PEERS[name]
        home = next((h for h in homes if h.has(peer.runs_with)), None)
        for precision, source in peer.models.items():
            if not bundle.manifest.has(source):
                continue
            title = f"{peer.title} {precision}"
            if home is None:
                result.append(Absent(title, "not installed", peer.install))
                continue
            model: Path | Absent = bundle.directory / bundle.manifest.artefact(source).file
            held = _held(bundle, name, precision)
            if held is not None:
                model = held
            elif peer.converter:
                model = _convert(bundle, name, precision, source, homes, inputs, cache, say)
            if isinstance(model, Absent):
                result.append(model)
                continue
            files = (model, *([model.with_suffix(".bin")] if model.suffix in (".param", ".xml") else []))
            note = "the bundle's own file" if held is not None else ""
            result.append(Contender(title, name, precision, model, files, home.python, note=note))
    return result


def _held(bundle: Bundle, name: str, precision: str) -> Path | None:
    """The bundle's own file for this engine, made and measured by the export."""
    form = FORMATS.get(FORMAT_OF.get(name, ""))
    if form is None or not bundle.manifest.has(form.artefact(precision)):
        return None
    return bundle.directory / bundle.manifest.artefact(form.artefact(precision)).file


def _convert(
    bundle: Bundle,
    name: str,
    precision: str,
    source: str,
    homes: Sequence[Environment],
    inputs: Path,
    cache: Path,
    say: Callable[[str], object],
) -> Path | Absent:
    """The model in the engine's own format; kept, under a name that holds the hash of what it was made from."""
    peer = PEERS[name]
    title = f"{peer.title} {precision}"
    artefact = bundle.manifest.artefact(source)
    home = next((h for h in homes if h.has(peer.converter, every=True)), None)
    faces = sha256_bytes(inputs.read_bytes()) if precision == "int8" else ""
    versions = "" if home is None else ",".join(home.packages[c] for c in peer.converter)
    key = sha256_bytes(f"{artefact.sha256} {precision} {versions} {faces}".encode())[:12]
    out = cache / f"{name}-{precision}-{key}{peer.suffix}"
    if home is None:
        return Absent(title, f"no converter ({' and '.join(peer.converter)})", peer.install_converter)
    if not out.is_file():
        say(f"converting for {title}")
        cache.mkdir(parents=True, exist_ok=True)
        model = bundle.directory / artefact.file
        part = cache / f".part-{out.name}"
        arguments = [name, str(model.absolute()), str(part.absolute()), precision, str(inputs)]
        try:
            run_script(home.python, ALONE / "convert.py", arguments, CONVERT_SECONDS, child_environment(1))
            if not part.is_file():
                raise ChildError("the converter wrote nothing")
            if part.suffix in (".param", ".xml"):
                part.with_suffix(".bin").replace(out.with_suffix(".bin"))
            part.replace(out)
        except (ChildError, OSError) as error:
            return Absent(title, f"its converter fails: {error}")
    return out
