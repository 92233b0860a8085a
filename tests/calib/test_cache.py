"""The calibration cache gives back exactly what was stored, or says what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest

from calib.cache import CacheKey, load_plan, save_plan
from calib.graph import read_graph
from calib.mixed import with_float
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales
from calib.ranges import group_scales
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


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    save_plan(tmp_path / "a", plan(), KEY)
    save_plan(tmp_path / "b", plan(), KEY)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = load_plan(tmp_path / "a", GRAPH, KEY)
    made = plan()
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
    save_plan(tmp_path / "a", plan(), KEY)
    other = replace(KEY, **{field: 99 if field == "code" else "other"})
    with pytest.raises(InputError, match=f"stale calibration cache, .*{words}"):
        load_plan(tmp_path / "a", GRAPH, other)


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
    save_plan(tmp_path / "a", plan(), KEY)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(InputError, match=r"not a calibration cache|is empty"):
        load_plan(tmp_path / "a", GRAPH, KEY)
