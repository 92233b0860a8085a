"""The ROC of `Face.score`: real faces, loosely cut, against squares of the same photos that hold no face.

`--photos` is a folder with `faces.json` (image, boxes_xywh) and `images/`, as the project's test material has it;
`--faces` adds labelled faces of any data set. The constants of runtime/confidence.py were fitted on the photos and
faces with even numbers; only those with odd numbers are measured here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import get_args

import numpy as np

from runtime.confidence import ScoreKind, score
from runtime.crops import cut
from runtime.files import write_json
from runtime.geometry import Box, Region, crop_region
from runtime.images import Image, read_image
from runtime.landmarker import Landmarker
from runtime.spec import CropRule
from train.data.open import open_source

SMALLEST = 14
SQUARES = 12


def loose(region: Region, generator: np.random.Generator) -> Region:
    """Off by as much as detectors are."""
    move = generator.uniform(-0.08, 0.08, 2) * region.side
    return Region(region.cx + move[0], region.cy + move[1], region.side * generator.uniform(0.85, 1.15))


def empty_squares(image: Image, boxes: np.ndarray, generator: np.random.Generator) -> list[Region]:
    """Squares of all sizes that touch no box by more than a fiftieth of their area."""
    height, width = image.shape[:2]
    found: list[Region] = []
    for _ in range(200):
        side = float(np.exp(generator.uniform(np.log(24), np.log(300))))
        cx, cy = generator.uniform(0, width), generator.uniform(0, height)
        low = np.maximum(boxes[:, :2], [cx - side / 2, cy - side / 2])
        high = np.minimum(boxes[:, :2] + boxes[:, 2:], [cx + side / 2, cy + side / 2])
        inside = 0.3 * side < cx < width - 0.3 * side and 0.3 * side < cy < height - 0.3 * side
        if inside and (high - low).clip(0).prod(axis=1).sum() < 0.02 * side * side:
            found.append(Region(cx, cy, side))
        if len(found) == SQUARES:
            break
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--faces", help="labelled faces, as for toolkit eval")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON files")
    options = parser.parse_args(argv)
    lm = Landmarker(options.bundle, options.backend, "whole")
    generator = np.random.default_rng(1)
    kinds = [kind for kind in get_args(ScoreKind) if kind != "none"]
    groups = ("labelled faces", "faces in groups", "no face")
    values: dict[str, dict[str, list[float]]] = {kind: {group: [] for group in groups} for kind in kinds}

    def look(image: Image, regions: list[Region], group: str) -> None:
        if regions:
            crops = cut(image, regions, lm.spec)
            outputs = lm.model.landmarks(crops)
            for kind in kinds:
                values[kind][group] += score(kind, lm.model, crops, outputs).tolist()

    if options.faces:
        source = open_source(options.faces)
        for index in range(1, len(source), 2):
            region = crop_region(Box.around(source.sample(index).points), lm.spec.crop)
            look(source.photo(index), [loose(region, generator)], "labelled faces")
    rule = CropRule(scale=1.0, shift=(0.0, 0.06))
    for entry in json.loads((options.photos / "faces.json").read_text())[1::2]:
        image = read_image(options.photos / "images" / entry["image"])
        boxes = np.asarray(entry["boxes_xywh"], dtype=float).reshape(-1, 4)
        known = [Box(x, y, x + w, y + h) for x, y, w, h in boxes if min(w, h) > SMALLEST]
        look(image, [loose(crop_region(box, rule), generator) for box in known], "faces in groups")
        look(image, empty_squares(image, boxes, generator), "no face")
    rows = {}
    head = f"{'score':6} {'against no face':16} {'n':>5} {'ROC area':>9}"
    print(f"{head} {'found at 1 % / 5 % false':>25} {'above 0.5':>10}")
    for kind in kinds:
        bad = np.asarray(values[kind]["no face"])
        for group in groups:
            good = np.asarray(values[kind][group])
            if not len(good):
                continue
            area = float(np.mean(good[:, None] > bad[None]) + np.mean(good[:, None] == bad[None]) / 2)
            at = [float((good > np.quantile(bad, 1 - rate)).mean()) for rate in (0.01, 0.05)]
            rows[f"{kind}, {group}"] = {"n": len(good), "area": area, "at": at, "half": float((good > 0.5).mean())}
            shares = f"{at[0]:.3f} / {at[1]:.3f}"
            print(f"{kind:6} {group:16} {len(good):5} {area:9.4f} {shares:>25} {(good > 0.5).mean():10.3f}")
    write_json(options.out / "confidence.json", {"name": "confidence", "figures": rows, "scores": values})


if __name__ == "__main__":
    main()
