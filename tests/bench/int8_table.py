"""INT8 of landmark models, measured: our modes beside ONNX Runtime's and NNCF's, NME on WFLW subsets.

Run as `python -m tests.bench.int8_table --rows fp32,ort-u8s8,fast`; each row is added to int8_table.json in --out, so
the slow ones can run one by one. Needs the real faces (LANDMARK_DATA); calibration always uses the training faces of
h300w_68, measurement always wflw_real. `--checkpoint FILE --model NAME` measures a network of one's own. NNCF has pins
of its own: name the Python of an environment with nncf, onnx and onnxruntime with --nncf-python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from calib.augment import centre
from calib.graph import read_graph
from calib.landmarks import landmark_shift
from calib.plan import predict_float
from calib.quantize import Int8Result, quantize
from calib.select import CalibrationFaces, select_faces
from export.fuse import fuse
from export.int8 import write_int8
from export.onnx_export import export_graph
from export.onnx_file import write_onnx
from export.probes import DEFAULT_SOURCE
from export.road import crop_uint8
from export.simplify import simplify
from runtime.errors import InputError
from runtime.files import write_json
from runtime.geometry import network_input
from runtime.spec import CropRule, ModelSpec
from train.checkpoint import load_checkpoint, model_of
from train.data.open import open_source
from train.evaluate import Crops, crop_faces, evaluate

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "ghostone": "PFLD_GhostOne_112_1_opt_sim.onnx",
    "ghostnet": "PFLD_GhostNet_112_1_opt_sim.onnx",
    "ghostnet-slim": "PFLD_GhostNet_Slim_112_1_opt_sim.onnx",
}
PUBLISHED = ModelSpec("ghostone", coordinates="corner", crop=CropRule(rounding="pixel"))
"""What the upstream files expect of their input."""
PLAIN = {"range_methods": ("minmax",), "mixed_most": 0}
ABLATION: Mapping[str, dict[str, Any]] = {
    "min-max only": {"equalise": False, "bias": False, "distill_steps": 0},
    "+ bias": {"equalise": False, "distill_steps": 0},
    "+ fine-tuning": {"equalise": False, "bias": False},
    "equalised only": {"bias": False, "distill_steps": 0, "noise_steps": 0},
    "equalised + bias": {"distill_steps": 0},
    "equalised + fine-tuning": {"bias": False},
    "equalised + learned rounding": {"bias": False, "distill_steps": 0, "rounding_steps": 60},
    "equalised + range search": {"bias": False, "distill_steps": 0, "search": 1},
    "equalised + percentile": {"bias": False, "distill_steps": 0, "force_range": "percentile"},
    "equalised + entropy": {"bias": False, "distill_steps": 0, "force_range": "entropy"},
    "equalised + mse": {"bias": False, "distill_steps": 0, "force_range": "mse"},
}
ORT_ROWS = ("ort-u8s8", "ort-s8s8", "ort-s8s8-inputs")
NNCF_SCRIPT = """
import sys, numpy as np, onnx, nncf
model, batch = onnx.load(sys.argv[1]), np.load(sys.argv[2])
name = model.graph.input[0].name
data = nncf.Dataset([{name: batch[i:i + 1]} for i in range(len(batch))])
onnx.save(nncf.quantize(model, data, subset_size=len(batch)), sys.argv[3])
print(nncf.__version__)
"""


@dataclass(frozen=True)
class Subject:
    """The network that is measured."""

    name: str
    path: Path
    spec: ModelSpec


def published(name: str, root: Path) -> Subject:
    """One of the upstream files."""
    return Subject(name, root / "models" / "landmarks" / FILES[name], PUBLISHED)


def own(checkpoint: Path, name: str, out: Path) -> Subject:
    """A checkpoint of ours, fused, exported and simplified as `toolkit export` does it."""
    loaded = load_checkpoint(checkpoint)
    network = model_of(loaded, str(checkpoint)).eval()
    fused = network if loaded.kind == "fused" else fuse(network, loaded.spec)
    probes = network_input(crop_uint8(DEFAULT_SOURCE, loaded.spec), loaded.spec)
    path = out / f"{name}.onnx"
    write_onnx(path, simplify(export_graph(fused, loaded.spec, opset=18, exporter="dynamo"), loaded.spec, probes).model)
    return Subject(name, path, loaded.spec)


def data_root() -> Path:
    """The folder with data/ and models/."""
    root = Path(os.environ.get("LANDMARK_DATA", ROOT.parent / "shared"))
    if not (root / "data" / "wflw_real").is_dir():
        raise InputError(f"{root}: no real faces here; set LANDMARK_DATA to the folder that holds data/ and models/")
    return root


def session(model: onnx.ModelProto, optimise: bool) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """A predictor in ONNX Runtime on one thread; batches of one, because upstream's files are fixed to it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda batch: np.concatenate([made.run(None, {name: batch[i : i + 1]})[0] for i in range(len(batch))])


