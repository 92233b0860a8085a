"""What an ensemble's labels are worth, on faces with 68 true points: python -m tests.bench.labels --data ../shared"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from runtime.layouts import IBUG68_IN_WFLW98
from tests.bench.protocols import MODELS
from toolkit.labelling import open_members
from train.data.open import open_source
from train.label.ensemble import Combine, Ensemble
from train.label.job import label_faces
from train.label.rules import Rules
from train.label.variations import variations_named
from train.metrics import nme_per_face

CASES: tuple[tuple[str, int, str, Combine], ...] = (
    ("one model, plain crop", 1, "none", "mean"),
    ("one model, flip", 1, "flip", "mean"),
    ("one model, many", 1, "many", "mean"),
    ("three models, plain crop", 3, "none", "mean"),
    ("three models, few (default)", 3, "few", "mean"),
    ("three models, few, median", 3, "few", "median"),
    ("three models, many", 3, "many", "mean"),
)
EVERYTHING = Rules(max_disagreement=9.0, max_distance=9.0)
LIMIT = Rules().max_disagreement


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def rows(shared: Path, count: int | None) -> list[str]:
    source = open_source(shared / "data" / "h300w_68", split="test")
    if count is not None:
        from train.data.combine import SubsetSource

        source = SubsetSource(source, range(min(count, len(source))))
    models = [str(shared / "models" / "landmarks" / file) for file in MODELS.values()]
    truth = np.stack([source.sample(i).points for i in range(len(source))]).astype(np.float64)
    lines = [
        f"| labels of {len(source)} faces | NME % | kept at {LIMIT:g} | NME % of those | rank correlation |",
        "|---|---|---|---|---|",
    ]
    for what, number, looks, combine in CASES:
        ensemble = Ensemble(open_members(models[:number]), variations_named(looks), combine)
        with tempfile.TemporaryDirectory() as folder:
            labels, _ = label_faces(source, ensemble, EVERYTHING, Path(folder) / "job")
        points = labels.points[:, list(IBUG68_IN_WFLW98)].astype(np.float64)
        errors = nme_per_face(points, truth, source.layout.default_normaliser)
        cells = [f"{100 * errors.mean():.3f}", "", "", ""]
        if number > 1 or looks != "none":
            kept = labels.disagreement <= LIMIT
            linked = np.corrcoef(ranks(labels.disagreement), ranks(errors))[0, 1]
            cells[1:] = [f"{kept.sum()}", f"{100 * errors[kept].mean():.3f}", f"{linked:.2f}"]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LANDMARK_DATA", "../shared")))
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    print("\n".join(rows(given.data, given.count)))
