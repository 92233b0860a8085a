"""What one synthetic face is made of: every number that shape, pose, paint and photo depend on, drawn from one seed."""

from __future__ import annotations

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

HEM_COLUMNS = 25
OCCLUDERS = ("none", "glasses", "sunglasses", "hand", "mask", "object", "strands")
HAIR_STYLES = ("bald", "short", "receding", "fringe", "long", "bob", "curly", "hat")


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


def _mixed(rng: np.random.Generator, sigma: float, wide: float, share: float, limit: float) -> float:
    """Mostly normal with `sigma`, in `share` of the draws uniform over +-`wide`; never beyond +-`limit`."""
    if rng.random() < share:
        return float(rng.uniform(-wide, wide))
    return float(np.clip(rng.normal(0.0, sigma), -limit, limit))


def _pick(rng: np.random.Generator, choices: dict[str, float]) -> str:
    names = list(choices)
    edges = np.cumsum(list(choices.values()))
    return names[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(names) - 1)]


def _blend(low: tuple[float, ...], high: tuple[float, ...], share: float) -> tuple[float, float, float]:
    b, g, r = (a + (c - a) * share for a, c in zip(low, high, strict=True))
    return float(b), float(g), float(r)


_SKIN = ((198.0, 214.0, 242.0), (160.0, 186.0, 228.0), (118.0, 152.0, 204.0), (78.0, 108.0, 160.0), (44.0, 62.0, 98.0))
_HAIR = {
    (22.0, 20.0, 22.0): 4.0,
    (26.0, 38.0, 58.0): 3.0,
    (44.0, 70.0, 104.0): 2.0,
    (92.0, 142.0, 186.0): 1.5,
    (150.0, 196.0, 224.0): 0.7,
    (40.0, 72.0, 150.0): 0.6,
    (170.0, 170.0, 172.0): 1.0,
    (90.0, 50.0, 140.0): 0.15,
}
_IRIS = ((30.0, 46.0, 72.0), (40.0, 70.0, 100.0), (70.0, 110.0, 96.0), (150.0, 130.0, 100.0), (140.0, 140.0, 130.0))
_LIPSTICK = ((60.0, 40.0, 190.0), (90.0, 60.0, 170.0), (110.0, 60.0, 210.0), (60.0, 40.0, 110.0), (140.0, 90.0, 220.0))
_SHADOW = ((120.0, 70.0, 60.0), (140.0, 80.0, 130.0), (60.0, 70.0, 110.0), (120.0, 130.0, 70.0), (40.0, 36.0, 44.0))

_SHAPE_SIGMA = np.array([1.0] * 18)


def _colour(
    rng: np.random.Generator, table: tuple[tuple[float, ...], ...], jitter: float
) -> tuple[float, float, float]:
    b, g, r = np.clip(np.asarray(table[rng.integers(len(table))]) + rng.normal(0, jitter, 3), 4, 250)
    return float(b), float(g), float(r)


