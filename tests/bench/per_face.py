"""What a face costs around the network: crop, normalise, map back, against the fp32 C model, in a 1080p photo.

"around" is the landmarker's whole work per face with a network that answers at once; "model" is the C (or, in bundles
without it, ONNX Runtime) on a crop that is already there. Contenders alternate in one process on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from runtime.backends.choose import open_backend
from runtime.bundle import Bundle
from runtime.crops import cut
from runtime.detect import Detection, FaceRule
from runtime.geometry import Box
from runtime.landmarker import Landmarker
from runtime.spec import ModelSpec
from tests.bench.measure import interleave, pinned, save

SIDES = (120, 300, 600)


class Instant:
    """A network that takes no time."""

    name = "instant"

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._answer = np.random.default_rng(0).uniform(0.2, 0.8, (64, spec.points, 2)).astype(np.float32)

    def landmarks(self, crops: np.ndarray) -> np.ndarray:
        return self._answer[: len(crops)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON files")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    bundle = Bundle.open(options.bundle)
    backend = "c" if bundle.manifest.has("c") else "onnx"
    coarse = np.random.default_rng(0).integers(0, 256, (108, 192, 3), dtype=np.uint8)
    photo = cv2.resize(coarse, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    model = open_backend(bundle, backend).model
    instant = Landmarker(Instant(model.spec), score="none")
    crop = np.zeros((1, model.spec.input_size, model.spec.input_size, 3), np.uint8)
    contenders = {"model": lambda: model.landmarks(crop)}
    for count in (1, 10):
        for side in SIDES:
            boxes = [Box(300 + 20 * i, 200 + 10 * i, 300 + 20 * i + side, 200 + 10 * i + side) for i in range(count)]
            detections = [Detection(box) for box in boxes]
            regions = [instant.region_of(d, FaceRule()) for d in detections]
            contenders[f"around, {count} of {side} px"] = lambda r=regions, d=detections: instant.locate(photo, r, d)
            if count == 1:
                contenders[f"crop alone, {side} px"] = lambda r=regions: cut(photo, r, model.spec)
    with pinned():
        samples = interleave(contenders, options.rounds, warmup=5)
    rows = {}
    print(f"{model.name}, {model.spec.input_size} px")
    print(f"{'':28} {'median us / face':>17} {'/ model':>8}")
    for name in contenders:
        faces = 10 if ", 10 of" in name else 1
        ratio = samples.ratio(name, "model") / faces
        rows[name] = {"seconds": samples.median(name) / faces, "ratio": ratio}
        print(f"{name:28} {1e6 * samples.median(name) / faces:17.1f} {ratio:8.3f}")
    save(options.out, "per_face", rows, {"calls": samples})


if __name__ == "__main__":
    main()
