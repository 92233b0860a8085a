"""The calibration cache gives back exactly what was stored, or says what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest

from calib.cache import CacheKey, load_result, save_result
from calib.graph import read_graph
from calib.mixed import with_float
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales
from calib.ranges import group_scales
from calib.result import Candidate, Int8Result, LayerError
from calib.sites import find_sites
from runtime.errors import InputError

MODEL = nets.ghost_net()
GRAPH = read_graph(MODEL)
CROPS = nets.faces(8, margin=0)
KEY = CacheKey.of(MODEL.SerializeToString(), CROPS, nets.SPEC, {"mode": "fast"})


def plan() -> Plan:
    sites = find_sites(GRAPH)
    seen = Observation(observe_peaks(GRAPH, sites, CROPS, nets.SPEC), {})
    whole = Plan(GRAPH, sites, group_scales(sites, seen), plain_weight_scales(GRAPH, sites))
    return with_float(whole, ["Conv_stem"])


def result() -> Int8Result:
    tried = (Candidate("min-max", 0.02, 0.03, 1.5, True), Candidate("bias", 0.03, 0.04, 0.5, False, "no help"))
    layers = (LayerError("Conv_stem", "Conv", 1.0, 0.01),)
    return Int8Result(plan(), {"mode": "fast", "seed": 0}, tried, layers, ("Conv_stem",), 0.02, 0.5)


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    save_result(tmp_path / "a", result(), KEY)
    save_result(tmp_path / "b", result(), KEY)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    whole = load_result(tmp_path / "a", GRAPH, KEY, 0.5)
    assert {**vars(whole), "plan": None} == {**vars(result()), "plan": None}
    back, made = whole.plan, plan()
    assert back.sites == made.sites
    assert back.scales == made.scales
    for name, value in made.weight_scales.items():
        np.testing.assert_array_equal(back.weight_scales[name], value)
    for name, value in made.graph.parameters.items():
        np.testing.assert_array_equal(back.graph.parameters[name], value)


@pytest.mark.parametrize(
    ("field", "words"),
    [("model", "the model"), ("faces", "faces"), ("spec", "spec"), ("settings", "settings"), ("code", "code")],
)
def test_a_stale_key_is_an_error_that_names_the_change(tmp_path: Path, field: str, words: str) -> None:
    save_result(tmp_path / "a", result(), KEY)
    other = replace(KEY, **{field: "other"})
    with pytest.raises(InputError, match=f"stale calibration cache, .*{words}"):
        load_result(tmp_path / "a", GRAPH, other, 0.5)


def test_the_key_sees_every_input() -> None:
    moved = CROPS.copy()
    moved[3, 5, 5, 0] ^= 1
    others = [
        CacheKey.of(MODEL.SerializeToString() + b"x", CROPS, nets.SPEC, {"mode": "fast"}),
        CacheKey.of(MODEL.SerializeToString(), moved, nets.SPEC, {"mode": "fast"}),
        CacheKey.of(MODEL.SerializeToString(), CROPS, replace(nets.SPEC, channels="rgb"), {"mode": "fast"}),
        CacheKey.of(MODEL.SerializeToString(), CROPS, nets.SPEC, {"mode": "best"}),
    ]
    assert len({KEY, *others}) == 5


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_an_error(tmp_path: Path, damage: str) -> None:
    save_result(tmp_path / "a", result(), KEY)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(InputError, match=r"not a calibration cache|is empty"):
        load_result(tmp_path / "a", GRAPH, KEY, 0.5)