def draw(seed: int, index: int) -> FaceParams:
    """The numbers of face `index` under `seed`.

    >>> draw(1, 5).angles == draw(1, 5).angles
    True
    """
    rng = generator(seed, index, 0)
    yaw = _mixed(rng, 0.27, 1.31, 0.22, 1.31)
    pitch = _mixed(rng, 0.14, 0.52, 0.12, 0.52)
    roll = _mixed(rng, 0.13, 0.44, 0.14, 0.44)
    female = rng.random() < 0.5
    age = float(rng.random() ** 1.4)

    expressive = rng.random() < 0.22
    mouth_open = float(rng.uniform(0, 5)) if rng.random() < 0.35 else 0.0
    smile = float(np.clip(rng.normal(0.15, 0.3), -0.4, 0.7))
    frown, pucker, smirk = 0.0, float(max(0.0, rng.normal(-0.3, 0.25))), float(rng.normal(0, 0.12))
    lift = rng.normal(0.0, 1.2, 2) + rng.normal(0.0, 1.6)
    open_eyes = np.clip(rng.normal(1.0, 0.16, 1) + rng.normal(0, 0.04, 2), 0.45, 1.45)
    strong = False
    if expressive:
        kind = _pick(rng, {"shout": 3, "laugh": 4, "frown": 2, "kiss": 1, "wink": 1, "closed": 2, "surprise": 2})
        strong = True
        if kind == "shout":
            mouth_open, frown = float(rng.uniform(10, 26)), float(rng.uniform(0, 1))
        elif kind == "laugh":
            mouth_open, smile = float(rng.uniform(3, 16)), float(rng.uniform(0.75, 1.15))
            open_eyes = open_eyes * rng.uniform(0.55, 0.95)
        elif kind == "frown":
            frown, smile = float(rng.uniform(0.6, 1.2)), float(rng.uniform(-0.9, -0.3))
            lift = lift - 3.0
        elif kind == "kiss":
            pucker, mouth_open = float(rng.uniform(0.7, 1.0)), 0.0
        elif kind == "wink":
            open_eyes = np.where(np.arange(2) == rng.integers(2), rng.uniform(0.0, 0.1), open_eyes)
            smirk = float(rng.normal(0, 0.4))
        elif kind == "closed":
            open_eyes = np.full(2, rng.uniform(0.0, 0.12))
        else:
            mouth_open, lift = float(rng.uniform(7, 20)), lift + rng.uniform(4, 8)
            open_eyes = open_eyes * 1.25
    open_eyes = np.clip(open_eyes, 0.0, 1.5)

    shape = np.zeros(len(SHAPE_NAMES))
    shape[:18] = np.clip(rng.normal(0.0, 1.0, 18) * _SHAPE_SIGMA, -2.2, 2.2)
    shape[3] -= 0.7 if female else -0.5
    shape[8] -= 0.4 if female else -0.4
    shape[10] -= 0.8 if female else -0.6
    shape[18] = mouth_open / 20.0
    shape[19] = max(0.0, smile)
    shape[20] = pucker

    made_up = rng.random() < (0.30 if female else 0.02)
    lipstick = float(rng.uniform(0.5, 0.95)) if made_up else 0.0
    shadow = float(rng.uniform(0.3, 0.8)) if made_up and rng.random() < 0.85 else 0.0
    blush = float(rng.uniform(0.2, 0.6)) if made_up and rng.random() < 0.6 else 0.0
    liner = float(rng.uniform(0.3, 1.0)) if made_up else float(rng.uniform(0, 0.3) if female else 0.0)

    tone = float(rng.random() ** 1.25) * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = np.asarray(_blend(_SKIN[low], _SKIN[low + 1], tone - low)) * (1 + rng.normal(0, 0.03, 3))
    hair_base = list(_HAIR)[int(np.searchsorted(np.cumsum(list(_HAIR.values())), rng.random() * sum(_HAIR.values())))]
    if tone > 2.4 and rng.random() < 0.85:
        hair_base = next(iter(_HAIR))
    if age > 0.8:
        hair_base = (170.0, 170.0, 172.0)
    hair = np.clip(np.asarray(hair_base) * rng.uniform(0.75, 1.2) + rng.normal(0, 4, 3), 6, 235)
    styles = (
        {"bald": 0.2, "short": 1.2, "receding": 0.1, "fringe": 2.0, "long": 4.0, "bob": 3.0, "curly": 1.2, "hat": 0.5}
        if female
        else {
            "bald": 1.5,
            "short": 5.0,
            "receding": 1.6,
            "fringe": 1.2,
            "long": 0.5,
            "bob": 0.2,
            "curly": 1.0,
            "hat": 1.0,
        }
    )
    bearded = not female and rng.random() < 0.38
    beard = float(rng.uniform(0.15, 1.0)) if bearded else (0.0 if female else float(rng.uniform(0, 0.12)))
    moustache = float(np.clip(beard + rng.normal(0, 0.3), 0, 1)) if bearded else 0.0

    lit = rng.random() < 0.26
    side = rng.normal(0, 0.55)
    height = rng.uniform(-0.9, 0.15)
    ambient, lamp, exposure, contrast, tint_strength = (
        float(rng.uniform(0.48, 0.7)),
        float(rng.uniform(0.4, 0.65)),
        1.0,
        1.0,
        0.04,
    )
    if lit:
        kind = _pick(rng, {"side": 4, "dark": 3, "over": 2, "colour": 3, "under": 1, "flat": 1})
        if kind == "side":
            side, ambient, lamp = (
                float(rng.choice([-1, 1]) * rng.uniform(1.2, 2.6)),
                float(rng.uniform(0.12, 0.3)),
                1.05,
            )
        elif kind == "dark":
            exposure = float(rng.uniform(0.22, 0.48))
        elif kind == "over":
            exposure = float(rng.uniform(1.4, 1.9))
        elif kind == "colour":
            tint_strength = 0.28
        elif kind == "under":
            height, ambient = float(rng.uniform(0.8, 1.6)), 0.25
        else:
            contrast, ambient = float(rng.uniform(0.35, 0.6)), 0.8
    direction = np.array([side, height, -1.0])
    direction /= np.sqrt((direction**2).sum())
    warmth = rng.normal(0, tint_strength)
    tint = np.clip(np.array([1 - warmth, 1 + rng.normal(0, tint_strength * 0.3), 1 + warmth]), 0.4, 1.6)

    occluder = "none"
    if rng.random() < 0.42:
        occluder = _pick(rng, {"glasses": 5, "sunglasses": 2, "hand": 2.4, "mask": 1.4, "object": 2.2, "strands": 1.6})
    blurred = rng.random() < 0.24
    blur, amount = "none", 0.0
    if blurred:
        blur = _pick(rng, {"gauss": 3, "motion": 2, "small": 3})
        amount = float(rng.uniform(0.35, 1.0))
    elif rng.random() < 0.4:
        blur, amount = "gauss", float(rng.uniform(0.05, 0.2))

    return FaceParams(
        angles=(yaw, pitch, roll),
        distance=float(np.exp(rng.uniform(np.log(480), np.log(2200)))),
        fill=float(rng.uniform(0.46, 0.60)),
        shift=(float(rng.normal(0, 0.02)), float(rng.normal(0.0, 0.02))),
        shape=shape,
        eye_gap=float(rng.normal(0, 1.3)),
        eye_size=float(np.clip(rng.normal(1.0, 0.055), 0.84, 1.16)),
        eye_height=float(np.clip(rng.normal(1.0, 0.15), 0.6, 1.45)),
        eye_tilt=float(rng.normal(0.0, 0.05)),
        eye_open=(float(open_eyes[0]), float(open_eyes[1])),
        gaze=(float(np.clip(rng.normal(0, 0.38), -1, 1)), float(np.clip(rng.normal(0, 0.3), -1, 1))),
        brow_lift=(float(lift[0]), float(lift[1])),
        brow_frown=frown,
        brow_thick=float(np.clip(rng.normal(0.92 if female else 1.12, 0.2), 0.5, 1.7)),
        brow_arch=float(rng.normal(0.4 if female else 0.0, 0.6)),
        mouth_width=float(rng.normal(0, 2.0)),
        mouth_shift=float(rng.normal(0, 1.5)),
        lip_upper=float(np.clip(rng.normal(1.0, 0.25), 0.4, 1.8)),
        lip_lower=float(np.clip(rng.normal(1.0, 0.22), 0.5, 1.7)),
        mouth_open=mouth_open,
        smile=smile,
        smirk=smirk,
        pucker=pucker,
        skin=(float(skin[0]), float(skin[1]), float(skin[2])),
        iris=_colour(rng, _IRIS if tone < 1.8 else _IRIS[:2], 6),
        hair=(float(hair[0]), float(hair[1]), float(hair[2])),
        hair_style=_pick(rng, styles),
        hair_volume=float(rng.uniform(0.2, 1.0)),
        hair_hem=rng.normal(0.0, 0.8, HEM_COLUMNS),
        hair_part=float(rng.normal(0, 0.5)),
        beard=beard,
        moustache=moustache,
        age=age,
        freckles=float(rng.uniform(0.3, 1)) if rng.random() < 0.12 and tone < 1.6 else 0.0,
        lipstick=lipstick,
        lipstick_colour=_colour(rng, _LIPSTICK, 10),
        eye_shadow=shadow,
        eye_shadow_colour=_colour(rng, _SHADOW, 10),
        blush=blush,
        liner=liner,
        light=(float(direction[0]), float(direction[1]), float(direction[2])),
        ambient=ambient,
        lamp=lamp,
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        exposure=exposure,
        contrast=contrast,
        gloss=float(rng.uniform(0.0, 0.35)),
        occluder=occluder,
        blur=blur,
        blur_amount=amount,
        noise=float(rng.uniform(0, 7)) if rng.random() < 0.5 else 0.0,
        attributes=(
            bool(abs(yaw) > 0.61 or abs(pitch) > 0.40 or abs(roll) > 0.40),
            strong,
            bool(lit),
            bool(made_up),
            occluder != "none",
            bool(blurred),
        ),
    )
