"""Pictures of a labelling job: how far the models disagree, and the worst of what is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from runtime.files import write_atomic
from runtime.images import Image
from runtime.layouts import Layout
from runtime.lazy import require
from train.data.contact import face_cell, tile
from train.data.sample import FaceSource
from train.label.job import Labels

SHEET_FACES, SHEET_COLUMNS, SHEET_CELL = 24, 6, 192


def draw_disagreement(labels: Labels, rules: dict[str, Any], path: Path) -> None:
    """Write a PNG: disagreement per face with the limit, mean spread per point, weights of the kept points."""
    figure = require("matplotlib.figure", "drawing the disagreement").Figure(figsize=(13, 4), layout="constrained")
    faces, points, weights = figure.subplots(1, 3)
    values = 100 * labels.disagreement[np.isfinite(labels.disagreement)]
    limit = 100 * rules["max_disagreement"]
    faces.hist(np.minimum(values, 3 * limit), bins=60, range=(0, 3 * limit))
    faces.axvline(limit, color="black", linestyle="--", label=f"limit {limit:g} %")
    faces.set(title="faces", xlabel="disagreement, % of the face's size (last bin: and more)", ylabel="faces")
    faces.legend()
    kept = labels.kept
    points.bar(np.arange(labels.points.shape[1]), 100 * labels.spread[kept].mean(0), width=1.0)
    points.set(title="points of the kept faces", xlabel="point", ylabel="mean spread, % of the face's size")
    weights.hist(labels.weights[kept].ravel(), bins=50, range=(0, max(1.0, float(labels.weights[kept].max()))))
    weights.set(title="points of the kept faces", xlabel="weight", ylabel="points")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    write_atomic(path, lambda out: out.write(stream.getvalue()))


def worst_sheet(source: FaceSource, labels: Labels, layout: Layout) -> Image:
    """The kept faces with the greatest disagreement, worst first, each captioned with it."""
    worst = sorted(labels.kept, key=lambda index: (-float(labels.disagreement[index]), index))[:SHEET_FACES]
    cells = [
        face_cell(
            source.photo(index),
            labels.points[index],
            layout,
            SHEET_CELL,
            f"{index}: {100 * float(labels.disagreement[index]):.2f} %",
        )
        for index in worst
    ]
    return tile(cells, min(SHEET_COLUMNS, len(cells)))
