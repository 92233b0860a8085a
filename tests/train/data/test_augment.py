from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.geometry import Box, crop_region, points_to_target, warp
from runtime.layouts import WFLW98
from runtime.spec import CropRule, ModelSpec
from train.data.augment import PRESETS, AugmentConfig, Moves, draw_moves, move_angles, move_points, squares
from train.data.draws import Draws
from train.data.loader import BatchLoader
from train.data.pack import FacePack
from train.data.pixels import NOISE_LEVELS, PixelPlan
from train.data.readers import ListSource
from train.data.synth import mean_face_3d, project

SPEC = ModelSpec("ghostone", input_size=80)
NONE = AugmentConfig.none()
FLIP = list(WFLW98.flip)


def batch_of(pack: FacePack, config: AugmentConfig, spec: ModelSpec = SPEC, seed: int = 0):  # type: ignore[no-untyped-def]
    return next(BatchLoader(pack, spec, config, len(pack), seed, threads=0, shuffle=False).epoch(0))


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, 0, np.arange(count))


def some_moves(config: AugmentConfig, count: int = 64, seed: int = 0, size: int = 80) -> Moves:
    return draw_moves(config, draws(count, seed), np.full((count, 2), 47.5), np.full(count, 64.0), size)


def test_without_augmentation_training_sees_the_runtimes_crop(pack: FacePack) -> None:
    """Bit for bit: the crop of the packed picture, and its targets."""
    batch = batch_of(pack, NONE)
    for index in range(len(pack)):
        region = crop_region(Box.around(pack.points[index]), SPEC.crop)
        np.testing.assert_array_equal(batch.images[index], warp(pack.photo(index), region.to_crop(80), 80))
        expected = points_to_target(pack.points[index].astype(np.float64), region, SPEC)
        np.testing.assert_allclose(batch.targets[index], expected, rtol=0, atol=1e-7)
    assert batch.weights.min() == 1


@pytest.mark.parametrize("coordinates", ["centre", "corner"])
@pytest.mark.parametrize("rounding", ["none", "pixel"])
def test_targets_are_those_of_the_photo(faces: ListSource, pack: FacePack, coordinates: str, rounding: str) -> None:
    """Packing in between changes no target, whatever the convention of the model."""
    rule = CropRule(scale=1.3, shift=(0.03, -0.05), rounding=rounding)  # type: ignore[arg-type]
    spec = replace(SPEC, coordinates=coordinates, crop=rule)  # type: ignore[arg-type]
    batch = batch_of(pack, NONE, spec)
    for index in range(len(pack)):
        points = faces.sample(index).points.astype(np.float64)
        expected = points_to_target(points, crop_region(Box.around(points), spec.crop), spec)
        np.testing.assert_allclose(batch.targets[index] * 80, expected * 80, rtol=0, atol=2e-4)


