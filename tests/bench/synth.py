"""Synthetic faces for each second on one core, beside decoding the same pictures from PNG.

Rendering replaces reading a photo from disk, so decoding a PNG of the same pixels is the yardstick: a ratio of 10 says
that a rendered face costs as much as ten decoded ones. On a machine shared with others the figure by processor time is
the one to believe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from runtime.images import decode_image
from tests.bench.measure import arguments, interleave, pinned, save
from train.data.synth import SynthSource

SIZES = (112, 160)
TARGET = 200.0
BATCH = 20


class Walk:
    """Calls a function with the next `BATCH` face numbers, and keeps the processor time of each round."""

    def __init__(self, each: Callable[[int], object], faces: int) -> None:
        self.each, self.faces, self.at = each, faces, 0
        self.processor: list[float] = []

    def __call__(self) -> None:
        start = time.process_time()
        for _ in range(BATCH):
            self.each(self.at)
            self.at = (self.at + 1) % self.faces
        self.processor.append(time.process_time() - start)


def main(argv: Sequence[str] | None = None) -> None:
    """Time rendering, labels alone, and PNG decoding in turn on one core; print the figures, keep every sample."""
    options = arguments(argv, __doc__ or "")
    rounds, faces = (5, 40) if options.quick else (60, 400)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with pinned():
            contenders: dict[str, Walk] = {}
            for size in SIZES:
                source = SynthSource(faces, seed=1, size=size)
                files = [cv2.imencode(".png", source.photo(index))[1].tobytes() for index in range(faces)]
                contenders[f"render {size}"] = Walk(source.photo, faces)
                contenders[f"labels {size}"] = Walk(SynthSource(faces, seed=1, size=size).sample, faces)
                contenders[f"decode {size}"] = Walk(lambda index, files=files: decode_image(files[index]), faces)  # type: ignore[misc]
            samples = interleave(contenders, rounds)
    finally:
        cv2.setNumThreads(threads)
    rows: dict[str, object] = {"faces in a call": BATCH, "target faces/s": TARGET}
    print(f"{'photo':>6s} {'faces/s':>9s} {'by CPU':>7s} {'labels/s':>9s} {'PNG/s':>7s} {'render / PNG':>13s}")
    for size in SIZES:
        render, labels, decode = (f"{what} {size}" for what in ("render", "labels", "decode"))
        row = {
            "faces/s": BATCH / samples.median(render),
            "faces per processor second": BATCH / float(np.median(contenders[render].processor)),
            "labels/s": BATCH / samples.median(labels),
            "png/s": BATCH / samples.median(decode),
            "render / png": samples.ratio(render, decode),
        }
        rows[f"{size} px"] = row
        values = list(row.values())
        print(f"{size:6d} {values[0]:9.0f} {values[1]:7.0f} {values[2]:9.0f} {values[3]:7.0f} {values[4]:12.2f}x")
    print(f"raw samples: {save(options.out, 'synth', rows, {'batches': samples})}")


if __name__ == "__main__":
    main()
