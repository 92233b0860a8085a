"""What one synthetic face is made of: every number that shape, pose, paint and photo depend on, drawn from one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPE_NAMES = (
    "width",
    "length",
    "lower_length",
    "jaw_width",
    "cheekbone",
    "cheek_full",
    "chin_out",
    "chin_long",
    "chin_width",
    "forehead",
    "brow_ridge",
    "eye_depth",
    "nose_length",
    "nose_width",
    "nose_height",
    "nose_bridge",
    "nose_tip",
    "lips_out",
    "jaw_open",
    "smile_cheek",
    "pucker",
)
"""Coefficients of the shape basis, in the order of `head.BASIS`."""

Colour = tuple[float, float, float]
HEM_COLUMNS = 23


def generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """The random stream of one face, the same whatever was drawn before it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))


@dataclass(frozen=True)
class FaceParams:
    """All numbers of one face. Lengths are millimetres, angles radians, the rest 0..1 unless said."""

    angles: tuple[float, float, float]
    distance: float
    fill: float
    """Longer side of the landmark box as a share of the photo."""
    shift: tuple[float, float]
    shape: NDArray[np.float64]
    """Coefficients of `SHAPE_NAMES`."""
    # features
    eye_gap: float
    eye_size: float
    eye_height: float
    eye_tilt: float
    eye_open: tuple[float, float]
    gaze: tuple[float, float]
    brow_lift: tuple[float, float]
    brow_frown: float
    brow_thick: float
    brow_arch: float
    mouth_width: float
    mouth_shift: float
    lip_upper: float
    lip_lower: float
    mouth_open: float
    smile: float
    smirk: float
    pucker: float
    # colour
    skin: tuple[float, float, float]
    """BGR 0..255, as are all colours."""
    iris: tuple[float, float, float]
    hair: tuple[float, float, float]
    hair_style: str
    hair_volume: float
    hair_hem: NDArray[np.float64]
    """Unevenness of the hair's lower edge, one value per column of the hair shell."""
    hair_part: float
    beard: float
    moustache: float
    age: float
    freckles: float
    lipstick: float
    lipstick_colour: tuple[float, float, float]
    eye_shadow: float
    eye_shadow_colour: tuple[float, float, float]
    blush: float
    liner: float
    # light
    light: tuple[float, float, float]
    """Unit vector from the face to the lamp, camera axes."""
    ambient: float
    lamp: float
    tint: tuple[float, float, float]
    exposure: float
    contrast: float
    gloss: float
    # in front of the face, and the photo
    occluder: str
    blur: str
    blur_amount: float
    noise: float
    attributes: tuple[bool, bool, bool, bool, bool, bool]


def _clamp(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))


_POSES = ((0.27, 1.31, 0.20, 1.31), (0.14, 0.52, 0.10, 0.52), (0.13, 0.44, 0.12, 0.44))
"""Yaw, pitch, roll: arguments of `_mixed`."""


def _mixed(rng: np.random.Generator, sigma: float, wide: float, share: float, limit: float) -> float:
    """Mostly normal with `sigma`, in `share` of the draws uniform over +-`wide`; never beyond +-`limit`."""
    if rng.random() < share:
        return float(rng.uniform(-wide, wide))
    return _clamp(rng.normal(0.0, sigma), -limit, limit)


def _pick(rng: np.random.Generator, choices: dict[str, float]) -> str:
    """A name, as often as its weight says."""
    left = rng.random() * sum(choices.values())
    for name, weight in choices.items():
        left -= weight
        if left < 0:
            return name
    return name


def _blend(low: tuple[float, ...], high: tuple[float, ...], share: float) -> tuple[float, float, float]:
    b, g, r = (a + (c - a) * share for a, c in zip(low, high, strict=True))
    return float(b), float(g), float(r)


