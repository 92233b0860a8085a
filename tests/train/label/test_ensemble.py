"""Every look at a face, carried back into the photo, lands where the model saw it; means, medians, spreads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from coloured import Knower, coloured_photo, true_points

from runtime.errors import InputError, UsageError
from runtime.geometry import Box
from runtime.layouts import WFLW98
from runtime.spec import CropRule, ModelSpec
from train.label.ensemble import Ensemble, Member, face_sizes, weighted_median
from train.label.variations import VARIATIONS, Variation, variations_named

TRUTH = true_points()
BOX = Box.around(TRUTH)


def member(spec: ModelSpec, error: float = 0.0, weight: float = 1.0) -> Member:
    return Member(f"knower{error:g}", spec, Knower(spec, TRUTH, error), weight)


@pytest.mark.parametrize("variation", VARIATIONS["many"], ids=str)
@pytest.mark.parametrize("coordinates", ["centre", "corner"])
def test_each_look_comes_back_to_the_photo(spec: ModelSpec, variation: Variation, coordinates: str) -> None:
    spec = replace(spec, coordinates=coordinates)
    opinion = Ensemble([member(spec)], [variation])([coloured_photo()], [BOX])
    np.testing.assert_allclose(opinion.points[0], TRUTH, atol=0.06)
    assert opinion.spread.max() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"channels": "rgb"},
        {"crop": CropRule(scale=1.5, shift=(0.05, -0.1))},
        {"crop": CropRule(rounding="pixel")},
        {"input_size": 96},
    ],
    ids=str,
)
def test_models_of_other_crops_agree(spec: ModelSpec, change: dict[str, object]) -> None:
    other = replace(spec, **change)  # type: ignore[arg-type]
    opinion = Ensemble([member(spec), member(other)], VARIATIONS["many"])([coloured_photo()] * 3, [BOX] * 3)
    np.testing.assert_allclose(opinion.points, np.stack([TRUTH] * 3), atol=0.06)
    assert opinion.disagreement.max() < 1e-3


def test_a_wrong_permutation_or_mirror_is_seen(spec: ModelSpec) -> None:
    wrong = replace(spec, flip=tuple(range(98)))
    knower = Knower(replace(spec, flip=WFLW98.flip), TRUTH)
    opinion = Ensemble([Member("wrong", wrong, knower)], VARIATIONS["flip"])([coloured_photo()], [BOX])
    assert np.abs(opinion.points[0] - TRUTH).max() > 5


def test_weighted_mean_and_spread(spec: ModelSpec) -> None:
    plain = VARIATIONS["none"]
    opinion = Ensemble([member(spec, 0.0, 3.0), member(spec, 4.0, 1.0)], plain)([coloured_photo()], [BOX])
    np.testing.assert_allclose(opinion.points[0], TRUTH + 1.0, atol=0.06)
    expected = np.sqrt((3 * 2 * 1.0**2 + 2 * 3.0**2) / 4) / face_sizes(TRUTH[None])[0]
    np.testing.assert_allclose(opinion.spread[0], expected, rtol=0.05)


def test_the_median_ignores_one_that_is_far_off(spec: ModelSpec) -> None:
    members = [member(spec), member(spec, 0.2), member(spec, 30.0)]
    mean = Ensemble(members, VARIATIONS["flip"])([coloured_photo()], [BOX]).points[0]
    median = Ensemble(members, VARIATIONS["flip"], "median")([coloured_photo()], [BOX]).points[0]
    assert np.abs(mean - TRUTH).max() > 9
    assert np.abs(median - TRUTH).max() < 0.35


def test_weighted_median() -> None:
    values = np.array([[3.0], [1.0], [10.0], [2.0]])
    assert weighted_median(values, np.ones(4)).item() == 2.5
    assert weighted_median(values, np.array([1.0, 1, 5, 1])).item() == 10
    assert weighted_median(values, np.array([0.5, 2.0, 0.25, 0.25])).item() == 1


def test_a_rough_box_is_refined(spec: ModelSpec) -> None:
    ensemble = Ensemble([member(spec)], VARIATIONS["flip"])
    rough = Box(70, 60, 180, 200)
    found = ensemble.refined([coloured_photo()], [rough], 1)[0]
    np.testing.assert_allclose(found.centre, BOX.centre, atol=0.1)
    assert ensemble.refined([coloured_photo()], [rough], 0) == [rough]


def test_what_cannot_label_together_is_refused(spec: ModelSpec) -> None:
    small = ModelSpec("ghostone", points=68, layout="ibug68", input_size=64)
    with pytest.raises(UsageError, match="must share one"):
        Ensemble([member(spec), member(small)], VARIATIONS["none"])
    with pytest.raises(UsageError, match="not landmarks"):
        Ensemble([member(replace(spec, crop=CropRule(box="annotation")))], VARIATIONS["none"])
    with pytest.raises(UsageError, match="no mirror pairs"):
        Ensemble([member(ModelSpec("pfld", points=5, layout="plain5", input_size=64))], VARIATIONS["flip"])
    with pytest.raises(UsageError, match="known: mean, median"):
        Ensemble([member(spec)], VARIATIONS["none"], "mode")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown variations 'lots'"):
        variations_named("lots")
    broken = Member("nan", spec, lambda batch: np.full((len(batch), 196), np.nan))
    with pytest.raises(InputError, match="nan: gives"):
        Ensemble([broken], VARIATIONS["none"])([coloured_photo()], [BOX])
