"""A bench as rows, Markdown and a picture."""

from __future__ import annotations

import io
import math
from pathlib import Path

from runtime.files import write_atomic
from runtime.lazy import require
from toolkit.bench.result import DIFFERS, BenchResult, Change, Figures, summary

COLUMNS = (
    "contender", "p50 us", "p90", "p95", "p99", "min", "x", "at 30/s p50", "load ms", "first ms", "RSS MB", "model KB",
    "library MB", "off px",
)  # fmt: skip
LEGEND = (
    "x: times the fastest, median over the rounds. at 30/s: one face every 33 ms, as a camera gives them. "
    "load: without importing the library. RSS: peak above Python with numpy. library: shared libraries that were "
    "loaded. off: largest landmark difference from float32 in ONNX Runtime. The C takes bytes and includes their "
    "normalisation; the others get prepared floats."
)
_COLOURS = {"fp32": "#3b6ea5", "fp16": "#7a5ea8", "int8": "#2f8f5b"}


def rows(result: BenchResult) -> list[tuple[str, ...]]:
    """One row per contender, fastest first."""
    best = result.fastest
    return [_row(f, best) for f in sorted(result.figures, key=lambda f: f.median)]


def _row(figures: Figures, best: Figures) -> tuple[str, ...]:
    us = {name: f"{1e6 * value:.0f}" for name, value in summary(figures).items()}
    pace = f"{1e6 * figures.pace_median:.0f}" if figures.pace else "-"
    return (
        figures.title,
        *(us[name] for name in ("p50", "p90", "p95", "p99", "min")),
        f"{figures.ratio_to(best):.2f}",
        pace,
        f"{1e3 * figures.load_s:.1f}",
        f"{1e3 * figures.first_s:.1f}",
        f"{figures.rss / 1e6:.1f}",
        f"{figures.model_bytes / 1024:.0f}",
        f"{figures.library_bytes / 1e6:.1f}",
        f"{figures.max_px:.2g}" + (" !" if figures.note.endswith(DIFFERS) else ""),
    )


def throughput_rows(result: BenchResult) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows of faces per second; who takes one face at a time has one number."""
    batches = sorted({int(b) for f in result.figures for b in f.throughput})
    columns = ["faces/s at batch", *map(str, batches)]
    table = [
        (f.title, *(f"{f.throughput[str(b)]:.0f}" if str(b) in f.throughput else "" for b in batches))
        for f in sorted(result.figures, key=lambda f: f.median)
        if f.throughput
    ]
    return columns, table


def title(result: BenchResult) -> str:
    """What was measured, where."""
    facts, model = result.environment, result.model
    runs = result.settings["rounds"] * result.settings["burst"]
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    pinned = f", core {', '.join(map(str, facts['pinned']))}" if facts["pinned"] else ""
    return (
        f"{model['bundle']} ({model['architecture']} x{model['width']:g}, {model['input_size']} px): "
        f"{facts['cpu']}, {threads}{pinned}, {runs} runs each in turns, {model['faces']}"
    )


def change_rows(changes: list[Change]) -> list[tuple[str, ...]]:
    """Rows of a comparison with an older run."""
    return [
        (
            c.title,
            f"{1e6 * c.before:.0f}",
            f"{1e6 * c.after:.0f}",
            f"{c.ratio:.3f}",
            f"{c.low:.3f} to {c.high:.3f}",
            c.verdict,
        )
        for c in changes
    ]


CHANGE_COLUMNS = ("contender", "before p50 us", "now p50 us", "ratio", "95 % of resamplings", "")


def markdown(result: BenchResult) -> str:
    """The whole bench as a Markdown page, ready for a README."""
    parts = [f"**{_plain(title(result))}**", "", *_table(COLUMNS, rows(result)), "", LEGEND, ""]
    columns, table = throughput_rows(result)
    if table:
        parts += [*_table(columns, table), ""]
    if result.absent:
        parts += ["Not timed:", ""]
        parts += [
            f"- {_plain(a.title)}: {_plain(a.reason)}" + (f"; `{_plain(a.fix)}`" if a.fix else "")
            for a in result.absent
        ]
        parts += [""]
    if result.warnings:
        parts += ["Why a number may be wrong:", "", *[f"- {_plain(w)}" for w in result.warnings], ""]
    facts = result.environment
    versions = sorted({f"{f.engine} {f.version}" for f in result.figures if f.version})
    machine = (
        f"{facts['system']} {facts['kernel']}, Python {facts['python']}, governor {facts['governor'] or 'unknown'}"
    )
    flags, model = " ".join(facts["flags"]), result.model["sha256"][:16]
    parts += [f"Environment: {machine}, flags {flags}; {', '.join(versions)}; model sha256 {model}", ""]
    return "\n".join(parts)


def _table(columns: tuple[str, ...] | list[str], body: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(map(_plain, row)) + " |" for row in body]


def _plain(text: str) -> str:
    """Markdown shows it as it is."""
    return " ".join(text.replace("|", "/").replace("`", "'").replace("<", "&lt;").split())


def draw(result: BenchResult, path: Path) -> None:
    """Horizontal bars: the median, a line to p95, a dot where the camera's pace puts it."""
    require("matplotlib", "drawing the bench")
    from matplotlib.figure import Figure

    ordered = sorted(result.figures, key=lambda f: -f.median)
    figure = Figure(figsize=(8.4, 1.5 + 0.34 * len(ordered)), layout="constrained")
    axis = figure.subplots()
    for at, one in enumerate(ordered):
        numbers = summary(one)
        colour = _COLOURS.get(one.precision, "#777")
        axis.barh(at, 1e3 * numbers["p50"], height=0.62, color=colour)
        axis.plot([1e3 * numbers["p50"], 1e3 * numbers["p95"]], [at, at], color="#222", linewidth=1)
        if math.isfinite(one.pace_median):
            axis.plot([1e3 * one.pace_median], [at], "o", color="#c8731f", markersize=5)
        axis.annotate(
            f" {1e3 * numbers['p50']:.2f}", (1e3 * max(numbers["p95"], numbers["p50"]), at), va="center", fontsize=8
        )
    axis.set_yticks(range(len(ordered)), [one.title for one in ordered], fontsize=9)
    axis.set_xlabel("ms per face, lower is better: median (bar), to p95 (line), one face every 33 ms (dot)", fontsize=8)
    axis.set_title(_wrapped(title(result)), fontsize=8, loc="left")
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.margins(x=0.12)
    axis.set_xlim(left=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))


def _wrapped(text: str, width: int = 105) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
