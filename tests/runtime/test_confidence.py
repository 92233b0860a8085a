"""Scores: high where the network sees a face, low where it invents one, nan where nothing can be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.confidence import SCORES, score
from runtime.layouts import plain_layout
from runtime.spec import ModelSpec
from tests.runtime.blobs import DARK, BlobFaces
from tests.runtime.small import mean_points, small_spec


def crops() -> np.ndarray:
    """A bright square left of the middle, and nothing at all."""
    both = np.full((2, 64, 64, 3), DARK, np.uint8)
    both[0, 12:52, 8:48] = 200
    return both


@pytest.mark.parametrize("kind", ["flip", "shape"])
def test_a_face_and_no_face(kind: str) -> None:
    model = BlobFaces()
    face, nothing = score(kind, model, crops(), model.landmarks(crops()))  # type: ignore[arg-type]
    assert face > 0.9 and nothing < 0.1


def test_flip_mirrors_the_points_and_not_only_the_picture() -> None:
    """Without the permutation of the points the agreement of a perfect network would be nil."""
    model = BlobFaces()
    model.spec = replace(small_spec(), flip=tuple(reversed(range(98))))
    assert score("flip", model, crops(), model.landmarks(crops()))[0] < 0.1


def test_shape_knows_size_and_form() -> None:
    model, good = BlobFaces(), ((mean_points() - 0.5) * 0.93 + 0.5).astype(np.float32)
    outputs = np.stack([good, (good - 0.5) * 0.4 + 0.5, good[np.random.default_rng(0).permutation(98)]])
    values = score("shape", model, np.zeros((3, 64, 64, 3), np.uint8), outputs)
    assert values[0] > 0.9 and values[1] < values[0] and values[2] < 0.2


def test_what_cannot_be_known_is_nan() -> None:
    model = BlobFaces()
    assert np.isnan(score("none", model, crops(), model.landmarks(crops()))).all()
    model.spec = ModelSpec("pfld", points=5, input_size=64, layout=plain_layout(5).name)
    outputs = np.random.default_rng(0).uniform(0, 1, (2, 5, 2)).astype(np.float32)
    for kind in SCORES:
        assert np.isnan(score(kind, model, crops(), outputs)).all()
        assert len(score(kind, model, crops()[:0], outputs[:0])) == 0
