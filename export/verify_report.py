"""A proof as rows for the screen, as plain data for machines, and as a picture."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from export.verify_blocks import WEIGHT_LIMIT, BlockProof
from export.verify_fuse import Proof
from runtime.files import atomic_path

COLUMNS = ("block", "branches", "depth", "weights ULP", "f64 max", "f64 / limit", "f32 max", "f32 rel", "f32 / limit")
_SCHEMA = 1


def rows(proof: Proof, all_blocks: bool = False, most: int = 12) -> list[list[str]]:
    """Table rows in the network's order: all blocks, or the failed ones and those nearest to their limits."""
    shown = proof.blocks
    if not all_blocks and len(shown) > most:
        ranked = sorted(shown, key=lambda block: (block.problem() is None, -share(block)))
        chosen = {block.name for block in ranked[:most]}
        shown = [block for block in shown if block.name in chosen]
    return [_row(block) for block in shown]


def share(block: BlockProof) -> float:
    """The largest fraction of a rounding limit that a block uses; infinite for a wrong form."""
    gaps = [g.share for g in (block.exact, block.faces, block.noise) if g is not None]
    return max(gaps, default=math.inf)


def _row(block: BlockProof) -> list[str]:
    problem = block.problem()
    mark = "" if problem is None else f"  FAILED: {problem[0]}"
    cells = [f"{block.name}{mark}", str(block.branches), str(block.depth)]
    if block.weights is None or block.exact is None or block.faces is None or block.noise is None:
        return [*cells, *["-"] * 6]
    single = max((block.faces, block.noise), key=lambda g: g.share)
    return [
        *cells,
        f"{block.weights.ulp:.3g}",
        f"{block.exact.max_abs:.1e}",
        f"{block.exact.share:.3f}",
        f"{single.max_abs:.1e}",
        f"{single.max_rel:.1e}",
        f"{single.share:.3f}",
    ]


def summary(proof: Proof) -> list[list[str]]:
    """What holds for the whole network: check, value, limit."""
    result = []
    if proof.whole is not None:
        shift = proof.whole.shift
        limit = proof.whole.ulp_limit
        result = [
            [
                "whole net, float64 difference / output scale",
                f"{proof.whole.exact:.1e}",
                f"{proof.whole.exact_limit:.0e}",
            ],
            ["whole net, float32 landmarks, ULP", f"{proof.whole.ulp:.0f}", f"{limit:.0f}"],
            ["landmarks, largest shift in input pixels", f"{shift.max_pixels:.1e}", "-"],
            [f"landmarks, worst face in % of {shift.normaliser}", f"{shift.worst_percent:.1e}", "-"],
            ["copied layers, values that differ", str(proof.copied), "0"],
        ]
    if proof.blocks:
        worst = proof.worst
        weights = max((b.weights.ulp for b in proof.blocks if b.weights is not None), default=math.inf)
        result.insert(0, ["weights against impulse response, worst ULP", f"{weights:.4f}", f"{WEIGHT_LIMIT}"])
        gaps = [g for g in (worst.exact, worst.faces, worst.noise) if g is not None]
        if gaps:
            lead = max(gaps, key=lambda g: g.share)
            place = f"{worst.name}, channel {lead.channel}, probe {lead.probe}"
            result.append([f"nearest to its limit: {place}", f"{lead.share:.3f}", "1"])
    return result


def to_data(proof: Proof) -> dict[str, Any]:
    """Plain data for JSON; what is not finite becomes null."""
    data: dict[str, Any] = {
        "schema": _SCHEMA,
        "passed": proof.passed,
        "spec": proof.spec.to_dict(),
        "probes": proof.probes,
        "seed": proof.seed,
        "problems": [asdict(problem) for problem in proof.problems],
        "copied": proof.copied,
        "whole": asdict(proof.whole) if proof.whole is not None else None,
        "blocks": [asdict(block) for block in proof.blocks],
    }
    cleaned: dict[str, Any] = _finite(data)
    return cleaned


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def draw(proof: Proof, path: Path | str) -> None:
    """A PNG: each block's largest float32 and float64 difference, with the limit at that place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = [b for b in proof.blocks if b.exact is not None and b.faces is not None and b.noise is not None]
    figure = Figure(figsize=(max(8.0, 0.22 * len(blocks) + 3), 7), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    place = np.arange(len(blocks))
    for axis, title, kinds in (
        (axes[0], "float32: fused against multi-branch", (("faces", "on faces"), ("noise", "on random inputs"))),
        (axes[1], "float64: the algebra alone", (("exact", "on both"),)),
    ):
        for colour, (kind, label) in zip(("tab:blue", "tab:cyan"), kinds, strict=False):
            gaps = [getattr(block, kind) for block in blocks]
            limits = np.array([g.limit for g in gaps])
            worst = np.array([min(g.share, 1e12) for g in gaps]) * limits
            axis.plot(place, _visible(worst), "o", ms=4, color=colour, label=label)
            axis.plot(place, _visible(limits), "_", ms=7, color=colour, label=f"limit there, {label}")
            bad = np.array([not g.share <= 1 for g in gaps], dtype=bool)
            axis.plot(place[bad], _visible(worst[bad]), "x", ms=10, color="tab:red")
        axis.set_yscale("log")
        axis.set_ylabel("difference")
        axis.set_title(title, loc="left")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    axes[1].set_xticks(place, [block.name for block in blocks], rotation=90, fontsize=6)
    verdict = "proven" if proof.passed else f"FAILED at {proof.problems[0].where}"
    figure.suptitle(
        f"{proof.spec.architecture} width {proof.spec.width:g}: {verdict}; {proof.probes}, seed {proof.seed}"
    )
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _visible(values: Any) -> Any:
    """Exact agreement has no logarithm; it is drawn at the bottom."""
    return np.maximum(values, 1e-18)
