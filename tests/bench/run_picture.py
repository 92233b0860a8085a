"""The picture of docs/runtime.md: a wall of synthetic faces, found by their boxes and drawn by the runtime.

python -m tests.bench.run_picture BUNDLE docs/images/run.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from runtime import Box, Landmarker, draw_faces
from runtime.files import write_atomic
from runtime.images import Image
from train.data.open import open_source

COLUMNS, ROWS, TILE = 4, 1, 192


def wall(source_name: str = "synth:4@11") -> tuple[Image, list[Box]]:
    """Faces side by side in one picture, and their landmark boxes."""
    source = open_source(source_name)
    canvas = np.zeros((ROWS * TILE, COLUMNS * TILE, 3), np.uint8)
    boxes = []
    for index in range(len(source)):
        photo, points = source.photo(index), source.sample(index).points
        scale = TILE / max(photo.shape[:2])
        tile = cv2.resize(photo, (TILE, TILE), interpolation=cv2.INTER_AREA)
        corner = np.array([index % COLUMNS, index // COLUMNS]) * TILE
        canvas[corner[1] : corner[1] + TILE, corner[0] : corner[0] + TILE] = tile
        boxes.append(Box.around(points * scale + corner))
    return canvas, boxes


def main(bundle: str, target: str) -> None:
    image, boxes = wall()
    faces = Landmarker(bundle)(image, boxes)
    drawn = draw_faces(image, faces)
    data = cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    write_atomic(Path(target), lambda stream: stream.write(data))
    print(f"{target}: {len(data)} bytes, scores {', '.join(f'{face.score:.2f}' for face in faces)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
