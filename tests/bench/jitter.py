"""How much landmarks tremble on a face that does not move: with the detector in every frame, tracked, and smoothed.

A still clip is made of one frame of a real clip, repeated with fresh sensor noise and compressed as a video. The figure
is the RMS over points and frames of each point's distance from its own mean place, in percent of the inter-ocular
distance. The price of smoothing is measured on the moving clip: how far smoothed points lie from unsmoothed ones.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtime import Face, FaceTracker, Landmarker, TrackSettings
from runtime.files import write_json
from runtime.frames import VideoWriter, open_clip
from runtime.images import Image

FRAMES, RATE = 60, 30.0


def frames_of(clip: Path, count: int = FRAMES) -> list[Image]:
    with open_clip(str(clip)) as opened:
        return [frame.image for frame in opened.frames if frame.image is not None and frame.number < count]


def still_clip(image: Image, noise: float) -> list[Image]:
    """One frame with fresh noise each time, through a video file and back."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "still.mp4"
        with VideoWriter(path, RATE) as writer:
            for _ in range(FRAMES):
                writer.write((image + generator.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8))
        return frames_of(path)


def largest(faces: list[Face]) -> np.ndarray | None:
    return max(faces, key=lambda f: f.region.side).points if faces else None


def jitter(points: np.ndarray, left: int, right: int) -> float:
    """Percent of the inter-ocular distance."""
    mean = points.mean(axis=0)
    away = ((points - mean) ** 2).sum(axis=2)
    return 100 * float(np.sqrt(away.mean()) / np.hypot(*(mean[left] - mean[right])))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clips", type=Path, nargs="+", help="clips of one face each")
    parser.add_argument("--detector", required=True, help="as for toolkit run")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--noise", type=float, default=4.0, help="grey levels")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON files")
    options = parser.parse_args(argv)
    lm = Landmarker(options.bundle, options.backend, options.detector, score="none")
    normaliser = lm.spec.point_layout.default_normaliser
    left, right = normaliser.left[0], normaliser.right[0]

    def way(name: str) -> Callable[[Image, float], list[Face]]:
        if name == "detected":
            return lambda image, seconds: lm(image)
        return FaceTracker(lm, TrackSettings() if name == "smoothed" else TrackSettings(smooth=None))

    rows: dict[str, dict[str, float]] = {}
    print(f"{'clip':10} {'detected':>10} {'tracked':>10} {'smoothed':>10} {'lag, moving':>12}   % of inter-ocular")
    for clip in options.clips:
        moving = frames_of(clip)
        still = still_clip(moving[0], options.noise)
        row: dict[str, float] = {}
        for name in ("detected", "tracked", "smoothed"):
            locate = way(name)
            found = [largest(locate(image, i / RATE)) for i, image in enumerate(still)]
            row[name] = jitter(np.stack([p for p in found[10:] if p is not None]), left, right)
        ways = [way(name) for name in ("tracked", "smoothed")]
        tracks = [[largest(locate(image, i / RATE)) for i, image in enumerate(moving)] for locate in ways]
        raw, smooth = (np.stack([p for p in track if p is not None]) for track in tracks)
        span = np.hypot(*(raw[:, left] - raw[:, right]).T)[:, None]
        row["lag"] = 100 * float((np.hypot(*(raw - smooth).transpose(2, 0, 1)) / span)[10:].mean())
        rows[clip.stem] = row
        print(f"{clip.stem:10} " + " ".join(f"{row[k]:10.3f}" for k in ("detected", "tracked", "smoothed", "lag")))
    mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}
    print(f"{'mean':10} " + " ".join(f"{value:10.3f}" for value in mean.values()))
    write_json(options.out / "jitter.json", {"name": "jitter", "figures": {**rows, "mean": mean}})


if __name__ == "__main__":
    main()
