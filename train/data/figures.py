"""The picture of a data set: where its faces look, and how large they are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.files import write_atomic
from runtime.lazy import require
from train.data.stats import Stats


def draw_stats(stats: Sequence[Stats], path: Path | str) -> None:
    """Write a PNG with the distributions of yaw, pitch, roll, size and flags; several splits lie over each other."""
    figure_module = require("matplotlib.figure", "drawing the statistics")
    figure = figure_module.Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for number, angle in enumerate(("yaw", "pitch", "roll")):
        limit = 95 if angle == "yaw" else 65
        for part in stats:
            values = np.clip(part.angles[:, number], -limit, limit)
            axes[number].hist(
                values[np.isfinite(values)], bins=np.arange(-limit, limit + 1, 5), alpha=0.6, label=_label(part)
            )
        axes[number].set_title(angle)
        axes[number].set_xlabel("degrees")
        axes[number].set_ylabel("faces")
    for part in stats:
        known = part.angles[np.isfinite(part.angles).all(axis=1)]
        axes[3].scatter(known[:, 0], known[:, 1], s=3, alpha=0.4, label=_label(part))
    axes[3].set(title="pose", xlabel="yaw, degrees", ylabel="pitch, degrees", xlim=(-95, 95), ylim=(-65, 65))
    low = min(float(part.sides.min()) for part in stats)
    high = max(float(part.sides.max()) for part in stats)
    for part in stats:
        axes[4].hist(
            part.sides, bins=np.geomspace(max(low, 1.0), max(high, low * 1.01, 1.1), 40), alpha=0.6, label=_label(part)
        )
    axes[4].set(title="face size", xscale="log", xlabel="longer side of the landmark box, pixels", ylabel="faces")
    _draw_flags(axes[5], stats)
    axes[0].legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    write_atomic(path, lambda out: out.write(stream.getvalue()))


def _label(part: Stats) -> str:
    return f"{part.split or part.name} ({part.faces})"


def _draw_flags(axes: object, stats: Sequence[Stats]) -> None:
    known = [part for part in stats if part.attributes]
    plot: object = axes
    if not known:
        plot.text(0.5, 0.5, "flags unknown", ha="center")  # type: ignore[attr-defined]
        plot.set_axis_off()  # type: ignore[attr-defined]
        return
    width = 0.8 / len(known)
    for number, part in enumerate(known):
        flags = part.attributes or {}
        places = np.arange(len(flags)) + number * width
        shares = [100 * count / part.faces for count in flags.values()]
        plot.bar(places, shares, width, alpha=0.8, label=_label(part))  # type: ignore[attr-defined]
    plot.set_xticks(np.arange(len(flags)), list(flags), rotation=30, ha="right")  # type: ignore[attr-defined]
    plot.set(title="flags", ylabel="% of the faces")  # type: ignore[attr-defined]
