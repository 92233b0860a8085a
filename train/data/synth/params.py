"""What one synthetic face is made of: every number that shape, pose, paint and photo depend on, drawn from one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.data.synth.dice import Colour, Dice

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

HEM_COLUMNS = 19


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


_POSES = ((0.27, 1.05, 0.30, 1.05), (0.14, 0.52, 0.10, 0.52), (0.13, 0.60, 0.14, 0.60))
"""Yaw, pitch, roll: arguments of `_mixed`."""


def _mixed(dice: Dice, sigma: float, wide: float, share: float, limit: float) -> float:
    """Mostly normal with `sigma`, in `share` of the draws uniform over +-`wide`; never beyond +-`limit`."""
    if dice.share() < share:
        return dice.between(-wide, wide)
    return _clamp(dice.bell(0.0, sigma), -limit, limit)


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


def _colour(dice: Dice, table: Sequence[tuple[float, ...]], jitter: float) -> Colour:
    b, g, r = (
        _clamp(c + n, 4.0, 250.0)
        for c, n in zip(table[dice.whole(0, len(table))], (dice.bell(0.0, jitter) for _ in range(3)), strict=True)
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


def _expression(dice: Dice) -> _Expression:
    n = [dice.bell() for _ in range(8)]
    face = _Expression(
        mouth_open=dice.between(0, 5) if dice.share() < 0.35 else 0.0,
        smile=_clamp(0.15 + 0.3 * n[0], -0.4, 0.7),
        pucker=max(0.0, -0.3 + 0.25 * n[1]),
        smirk=0.12 * n[2],
        frown=0.0,
        lift=(1.6 * n[3] + 1.2 * n[4], 1.6 * n[3] + 1.2 * n[5]),
        eyes=(_clamp(1.0 + 0.16 * n[6] + 0.04 * n[7], 0.5, 1.4), _clamp(1.0 + 0.16 * n[6] - 0.04 * n[7], 0.5, 1.4)),
    )
    if dice.share() < 0.20:
        face.strong = True
        _exaggerate(face, dice.pick(_EXPRESSIONS), dice)
    return face


def _exaggerate(face: _Expression, kind: str, dice: Dice) -> None:
    left, right = face.eyes
    if kind == "shout":
        face.mouth_open, face.frown = dice.between(10, 26), dice.between(0, 1)
    elif kind == "laugh":
        face.mouth_open, face.smile = dice.between(3, 16), dice.between(0.75, 1.15)
        squint = dice.between(0.55, 0.95)
        face.eyes = (left * squint, right * squint)
    elif kind == "frown":
        face.frown, face.smile = dice.between(0.6, 1.2), dice.between(-0.9, -0.3)
        face.lift = (face.lift[0] - 3.0, face.lift[1] - 3.0)
    elif kind == "kiss":
        face.pucker, face.mouth_open = dice.between(0.7, 1.0), 0.0
    elif kind == "wink":
        shut = dice.between(0.0, 0.1)
        face.eyes = (shut, right) if dice.share() < 0.5 else (left, shut)
        face.smirk = dice.bell(0, 0.4)
    elif kind == "closed":
        shut = dice.between(0.0, 0.12)
        face.eyes = (shut, shut)
    else:
        face.mouth_open, rise = dice.between(7, 20), dice.between(4, 8)
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


def _light(dice: Dice) -> _Light:
    side, height = dice.bell(0, 0.55), dice.between(-0.9, 0.15)
    ambient, lamp = dice.between(0.48, 0.7), dice.between(0.4, 0.65)
    exposure, contrast, cast = 1.0, 1.0, 0.03
    unusual = dice.share() < 0.27
    kind = dice.pick(_LIGHTS) if unusual else "plain"
    if kind == "side":
        side, ambient, lamp = dice.sign() * dice.between(1.2, 2.6), dice.between(0.12, 0.3), 1.05
    elif kind == "dark":
        exposure = dice.between(0.25, 0.5)
    elif kind == "over":
        exposure = dice.between(1.35, 1.8)
    elif kind == "colour":
        cast = 0.25
    elif kind == "below":
        height, ambient = dice.between(0.8, 1.6), 0.25
    elif kind == "flat":
        contrast, ambient = dice.between(0.35, 0.6), 0.8
    length = math.sqrt(side * side + height * height + 1.0)
    warm, green = cast * dice.bell(), 0.3 * cast * dice.bell()
    tint = (_clamp(1 - warm, 0.45, 1.5), _clamp(1 + green, 0.45, 1.5), _clamp(1 + warm, 0.45, 1.5))
    return _Light((side / length, height / length, -1.0 / length), ambient, lamp, tint, exposure, contrast, unusual)


def _shape(dice: Dice, female: bool, face: _Expression) -> NDArray[np.float64]:
    shape = np.zeros(len(SHAPE_NAMES))
    shape[:_IDENTITY] = np.minimum(np.maximum(dice.rng.standard_normal(_IDENTITY), -2.2), 2.2)
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
    dice = Dice(seed, index, 0)
    yaw, pitch, roll = (_mixed(dice, *row) for row in _POSES)
    female = dice.share() < 0.5
    age = dice.share() ** 1.4
    face = _expression(dice)
    shape = _shape(dice, female, face)
    light = _light(dice)

    made_up = dice.share() < (0.24 if female else 0.02)
    tone = (dice.share() ** 1.25) * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = (_SKIN[low] * (1 - tone + low) + _SKIN[low + 1] * (tone - low)) * np.array(
        [dice.bell(1.0, 0.03) for _ in range(3)]
    )
    hair_name = "grey" if age > 0.82 else "black" if tone > 2.4 and dice.share() < 0.85 else dice.pick(_HAIR_SHARE)
    brightness = dice.between(0.75, 1.2)
    hair = tuple(
        _clamp(c * brightness + n, 6, 235)
        for c, n in zip(_HAIR[hair_name], (dice.bell(0.0, 4.0) for _ in range(3)), strict=True)
    )
    bearded = not female and dice.share() < 0.38
    beard = dice.between(0.15, 1.0) if bearded else 0.0 if female else dice.between(0, 0.12)

    occluder = dice.pick(_OCCLUDERS) if dice.share() < 0.32 else "none"
    blurred = dice.share() < 0.24
    blur, amount = "none", 0.0
    if blurred:
        blur, amount = dice.pick(_BLURS), dice.between(0.35, 1.0)
    elif dice.share() < 0.4:
        blur, amount = "gauss", dice.between(0.05, 0.2)
    n = [dice.bell() for _ in range(16)]

    return FaceParams(
        angles=(yaw, pitch, roll),
        distance=480.0 * (2200.0 / 480.0) ** dice.share(),
        fill=dice.between(0.46, 0.60),
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
        iris=_colour(dice, _IRIS if tone < 1.8 else _IRIS[:2], 6),
        hair=(hair[0], hair[1], hair[2]),
        hair_style=dice.pick(_WOMEN if female else _MEN),
        hair_volume=dice.between(0.2, 1.0),
        hair_hem=0.8 * dice.rng.standard_normal(HEM_COLUMNS),
        hair_part=0.5 * n[14],
        beard=beard,
        moustache=_clamp(beard + 0.3 * n[15], 0.0, 1.0) if bearded else 0.0,
        age=age,
        freckles=dice.between(0.3, 1) if tone < 1.6 and dice.share() < 0.12 else 0.0,
        lipstick=dice.between(0.5, 0.95) if made_up else 0.0,
        lipstick_colour=_colour(dice, _LIPSTICK, 10),
        eye_shadow=dice.between(0.3, 0.8) if made_up and dice.share() < 0.85 else 0.0,
        eye_shadow_colour=_colour(dice, _SHADOW, 10),
        blush=dice.between(0.2, 0.6) if made_up and dice.share() < 0.6 else 0.0,
        liner=dice.between(0.3, 1.0) if made_up else dice.between(0.0, 0.3) if female else 0.0,
        light=light.direction,
        ambient=light.ambient,
        lamp=light.lamp,
        tint=light.tint,
        exposure=light.exposure,
        contrast=light.contrast,
        gloss=dice.between(0.0, 0.35),
        occluder=occluder,
        blur=blur,
        blur_amount=amount,
        noise=dice.between(0, 7) if dice.share() < 0.5 else 0.0,
        attributes=(
            abs(yaw) > LARGE_YAW or abs(pitch) > LARGE_PITCH or abs(roll) > LARGE_ROLL,
            face.strong,
            bool(light.unusual),
            bool(made_up),
            occluder != "none",
            bool(blurred),
        ),
    )
