"""The robustness card: the error when box, light and picture get worse, for several artefacts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artefact import Artefact, require_spec
from runtime.geometry import Region, crop_region, network_input, output_to_points, warp
from runtime.images import Image
from runtime.spec import ModelSpec
from toolkit.boxes import BoxSource, box_in
from train.data.sample import FaceSource
from train.evaluate import point_map
from train.metrics import face_scale, nme_per_face, normaliser_for

CHUNK = 16
STILL_FRAMES = 6
STILL_NOISE, STILL_WOBBLE = 2.0, 0.01
"""A still scene: sensor noise in grey levels, and how far a detector's box moves from frame to frame, in box sides."""
SEED = 0


@dataclass(frozen=True)
class Disturbance:
    """One way in which things get worse: its unit, its levels, and which of them changes nothing."""

    name: str
    unit: str
    levels: tuple[float, ...]
    neutral: float


DISTURBANCES = (
    Disturbance("box shift", "% of the box side, random direction", (0, 2, 5, 10, 15), 0),
    Disturbance("box scale", "times the box", (0.8, 0.9, 1.0, 1.1, 1.25), 1.0),
    Disturbance("rotation", "degrees, random side", (0, 10, 20, 30, 45), 0),
    Disturbance("blur", "sigma in crop pixels", (0, 0.5, 1, 2, 3), 0),
    Disturbance("JPEG", "quality", (100, 70, 40, 20, 10), 100),
    Disturbance("brightness", "times", (0.25, 0.5, 1.0, 1.5, 2.0), 1.0),
)
LEVELS = 5
"""How many levels each has."""


@dataclass(frozen=True)
class Card:
    """Mean errors, as fractions of the normaliser."""

    data: str
    faces: int
    normaliser: str
    names: tuple[str, ...]
    nme: dict[str, dict[str, list[float]]]
    """Disturbance -> artefact -> error at each level."""
    still: dict[str, dict[str, float]]
    """What moves -> artefact -> mean distance of a landmark from its mean over the frames of a still scene."""

    def to_dict(self) -> dict[str, Any]:
        table = {d.name: {"unit": d.unit, "levels": list(d.levels), "nme": self.nme[d.name]} for d in DISTURBANCES}
        return {**asdict(self), "names": list(self.names), "nme": table}


def robustness(
    artefacts: Sequence[Artefact],
    names: Sequence[str],
    source: FaceSource,
    indices: Sequence[int],
    boxes: BoxSource,
    normaliser: str | None = None,
    tick: Callable[[int], object] = lambda _: None,
) -> Card:
    """Run every artefact on every disturbed face; all of them see the very same pictures where their crops agree."""
    specs = [require_spec(a) for a in artefacts]
    divisor_name = normaliser or specs[0].normaliser
    divisor = normaliser_for(source.layout, divisor_name)
    maps = [point_map(s.point_layout, source.layout) for s in specs]
    sums: dict[tuple[str, str, float], list[float]] = {}
    still: dict[tuple[str, str], list[float]] = {}
    for start in range(0, len(indices), CHUNK):
        part = list(indices[start : start + CHUNK])
        truth = np.stack([np.asarray(source.sample(i).points, dtype=np.float64) for i in part])
        scale = face_scale(truth, divisor)
        photos = [source.photo(i) for i in part]
        cut: dict[tuple[object, ...], _Scene] = {}
        for artefact, name, spec, order in zip(artefacts, names, specs, maps, strict=True):
            key = (spec.input_size, spec.crop)
            if key not in cut:
                squares = [crop_region(box_in(source, i, spec, boxes), spec.crop) for i in part]
                cut[key] = _Scene(photos, squares, part, spec)
            scene = cut[key]
            for disturbance in DISTURBANCES:
                for level in disturbance.levels:
                    crops, regions = scene.disturbed(disturbance, level)
                    points = _points(artefact, crops, regions, spec)[:, order]
                    errors = nme_per_face(points, truth, divisor)
                    sums.setdefault((disturbance.name, name, level), []).extend(errors.tolist())
            for what, frames in scene.still().items():
                found = np.stack([_points(artefact, crops, regions, spec)[:, order] for crops, regions in frames])
                away = np.linalg.norm(found - found.mean(axis=0), axis=-1).mean(axis=(0, 2)) / scale
                still.setdefault((what, name), []).extend(away.tolist())
        tick(len(part))
    nme = {
        d.name: {name: [float(np.mean(sums[d.name, name, level])) for level in d.levels] for name in names}
        for d in DISTURBANCES
    }
    kinds = dict.fromkeys(what for what, _ in still)
    quiet = {what: {name: float(np.mean(still[what, name])) for name in names} for what in kinds}
    return Card(source.name, len(indices), divisor_name, tuple(names), nme, quiet)


def _points(
    artefact: Artefact, crops: NDArray[np.uint8], regions: Sequence[Region], spec: ModelSpec
) -> NDArray[np.float64]:
    output = np.asarray(artefact.predict(network_input(crops, spec)), dtype=np.float64).reshape(len(crops), -1, 2)
    return np.stack([output_to_points(face, region, spec) for face, region in zip(output, regions, strict=True)])


