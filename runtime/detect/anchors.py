"""SCRFD and RetinaFace from their ONNX files, decoded by ourselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.backends.ort import OrtModel
from runtime.detect.protocol import Detection, FaceRule
from runtime.detect.scaling import box_in_photo, pad, shrink, unscale, without_overlaps
from runtime.errors import InputError
from runtime.files import require_file
from runtime.images import Image

Array = NDArray[np.float32]

SCRFD_RULE = FaceRule(0.77, (-0.01, 0.12))
"""Fitted by `toolkit fit-crop` on WFLW faces."""
RETINAFACE_RULE = FaceRule(0.8, (0.0, 0.1))
"""Like SCRFD's, which learnt from the same boxes; measure your own file with `toolkit fit-crop`."""

_STRIDES = (8, 16, 32)
_PRIOR_SIDES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
_CENTRE_VARIANCE, _SIDE_VARIANCE = 0.1, 0.2
_RETINAFACE_MEAN = np.array([104.0, 117.0, 123.0], dtype=np.float32)
_SMALLEST_SIDE = 32


class _OnnxDetector:
    """A net with one picture as input: shrink, pad, run, decode, suppress, back to photo pixels."""

    name = ""

    def __init__(
        self, model: Path | str, score: float, overlap: float, longest: int, rule: FaceRule, threads: int
    ) -> None:
        self._path = require_file(model)
        self._model = OrtModel(self._path, threads=threads)
        self.rule = rule
        self._score, self._overlap = score, overlap
        height, width = self._model.input_shape[2:] if len(self._model.input_shape) == 4 else (None, None)
        self._size = (width, height) if isinstance(width, int) and isinstance(height, int) else None
        self._longest = max(self._size) if self._size else longest

    def __call__(self, image: Image) -> list[Detection]:
        """Faces with eyes, best first."""
        longest = self._longest
        if self._size:
            height, width = image.shape[:2]
            longest = max(1, int(min(self._size[0] / width, self._size[1] / height) * max(height, width) + 1e-6))
        small, scale = shrink(image, longest)
        width, height = self._size or tuple(-(-side // 32) * 32 for side in (small.shape[1], small.shape[0]))
        outputs = self._model.outputs(self._prepare(pad(small, width, height)))
        scores, boxes, points = self._decode(outputs, width, height)
        wanted = scores >= self._score
        scores, boxes, points = scores[wanted], boxes[wanted], points[wanted]
        found = []
        for index in without_overlaps(boxes, scores, self._overlap):
            x0, y0, x1, y1 = (float(v) for v in boxes[index])
            box = box_in_photo(x0, y0, x1, y1, scale)
            if box is not None:
                eyes = [tuple(unscale(float(v), scale) for v in points[index, i]) for i in range(2)]
                found.append(Detection(box, float(scores[index]), ((eyes[0][0], eyes[0][1]), (eyes[1][0], eyes[1][1]))))
        return found

    def _prepare(self, image: Image) -> Array:
        raise NotImplementedError

    def _decode(self, outputs: list[NDArray[np.float32]], width: int, height: int) -> tuple[Array, Array, Array]:
        raise NotImplementedError

    def _by_width(self, outputs: list[NDArray[np.float32]], last: int) -> list[Array]:
        """Outputs whose rows hold `last` numbers, longest first (the finest stride)."""
        rows = [np.asarray(o, dtype=np.float32).reshape(-1, o.shape[-1]) for o in outputs if o.shape[-1] == last]
        return sorted(rows, key=len, reverse=True)


class Scrfd(_OnnxDetector):
    """SCRFD with key points (`*_kps.onnx`): scores, distances and five points at strides 8, 16 and 32."""

    name = "SCRFD"

    def __init__(
        self,
        model: Path | str,
        *,
        score: float = 0.5,
        overlap: float = 0.4,
        longest: int = 640,
        rule: FaceRule | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(model, score, overlap, longest, rule or SCRFD_RULE, threads)

    def _prepare(self, image: Image) -> Array:
        values = (image[..., ::-1].astype(np.float32) - 127.5) / 128
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])

    def _decode(self, outputs: list[NDArray[np.float32]], width: int, height: int) -> tuple[Array, Array, Array]:
        levels = (self._by_width(outputs, 1), self._by_width(outputs, 4), self._by_width(outputs, 10))
        if any(len(level) != len(_STRIDES) for level in levels):
            shapes = ", ".join(str(list(o.shape)) for o in outputs)
            raise InputError(f"{self._path}: not an SCRFD with key points: its outputs are {shapes}")
        scores, boxes, points = [], [], []
        for stride, score, distance, offset in zip(_STRIDES, *levels, strict=True):
            cells = (height // stride) * (width // stride)
            if len(score) % cells or not len(score):
                raise InputError(f"{self._path}: {len(score)} rows at stride {stride}, expected a multiple of {cells}")
            centres = np.repeat(_grid(width, height, stride), len(score) // cells, axis=0)
            reach = distance * stride
            scores.append(score[:, 0])
            boxes.append(np.concatenate([centres - reach[:, :2], centres + reach[:, 2:]], axis=1))
            points.append(centres[:, None] + offset.reshape(-1, 5, 2) * stride)
        return np.concatenate(scores), np.concatenate(boxes), np.concatenate(points)


class RetinaFace(_OnnxDetector):
    """RetinaFace as its PyTorch port exports it: boxes, two-class scores and five points for fixed priors."""

    name = "RetinaFace"

    def __init__(
        self,
        model: Path | str,
        *,
        score: float = 0.6,
        overlap: float = 0.4,
        longest: int = 640,
        rule: FaceRule | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(model, score, overlap, longest, rule or RETINAFACE_RULE, threads)

    def _prepare(self, image: Image) -> Array:
        values = image.astype(np.float32) - _RETINAFACE_MEAN
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])

    def _decode(self, outputs: list[NDArray[np.float32]], width: int, height: int) -> tuple[Array, Array, Array]:
        levels = (self._by_width(outputs, 4), self._by_width(outputs, 2), self._by_width(outputs, 10))
        centres, sides = priors(width, height)
        if any(len(level) != 1 or len(level[0]) != len(centres) for level in levels):
            shapes = ", ".join(str(list(o.shape)) for o in outputs)
            raise InputError(
                f"{self._path}: no RetinaFace ({len(centres)} priors at {width} x {height}): its outputs are {shapes}"
            )
        location, classes, offset = (level[0] for level in levels)
        middle = centres + location[:, :2] * _CENTRE_VARIANCE * sides
        half = sides * np.exp((location[:, 2:] * _SIDE_VARIANCE).clip(-10, 10)) / 2
        points = centres[:, None] + offset.reshape(-1, 5, 2) * _CENTRE_VARIANCE * sides[:, None]
        return _face_share(classes), np.concatenate([middle - half, middle + half], axis=1), points


def _face_share(classes: Array) -> Array:
    """The second class's probability; files with and without their softmax both occur."""
    if ((classes >= 0) & (classes <= 1)).all() and np.allclose(classes.sum(axis=1), 1, atol=1e-3):
        return np.asarray(classes[:, 1])
    return np.asarray(1 / (1 + np.exp((classes[:, 0] - classes[:, 1]).clip(-80, 80))))


def _grid(width: int, height: int, stride: int) -> Array:
    """Top left corners of the cells, row by row."""
    x, y = np.meshgrid(np.arange(width // stride), np.arange(height // stride))
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32) * stride


def priors(width: int, height: int) -> tuple[Array, Array]:
    """Centres (N, 2) and sides (N, 1) of RetinaFace's priors, in pixels."""
    centres, sides = [], []
    for stride in _STRIDES:
        x, y = np.meshgrid(np.arange(-(-width // stride)), np.arange(-(-height // stride)))
        cells = (np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32) + 0.5) * stride
        own = np.asarray(_PRIOR_SIDES[stride], dtype=np.float32)
        centres.append(np.repeat(cells, len(own), axis=0))
        sides.append(np.tile(own, len(cells))[:, None])
    return np.concatenate(centres), np.concatenate(sides)
