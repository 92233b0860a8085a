from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runtime.errors import InputError, UsageError
from runtime.layouts import IBUG68, WFLW98
from runtime.spec import CropRule, ModelSpec

SPECS = [
    ModelSpec("ghostone"),
    ModelSpec("pfld", width=0.3, points=68, layout="ibug68", input_size=224, channels="rgb"),
    ModelSpec(
        "x", points=106, layout="plain106", coordinates="corner", crop=CropRule("rect", 1.5, (0.1, -0.05), 128, "pixel")
    ),
    ModelSpec("x", points=4, layout="plain4", flip=(1, 0, 3, 2)),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_json_round_trip_is_identity_and_byte_stable(spec: ModelSpec) -> None:
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()


def test_flip_is_written_out_for_readers_without_our_tables() -> None:
    assert json.loads(ModelSpec("x").to_json())["flip"] == list(WFLW98.flip)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_size": 100}, "multiple of 16"),
        ({"input_size": True}, "multiple of 16"),
        ({"width": float("nan")}, "width"),
        ({"width": 0}, "width"),
        ({"points": 68}, "layout wflw98 has 98 points"),
        ({"channels": "gbr"}, "channels"),
        ({"std": (0.0, 1.0, 1.0)}, "std positive"),
        ({"mean": (0.5, 0.5)}, "three numbers"),
        ({"crop": CropRule(scale=0)}, "crop scale"),
        ({"crop": CropRule(padding=256)}, "padding"),
        ({"crop": CropRule(rounding="floor")}, "rounding"),  # type: ignore[arg-type]
        ({"layout": "nowhere"}, "unknown layout"),
        ({"flip": (*range(97), 96)}, "permutation"),
        ({"points": 3, "layout": "plain3", "flip": (1, 2, 0)}, "twice"),
        ({"coordinates": "middle"}, "coordinates"),
        ({"branches": 0}, "branches"),
        ({"architecture": ""}, "architecture"),
    ],
)
def test_impossible_specs_are_refused_with_the_reason(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(ModelSpec("ghostone"), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"widht": 1.0}, "did you mean 'width'"),
        ({"schema": 2}, "schema 2"),
        ({"crop": {"scale": 1.2, "zoom": 1}}, "unknown key 'zoom'"),
        ({"crop": 3}, "crop must be an object"),
        ({"points": "98"}, "points"),
        ({"mean": 5}, "model spec"),
    ],
)
def test_strangers_are_refused_on_reading(edit: dict[str, object], words: str) -> None:
    data = {**ModelSpec("ghostone").to_dict(), **edit}
    with pytest.raises(InputError, match=words):
        ModelSpec.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(InputError):
        ModelSpec.from_json(text)


def test_normaliser_of_the_layouts() -> None:
    assert WFLW98.default_normaliser.left == (60,) and WFLW98.default_normaliser.right == (72,)
    assert IBUG68.default_normaliser.left == (36,) and IBUG68.default_normaliser.right == (45,)
    with pytest.raises(UsageError, match="inter-ocular, inter-pupil"):
        WFLW98.normaliser("iod")