class Reader:
    """Calibration inputs in the form ONNX Runtime's quantiser asks for."""

    def __init__(self, batch: NDArray[np.float32], name: str) -> None:
        self._rows: Iterator[dict[str, Any]] = iter([{name: batch[i : i + 1]} for i in range(len(batch))])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)


def not_older_than_13(model: onnx.ModelProto) -> onnx.ModelProto:
    """Per-channel DequantizeLinear needs opset 13."""
    return onnx.version_converter.convert_version(model, 13) if model.opset_import[0].version < 13 else model


def by_onnxruntime(row: str, path: Path, batch: NDArray[np.float32]) -> onnx.ModelProto:
    """quantize_static with its defaults, all operators symmetric, or inputs of Conv and Gemm only."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Data(Reader, CalibrationDataReader):  # type: ignore[misc]
        pass

    options: dict[str, Any] = {"per_channel": True}
    if row != "ort-u8s8":
        options |= {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
        options["extra_options"] = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    if row == "ort-s8s8-inputs":
        options["op_types_to_quantize"] = ["Conv", "Gemm"]
        options["extra_options"]["OpTypesToExcludeOutputQuantization"] = ["Conv", "Gemm"]
    model = onnx.load(path)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(not_older_than_13(model), source)
        data = Data(batch, model.graph.input[0].name)
        quantize_static(str(source), str(target), data, quant_format=QuantFormat.QDQ, **options)
        return onnx.load(target)


def by_nncf(python: str, path: Path, batch: NDArray[np.float32]) -> onnx.ModelProto:
    """NNCF's default post-training quantisation, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        source, data, target = Path(folder) / "a.onnx", Path(folder) / "x.npy", Path(folder) / "b.onnx"
        onnx.save(not_older_than_13(onnx.load(path)), source)
        np.save(data, batch, allow_pickle=False)
        subprocess.run([python, "-c", NNCF_SCRIPT, str(source), str(data), str(target)], check=True)
        return onnx.load(target)


def ours(
    subject: Subject, faces: CalibrationFaces, mode: str, options: dict[str, Any]
) -> tuple[onnx.ModelProto, Int8Result]:
    """Our own calibration and file."""
    settings = dict(options)
    forced = settings.pop("force_range", None)
    last = [0.0]

    def say(done: float, what: str) -> None:
        if time.monotonic() - last[0] > 15:
            last[0] = time.monotonic()
            print(f"  {100 * done:3.0f} %  {what}", file=sys.stderr, flush=True)

    model = onnx.load(subject.path)
    result = quantize(model, subject.spec, faces, mode=mode, algorithms=settings, shift_limit=1.0, progress=say)  # type: ignore[arg-type]
    plan = result.plan
    if forced is not None:
        plan = _with_range(result, subject.spec, faces, str(forced))
    return write_int8(model, plan), result


def _with_range(result: Int8Result, spec: ModelSpec, faces: CalibrationFaces, method: str) -> Any:
    from dataclasses import replace

    from calib.observe import observe
    from calib.ranges import group_scales

    plan = result.plan
    seen = observe(plan.graph, plan.sites, centre(faces.images, spec.input_size), spec)
    return replace(plan, scales=group_scales(plan.sites, seen, method))  # type: ignore[arg-type]


