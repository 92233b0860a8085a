"""Crop, warp and the way back. Seeds are fixed and visible; landmarks are compared in pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError, UsageError
from runtime.geometry import (
    Box,
    Region,
    compose,
    crop_region,
    invert,
    network_input,
    output_to_points,
    points_to_target,
    transform,
    warp,
)
from runtime.spec import CropRule, ModelSpec

coordinate = st.floats(-2000, 2000)
length = st.floats(2, 3000)
boxes = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), coordinate, coordinate, length, length)
rules = st.builds(
    CropRule,
    scale=st.floats(0.5, 3),
    shift=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    rounding=st.sampled_from(["none", "pixel"]),
)
specs = st.builds(
    lambda size, coordinates, crop: ModelSpec("x", input_size=size, coordinates=coordinates, crop=crop),
    st.sampled_from([64, 112, 224]),
    st.sampled_from(["centre", "corner"]),
    rules,
)


@given(boxes, specs)
def test_target_and_points_are_inverse(box: Box, spec: ModelSpec) -> None:
    region = crop_region(box, spec.crop)
    points = np.random.default_rng(7).uniform(-50, 3000, (98, 2))
    back = output_to_points(points_to_target(points, region, spec), region, spec)
    assert np.abs(back - points).max() < 1e-6


@given(boxes)
def test_the_plain_crop_is_centred_and_scaled(box: Box) -> None:
    region = crop_region(box, CropRule(scale=1.2))
    assert region.side == pytest.approx(1.2 * max(box.width, box.height))
    assert (region.cx, region.cy) == pytest.approx(box.centre)


@given(boxes)
def test_whole_pixel_crops_have_integer_sides_and_edges_between_pixels(box: Box) -> None:
    region = crop_region(box, CropRule(rounding="pixel"))
    corner = region.cx - region.side / 2 + 0.5, region.cy - region.side / 2 + 0.5
    assert region.side == int(region.side)
    assert np.allclose(corner, np.round(corner), atol=1e-6)


def test_whole_pixel_crop_equals_cutting_and_resizing() -> None:
    """Upstream cuts an integer square and calls cv2.resize; our single warp must see the same pixels."""
    import cv2

    image = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (300, 320, 3), dtype=np.uint8), (0, 0), 2)
    box = Box(70.4, 60.9, 201.2, 222.7)
    region = crop_region(box, CropRule(rounding="pixel"))
    x, y = round(region.cx - (region.side - 1) / 2), round(region.cy - (region.side - 1) / 2)
    side = int(region.side)
    cut = cv2.resize(image[y : y + side, x : x + side], (112, 112))
    ours = warp(image, region.to_crop(112), 112)
    assert np.abs(cut.astype(int) - ours.astype(int))[1:-1, 1:-1].max() <= 2
    shifted = warp(image, replace(region, cx=region.cx + 1).to_crop(112), 112)
    assert np.abs(cut.astype(int) - shifted.astype(int))[1:-1, 1:-1].max() > 2  # the comparison can fail


def test_a_pixel_lands_where_its_point_goes() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[90:93, 110:113] = 255  # a blob centred on (111, 91)
    region = Region(100.0, 100.0, 80.0, angle=0.4)
    crop = warp(image, region.to_crop(112), 112).astype(float)[..., 0]
    ys, xs = np.mgrid[0:112, 0:112]
    centroid = np.array([(xs * crop).sum(), (ys * crop).sum()]) / crop.sum()
    assert np.abs(centroid - transform(region.to_crop(112), np.array([111.0, 91.0]))).max() < 0.1


def test_outside_the_photo_is_padding() -> None:
    image = np.full((50, 50, 3), 200, np.uint8)
    crop = warp(image, Region(0.0, 0.0, 100.0).to_crop(64), 64, padding=7)
    assert crop[0, 0].tolist() == [7, 7, 7] and crop[-3, -3].tolist() == [200, 200, 200]


def test_invert_and_compose() -> None:
    matrix = Region(3.0, 4.0, 10.0, 1.0).to_crop(32)
    assert np.allclose(compose(invert(matrix), matrix), [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    "edges", [(0, 0, 0, 1), (0, 0, 1, 0), (2, 0, 1, 1), (np.nan, 0, 1, 1), (0, 0, np.inf, 1), (0, 0, 1e9, 1)]
)
def test_impossible_boxes(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError, match="box"):
        Box(*edges)


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
def test_network_input_is_the_formula(channels: str) -> None:
    spec = ModelSpec("x", input_size=16, channels=channels, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))  # type: ignore[arg-type]
    crops = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    ordered = crops if channels == "bgr" else crops[..., ::-1]
    expected = ((ordered / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(0, 3, 1, 2)
    found = network_input(crops, spec)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert np.abs(found - expected).max() < 1e-6


def test_network_input_refuses_other_shapes_and_types() -> None:
    spec = ModelSpec("x", input_size=32)
    for bad in (
        np.zeros((1, 16, 16, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
    ):
        with pytest.raises(UsageError, match=r"expected \(B, 32, 32, 3\) uint8"):
            network_input(bad, spec)  # type: ignore[arg-type]
