"""The pictures of a run: curves, cumulative error distribution, predictions against truth."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.files import write_atomic
from runtime.geometry import transform
from runtime.images import Image, write_image
from runtime.layouts import Layout
from runtime.lazy import require
from train.evaluate import Crops, Evaluation
from train.metrics import LIMIT, error_curve
from train.rundir import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE = 224
TRUTH, PREDICTION, INK = (90, 220, 90), (80, 80, 255), (245, 245, 245)
"""Colours of the prediction picture, BGR."""


def draw_curves(path: Path, rows: Sequence[Row], title: str) -> None:
    """Loss, NME and learning rate over the epochs."""
    figure = figure_of(11, 3.4)
    epochs = [row["epoch"] for row in rows]
    axes = figure.subplots(1, 3)
    axes[0].plot(epochs, [row["train_loss"] for row in rows], color="#356")
    axes[0].set_title("training loss")
    axes[1].plot(epochs, [row["train_nme"] for row in rows], color="#999", label="training (augmented)")
    axes[1].plot(epochs, [row["val_nme"] for row in rows], color="#c33", label="validation")
    best = min(rows, key=lambda row: row["val_nme"])
    axes[1].plot([best["epoch"]], [best["val_nme"]], "o", color="#c33", label=f"best {best['val_nme']:.2f} %")
    axes[1].set_yscale("log")
    axes[1].set_title("NME, %")
    axes[1].legend(frameon=False, fontsize=8)
    axes[2].plot(epochs, [row["lr"] for row in rows], color="#383")
    axes[2].set_title("learning rate")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25, which="both")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def draw_ced(path: Path, evaluations: Mapping[str, Evaluation], title: str) -> None:
    """Share of faces within each error, one curve for each set of faces."""
    figure = figure_of(5.6, 4.2)
    axis = figure.subplots()
    for name, found in evaluations.items():
        corners, share = error_curve(found.errors)
        overall = found.overall
        label = f"{name}: NME {100 * overall.nme:.2f} %, FR {100 * overall.failure_rate:.1f} %, AUC {overall.auc:.3f}"
        axis.step(100 * corners, 100 * share, where="post", label=label)
    axis.set_xlim(0, 100 * LIMIT)
    axis.set_ylim(0, 100)
    axis.set_xlabel(f"NME, % ({next(iter(evaluations.values())).normaliser})")
    axis.set_ylabel("faces, %")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.set_title(title, fontsize=10)
    save_figure(figure, path)


def draw_predictions(path: Path, crops: Crops, found: Evaluation, each: int = 6) -> None:
    """The best, median and worst faces: truth in green, prediction in red."""
    order = np.argsort(found.errors, kind="stable")
    each = min(each, len(order))
    middle = max(0, (len(order) - each) // 2)
    rows = {"best": order[:each], "median": order[middle : middle + each], "worst": order[len(order) - each :][::-1]}
    pictures = []
    for name, faces in rows.items():
        tiles = [_tile(crops, found, int(face), name if at == 0 else "") for at, face in enumerate(faces)]
        pictures.append(np.concatenate(tiles, axis=1))
    write_image(path, np.concatenate(pictures, axis=0))


def draw_sheet(path: Path, crops: Crops, found: Evaluation, faces: Sequence[int], columns: int = 6) -> None:
    """Chosen faces in rows, in the given order: truth in green, prediction in red, the error below."""
    tiles = [_tile(crops, found, int(face), "") for face in faces]
    columns = min(columns, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)]
    write_image(path, np.concatenate(rows, axis=0))


def _tile(crops: Crops, found: Evaluation, face: int, label: str) -> Image:
    import cv2

    tile = cv2.resize(crops.images[face], (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    matrix = crops.regions[face].to_crop(TILE)
    for points, colour in ((crops.points[face], TRUTH), (found.points[face], PREDICTION)):
        _draw_points(tile, transform(matrix, points), crops.layout, colour)
    error = 100 * found.errors[face]
    text = f"{error:.1f} %" if math.isfinite(error) else "not finite"
    for at, words in ((TILE - 8, text), (16, label)):
        for colour, thick in (((0, 0, 0), 3), (INK, 1)):
            cv2.putText(tile, words, (6, at), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thick, cv2.LINE_AA)
    return np.asarray(tile, dtype=np.uint8)


def _draw_points(tile: Any, points: NDArray[np.float64], layout: Layout, colour: tuple[int, int, int]) -> None:
    import cv2

    fine = 4  # OpenCV counts in 1/16 pixels here, so that a small error is seen
    shown = np.clip(np.nan_to_num(points, nan=-1e3, posinf=1e3, neginf=-1e3), -1e3, 1e3)
    whole = np.rint(shown * (1 << fine)).astype(np.int32)
    for line in layout.lines:
        part = whole[list(line)]
        if np.isfinite(points[list(line)]).all():
            cv2.polylines(tile, [part.reshape(-1, 1, 2)], False, colour, 1, cv2.LINE_AA, fine)
    for x, y in whole.tolist():
        cv2.circle(tile, (x, y), 1 << fine, colour, -1, cv2.LINE_AA, fine)


def figure_of(width: float, height: float) -> Figure:
    """A figure without the global state and the display of pyplot."""
    figure_class = require("matplotlib.figure", "drawing plots").Figure
    figure: Figure = figure_class(figsize=(width, height), layout="constrained")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    # No software version and date inside: equal curves give equal bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))
