"""The 3-D face: mirror symmetry, camera, angles, and points that lie on what is drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.images import Image
from runtime.layouts import WFLW98
from train.data.synth import SynthSource, angles_of, mean_face_3d, project, rotation
from train.data.synth.camera import perspective
from train.data.synth.figure import FACE, QUADS, sheet
from train.data.synth.marks import mark, neutral
from train.data.synth.params import FaceParams, draw
from train.data.synth.photo import render
from train.data.synth.raster import rasterise
from train.data.synth.source import placed

Points = NDArray[np.float64]
INNER = np.arange(33, 98)
SIZE = 256

angle = st.floats(-1.3, 1.3)


# ---- camera ----------------------------------------------------------------------------------------------------------


@given(angle, st.floats(-1.2, 1.2), angle)
@settings(max_examples=100, deadline=None)
def test_angles_come_back_from_the_rotation(yaw: float, pitch: float, roll: float) -> None:
    matrix = rotation((yaw, pitch, roll))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    assert angles_of(matrix) == pytest.approx((yaw, pitch, roll), abs=1e-9)


@pytest.mark.parametrize(
    ("angles", "moved"),
    [((0.3, 0.0, 0.0), "right"), ((0.0, 0.3, 0.0), "up"), ((-0.3, 0.0, 0.0), "left"), ((0.0, -0.3, 0.0), "down")],
)
def test_the_nose_goes_where_the_documentation_says(angles: tuple[float, float, float], moved: str) -> None:
    nose = mean_face_3d()[54]
    dx, dy = project(nose, angles) - project(nose)
    assert {"right": dx > 5, "left": dx < -5, "down": dy > 5, "up": dy < -5}[moved]


def test_roll_tips_the_top_to_the_right() -> None:
    brow, chin = project(mean_face_3d()[[35, 16]], (0.0, 0.0, 0.3))
    assert brow[0] > project(mean_face_3d()[35])[0]
    assert chin[0] < -10


def test_parallel_projection_is_the_far_camera() -> None:
    far = project(mean_face_3d(), (0.4, 0.1, 0.2), distance=1e8)
    np.testing.assert_allclose(project(mean_face_3d(), (0.4, 0.1, 0.2), distance=math.inf), far, atol=1e-3)


def test_a_near_camera_makes_the_nose_larger() -> None:
    wings = mean_face_3d()[[55, 59]]
    near, far = (np.ptp(project(wings, distance=d)[:, 0]) for d in (400.0, 4000.0))
    assert near > 1.15 * far


# ---- mirror ----------------------------------------------------------------------------------------------------------


def test_the_mean_face_is_its_own_mirror_image() -> None:
    face = mean_face_3d()
    mirrored = face[WFLW98.flip_index] * (-1, 1, 1)
    np.testing.assert_allclose(mirrored, face, atol=1e-9)


def test_proportions_are_those_of_a_grown_face() -> None:
    """Millimetres within the range of adults."""
    face = mean_face_3d()
    assert 55 < face[97, 0] - face[96, 0] < 68
    assert 80 < face[72, 0] - face[60, 0] < 98
    assert 125 < face[32, 0] - face[0, 0] < 150
    assert 105 < face[16, 1] - face[51, 1] < 125
    assert face[54, 2] == face[:, 2].min()
    assert (np.diff(face[:17, 1]) > 0).all()


@pytest.mark.parametrize("index", range(6))
def test_a_mirrored_head_gives_mirrored_points(index: int) -> None:
    params = replace(draw(3, index), smirk=0.0, gaze=(0.0, 0.2), eye_open=(0.9, 0.9), brow_lift=(0.5, 0.5))
    yaw, pitch, roll = params.angles
    there, back = mark(params).flat, mark(replace(params, angles=(-yaw, pitch, -roll))).flat
    np.testing.assert_allclose(there[WFLW98.flip_index] * (-1, 1), back, atol=1e-9)


# ---- angles from points ----------------------------------------------------------------------------------------------


def solve(points: NDArray[np.float32], distance: float, scale: float) -> tuple[float, float, float]:
    """Angles from the inner points alone, through OpenCV's solver and the mean head."""
    focal = distance * scale
    middle = float(points.mean())
    camera = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    start = np.array([0.0, 0.0, 0.0]), np.array([0.0, 0.0, distance])
    done, turn, _ = cv2.solvePnP(
        mean_face_3d()[INNER],
        points[INNER].astype(np.float64),
        camera,
        None,
        start[0],
        start[1],
        True,
        cv2.SOLVEPNP_ITERATIVE,
    )
    assert done
    return angles_of(cv2.Rodrigues(turn)[0])