_SKIN = np.array([(198, 214, 242), (160, 186, 228), (118, 152, 204), (78, 108, 160), (44, 62, 98)], np.float64)
"""Light to dark, BGR."""
_HAIR: dict[str, tuple[float, float, float]] = {
    "black": (22.0, 20.0, 22.0),
    "dark brown": (26.0, 38.0, 58.0),
    "brown": (44.0, 70.0, 104.0),
    "blond": (92.0, 142.0, 186.0),
    "light blond": (150.0, 196.0, 224.0),
    "red": (40.0, 72.0, 150.0),
    "grey": (170.0, 170.0, 172.0),
    "dyed": (110.0, 50.0, 140.0),
}
_HAIR_SHARE = {
    "black": 4.0,
    "dark brown": 3.0,
    "brown": 2.0,
    "blond": 1.5,
    "light blond": 0.6,
    "red": 0.6,
    "grey": 0.8,
    "dyed": 0.12,
}
_WOMEN = {"bald": 0.15, "short": 1.2, "receding": 0.1, "fringe": 2.0, "long": 4.0, "bob": 3.0, "curly": 1.2, "hat": 0.5}
_MEN = {"bald": 1.5, "short": 5.0, "receding": 1.6, "fringe": 1.0, "long": 0.5, "bob": 0.2, "curly": 1.0, "hat": 1.0}
_IRIS = ((30.0, 46.0, 72.0), (40.0, 70.0, 100.0), (70.0, 110.0, 96.0), (150.0, 130.0, 100.0), (140.0, 140.0, 130.0))
_LIPSTICK = ((60.0, 40.0, 190.0), (90.0, 60.0, 170.0), (110.0, 60.0, 210.0), (60.0, 40.0, 110.0), (140.0, 90.0, 220.0))
_SHADOW = ((120.0, 70.0, 60.0), (140.0, 80.0, 130.0), (60.0, 70.0, 110.0), (120.0, 130.0, 70.0), (40.0, 36.0, 44.0))
_EXPRESSIONS = {"shout": 3.0, "laugh": 4.0, "frown": 2.0, "kiss": 1.0, "wink": 1.0, "closed": 2.0, "surprise": 2.0}
_LIGHTS = {"side": 4.0, "dark": 3.0, "over": 2.0, "colour": 3.0, "below": 1.0, "flat": 1.0}
_OCCLUDERS = {"glasses": 5.0, "sunglasses": 2.0, "hand": 2.4, "mask": 1.4, "object": 2.2, "strands": 1.6}
_BLURS = {"gauss": 3.0, "motion": 2.0, "small": 3.0}

LARGE_YAW, LARGE_PITCH, LARGE_ROLL = 0.61, 0.40, 0.40
"""Beyond these (radians) a face carries the pose flag."""
_IDENTITY = SHAPE_NAMES.index("jaw_open")
"""Coefficients before this one are identity, the others expression."""


def _colour(rng: np.random.Generator, table: Sequence[tuple[float, ...]], jitter: float) -> Colour:
    b, g, r = (
        _clamp(c + n, 4.0, 250.0)
        for c, n in zip(table[int(rng.integers(len(table)))], rng.normal(0, jitter, 3), strict=True)
    )
    return b, g, r


@dataclass
class _Expression:
    mouth_open: float
    smile: float
    pucker: float
    smirk: float
    frown: float
    lift: tuple[float, float]
    eyes: tuple[float, float]
    strong: bool = False


def _expression(rng: np.random.Generator) -> _Expression:
    n = rng.normal(0.0, 1.0, 8).tolist()
    face = _Expression(
        mouth_open=float(rng.uniform(0, 5)) if rng.random() < 0.35 else 0.0,
        smile=_clamp(0.15 + 0.3 * n[0], -0.4, 0.7),
        pucker=max(0.0, -0.3 + 0.25 * n[1]),
        smirk=0.12 * n[2],
        frown=0.0,
        lift=(1.6 * n[3] + 1.2 * n[4], 1.6 * n[3] + 1.2 * n[5]),
        eyes=(_clamp(1.0 + 0.16 * n[6] + 0.04 * n[7], 0.5, 1.4), _clamp(1.0 + 0.16 * n[6] - 0.04 * n[7], 0.5, 1.4)),
    )
    if rng.random() < 0.20:
        face.strong = True
        _exaggerate(face, _pick(rng, _EXPRESSIONS), rng)
    return face