def blob(size: int, at: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A soft bright spot whose centre of mass is exactly at a sub-pixel place."""
    y, x = np.mgrid[:size, :size]
    return np.repeat((255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 2.5**2)))[..., None], 3, 2).astype(
        np.uint8
    )


def centroid(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def test_a_point_lies_where_its_pixel_went() -> None:
    config = AugmentConfig(rotation=40, scale=(0.8, 1.25), shift=0.1, flip=0.5)
    count, size = 120, 80
    moves = some_moves(config, count, size=size)
    rng = np.random.default_rng(4)
    points = rng.uniform(34, 60, (count, 98, 2)).astype(np.float32)
    targets, _ = move_points(points, moves, np.zeros(count), size, FLIP)
    assert 0.3 < moves.flipped.mean() < 0.7
    checked = 0
    for row in range(count):
        point = int(rng.integers(98))
        place = targets[row, FLIP[point] if moves.flipped[row] else point] * size - 0.5
        if not (place.min() > 9 and place.max() < size - 10):
            continue
        found = centroid(warp(blob(96, points[row, point]), moves.matrices[row], size))
        assert np.abs(found - place).max() < 0.06, (row, found, place)
        checked += 1
    assert checked > 60


def test_flip_mirrors_the_pixels(pack: FacePack) -> None:
    plain, flipped = batch_of(pack, NONE), batch_of(pack, replace(NONE, flip=1.0))
    difference = plain.images[:, :, ::-1].astype(int) - flipped.images
    assert np.abs(difference).max() <= 2, "one warp resamples; it may round differently from mirroring afterwards"
    mirrored = plain.targets[:, FLIP] * (-1, 1) + (1, 0)
    np.testing.assert_allclose(flipped.targets, mirrored, atol=1e-6)


def test_flip_twice_is_the_identity(pack: FacePack) -> None:
    config = replace(NONE, flip=1.0)
    moves = some_moves(config, len(pack), size=80)
    once, _ = move_points(pack.points, moves, np.zeros(len(pack)), 80, FLIP)
    again = draw_moves(config, draws(len(pack)), np.full((len(pack), 2), 39.5), np.full(len(pack), 80.0), 80)
    twice, _ = move_points((once * 80 - 0.5).astype(np.float32), again, np.zeros(len(pack)), 80, FLIP)
    plain, _ = move_points(pack.points, some_moves(NONE, len(pack), size=80), np.zeros(len(pack)), 80, FLIP)
    np.testing.assert_allclose(twice, plain, atol=1e-6)
    angles = np.random.default_rng(0).uniform(-1, 1, (len(pack), 3)).astype(np.float32)
    np.testing.assert_allclose(move_angles(move_angles(angles, moves), again), angles, atol=1e-6)


def test_the_permutation_is_an_involution_that_keeps_left_and_right(pack: FacePack) -> None:
    assert [FLIP[FLIP[index]] for index in range(98)] == list(range(98))
    for config in (NONE, replace(NONE, flip=1.0)):
        targets = batch_of(pack, config).targets
        assert (targets[:, 60, 0] < targets[:, 72, 0]).all(), "the eye on the image's left is point 60, mirrored or not"
        assert (targets[:, 0, 0] < targets[:, 32, 0]).all()


def test_moves_stay_in_their_ranges() -> None:
    config = replace(NONE, rotation=30.0, scale=(0.8, 1.25), shift=0.1)
    moves = some_moves(config, 4000)
    degrees = np.degrees(moves.angles)
    assert -30 <= degrees.min() < -29 < 29 < degrees.max() <= 30
    scales = 80 / 64 / moves.scales
    assert 0.8 <= scales.min() < 0.81 < 1.24 < scales.max() <= 1.25
    assert not moves.flipped.any()
    middle = moves.matrices @ np.array([47.5, 47.5, 1.0])
    assert np.abs(middle - 39.5).max() <= 0.1 * 80 * np.sqrt(2)


def test_unknown_points_weigh_nothing() -> None:
    points = np.full((2, 98, 2), 40.0, dtype=np.float32)
    points[0, 60] = np.nan
    moves = some_moves(replace(NONE, flip=1.0), 2)
    targets, weights = move_points(points, moves, np.zeros(2), 80, FLIP)
    assert weights[0, 72] == 0, "the unknown point is mirrored with the others"
    assert weights.sum() == 2 * 98 - 1
    assert np.isfinite(targets).all()


def test_angles_follow_the_picture() -> None:
    """Project the mean face, move its points, and ask which pose of the mean face gives the moved points."""
    rng = np.random.default_rng(8)
    count = 40
    angles = rng.uniform(-0.6, 0.6, (count, 3)).astype(np.float32)
    moves = some_moves(AugmentConfig(rotation=40, scale=(1, 1), shift=0, flip=0.5), count)
    mean = mean_face_3d()
    moved = move_angles(angles, moves)
    for row in range(count):
        points = project(mean, angles[row].tolist(), 0.3, (47.5, 47.5), distance=np.inf)
        targets, _ = move_points(points[None].astype(np.float32), one(moves, row), np.zeros(1), 80, FLIP)
        expected = project(mean, moved[row].tolist(), 0.3 * moves.scales[row], (0, 0), distance=np.inf)
        found = targets[0].astype(np.float64) * 80
        np.testing.assert_allclose(found - found.mean(0), expected - expected.mean(0), atol=0.02)


def one(moves: Moves, row: int) -> Moves:
    part = slice(row, row + 1)
    return Moves(moves.matrices[part], moves.flipped[part], moves.angles[part], moves.scales[part])


def test_unknown_angles_stay_unknown() -> None:
    moved = move_angles(np.full((8, 3), np.nan, np.float32), some_moves(AugmentConfig(), 8))
    assert np.isnan(moved).all()


def test_roll_wraps_around() -> None:
    moves = some_moves(AugmentConfig(rotation=180, flip=0), 200)
    rolled = move_angles(np.full((200, 3), 3.0, np.float32), moves)[:, 2]
    assert np.abs(rolled).max() <= np.pi + 1e-6


def test_training_crops_by_landmarks_only(pack: FacePack) -> None:
    with pytest.raises(UsageError, match="landmarks"):
        squares(pack, replace(SPEC, crop=CropRule(box="scrfd")))


# Pixels

GREY = np.full((80, 80, 3), (90, 120, 150), dtype=np.uint8)


def picture() -> NDArray[np.uint8]:
    return cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (80, 80, 3), dtype=np.uint8), (0, 0), 2)


def applied(image: NDArray[np.uint8], count: int = 32, **changes: object) -> NDArray[np.uint8]:
    plan = PixelPlan(replace(NONE, **changes), draws(count), 80)  # type: ignore[arg-type]
    texture = np.zeros((96, 96, 3), np.uint8)
    return np.stack([plan.apply(row, image.copy(), lambda _: texture) for row in range(count)])


def test_none_leaves_every_pixel_alone() -> None:
    assert (applied(picture()) == picture()).all()


@pytest.mark.parametrize(
    "change",
    [
        {"brightness": 0.3},
        {"contrast": (0.5, 0.6)},
        {"saturation": (0.0, 0.1)},
        {"channel_gain": 0.3},
        {"grey": 1.0},
        {"gamma_chance": 1.0, "gamma": (2.0, 2.0)},
        {"occlusion": 1.0, "occlusion_size": (0.4, 0.4)},
        {"blur": 1.0, "blur_sigma": (1.5, 1.5)},
        {"low_resolution": 1.0, "low_resolution_factor": (0.3, 0.3)},
        {"noise": 1.0, "noise_sigma": (8.0, 8.0)},
        {"jpeg": 1.0, "jpeg_quality": (30.0, 30.0)},
    ],
)
def test_each_step_does_something_and_only_when_asked(change: dict[str, object]) -> None:
    changed = applied(picture(), **change)
    assert changed.shape == (32, 80, 80, 3)
    assert (changed != picture()).any(axis=(1, 2, 3)).mean() > 0.9


def test_brightness_adds() -> None:
    shifts = applied(GREY, 400, brightness=0.1).astype(int) - GREY
    assert (shifts.std(axis=(1, 2, 3)) < 0.6).all()
    means = shifts.mean(axis=(1, 2, 3))
    assert -26 <= means.min() < -23 < 23 < means.max() <= 26


def test_contrast_turns_about_mid_grey() -> None:
    half = applied(GREY, 4, contrast=(0.5, 0.5))
    np.testing.assert_allclose(half[0, 0, 0], 127.5 + 0.5 * (GREY[0, 0] - 127.5), atol=0.51)


def test_grey_has_equal_channels_of_the_right_luma() -> None:
    grey = applied(GREY, 4, grey=1.0)
    assert (np.ptp(grey.astype(int), axis=3) == 0).all()
    assert abs(int(grey[0, 0, 0, 0]) - cv2.cvtColor(GREY, cv2.COLOR_BGR2GRAY)[0, 0]) <= 1


def test_gamma_follows_its_power() -> None:
    dark = applied(GREY, 2, gamma_chance=1.0, gamma=(2.0, 2.0))
    np.testing.assert_allclose(dark[0, 0, 0], 255 * (GREY[0, 0] / 255) ** 2, atol=0.51)


def test_noise_has_the_asked_strength() -> None:
    noisy = applied(GREY, 16, noise=1.0, noise_sigma=(8.0, 8.0)).astype(int) - GREY
    assert 7.5 < noisy.std() < 8.5
    assert abs(noisy.mean()) < 0.3
    assert (noisy[0] != noisy[1]).any()
    assert AugmentConfig(noise_sigma=(0, NOISE_LEVELS - 1))


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0, 5.0])
def test_blur_keeps_the_mean_and_does_not_move_the_picture(sigma: float) -> None:
    even = applied(np.full_like(GREY, 200), 12, blur=1.0, blur_sigma=(sigma, sigma))
    assert np.abs(even.astype(int) - 200).max() <= 1
    spot = blob(80, np.array([39.0, 41.0]))
    for row in applied(spot, 12, blur=1.0, blur_sigma=(sigma, sigma)):
        assert abs(row.mean() - spot.mean()) < 0.6
        assert np.abs(centroid(row) - (39, 41)).max() < 0.25


def test_low_resolution_does_not_move_the_picture() -> None:
    spot = blob(80, np.array([39.0, 41.0]))
    for row in applied(spot, 12, low_resolution=1.0):
        assert np.abs(centroid(row) - (39, 41)).max() < 0.2


def test_an_occluder_covers_at_most_its_size() -> None:
    covered = (applied(GREY, 300, occlusion=1.0, occlusion_size=(0.2, 0.4)) != GREY).any(axis=3).mean(axis=(1, 2))
    assert covered.max() <= 0.43**2
    assert covered.mean() > 0.02


def test_the_patch_comes_from_another_face() -> None:
    plan = PixelPlan(replace(NONE, occlusion=1.0), draws(60), 80)
    asked: list[int] = []

    def texture(number: int) -> NDArray[np.uint8]:
        asked.append(number)
        return np.full((96, 96, 3), 7, np.uint8)

    done = [plan.apply(row, GREY.copy(), texture) for row in range(60)]
    assert 8 < len(asked) < 32
    assert sum((image == 7).all(axis=2).any() for image in done) >= len(asked) - 4


# Configuration


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_recipe(name: str) -> None:
    config = AugmentConfig.preset(name)
    assert AugmentConfig.from_dict(config.to_dict()) == config


def test_presets_grow() -> None:
    none, light, default, strong = (AugmentConfig.preset(name) for name in ("none", "light", "default", "strong"))
    for name in ("rotation", "shift", "occlusion", "blur", "noise", "brightness"):
        values = [getattr(config, name) for config in (none, light, default, strong)]
        assert values == sorted(set(values)), name


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": -1},
        {"rotation": 181},
        {"scale": 1.0},
        {"scale": (1.2, 0.8)},
        {"scale": (0.0, 1.0)},
        {"scale": (1.0,)},
        {"flip": 1.5},
        {"flip": float("nan")},
        {"flip": True},
        {"noise_sigma": (1.0, 99.0)},
        {"blur": "much"},
    ],
)
def test_impossible_settings(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        AugmentConfig(**change)  # type: ignore[arg-type]


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="'rotate'"):
        AugmentConfig.from_dict({"rotate": 3})
    with pytest.raises(UsageError, match="none, light, default, strong"):
        AugmentConfig.preset("wild")