def test_angles_are_those_that_the_points_show() -> None:
    """Another identity and expression than the mean's cost a few degrees, a wrong sign would cost tens."""
    source = SynthSource(120, seed=6)
    errors = []
    for index in range(120):
        sample = source.sample(index)
        params, marks = source.face(index)
        scale, _, _ = placed(params, marks, 160)
        errors.append(np.degrees(np.abs(np.subtract(solve(sample.points, params.distance, scale), sample.angles))))
    yaw, pitch, roll = np.array(errors).T
    assert np.median(yaw) < 4, np.median(yaw)
    assert np.median(pitch) < 5, np.median(pitch)
    assert np.median(roll) < 2.5, np.median(roll)
    assert np.percentile(yaw, 95) < 14
    assert np.percentile(roll, 95) < 9


# ---- points lie on what is drawn -------------------------------------------------------------------------------------


def plain(index: int, **changes: object) -> FaceParams:
    """A sharp, evenly lit face without anything in front of it."""
    params = replace(
        draw(41, index),
        occluder="none", blur="none", noise=0.0, exposure=1.0, contrast=1.0, tint=(1.0, 1.0, 1.0), ambient=0.9,
        lamp=0.2, gloss=0.0, beard=0.0, moustache=0.0, hair_style="bald", eye_shadow=0.0, skin=(118.0, 152.0, 204.0),
    )  # fmt: skip
    return replace(params, **changes)  # type: ignore[arg-type]


def shot(params: FaceParams) -> tuple[Image, Points]:
    marks = mark(params)
    scale, centre, points = placed(params, marks, SIZE)
    return render(params, marks, scale, centre, 41, 0, SIZE), points.astype(np.float64)


def changed(one: FaceParams, other: FaceParams, least: int) -> tuple[NDArray[np.bool_], Points]:
    """The pixels in which two faces of the same shape differ."""
    (first, points), (second, _) = shot(one), shot(other)
    return cv2.absdiff(first, second).max(axis=2) > least, points


def distance_to_edge(mask: NDArray[np.bool_], points: Points) -> NDArray[np.float64]:
    """Pixels from each point to the mask's nearest border."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    far = np.maximum(np.where(mask, inside - 0.5, outside - 0.5), 0.0)
    sampled = cv2.remap(
        far.astype(np.float32), points[:, 0].astype(np.float32), points[:, 1].astype(np.float32), cv2.INTER_LINEAR
    )
    return np.asarray(sampled, np.float64).ravel()


SHIFTS = [np.array(shift) for shift in ((3.0, 0.0), (-3.0, 0.0), (0.0, 3.0), (0.0, -3.0))]


def require_on_edge(mask: NDArray[np.bool_], points: Points) -> None:
    """The points lie on the mask's border, and three pixels beside they would not."""
    gap = distance_to_edge(mask, points)
    assert gap.max() < 1.6
    assert gap.mean() < 0.85
    for shift in SHIFTS:
        assert distance_to_edge(mask, points + shift).mean() > 0.85


@pytest.mark.parametrize("index", range(5))
def test_lip_points_border_the_lips(index: int) -> None:
    red, blue = (
        plain(index, lipstick=1.0, lipstick_colour=colour, pucker=0.0, angles=(0.2, 0.05, 0.1))
        for colour in ((30.0, 30.0, 220.0), (220.0, 30.0, 30.0))
    )
    mask, points = changed(red, blue, 90)
    require_on_edge(mask, points[76:88])


