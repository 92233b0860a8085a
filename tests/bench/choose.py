"""Which network to take: size, accuracy and latency of checkpoints side by side, as a table and a picture.

    python -m tests.bench.choose small.ckpt large.ckpt --data DATA/wflw_real --also mobilenetv3-small:1:112

Each network is fused, exported and compiled to C; its C and ONNX Runtime alternate on one core.
`--also NAME:WIDTH:SIZE` adds the speed of a network with random weights, since speed does not depend on them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from export.fuse import fuse
from export.onnx_export import export_graph
from export.onnx_file import to_bytes
from export.simplify import simplify
from runtime.errors import InputError
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from tests.bench.c_engine import generated, onnxruntime_engine, per_call, repeated
from tests.bench.measure import interleave, pinned, save
from train.checkpoint import load_model
from train.data.open import open_source
from train.evaluate import crop_faces, evaluate, torch_predictor
from train.metrics import Scores
from train.models.count import count
from train.models.zoo import build

ROUNDS = 30
HEADINGS = (
    "network", "pixels", "M weights", "M multiply-adds", "NME %", "FR@0.1 %", "AUC@0.1",
    "C, us", "ONNX Runtime, us", "ratio",
)  # fmt: skip
SIMPLIFY_ULPS = 1e6
"""A bench does not prove: `toolkit export` does."""


@dataclass(frozen=True)
class Candidate:
    """A fused network, by name."""

    name: str
    spec: ModelSpec
    model: nn.Module
    scores: Scores | None
    """None: random weights."""


def trained(text: str, data: str | None) -> Candidate:
    """CHECKPOINT or TITLE=CHECKPOINT, measured on the faces of `data`."""
    title, _, place = text.rpartition("=")
    model, checkpoint = load_model(place)
    spec = checkpoint.spec
    fused = model if checkpoint.kind == "fused" else fuse(model, spec)
    scores = None
    if data is not None:
        crops = crop_faces(open_source(data, split="test") if Path(data).is_dir() else open_source(data), spec)
        scores = evaluate(torch_predictor(fused), crops, spec).scores["all"]
    return Candidate(title or Path(place).stem, spec, fused, scores)


def untrained(text: str) -> Candidate:
    """NAME:WIDTH:SIZE with random weights."""
    try:
        name, width, size = text.split(":")
        spec = ModelSpec(name, float(width), input_size=int(size))
    except ValueError:
        sys.exit(f"--also {text!r}: expected NAME:WIDTH:SIZE, e.g. mobilenetv3-small:1:112")
    torch.manual_seed(0)
    return Candidate(f"{name} x{spec.width:g}", spec, build(spec, fused=True).eval(), None)


def graph_of(candidate: Candidate) -> ModelProto:
    """Its ONNX graph, simplified as by `toolkit export`."""
    side = candidate.spec.input_size
    probes = np.random.default_rng(1).uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
    raw = export_graph(candidate.model, candidate.spec)
    return simplify(raw, candidate.spec, probes, SIMPLIFY_ULPS).model


def row_of(candidate: Candidate) -> dict[str, object]:
    """Size and accuracy."""
    cost = count(candidate.model, candidate.spec.input_size)
    row: dict[str, object] = {
        "pixels": candidate.spec.input_size, "params_m": cost.params / 1e6, "macs_m": cost.macs / 1e6,
    }  # fmt: skip
    if candidate.scores is not None:
        scores = candidate.scores
        row |= {"nme": 100 * scores.nme, "fr": 100 * scores.failure_rate, "auc": scores.auc}
    return row


def markdown(rows: dict[str, dict[str, object]]) -> str:
    """The table of the documentation."""
    lines = [
        f"| {' | '.join(HEADINGS)} |",
        "|" + "---|" * len(HEADINGS),
    ]
    forms = {"pixels": "d", "params_m": ".3f", "macs_m": ".1f", "nme": ".3f", "fr": ".2f", "auc": ".4f"}
    forms |= {"c_us": ".0f", "onnxruntime_us": ".0f", "ratio": ".2f"}
    for name, row in rows.items():
        cells = [format(row[key], form) if key in row else "-" for key, form in forms.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: dict[str, dict[str, object]], path: Path) -> None:
    """NME against the C's latency; down and left is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = {name: row for name, row in rows.items() if "nme" in row and "c_us" in row}
    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    sizes = {row["pixels"] for row in known.values()}
    where = "".join(f", {size} px" for size in sizes) if len(sizes) == 1 else ""
    slowest = max((float(str(row["c_us"])) for row in known.values()), default=1.0)
    taken: list[tuple[float, float]] = []
    for name, row in sorted(known.items(), key=lambda item: float(str(item[1]["nme"]))):
        x, y = float(str(row["c_us"])), float(str(row["nme"]))
        axes.scatter(x, y, s=12 + 30 * float(str(row["params_m"])), alpha=0.7)
        left = x > slowest / 4
        text = name if where else f"{name} ({row['pixels']} px)"
        near = any(abs(np.log(x / u)) < 1.3 and abs(y - v) < 0.8 for u, v in taken)
        place = (-9 if left else 7, 10 if near else -3)
        axes.annotate(
            text, (x, y), xytext=place, textcoords="offset points", fontsize=8, ha="right" if left else "left"
        )
        taken.append((x, y))
    axes.set(
        xscale="log",
        xlabel="C, one core: microseconds a face (log)",
        ylabel="NME %",
        title=f"accuracy against latency{where}",
    )
    axes.margins(0.15)
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="CHECKPOINT, or TITLE=CHECKPOINT")
    parser.add_argument("--data", help="faces to measure accuracy on; without it, speed alone")
    parser.add_argument("--also", action="append", default=[], metavar="NAME:WIDTH:SIZE")
    parser.add_argument("--plot", type=Path, help="PNG of accuracy against latency")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    parser.add_argument("--quick", action="store_true", help="a few rounds only, to see that it works")
    options = parser.parse_args(argv)
    candidates = [trained(text, options.data) for text in options.checkpoints]
    candidates += [untrained(text) for text in options.also]
    if not candidates:
        sys.exit("nothing to compare: name checkpoints, or networks by --also")
    rows: dict[str, dict[str, object]] = {}
    samples = {}
    for candidate in candidates:
        model, row = graph_of(candidate), row_of(candidate)
        side = candidate.spec.input_size
        face = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        with pinned(), tempfile.TemporaryDirectory() as place:
            contenders = {"ONNX Runtime": onnxruntime_engine(model, network_input(face[None], candidate.spec))}
            try:
                contenders["C"] = generated(model, candidate.spec, Path(place) / "c", ("-march=native",), face)
            except InputError as error:
                print(f"{candidate.name}: no C of it: {error}", flush=True)
            rounds = interleave({n: repeated(call) for n, call in contenders.items()}, 3 if options.quick else ROUNDS)
        timed = per_call(rounds)
        samples[candidate.name] = timed
        row |= {"onnxruntime_us": 1e6 * timed.median("ONNX Runtime"), "onnx_bytes": len(to_bytes(model))}
        if "C" in contenders:
            row |= {"c_us": 1e6 * timed.median("C"), "ratio": timed.ratio("ONNX Runtime", "C")}
        rows[candidate.name] = row
        print(f"{candidate.name}: {row}", flush=True)
    print(markdown(rows))
    if options.plot is not None:
        draw(rows, options.plot)
    save(options.out, "choose", rows, samples)


if __name__ == "__main__":
    main()
