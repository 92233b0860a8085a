"""Equalisation changes the channels and never the network."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import pytest

from calib import sensitivity
from calib.equalize import FIXED, apply_factors, channel_classes, equal_factors
from calib.graph import read_graph
from calib.landmarks import landmark_shift
from calib.noise import NoiseModel
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales, predict_float, predict_plan
from calib.ranges import group_scales
from calib.sites import find_sites

CROPS = nets.faces(24, margin=0)


def minmax(graph, peaks) -> Plan:  # type: ignore[no-untyped-def]
    sites = find_sites(graph)
    return Plan(graph, sites, group_scales(sites, Observation(peaks, {})), plain_weight_scales(graph, sites))


@pytest.mark.parametrize("model", [nets.ghost_net(), nets.residual_net()], ids=["ghost", "residual"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_network_stays_the_same(model: onnx.ModelProto, strength: float) -> None:
    graph = read_graph(model)
    sites = find_sites(graph)
    peaks = observe_peaks(graph, sites, CROPS, nets.SPEC)
    factors = equal_factors(graph, sites, peaks, strength, 16.0)
    even = apply_factors(graph, factors)
    assert any((value != 1).any() for value in factors.values())
    gap = predict_float(even, CROPS, nets.SPEC) - predict_float(graph, CROPS, nets.SPEC)
    assert np.abs(gap).max() < 2e-6
    seen = observe_peaks(even, sites, CROPS, nets.SPEC)
    for tensor, peak in seen.items():
        np.testing.assert_allclose(peak, peaks[tensor] * factors[tensor], rtol=1e-4, err_msg=tensor)


def test_the_channels_of_a_group_come_closer_and_the_int8_error_falls() -> None:
    graph = read_graph(nets.ghost_net(uneven=1.5))
    sites = find_sites(graph)
    peaks = observe_peaks(graph, sites, CROPS, nets.SPEC)
    factors = equal_factors(graph, sites, peaks, 1.0, 16.0)
    scaled = {tensor: peaks[tensor] * factors[tensor] for tensor in peaks}
    spread = lambda table: float(np.median([v.max() / np.median(v) for n, v in table.items() if n != "input"]))  # noqa: E731
    assert spread(scaled) < 0.6 * spread(peaks)
    truth = predict_float(graph, CROPS, nets.SPEC)
    before = landmark_shift(predict_plan(minmax(graph, peaks), CROPS, nets.SPEC), truth, nets.SPEC).mean()
    even = minmax(apply_factors(graph, factors), scaled)
    after = landmark_shift(predict_plan(even, CROPS, nets.SPEC), truth, nets.SPEC).mean()
    assert after < 0.8 * before


def test_input_and_output_keep_their_scale_and_an_addition_ties_its_sides() -> None:
    classes, _ = channel_classes(read_graph(nets.residual_net()))
    assert (classes["input"] == FIXED).all()
    assert (classes["output"] == FIXED).all()
    np.testing.assert_array_equal(classes["cut"], classes["short.pw"])
    np.testing.assert_array_equal(classes["joined"], classes["again.b"])


def test_a_clip_at_six_pins_its_channels() -> None:
    model = nets.ghost_net()
    relu = next(n for n in model.graph.node if n.name == "Relu_one.primary.relu")
    for name, value in (("low", 0.0), ("high", 6.0)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    relu.op_type = "Clip"
    relu.input.extend(["low", "high"])
    classes, _ = channel_classes(read_graph(model))
    assert (classes["one.primary.relu"] == FIXED).all()
    assert (classes["one.cheap.relu"] != FIXED).all()


def test_the_noise_model_predicts_what_is_measured_and_its_descent_helps() -> None:
    graph = read_graph(nets.ghost_net(seed=3, uneven=0.7))
    sites = find_sites(graph)
    peaks = observe_peaks(graph, sites, CROPS, nets.SPEC)
    model = NoiseModel(graph, sites, peaks, sensitivity.measure(graph, sites, CROPS, nets.SPEC))
    truth = predict_float(graph, CROPS, nets.SPEC)

    def measured(plan: Plan) -> float:
        gap = (predict_plan(plan, CROPS, nets.SPEC) - truth).reshape(len(CROPS), -1)
        points = truth.reshape(len(truth), nets.POINTS, 2)
        extent = points.max(1) - points.min(1)
        size = np.maximum(np.sqrt(extent[:, 0] * extent[:, 1]), 0.05)
        return float(((gap / size[:, None]) ** 2).sum(1).mean())

    plain = measured(minmax(graph, peaks))
    assert 0.3 < model.predict().total / plain < 3
    start = equal_factors(graph, sites, peaks, 0.75, 16.0)
    best = model.best_factors(start, steps=120)
    assert model.predict(best).total <= model.predict(start).total
    even = minmax(apply_factors(graph, best), {tensor: peaks[tensor] * best[tensor] for tensor in peaks})
    assert measured(even) < 0.5 * plain