def iris_centre(params: FaceParams, which: int) -> tuple[Points, Points]:
    """Where the iris really is, and where the label says."""
    dark, light = (replace(params, iris=colour) for colour in ((20.0, 30.0, 40.0), (200.0, 220.0, 60.0)))
    mask, points = changed(dark, light, 20)
    pupil = points[96 + which]
    ys, xs = np.nonzero(mask)
    near = np.hypot(xs - pupil[0], ys - pupil[1]) < 12
    return np.array([(xs[near].min() + xs[near].max()) / 2, ys[near].mean()]), pupil


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("which", [0, 1])
def test_pupils_are_the_middle_of_the_iris(index: int, which: int) -> None:
    params = plain(index, eye_open=(1.5, 1.5), eye_height=1.45, smile=0.0, gaze=(0.3, 0.1), angles=(0.0, 0.0, 0.0))
    found, pupil = iris_centre(params, which)
    assert abs(found[0] - pupil[0]) < 1.2
    assert abs(found[1] - pupil[1]) < 2.0


@pytest.mark.parametrize("index", range(4))
def test_brow_points_border_the_brows(index: int) -> None:
    black, white = (
        plain(index, hair=colour, angles=(-0.15, 0.0, 0.05)) for colour in ((0.0, 0.0, 0.0), (90.0, 90.0, 90.0))
    )
    mask, points = changed(black, white, 30)
    require_on_edge(mask, points[33:42])
    require_on_edge(mask, points[42:51])


def face_mask(params: FaceParams) -> tuple[NDArray[np.bool_], Points]:
    """The pixels that the face sheet alone covers."""
    marks = mark(params)
    scale, centre, points = placed(params, marks, SIZE)
    turned = sheet(params, marks.vertices, marks.turn)
    screen = perspective(turned, params.distance) * scale + centre
    known = QUADS["bald"]
    only_face = np.zeros_like(known.real).reshape(-1, turned.shape[1] - 1)
    only_face[FACE.start : FACE.stop - 1] = True
    seen = rasterise(turned, screen, SIZE, replace(known, real=known.real & only_face.ravel()), 0.0)
    mask = np.zeros((SIZE, SIZE), bool)
    height, width = seen.covered.shape
    mask[seen.y0 : seen.y0 + height, seen.x0 : seen.x0 + width] = seen.covered > 0
    return mask, points.astype(np.float64)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("yaw", [-0.9, -0.6, 0.6, 0.9])
def test_far_contour_is_the_outline_of_the_face(index: int, yaw: float) -> None:
    """The cheek's part of the far side, between eye and mouth."""
    mask, points = face_mask(replace(draw(17, index), angles=(yaw, 0.0, 0.0)))
    far = np.arange(4, 9) if yaw < 0 else np.arange(24, 29)
    gap = distance_to_edge(mask, points[far])
    assert np.median(gap) < 2.0
    inward = points[far] + (np.array([5.0, 0.0]) if yaw < 0 else np.array([-5.0, 0.0]))
    assert np.median(distance_to_edge(mask, inward)) > 2.0


def test_near_contour_stays_on_the_jaw() -> None:
    """Turned away from the camera by 40 degrees, the near ear-side points move towards the middle with the skin."""
    straight, turned = mark(neutral()), mark(neutral((0.7, 0.0, 0.0)))
    np.testing.assert_allclose(turned.solid[:8], straight.solid[:8], atol=7.0)
    assert (turned.solid[25:32, 0] < straight.solid[25:32, 0] - 5).all()


@pytest.mark.parametrize("open_share", [0.0, 0.5, 1.0, 1.5])
def test_lids_never_cross(open_share: float) -> None:
    eyes = mark(replace(neutral(), eye_open=(open_share, open_share))).flat[60:76].reshape(2, 8, 2)
    upper, lower = eyes[:, 1:4, 1], eyes[:, 7:4:-1, 1]
    assert (lower - upper > 0.3).all()


@pytest.mark.parametrize("mouth_open", [0.0, 5.0, 15.0, 26.0])
def test_an_open_mouth_parts_the_inner_lips(mouth_open: float) -> None:
    params = neutral()
    shape = params.shape.copy()
    shape[-3] = mouth_open / 20
    lips = mark(replace(params, mouth_open=mouth_open, shape=shape)).flat
    gap = lips[94, 1] - lips[90, 1]
    assert gap == pytest.approx(mouth_open * 1.3, abs=4.0)
    assert lips[85, 1] > lips[94, 1]
    assert lips[90, 1] > lips[79, 1]
    assert lips[16, 1] > lips[85, 1] + 15