def measured(
    model: onnx.ModelProto, spec: ModelSpec, crops: Crops, truth: NDArray[np.float32], optimise: bool
) -> dict[str, Any]:
    """NME overall and per subset, failure rate, landmark shift."""
    predict = session(model, optimise)
    outputs = predict(network_input(crops.images, spec))
    rows = iter(np.split(outputs, np.arange(64, len(outputs), 64)))
    found = evaluate(lambda _: next(rows), crops, spec, batch_size=64)
    shift = landmark_shift(outputs, truth, spec)
    return {
        "nme": {name: round(100 * scores.nme, 4) for name, scores in found.scores.items()},
        "failures": round(100 * found.overall.failure_rate, 2),
        "shift": round(100 * float(shift.mean()), 4),
        "bytes": len(model.SerializeToString()),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure the asked rows and print the table."""
    parser = argparse.ArgumentParser(description="INT8 of landmark models, measured on wflw_real")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--model", default="ghostone", help=f"{', '.join(FILES)}, or any name for --checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="a network of one's own instead of a published one")
    known = ["fp32", *ORT_ROWS, "nncf", "fast", "best", *(f"ablation:{name}" for name in ABLATION)]
    parser.add_argument(
        "--rows", default="fp32,ort-u8s8,ort-s8s8,ort-s8s8-inputs,nncf,fast,best", help=", ".join(known)
    )
    parser.add_argument("--faces", type=int, default=512, help="calibration faces for our rows")
    parser.add_argument("--nncf-python", default="", help="Python of an environment with nncf")
    parser.add_argument("--markdown", action="store_true", help="measure nothing; print what --out holds as a table")
    arguments = parser.parse_args(argv)
    table_path = arguments.out / "int8_table.json"
    if arguments.markdown:
        print(markdown(json.loads(table_path.read_text())[arguments.model]))
        return
    rows = [row.strip() for row in arguments.rows.split(",")]
    wrong = [row for row in rows if row not in known]
    if wrong:
        parser.error(f"unknown row {wrong[0]!r}; known: {', '.join(known)}")
    if arguments.checkpoint is None and arguments.model not in FILES:
        parser.error(f"unknown model {arguments.model!r}; known: {', '.join(FILES)}, or give --checkpoint")
    root = data_root()
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.checkpoint
    subject = own(checkpoint, arguments.model, arguments.out) if checkpoint else published(arguments.model, root)
    path, spec = subject.path, subject.spec
    source = open_source(root / "data" / "h300w_68", split="train")
    crops = crop_faces(open_source(root / "data" / "wflw_real", split="test"), spec)
    graph = read_graph(onnx.load(path))
    truth = predict_float(graph, crops.images, spec)
    few = network_input(centre(select_faces(source, spec, 300).images, spec.input_size), spec)
    for row in rows:
        start = time.monotonic()
        extra: dict[str, Any] = {}
        if row == "nncf" and not arguments.nncf_python:
            print("nncf: not measured; name the Python of an environment that holds it with --nncf-python")
            continue
        if row == "fp32":
            model = onnx.load(path)
        elif row in ORT_ROWS:
            model = by_onnxruntime(row, path, few)
        elif row == "nncf":
            model = by_nncf(arguments.nncf_python, path, few)
        else:
            faces = select_faces(source, spec, arguments.faces)
            options = PLAIN | ABLATION[row.removeprefix("ablation:")] if row.startswith("ablation:") else {}
            model, result = ours(subject, faces, row if row in ("fast", "best") else "fast", options)
            extra = {
                "candidates": [vars(candidate) for candidate in result.candidates],
                "layers": [vars(layer) for layer in result.layers],
                "why": result.why(),
                "settings": result.settings,
            }
            onnx.save(model, arguments.out / f"{arguments.model}.{row.replace(':', '-').replace(' ', '-')}.int8.onnx")
        seconds = time.monotonic() - start
        figures = {
            **measured(model, spec, crops, truth, row in ("fp32", *ORT_ROWS, "nncf")),
            "seconds": round(seconds),
            **extra,
        }
        figures["sha256"] = hashlib.sha256(model.SerializeToString()).hexdigest()
        table = json.loads(table_path.read_text()) if table_path.is_file() else {}
        table.setdefault(arguments.model, {})[row] = figures
        write_json(table_path, table)
        print_row(row, figures, table[arguments.model].get("fp32"))


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The measured rows of one model as a table for the docs."""
    exact = rows["fp32"]["nme"]
    lines = ["| variant | NME % | x fp32 | worst subset | pose | shift % | FR@0.1 % |", "|---|---|---|---|---|---|---|"]
    for name, figures in rows.items():
        ratios = {subset: value / exact[subset] for subset, value in figures["nme"].items() if subset != "all"}
        worst = max(ratios, key=lambda subset: ratios[subset])
        nme = figures["nme"]["all"]
        cells = (
            name.removeprefix("ablation:"),
            f"{nme:.3f}",
            f"{nme / exact['all']:.4f}",
            f"{ratios[worst]:.4f} ({worst})" if name != "fp32" else "1",
            f"{ratios['pose']:.4f}",
            f"{figures['shift']:.2f}",
            f"{figures['failures']:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def print_row(row: str, figures: Mapping[str, Any], exact: Mapping[str, Any] | None) -> None:
    """One line: NME, its ratio to fp32 overall and per subset, shift, failures."""
    nme = figures["nme"]
    ratios = {name: value / exact["nme"][name] for name, value in nme.items()} if exact else {}
    subsets = "  ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items() if name != "all")
    print(
        f"{row:34} NME {nme['all']:.3f} %  x {ratios.get('all', 0):.4f}  shift {figures['shift']:.3f} %  "
        f"FR {figures['failures']:.2f} %  {figures['seconds']} s  {subsets}",
        flush=True,
    )


if __name__ == "__main__":
    main()
