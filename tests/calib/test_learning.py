"""What is learned: biases, rounding, fine-tuning, and which layers stay float. Each alone, on a small network."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import nets
import numpy as np
import pytest
import torch

from calib import sensitivity
from calib.augment import MILD
from calib.bias import correct_biases
from calib.distill import Distillation, distill
from calib.graph import read_graph
from calib.landmarks import landmark_shift
from calib.mixed import fewest_float, rank_layers, with_float
from calib.noise import NoiseModel
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales, predict_float, predict_plan
from calib.ranges import group_scales, scaled
from calib.rounding import Rounding, learn_rounding, nearest, split_blocks
from calib.sites import find_sites
from runtime.errors import UsageError

CROPS = nets.faces(48, seed=4, margin=0)
MANY = nets.faces(192, seed=6, margin=0)
OTHERS = nets.faces(32, seed=5, margin=0)


@lru_cache
def start(seed: int = 1) -> Plan:
    graph = read_graph(nets.ghost_net(seed, uneven=0.7))
    sites = find_sites(graph)
    seen = Observation(observe_peaks(graph, sites, CROPS, nets.SPEC), {})
    return Plan(graph, sites, group_scales(sites, seen), plain_weight_scales(graph, sites))


def error(plan: Plan, crops: np.ndarray = OTHERS) -> float:
    truth = predict_float(start().graph, crops, nets.SPEC)
    return float(landmark_shift(predict_plan(plan, crops, nets.SPEC), truth, nets.SPEC).mean())


def coarse(plan: Plan, bits: int) -> Plan:
    """The plan with weights of fewer bits, so that rounding matters."""
    steps = {name: value * np.float32(2 ** (8 - bits)) for name, value in plan.weight_scales.items()}
    return replace(plan, weight_scales=steps)


def test_bias_correction_removes_a_planted_shift() -> None:
    plan = start()
    parameters = dict(plan.graph.parameters)
    parameters["two.primary.bias"] = parameters["two.primary.bias"] + np.float32(0.2)
    spoiled = replace(plan, graph=replace(plan.graph, parameters=parameters))
    repaired = correct_biases(spoiled, plan.graph, CROPS, nets.SPEC)
    moved = repaired.graph.parameters["two.primary.bias"] - spoiled.graph.parameters["two.primary.bias"]
    assert np.allclose(moved, -0.2, atol=0.08)
    assert error(repaired) < 0.5 * error(spoiled)


def test_blocks_cover_the_network_in_order_and_need_only_what_came_before() -> None:
    for model in (nets.ghost_net(), nets.residual_net()):
        graph = read_graph(model)
        blocks = split_blocks(graph)
        assert [n.name for block in blocks for n in block.nodes] == [n.name for n in graph.nodes]
        assert len(blocks) > 2
        made = {graph.input}
        for block in blocks:
            assert set(block.needs) <= made
            made |= set(block.gives)
        assert blocks[-1].gives[-1] == graph.output


def test_learned_rounding_beats_the_nearest_step_and_lands_on_steps() -> None:
    plan = coarse(start(), 4)
    seen = sensitivity.measure(plan.graph, plan.sites, CROPS[:12], nets.SPEC)
    learned = learn_rounding(plan, plan.graph, MANY, nets.SPEC, seen, Rounding(steps=120))
    for name, steps in plan.weight_scales.items():
        shaped = steps.reshape(-1, 1, 1, 1)
        codes = learned.graph.parameters[name] / shaped
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4, err_msg=name)
        away = np.abs(codes - plan.graph.parameters[name] / shaped)
        assert away[np.abs(codes) < 127].max() <= 1.0 + 1e-4, "a weight goes to the step below or above, never further"
    assert error(learned, MANY) < 0.85 * error(nearest(plan), MANY)
    assert error(learned) < error(nearest(plan)), "on faces that it never saw"
    only_weights = {**learned.graph.parameters, **{n: v for n, v in plan.graph.parameters.items() if "bias" in n}}
    assert any(
        (
            np.rint(only_weights[n] / s.reshape(-1, 1, 1, 1))
            != np.rint(plan.graph.parameters[n] / s.reshape(-1, 1, 1, 1))
        ).any()
        for n, s in plan.weight_scales.items()
    ), "some weight was rounded to its farther step"


def test_fine_tuning_brings_the_landmarks_back() -> None:
    plan = coarse(start(), 4)
    settings = Distillation(steps=60, batch=16, rate=0.02, strength=MILD)
    losses: list[float] = []
    tuned = distill(plan, plan.graph, MANY, nets.SPEC, settings, seed=3, progress=losses.append)
    assert len(losses) == 60
    assert error(tuned) < 0.8 * error(plan)
    assert all(np.array_equal(tuned.scales[g], s) for g, s in plan.scales.items()), "scales stay unless asked for"


def test_activation_scales_learn_when_asked() -> None:
    plan = scaled(start(), {"one.primary.relu": 4.0})
    settings = Distillation(steps=40, batch=16, rate=1e-4, scale_rate=0.05, strength=MILD)
    tuned = distill(plan, plan.graph, CROPS, nets.SPEC, settings)
    assert float(tuned.scales["one.primary.relu"]) < 0.7 * float(plan.scales["one.primary.relu"])
    assert error(tuned) < error(plan)


@pytest.mark.parametrize("learn", ["fine-tuning", "rounding"])
def test_learning_gives_the_same_bits_on_any_number_of_threads(learn: str) -> None:
    plan = coarse(start(), 5)
    seen = sensitivity.measure(plan.graph, plan.sites, CROPS[:4], nets.SPEC)

    def once(threads: int) -> Plan:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            if learn == "rounding":
                return learn_rounding(plan, plan.graph, CROPS, nets.SPEC, seen, Rounding(steps=6))
            return distill(plan, plan.graph, CROPS, nets.SPEC, Distillation(steps=6, batch=8, strength=MILD))
        finally:
            torch.set_num_threads(before)

    one, many = once(1), once(4)
    for name, value in one.graph.parameters.items():
        assert value.tobytes() == many.graph.parameters[name].tobytes(), name
    assert any((one.graph.parameters[n] != plan.graph.parameters[n]).any() for n in plan.graph.parameters)


def test_mixed_precision_finds_the_one_spoiled_layer() -> None:
    plan = start()
    steps = dict(plan.weight_scales)
    steps["two.primary.weight"] = steps["two.primary.weight"] * np.float32(16)
    spoiled = replace(plan, weight_scales=steps)
    seen = sensitivity.measure(plan.graph, plan.sites, CROPS[:16], nets.SPEC)
    peaks = observe_peaks(plan.graph, plan.sites, CROPS, nets.SPEC)
    noise = NoiseModel(plan.graph, plan.sites, peaks, seen).predict()
    found = fewest_float(spoiled, noise, error, limit=1.2 * error(plan), most=2)
    assert found.layers[0] == "Conv_two.primary"
    assert len(found.layers) == 1
    assert list(found.errors) == sorted(found.errors, reverse=True)
    assert fewest_float(plan, noise, error, limit=1.0).layers == ()
    assert {name for name, _ in rank_layers(plan, noise)} == plan.sites.quantised


def test_all_layers_in_float_is_the_float_network() -> None:
    plan = start()
    pools = [n.name for n in plan.graph.nodes if n.op == "Pool"]
    everything = with_float(plan, [n.name for n in plan.graph.weighted] + pools)
    np.testing.assert_array_equal(
        predict_plan(everything, OTHERS, nets.SPEC), predict_float(plan.graph, OTHERS, nets.SPEC)
    )


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 7}, {"rate": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected steps > 0"):
        distill(start(), start().graph, CROPS, nets.SPEC, Distillation(**wrong))  # type: ignore[arg-type]