def _exaggerate(face: _Expression, kind: str, rng: np.random.Generator) -> None:
    left, right = face.eyes
    if kind == "shout":
        face.mouth_open, face.frown = float(rng.uniform(10, 26)), float(rng.uniform(0, 1))
    elif kind == "laugh":
        face.mouth_open, face.smile = float(rng.uniform(3, 16)), float(rng.uniform(0.75, 1.15))
        squint = float(rng.uniform(0.55, 0.95))
        face.eyes = (left * squint, right * squint)
    elif kind == "frown":
        face.frown, face.smile = float(rng.uniform(0.6, 1.2)), float(rng.uniform(-0.9, -0.3))
        face.lift = (face.lift[0] - 3.0, face.lift[1] - 3.0)
    elif kind == "kiss":
        face.pucker, face.mouth_open = float(rng.uniform(0.7, 1.0)), 0.0
    elif kind == "wink":
        shut = float(rng.uniform(0.0, 0.1))
        face.eyes = (shut, right) if rng.random() < 0.5 else (left, shut)
        face.smirk = float(rng.normal(0, 0.4))
    elif kind == "closed":
        shut = float(rng.uniform(0.0, 0.12))
        face.eyes = (shut, shut)
    else:
        face.mouth_open, rise = float(rng.uniform(7, 20)), float(rng.uniform(4, 8))
        face.lift = (face.lift[0] + rise, face.lift[1] + rise)
        face.eyes = (min(1.5, left * 1.25), min(1.5, right * 1.25))


@dataclass
class _Light:
    direction: tuple[float, float, float]
    ambient: float
    lamp: float
    tint: Colour
    exposure: float
    contrast: float
    unusual: bool


def _light(rng: np.random.Generator) -> _Light:
    side, height = float(rng.normal(0, 0.55)), float(rng.uniform(-0.9, 0.15))
    ambient, lamp = float(rng.uniform(0.48, 0.7)), float(rng.uniform(0.4, 0.65))
    exposure, contrast, cast = 1.0, 1.0, 0.03
    unusual = rng.random() < 0.27
    kind = _pick(rng, _LIGHTS) if unusual else "plain"
    if kind == "side":
        side, ambient, lamp = float(rng.choice([-1, 1]) * rng.uniform(1.2, 2.6)), float(rng.uniform(0.12, 0.3)), 1.05
    elif kind == "dark":
        exposure = float(rng.uniform(0.25, 0.5))
    elif kind == "over":
        exposure = float(rng.uniform(1.35, 1.8))
    elif kind == "colour":
        cast = 0.25
    elif kind == "below":
        height, ambient = float(rng.uniform(0.8, 1.6)), 0.25
    elif kind == "flat":
        contrast, ambient = float(rng.uniform(0.35, 0.6)), 0.8
    length = math.sqrt(side * side + height * height + 1.0)
    warm, green = cast * float(rng.normal()), 0.3 * cast * float(rng.normal())
    tint = (_clamp(1 - warm, 0.45, 1.5), _clamp(1 + green, 0.45, 1.5), _clamp(1 + warm, 0.45, 1.5))
    return _Light((side / length, height / length, -1.0 / length), ambient, lamp, tint, exposure, contrast, unusual)


def _shape(rng: np.random.Generator, female: bool, face: _Expression) -> NDArray[np.float64]:
    shape = np.zeros(len(SHAPE_NAMES))
    shape[:_IDENTITY] = np.minimum(np.maximum(rng.normal(0.0, 1.0, _IDENTITY), -2.2), 2.2)
    sign = -1.0 if female else 1.0
    for name, lean in (("jaw_width", 0.6), ("chin_width", 0.4), ("brow_ridge", 0.7)):
        shape[SHAPE_NAMES.index(name)] += sign * lean
    shape[_IDENTITY:] = face.mouth_open / 20.0, max(0.0, face.smile), face.pucker
    return shape


