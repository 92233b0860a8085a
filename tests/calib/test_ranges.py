"""Range methods on distributions whose answer is known."""

from __future__ import annotations

import nets
import numpy as np
import pytest

from calib.graph import read_graph
from calib.landmarks import landmark_shift
from calib.observe import BINS, observe
from calib.plan import Plan, plain_weight_scales, predict_float, predict_plan
from calib.ranges import entropy_bin, group_scales, mse_bin, percentile_bin, scaled, search_scales
from calib.sites import find_sites
from runtime.errors import UsageError

RANDOM = np.random.default_rng(0)


def histogram(values: np.ndarray) -> np.ndarray:
    return np.histogram(np.abs(values), BINS, (0, float(np.abs(values).max())))[0].astype(np.int64)


GAUSS_AND_OUTLIER = histogram(np.append(RANDOM.normal(0, 1, 200_000), 40.0))
UNIFORM = histogram(RANDOM.uniform(0, 1, 200_000))


def test_percentile_counts_values() -> None:
    counts = np.zeros(BINS, dtype=np.int64)
    counts[[10, 100, 1000]] = 90, 9, 1
    assert percentile_bin(counts, 90) == 11
    assert percentile_bin(counts, 99) == 101
    assert percentile_bin(counts, 100) == 1001


@pytest.mark.parametrize(("method", "most"), [(entropy_bin, 8.0), (mse_bin, 25.0)], ids=["entropy", "mse"])
def test_a_lone_outlier_is_cut_and_a_uniform_range_is_kept(method, most: float) -> None:  # type: ignore[no-untyped-def]
    kept = method(GAUSS_AND_OUTLIER) / BINS * 40
    assert 2.0 < kept < most, "the outlier weighs squared in the mean squared error, and hardly in the entropy"
    assert method(UNIFORM) > 0.95 * BINS


def test_mse_finds_the_best_step_by_trying() -> None:
    values = np.abs(RANDOM.normal(0, 1, 50_000))
    top = values.max()

    def error(limit: float) -> float:
        step = limit / 127
        return float(((np.minimum(np.rint(values / step), 127) * step - values) ** 2).mean())

    limits = np.linspace(0.3, 1, 71) * top
    best = min(limits, key=error)
    assert mse_bin(histogram(values)) / BINS * top == pytest.approx(best, rel=0.06)


def plan_and_faces() -> tuple[Plan, np.ndarray]:
    graph = read_graph(nets.ghost_net())
    sites = find_sites(graph)
    crops = nets.faces(16, margin=0)
    seen = observe(graph, sites, crops, nets.SPEC)
    assert sum(int(c.sum()) for c in seen.histogram.values()) > 0
    return Plan(graph, sites, group_scales(sites, seen), plain_weight_scales(graph, sites)), crops


def test_min_max_holds_every_value_and_widening_widens() -> None:
    plan, crops = plan_and_faces()
    seen = observe(plan.graph, plan.sites, crops, nets.SPEC)
    for group, step in plan.scales.items():
        assert float(step) * 127 == pytest.approx(seen.peak(plan.sites, group), rel=1e-6)
    wide = group_scales(plan.sites, seen, "minmax", 1.25)
    assert all(float(wide[g]) == pytest.approx(1.25 * float(s), rel=1e-6) for g, s in plan.scales.items())
    for method in ("percentile", "entropy", "mse"):
        narrow = group_scales(plan.sites, seen, method)
        assert all(float(narrow[g]) <= float(s) * 1.001 for g, s in plan.scales.items())
        assert any(float(narrow[g]) < float(s) * 0.999 for g, s in plan.scales.items()), method


def test_histograms_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read_graph(nets.ghost_net())
    sites, crops = find_sites(graph), nets.faces(80, margin=0)
    two = observe(graph, sites, crops, nets.SPEC)
    monkeypatch.setattr("calib.plan.WORKERS", 1)
    one = observe(graph, sites, crops, nets.SPEC)
    for group, counts in one.histogram.items():
        np.testing.assert_array_equal(counts, two.histogram[group])


def test_the_search_repairs_a_spoiled_scale() -> None:
    plan, crops = plan_and_faces()
    truth = predict_float(plan.graph, crops, nets.SPEC)

    def error(trial: Plan) -> float:
        return float(landmark_shift(predict_plan(trial, crops, nets.SPEC), truth, nets.SPEC).mean())

    spoiled = scaled(plan, {"one.primary.relu": 0.25})
    repaired = search_scales(spoiled, error, (0.5, 2.0, 4.0))
    assert error(repaired) < 0.5 * error(spoiled)
    assert float(repaired.scales["one.primary.relu"]) > float(spoiled.scales["one.primary.relu"])


def test_unknown_methods_and_numbers_are_refused() -> None:
    plan, crops = plan_and_faces()
    seen = observe(plan.graph, plan.sites, crops, nets.SPEC)
    with pytest.raises(UsageError, match="known: minmax, percentile, entropy, mse"):
        group_scales(plan.sites, seen, "max")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="widen"):
        group_scales(plan.sites, seen, "minmax", 0.0)
