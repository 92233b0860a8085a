"""Loader throughput on one core: the packed loader against decoding one PNG for each face and several warps in floats.

Both give the same thing: a float32 batch (64, 3, 112, 112) with targets, from the same crops with margin, with the
same kinds of augmentation at the same chances. The reference is written the way the scripts of the field do it:
`imread` of a face crop, a rotation warp of the whole crop, a cut with padding, a resize, a mirror, colour arithmetic in
float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from runtime.images import write_image
from runtime.layouts import WFLW98
from runtime.spec import ModelSpec
from tests.bench.measure import arguments, interleave, pinned, save
from train.data.augment import AugmentConfig
from train.data.loader import BatchLoader
from train.data.pack import FacePack, build_pack
from train.data.synth import SynthSource

BATCH = 64
FACES = 512
TARGET = 5.0


class PngLoader:
    """One PNG and several warps for each face, colour in floats: the reference."""

    def __init__(self, folder: Path, pack: FacePack, spec: ModelSpec, config: AugmentConfig, seed: int) -> None:
        self.spec, self.config = spec, config
        self.points = pack.points.astype(np.float32)
        self.files = [folder / f"{index:05d}.png" for index in range(len(pack))]
        self.rng = np.random.default_rng(seed)
        for index, path in enumerate(self.files):
            write_image(path, pack.photo(index))

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = self.rng.permutation(len(self.files))[:BATCH]
        pairs = [self.face(int(index)) for index in chosen]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]))
        return images, torch.from_numpy(np.stack([target for _, target in pairs]))

    def face(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        image = cv2.imread(str(self.files[index]))
        image, points = self._rotate(image, self.points[index])
        image, points = self._cut(image, points)
        if self.rng.random() < self.config.flip:
            image = cv2.flip(image, 1)
            points = np.stack([1 - points[:, 0], points[:, 1]], 1)[list(WFLW98.flip)]
        image = self._degrade(self._colour(self._occlude(image)))
        normal = (image.astype(np.float32) / 255 - 0.5) / 0.5
        return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32), points.astype(np.float32)

    def _rotate(
        self, image: NDArray[np.uint8], points: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        height, width = image.shape[:2]
        angle = self.rng.uniform(-self.config.rotation, self.config.rotation)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
        turned = cv2.warpAffine(image, matrix, (width, height))
        return turned, (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)

    def _cut(
        self, image: NDArray[np.uint8], points: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        low, high = points.min(0), points.max(0)
        side = int(self.spec.crop.scale * (high - low).max() * self.rng.uniform(*self.config.scale))
        middle = (low + high) / 2 + self.rng.uniform(-self.config.shift, self.config.shift, 2) * side
        x, y = (int(v) for v in middle - side / 2)
        height, width = image.shape[:2]
        borders = max(0, -y), max(0, y + side - height), max(0, -x), max(0, x + side - width)
        padded = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=0)
        x0, y0 = max(0, x), max(0, y)
        crop = padded[y0 : y0 + side, x0 : x0 + side]
        size = self.spec.input_size
        return cv2.resize(crop, (size, size)), (points - (x, y)) / side

    def _occlude(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.rng.random() < self.config.occlusion:
            size = image.shape[0]
            width, height = (self.rng.uniform(*self.config.occlusion_size, 2) * size).astype(int)
            x, y = (self.rng.uniform(0, size, 2)).astype(int)
            image[y : y + height, x : x + width] = self.rng.integers(0, 256, 3)
        return image

    def _colour(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        config, rng = self.config, self.rng
        values = image.astype(np.float32)
        saturation = 0.0 if rng.random() < config.grey else rng.uniform(*config.saturation)
        grey = (values @ np.array([0.114, 0.587, 0.299], dtype=np.float32))[..., None]
        values = grey + (values - grey) * np.float32(saturation)
        values *= rng.uniform(1 - config.channel_gain, 1 + config.channel_gain, 3).astype(np.float32)
        values = (values - 127.5) * np.float32(rng.uniform(*config.contrast)) + np.float32(127.5)
        values += np.float32(255 * rng.uniform(-config.brightness, config.brightness))
        values = np.clip(values, 0, 255)
        if rng.random() < config.gamma_chance:
            values = 255 * (values / 255) ** np.float32(rng.uniform(*config.gamma))
        return values.astype(np.uint8)

    def _degrade(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        config, rng, size = self.config, self.rng, image.shape[0]
        if rng.random() < config.low_resolution:
            small = max(4, int(size * rng.uniform(*config.low_resolution_factor)))
            image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size))
        if rng.random() < config.blur:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*config.blur_sigma))
        if rng.random() < config.noise:
            noise = rng.normal(0, rng.uniform(*config.noise_sigma), image.shape)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
        if rng.random() < config.jpeg:
            _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(*config.jpeg_quality))])
            image = cv2.imdecode(code, cv2.IMREAD_COLOR)
        return image


class PackedBatches:
    """The packed loader, one batch after the other, epoch after epoch."""

    def __init__(self, pack: FacePack, spec: ModelSpec, config: AugmentConfig, seed: int) -> None:
        self.spec = spec
        self.loader = BatchLoader(pack, spec, config, BATCH, seed, threads=0)
        self.epochs = 0
        self.batches = self.loader.epoch(0)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch = next(self.batches, None)
        if batch is None:
            self.epochs += 1
            self.batches = self.loader.epoch(self.epochs)
            batch = next(self.batches)
        return batch.input(self.spec), torch.from_numpy(batch.targets)


def main(argv: Sequence[str] | None = None) -> None:
    """Time both loaders in turn on one core; print the ratios and keep every sample."""
    options = arguments(argv, __doc__ or "")
    rounds, faces = (4, 128) if options.quick else (40, FACES)
    spec = ModelSpec("ghostone")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as place, pinned():
            pack = build_pack(SynthSource(faces, seed=5), Path(place) / "pack")
            contenders = {}
            for name in ("default", "light"):
                config = AugmentConfig.preset(name)
                folder = Path(place) / name
                contenders[f"png, {name}"] = PngLoader(folder, pack, spec, config, 1).batch
                contenders[f"pack, {name}"] = PackedBatches(pack, spec, config, 1).batch
            samples = interleave(contenders, rounds)
            bytes_of_png = sum(path.stat().st_size for path in (Path(place) / "light").iterdir()) // faces
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    rows: dict[str, object] = {
        "batch": BATCH,
        "faces": faces,
        "target ratio": TARGET,
        "mean bytes of a PNG": bytes_of_png,
    }
    print(f"{'augmentation':14s} {'PNG faces/s':>12s} {'pack faces/s':>13s} {'ratio':>7s}   (target >= {TARGET:g})")
    for name in ("default", "light"):
        slow, fast = f"png, {name}", f"pack, {name}"
        ratio = samples.ratio(slow, fast)
        per_second = [BATCH / samples.median(which) for which in (slow, fast)]
        rows[name] = {"ratio": ratio, "png faces/s": per_second[0], "pack faces/s": per_second[1]}
        print(f"{name:14s} {per_second[0]:12.0f} {per_second[1]:13.0f} {ratio:6.2f}x")
    print(f"raw samples: {save(options.out, 'loader', rows, {'batches': samples})}")


if __name__ == "__main__":
    main()