def draw(seed: int, index: int) -> FaceParams:
    """The numbers of face `index` under `seed`.

    >>> draw(1, 5).angles == draw(1, 5).angles
    True
    """
    rng = generator(seed, index, 0)
    yaw, pitch, roll = (_mixed(rng, *row) for row in _POSES)
    female = rng.random() < 0.5
    age = float(rng.random() ** 1.4)
    face = _expression(rng)
    shape = _shape(rng, female, face)
    light = _light(rng)

    made_up = rng.random() < (0.24 if female else 0.02)
    tone = float(rng.random() ** 1.25) * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = (_SKIN[low] * (1 - tone + low) + _SKIN[low + 1] * (tone - low)) * (1 + rng.normal(0, 0.03, 3))
    hair_name = "grey" if age > 0.82 else "black" if tone > 2.4 and rng.random() < 0.85 else _pick(rng, _HAIR_SHARE)
    brightness = float(rng.uniform(0.75, 1.2))
    hair = tuple(_clamp(c * brightness + n, 6, 235) for c, n in zip(_HAIR[hair_name], rng.normal(0, 4, 3), strict=True))
    bearded = not female and rng.random() < 0.38
    beard = float(rng.uniform(0.15, 1.0)) if bearded else 0.0 if female else float(rng.uniform(0, 0.12))

    occluder = _pick(rng, _OCCLUDERS) if rng.random() < 0.32 else "none"
    blurred = rng.random() < 0.24
    blur, amount = "none", 0.0
    if blurred:
        blur, amount = _pick(rng, _BLURS), float(rng.uniform(0.35, 1.0))
    elif rng.random() < 0.4:
        blur, amount = "gauss", float(rng.uniform(0.05, 0.2))
    n = rng.normal(0.0, 1.0, 17).tolist()

    return FaceParams(
        angles=(yaw, pitch, roll),
        distance=480.0 * (2200.0 / 480.0) ** float(rng.random()),
        fill=float(rng.uniform(0.46, 0.60)),
        shift=(0.02 * n[0], 0.02 * n[1]),
        shape=shape,
        eye_gap=1.3 * n[2],
        eye_size=_clamp(1.0 + 0.055 * n[3], 0.84, 1.16),
        eye_height=_clamp(1.0 + 0.15 * n[4], 0.6, 1.45),
        eye_tilt=0.05 * n[5],
        eye_open=face.eyes,
        gaze=(_clamp(0.38 * n[6], -1.0, 1.0), _clamp(0.3 * n[7], -1.0, 1.0)),
        brow_lift=face.lift,
        brow_frown=face.frown,
        brow_thick=_clamp((0.92 if female else 1.12) + 0.2 * n[8], 0.5, 1.7),
        brow_arch=(0.4 if female else 0.0) + 0.6 * n[9],
        mouth_width=2.0 * n[10],
        mouth_shift=1.5 * n[11],
        lip_upper=_clamp(1.0 + 0.25 * n[12], 0.4, 1.8),
        lip_lower=_clamp(1.0 + 0.22 * n[13], 0.5, 1.7),
        mouth_open=face.mouth_open,
        smile=face.smile,
        smirk=face.smirk,
        pucker=face.pucker,
        skin=(float(skin[0]), float(skin[1]), float(skin[2])),
        iris=_colour(rng, _IRIS if tone < 1.8 else _IRIS[:2], 6),
        hair=(hair[0], hair[1], hair[2]),
        hair_style=_pick(rng, _WOMEN if female else _MEN),
        hair_volume=float(rng.uniform(0.2, 1.0)),
        hair_hem=rng.normal(0.0, 0.8, HEM_COLUMNS),
        hair_part=0.5 * n[14],
        beard=beard,
        moustache=_clamp(beard + 0.3 * n[15], 0.0, 1.0) if bearded else 0.0,
        age=age,
        freckles=float(rng.uniform(0.3, 1)) if tone < 1.6 and rng.random() < 0.12 else 0.0,
        lipstick=float(rng.uniform(0.5, 0.95)) if made_up else 0.0,
        lipstick_colour=_colour(rng, _LIPSTICK, 10),
        eye_shadow=float(rng.uniform(0.3, 0.8)) if made_up and rng.random() < 0.85 else 0.0,
        eye_shadow_colour=_colour(rng, _SHADOW, 10),
        blush=float(rng.uniform(0.2, 0.6)) if made_up and rng.random() < 0.6 else 0.0,
        liner=float(rng.uniform(0.3, 1.0)) if made_up else float(rng.uniform(0, 0.3) if female else 0.0),
        light=light.direction,
        ambient=light.ambient,
        lamp=light.lamp,
        tint=light.tint,
        exposure=light.exposure,
        contrast=light.contrast,
        gloss=float(rng.uniform(0.0, 0.35)),
        occluder=occluder,
        blur=blur,
        blur_amount=amount,
        noise=float(rng.uniform(0, 7)) if rng.random() < 0.5 else 0.0,
        attributes=(
            abs(yaw) > LARGE_YAW or abs(pitch) > LARGE_PITCH or abs(roll) > LARGE_ROLL,
            face.strong,
            bool(light.unusual),
            bool(made_up),
            occluder != "none",
            bool(blurred),
        ),
    )
