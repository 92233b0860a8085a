"""Other networks see the same augmented crop: cut from the pack through the same map, changed by the same draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.geometry import Region
from runtime.spec import CropRule, ModelSpec
from train.data.augment import AugmentConfig
from train.data.loader import Batch, BatchLoader
from train.data.pack import FacePack
from train.data.views import View

SPEC = ModelSpec("ghostone", input_size=48)
NONE = AugmentConfig.none()
MOVES = AugmentConfig.from_dict(
    {**NONE.to_dict(), "rotation": 30.0, "scale": [0.8, 1.2], "shift": 0.1, "flip": 0.5, "contrast": [0.6, 1.4]}
)
COVERED = AugmentConfig.from_dict({**MOVES.to_dict(), "occlusion": 1.0})


def first(pack: FacePack, spec: ModelSpec, augment: AugmentConfig, *views: View) -> Batch:
    loader = BatchLoader(pack, spec, augment, 16, seed=5, shuffle=False, threads=0, views=views)
    return next(loader.epoch(3))


def view_of(spec: ModelSpec, student: ModelSpec = SPEC) -> View:
    return View(spec.input_size, spec.crop.scale / student.crop.scale, spec.crop.padding, student.input_size)


@pytest.mark.parametrize("augment", [NONE, MOVES], ids=["plain", "moved"])
@pytest.mark.parametrize(
    "teacher",
    [
        replace(SPEC, input_size=96),
        replace(SPEC, input_size=32),
        replace(SPEC, input_size=80, crop=CropRule(scale=1.5, padding=7)),
    ],
    ids=lambda spec: f"{spec.input_size}-{spec.crop.scale}",
)
def test_a_view_is_what_that_networks_own_loader_cuts(
    pack: FacePack, teacher: ModelSpec, augment: AugmentConfig
) -> None:
    batch = first(pack, SPEC, augment, view_of(teacher))
    # The loader of a wider crop would move its centre further: shifts are fractions of its own square.
    shift = augment.shift * SPEC.crop.scale / teacher.crop.scale
    own = first(pack, teacher, AugmentConfig.from_dict({**augment.to_dict(), "shift": shift}))
    difference = np.abs(batch.views[0].astype(int) - own.images)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    assert np.array_equal(batch.images, first(pack, SPEC, augment).images)


def test_the_same_size_and_crop_is_the_crop_itself(pack: FacePack) -> None:
    batch = first(pack, SPEC, AugmentConfig.strong(), view_of(SPEC))
    assert batch.views[0] is batch.images


def test_occluders_lie_on_the_same_part_of_the_face(pack: FacePack) -> None:
    views = [view_of(replace(SPEC, input_size=96)), view_of(replace(SPEC, input_size=96, crop=CropRule(scale=1.5)))]
    plain, covered = first(pack, SPEC, MOVES, *views), first(pack, SPEC, COVERED, *views)
    hidden = np.abs(plain.images.astype(int) - covered.images).max(-1) > 8
    for number, view in enumerate(views):
        seen = np.abs(plain.views[number].astype(int) - covered.views[number]).max(-1) > 8
        rows, columns = np.mgrid[: view.size, : view.size]
        back = [np.rint((at - view.offset) / view.scale).astype(int) for at in (rows, columns)]
        inside = (back[0] >= 0) & (back[0] < 48) & (back[1] >= 0) & (back[1] < 48)
        expected = hidden[:, back[0].clip(0, 47), back[1].clip(0, 47)]
        assert (seen == expected)[:, inside].mean() > 0.97
    assert hidden.mean() > 0.02


def test_all_steps_keep_the_look(pack: FacePack) -> None:
    """Brought down to the crop's size, a view of twice the size looks like the crop, whatever was done to it."""
    rough = AugmentConfig.from_dict(
        {**NONE.to_dict(), "low_resolution": 1.0, "low_resolution_factor": [0.3, 0.4], "blur": 1.0, "jpeg": 0.0}
    )
    batch = first(pack, SPEC, rough, view_of(replace(SPEC, input_size=96)))
    small = batch.views[0].reshape(16, 48, 2, 48, 2, 3).mean((2, 4))
    sharp = first(pack, SPEC, NONE).images
    assert np.abs(small - batch.images).mean() < 0.35 * np.abs(sharp.astype(float) - batch.images).mean()


def test_matrices_are_those_of_the_square() -> None:
    region, view = Region(50.0, 60.0, 40.0, 0.3), View(224, 1.25, 0, 112)
    wider = Region(50.0, 60.0, 50.0, 0.3)
    np.testing.assert_allclose(view.matrices(region.to_crop(112)[None])[0], wider.to_crop(224), atol=1e-9)


def test_pixels_of_the_photo(pack: FacePack) -> None:
    batch = first(pack, SPEC, NONE)
    sides = 1.2 * np.max(pack.photo_boxes[:, 2:] - pack.photo_boxes[:, :2], axis=1)
    np.testing.assert_allclose(batch.pixels, np.stack([1 / sides[:16]] * 2, 1), rtol=1e-4)