class _Scene:
    """A few faces in their photos; draws depend on the face alone, so every artefact meets the same."""

    def __init__(
        self, photos: Sequence[Image], squares: Sequence[Region], faces: Sequence[int], spec: ModelSpec
    ) -> None:
        self._photos, self._squares, self._spec = photos, squares, spec
        self._draws = [np.random.default_rng([SEED, face]) for face in faces]
        self._angles = [float(d.uniform(0, 2 * np.pi)) for d in self._draws]
        self._sides = [1.0 if d.integers(2) else -1.0 for d in self._draws]
        self._plain = self._cut(squares)

    def _cut(self, regions: Sequence[Region]) -> NDArray[np.uint8]:
        size, padding = self._spec.input_size, self._spec.crop.padding
        pairs = zip(self._photos, regions, strict=True)
        return np.stack([warp(photo, region.to_crop(size), size, padding) for photo, region in pairs])

    def disturbed(self, how: Disturbance, level: float) -> tuple[NDArray[np.uint8], Sequence[Region]]:
        """Crops of one level, and the squares they show."""
        if level == how.neutral:
            return self._plain, self._squares
        if how.name in _MOVES:
            moved = [
                _MOVES[how.name](region, level, _Draw(angle, side), self._spec.crop.scale)
                for region, angle, side in zip(self._squares, self._angles, self._sides, strict=True)
            ]
            return self._cut(moved), moved
        return np.stack([_CHANGES[how.name](crop, level) for crop in self._plain]), self._squares

    def still(self) -> dict[str, list[tuple[NDArray[np.uint8], Sequence[Region]]]]:
        """Frames of a scene that does not move: with sensor noise only, and with a box that trembles as well."""
        draws = [np.random.default_rng(d.integers(2**32)) for d in self._draws]
        quiet: list[tuple[NDArray[np.uint8], Sequence[Region]]] = []
        trembling: list[tuple[NDArray[np.uint8], Sequence[Region]]] = []
        for _ in range(STILL_FRAMES):
            noise = np.stack([d.normal(0, STILL_NOISE, self._plain.shape[1:]) for d in draws])
            quiet.append((_noisy(self._plain, noise), self._squares))
            wobble = [d.normal(0, STILL_WOBBLE, 3) for d in draws]
            moved = [
                Region(r.cx + w[0] * r.side, r.cy + w[1] * r.side, r.side * float(np.exp(w[2])), r.angle)
                for r, w in zip(self._squares, wobble, strict=True)
            ]
            trembling.append((_noisy(self._cut(moved), noise), moved))
        return {"sensor noise": quiet, "sensor noise and a trembling box": trembling}


def _noisy(crops: NDArray[np.uint8], noise: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(crops + noise), 0, 255), dtype=np.uint8)


@dataclass(frozen=True)
class _Draw:
    """What chance gave a face: a direction in radians, and a side."""

    angle: float
    side: float


def _shift(region: Region, level: float, draw: _Draw, crop_scale: float) -> Region:
    step = level / 100 * region.side / crop_scale
    x, y = np.cos(draw.angle), np.sin(draw.angle)
    return Region(region.cx + step * float(x), region.cy + step * float(y), region.side)


def _scale(region: Region, level: float, _draw: _Draw, _crop_scale: float) -> Region:
    return Region(region.cx, region.cy, region.side * level)


def _rotate(region: Region, level: float, draw: _Draw, _crop_scale: float) -> Region:
    return Region(region.cx, region.cy, region.side, draw.side * float(np.deg2rad(level)))


def _blur(crop: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.GaussianBlur(crop, (0, 0), level, borderType=cv2.BORDER_REPLICATE), dtype=np.uint8)


def _jpeg(crop: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
    import cv2

    _, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(level)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _brighten(crop: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(crop.astype(np.float32) * level), 0, 255), dtype=np.uint8)


_MOVES: dict[str, Callable[[Region, float, _Draw, float], Region]] = {
    "box shift": _shift,
    "box scale": _scale,
    "rotation": _rotate,
}
_CHANGES: dict[str, Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]] = {
    "blur": _blur,
    "JPEG": _jpeg,
    "brightness": _brighten,
}


def card_rows(card: Card) -> list[tuple[str, ...]]:
    """One row per disturbance and artefact: NME % at each level."""
    rows = []
    for how in DISTURBANCES:
        for name in card.names:
            cells = [f"{level:g}: {100 * e:.2f}" for level, e in zip(how.levels, card.nme[how.name][name], strict=True)]
            rows.append((how.name, how.unit, name, *cells))
    return rows


def still_rows(card: Card) -> list[tuple[str, ...]]:
    """How far landmarks tremble on a still scene, in % of the normaliser."""
    return [(what, *(f"{100 * card.still[what][name]:.3f}" for name in card.names)) for what in card.still]


def draw_card(card: Card, path: Path) -> None:
    """Six small charts, one line for each artefact, and the trembling below."""
    from train.plots import figure_of, save_figure

    figure = figure_of(10.5, 6.4)
    axes = figure.subplots(2, 3).reshape(-1)
    for axis, how in zip(axes, DISTURBANCES, strict=True):
        for at, name in enumerate(card.names):
            style = ("-", "--", ":", "-.")[at % 4]
            axis.plot(how.levels, [100 * e for e in card.nme[how.name][name]], style, marker="o", ms=3, label=name)
        axis.axvline(how.neutral, color="#999", linewidth=0.6)
        axis.set_title(how.name, fontsize=10)
        axis.set_xlabel(how.unit, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        if how.name == "JPEG":
            axis.invert_xaxis()
    axes[0].set_ylabel("NME, %")
    axes[3].set_ylabel("NME, %")
    axes[0].legend(frameon=False, fontsize=8)
    lines = [f"{card.faces} faces of {card.data}, errors over {card.normaliser}; on a still scene landmarks tremble by"]
    lines += [
        f"{what}: " + ", ".join(f"{name} {100 * value:.2f} %" for name, value in card.still[what].items())
        for what in card.still
    ]
    figure.suptitle("\n".join(lines), fontsize=8)
    save_figure(figure, path)
