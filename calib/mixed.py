"""Mixed precision: the fewest layers that must stay in float to keep the landmarks where they were."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from calib.noise import Noise
from calib.plan import Plan
from calib.sites import find_sites

CANDIDATES = 6
"""Layers tried in each round, the noisiest first."""


@dataclass(frozen=True)
class MixedResult:
    """Which layers stay float, and the error after each of them was added."""

    plan: Plan
    layers: tuple[str, ...]
    errors: tuple[float, ...]


def with_float(plan: Plan, names: Collection[str]) -> Plan:
    """The plan with some weighted nodes left in float: they read float values and keep float weights."""
    sites = find_sites(plan.graph, names)
    step = {tensor: plan.scales[group] for tensor, group in plan.sites.group.items()}
    weights = {str(node.weight) for node in plan.graph.weighted if node.name in sites.quantised}
    return replace(
        plan,
        sites=sites,
        scales={group: step[group] for group in sites.groups},
        weight_scales={name: value for name, value in plan.weight_scales.items() if name in weights},
    )


def rank_layers(plan: Plan, noise: Noise) -> list[tuple[str, float]]:
    """Int8 layers by the landmark noise that their weight and their input are predicted to cause, worst first."""
    shared: dict[str, int] = {}
    for node in plan.graph.weighted:
        if node.name in plan.sites.quantised:
            group = plan.sites.group[node.inputs[0]]
            shared[group] = shared.get(group, 0) + 1
    ranked = []
    for node in plan.graph.weighted:
        if node.name in plan.sites.quantised:
            group = plan.sites.group[node.inputs[0]]
            ranked.append(
                (node.name, noise.weight.get(node.name, 0.0) + noise.activation.get(group, 0.0) / shared[group])
            )
    return sorted(ranked, key=lambda row: (-row[1], row[0]))


def fewest_float(
    plan: Plan,
    noise: Noise,
    error: Callable[[Plan], float],
    limit: float,
    most: int = 3,
    enough: Callable[[Plan], bool] | None = None,
    progress: Callable[[], object] | None = None,
) -> MixedResult:
    """Add float layers one by one, always the most helpful, until `error` is at most `limit` or `most` are used.

    `enough` replaces the limit by a judgement of its own on each plan.
    """
    chosen: list[str] = []
    best, lowest = plan, error(plan)
    errors = [lowest]
    while len(chosen) < most and not (lowest <= limit if enough is None else enough(best)):
        ranked = [name for name, _ in rank_layers(plan, noise) if name not in chosen][:CANDIDATES]
        trials = []
        for name in ranked:
            trial = with_float(plan, [*chosen, name])
            trials.append((error(trial), name, trial))
            if progress is not None:
                progress()
        if not trials or min(trials, key=lambda t: (t[0], t[1]))[0] >= lowest:
            break
        lowest, name, best = min(trials, key=lambda t: (t[0], t[1]))
        chosen.append(name)
        errors.append(lowest)
    return MixedResult(best, tuple(chosen), tuple(errors))
