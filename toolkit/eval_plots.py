"""The pictures of an evaluation: error curves, the error of each landmark on a mean face, the worst faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.evaluate import ArtefactScore, Scoreboard
from train.evaluate import Crops, Evaluation
from train.metrics import face_scale, normaliser_for
from train.plots import draw_ced, draw_sheet, figure_of, save_figure

WORST = 24
FILES = ("ced.png", "landmarks.png", "worst.png")


def draw_all(board: Scoreboard, folder: Path) -> list[Path]:
    """Write every picture into a folder; the worst faces are those of the last artefact, the one in question."""
    if board.crops is None:
        return []
    paths = [folder / name for name in FILES]
    first = board.rows[0].evaluation
    draw_ced(paths[0], {row.name: row.evaluation for row in board.rows}, f"{board.data}: crop {first.crop}")
    draw_landmarks(paths[1], board.rows, board.crops, board.data)
    last = board.rows[-1].evaluation
    worst = np.argsort(-last.errors, kind="stable")[:WORST]
    draw_sheet(paths[2], board.crops, last, worst.tolist())
    return paths


def landmark_errors(evaluation: Evaluation, crops: Crops) -> NDArray[np.float64]:
    """Mean error of each landmark over the faces that label it, as a fraction of the normaliser."""
    scale = face_scale(crops.points, normaliser_for(crops.layout, evaluation.normaliser))
    gap = evaluation.points - crops.points
    return np.asarray(np.nanmean(np.hypot(gap[..., 0], gap[..., 1]) / scale[:, None], axis=0))


def mean_face(crops: Crops) -> NDArray[np.float64]:
    """The average of all faces, each moved to the middle and scaled to one size."""
    centred = crops.points - np.nanmean(crops.points, axis=1, keepdims=True)
    size = np.sqrt(np.nanmean(np.square(centred), axis=(1, 2), keepdims=True))
    return np.asarray(np.nanmean(centred / size, axis=0))


def draw_landmarks(path: Path, rows: Sequence[ArtefactScore], crops: Crops, data: str) -> None:
    """A mean face for each artefact; the larger and darker a circle, the larger that landmark's error."""
    face = mean_face(crops)
    errors = [100 * landmark_errors(row.evaluation, crops) for row in rows]
    most = max(float(np.nanmax(e)) for e in errors)
    columns = min(len(rows), 4)
    lines = -(-len(rows) // columns)
    figure = figure_of(3.6 * columns + 0.8, 3.9 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    drawn = None
    for axis, row, found in zip(grid.reshape(-1), rows, errors, strict=False):
        for line in crops.layout.lines:
            axis.plot(face[list(line), 0], face[list(line), 1], color="#bbb", linewidth=0.8, zorder=1)
        drawn = axis.scatter(
            *face.T, c=found, s=8 + 90 * found / most, cmap="viridis_r", vmin=0, vmax=most, edgecolors="none", zorder=2
        )
        worst = int(np.nanargmax(found))
        axis.annotate(
            f"{worst}: {found[worst]:.1f} %", face[worst], fontsize=7, xytext=(4, -9), textcoords="offset points"
        )
        axis.set_title(f"{row.name}: mean {np.nanmean(found):.2f} %", fontsize=9)
    for axis in grid.reshape(-1):
        axis.set_aspect("equal")
        axis.invert_yaxis()
        axis.axis("off")
    if drawn is not None:
        figure.colorbar(
            drawn, ax=grid.reshape(-1).tolist(), shrink=0.7, label=f"error, % ({rows[0].evaluation.normaliser})"
        )
    figure.suptitle(f"error of each landmark, {len(crops)} faces of {data}", fontsize=10)
    save_figure(figure, path)
