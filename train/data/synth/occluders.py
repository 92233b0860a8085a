"""Things in front of the face: glasses, a hand, hair over the face, some object."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images import Image
from train.data.synth.brush import disc, fixed, times
from train.data.synth.camera import perspective, rotate
from train.data.synth.dice import Dice
from train.data.synth.marks import Marks
from train.data.synth.params import FaceParams

Array = NDArray[np.float64]


def cover(picture: Image, params: FaceParams, marks: Marks, scale: float, centre: Array, dice: Dice) -> None:
    """Draw the face's occluder over the photo."""
    points = marks.flat * scale + centre
    if params.occluder in ("glasses", "sunglasses"):
        _glasses(picture, params, marks, scale, centre, dice)
    elif params.occluder == "hand":
        _hand(picture, params, points, dice)
    elif params.occluder == "strands":
        _strands(picture, params, points, dice)
    else:
        _object(picture, points, dice)


def _blend(picture: Image, layer: Image, alpha: float) -> None:
    picture[:] = cv2.addWeighted(layer, alpha, picture, 1 - alpha, 0.0)


def _glasses(picture: Image, params: FaceParams, marks: Marks, scale: float, centre: Array, dice: Dice) -> None:
    round_lens, tall = dice.between(2.0, 4.5), dice.between(15, 21)
    wide = dice.between(22.5, 26.5)
    t = np.arange(20) * (2 * np.pi / 20)
    c, s = np.cos(t), np.sin(t)
    shape = (np.abs(c) ** round_lens + np.abs(s) ** round_lens) ** (-1 / round_lens)
    solid = marks.solid
    eyes = solid[60:76].reshape(2, 8, 3).mean(axis=1)
    front = float(solid[51:53, 2].mean()) - 3.0
    dark = params.occluder == "sunglasses"
    frame = dice.colour(5, 70) if dice.share() < 0.75 else dice.colour(60, 220)
    thick = max(1, round(scale * dice.between(1.6, 4.2)))
    lenses = []
    for k, eye in enumerate(eyes):
        side = -1.0 if k == 0 else 1.0
        x = (eye[0] + side * 1.5) + wide * shape * c
        y = eye[1] + 4.0 + tall * shape * s
        z = front + 0.0045 * x**2 + 0 * t
        lenses.append(np.stack([x, y, z], -1))
    level = float(eyes[:, 1].mean())
    bridge = np.array([[-9.0, level - 1, front - 2], [0.0, level - 3, front - 3], [9.0, level - 1, front - 2]])
    arms = [np.array([[s * 56.0, eyes[0, 1] - 1, front + 14], [s * 75.0, eyes[0, 1] - 3, 6.0]]) for s in (-1.0, 1.0)]

    def screen(solid: Array) -> NDArray[np.int32]:
        return fixed(perspective(rotate(solid, marks.turn), params.distance) * scale + centre)

    if dark or dice.share() < 0.5:
        layer = picture.copy()
        tone = dice.colour(5, 45) if dark else (235.0, 232.0, 225.0)
        for lens in lenses:
            cv2.fillPoly(layer, [screen(lens)], tone, cv2.LINE_AA, 4)
        _blend(picture, layer, dice.between(0.78, 0.97) if dark else 0.12)
        if dark:
            glint = picture.copy()
            for lens in lenses:
                part = lens[[11, 13, 15, 14, 12]] * 0.55 + lens.mean(axis=0) * 0.45
                cv2.fillPoly(glint, [screen(part)], (225, 225, 225), cv2.LINE_AA, 4)
            _blend(picture, glint, 0.25)
    for lens in lenses:
        cv2.polylines(picture, [screen(lens)], True, frame, thick, cv2.LINE_AA, 4)
    cv2.polylines(picture, [screen(bridge)], False, frame, thick, cv2.LINE_AA, 4)
    for side, arm in zip((-1.0, 1.0), arms, strict=True):
        if side * params.angles[0] < 0.45:
            cv2.polylines(picture, [screen(arm)], False, frame, max(1, thick - 1), cv2.LINE_AA, 4)


def _hand(picture: Image, params: FaceParams, points: Array, dice: Dice) -> None:
    """Four fingers and the back of a hand, reaching in from below or from a side."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max())
    tip = low + (high - low) * np.array((dice.between(0.15, 0.85), dice.between(0.35, 0.85)))
    way = dice.between(-0.9, 0.9) + (np.pi / 2 if dice.share() < 0.75 else (0.0 if dice.share() < 0.5 else np.pi))
    along, across = np.array([np.cos(way), np.sin(way)]), np.array([-np.sin(way), np.cos(way)])
    finger = extent * dice.between(0.085, 0.11)
    level = min(1.2, (params.ambient + 0.6 * params.lamp))
    skin = times(params.skin, level)
    dark = times(skin, 0.68)
    palm = tip + along * finger * 4.2
    back = [palm + across * finger * k for k in (-2.1, -1.0, 1.0, 2.1)]
    wrist = [palm + along * finger * 9 + across * finger * k for k in (1.6, -1.6)]
    cv2.fillPoly(picture, [fixed(np.array([*back, *wrist]))], skin, cv2.LINE_AA, 4)
    for k, length in zip((-1.5, -0.5, 0.5, 1.5), (3.6, 4.3, 4.1, 3.2), strict=True):
        spread = across * k * finger
        start, end = palm + spread * 1.02 + along * finger * 0.8, palm + spread * 1.15 - along * finger * length
        line = [fixed(np.array([start, end]))]
        cv2.polylines(picture, line, False, dark, max(2, round(finger * 1.02)), cv2.LINE_AA, 4)
        cv2.polylines(picture, line, False, skin, max(1, round(finger * 0.86)), cv2.LINE_AA, 4)
        nail = end + along * finger * 0.2
        cv2.fillPoly(
            picture,
            [fixed(disc(float(nail[0]), float(nail[1]), finger * 0.24, finger * 0.24))],
            times(skin, 1.12),
            cv2.LINE_AA,
            4,
        )


def _strands(picture: Image, params: FaceParams, points: Array, dice: Dice) -> None:
    """Hair falling over one side of the face."""
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = high - low
    side = dice.sign()
    start_x = (low[0] + high[0]) / 2 + side * width * dice.between(0.05, 0.35)
    level = params.ambient + 0.4 * params.lamp
    count = dice.whole(10, 26)
    draws = dice.rng.standard_normal((count, 4))
    t = np.linspace(0, 1, 9)
    for row in draws:
        x0 = start_x + row[0] * 0.05 * width
        bend = side * width * (0.10 + 0.05 * row[1])
        length = height * (0.75 + 0.15 * row[2])
        x = x0 + bend * np.sin(t * 2.2) + row[3] * 0.03 * width * t
        y = low[1] - 0.38 * height + length * t * 1.25
        shade = times(params.hair, level * float(0.8 + 0.25 * np.tanh(row[3])))
        cv2.polylines(picture, [fixed(np.stack([x, y], -1))], False, shade, 1 + int(row[2] > 0), cv2.LINE_AA, 4)


def _object(picture: Image, points: Array, dice: Dice) -> None:
    """A cup, a card, a bar: some flat thing."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max())
    middle = low + (high - low) * np.array((dice.share(), dice.share()))
    w, h = extent * dice.between(0.18, 0.5), extent * dice.between(0.18, 0.5)
    colour = dice.colour(0, 255)
    edge = times(colour, 0.6)
    turn = dice.between(-35, 35)
    if dice.share() < 0.4:
        box = ((float(middle[0]), float(middle[1])), (w, h), turn)
        cv2.ellipse(picture, box, colour, -1, cv2.LINE_AA)
        cv2.ellipse(picture, box, edge, 1, cv2.LINE_AA)
    else:
        corners = cv2.boxPoints(((float(middle[0]), float(middle[1])), (w, h * 1.4), turn)).astype(np.float64)
        cv2.fillPoly(picture, [fixed(corners)], colour, cv2.LINE_AA, 4)
        stripe = corners[[0, 1, 2, 3]] * 0.55 + corners.mean(axis=0) * 0.45
        cv2.fillPoly(picture, [fixed(stripe)], edge, cv2.LINE_AA, 4)
