"""The module that int8 training judges is the integer network: same integers as the oracle on the exported file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calib import fake_net
from calib.fake_net import ExactNumbers, FakeNumbers, FakeQuantNet, net_of
from calib.graph import read_graph
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales
from calib.ranges import group_scales
from calib.sites import find_sites
from calib.steps import group_names, plan_with, tensor_names
from calib.trace import trace
from calib.values import Parts, Pending, Stored, Walk
from export.int8 import write_int8
from export.onnx_export import Exporter, export_graph
from export.oracle import Oracle, Result
from export.simplify import simplify
from export.tidy import finish
from runtime.errors import InputError
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, Int8Steps, model_of
from train.models.zoo import FAMILY, build

FACES = 17
SHAPES: dict[str, tuple[float, int, Exporter]] = {
    "pfld": (0.1, 32, "torchscript"),
    "ghostnet": (0.1, 32, "torchscript"),
    "ghostnet-slim": (0.12, 48, "torchscript"),
    "ghostone": (0.13, 64, "dynamo"),
}


class Case:
    """A small network with steps that are too short here and there, its int8 file, and what the oracle makes of it.

    With steps that are `powers` of two, sums often lie exactly between two integers.
    """

    def __init__(self, architecture: str, powers: bool = False) -> None:
        width, size, exporter = SHAPES[architecture]
        torch.manual_seed(7)
        self.spec = ModelSpec(architecture, width, 98, size, 1, "wflw98")
        model = build(self.spec, fused=True).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 0.0, 0.2)
            elif name != "fc.weight":  # channels of very different size, and one that is dead
                parameter.data.mul_(torch.exp(0.7 * torch.randn(len(parameter))).view(-1, 1, 1, 1))
                parameter.data[0] = 0
        random = np.random.default_rng(5)
        self.batch = (2 * random.random((FACES, 3, size, size)) - 1).astype(np.float32)
        graph = trace(model, self.spec)
        crops = random.integers(0, 256, (16, size, size, 3)).astype(np.uint8)
        sites = find_sites(graph)
        seen = Observation(observe_peaks(graph, sites, crops, self.spec), {})
        self.net = FakeQuantNet(self.spec)
        self.net.load_plan(Plan(graph, sites, group_scales(sites, seen), plain_weight_scales(graph, sites)))
        with torch.no_grad():  # as if the steps had been learned
            self.net.group_ratio.mul_(torch.rand_like(self.net.group_ratio) * 0.5 + 0.3)
            for ratio in self.net.ratios:
                ratio.mul_(torch.rand_like(ratio) * 0.5 + 0.7)
            if powers:
                for name, values in (*self.net.named_buffers(), *self.net.named_parameters()):
                    if "unit" in name or "ratio" in name:
                        values.copy_(2.0 ** values.log2().round())
        self.net.eval()
        weights, self.steps = self.net.ship()
        self.checkpoint = Checkpoint("fused", self.spec, weights, int8=self.steps)
        raw = export_graph(model_of(self.checkpoint), self.spec, exporter=exporter)
        self.full = simplify(raw, self.spec, self.batch[:12], float("inf")).model
        self.plan = plan_with(read_graph(self.full), self.steps)
        self.file = finish(write_int8(self.full, self.plan), self.spec)
        self.wanted: Result = Oracle(self.file).run(self.batch, keep=True)

    def named(self, stored: dict[str, NDArray[np.int8]]) -> dict[str, NDArray[np.int8]]:
        """The oracle's integers under the names of layers, which both forms of the network share."""
        names = tensor_names(self.plan.graph)
        return {names[tensor.removesuffix("_quantized")]: codes for tensor, codes in stored.items()}

    def differing(self) -> int:
        """How many stored integers and outputs of the module are not the oracle's."""
        keep: dict[str, Tensor] = {}
        output = self.net.integers(torch.from_numpy(self.batch), keep)
        names = tensor_names(self.net.graph)
        found, wanted = {names[k]: v.numpy() for k, v in keep.items()}, self.named(self.wanted.stored)
        assert found.keys() == wanted.keys()
        wrong = sum(int((found[name] != codes).sum()) for name, codes in wanted.items())
        return wrong + int((output.numpy() != self.wanted.output).sum())


@pytest.fixture(scope="module", params=SHAPES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def ghost() -> Case:
    return Case("ghostnet")


@pytest.fixture(scope="module")
def tied() -> Case:
    return Case("ghostnet", powers=True)


def test_every_network_of_the_family_is_here() -> None:
    assert set(SHAPES) == set(FAMILY)


def test_the_module_computes_the_oracles_integers(case: Case) -> None:
    assert case.differing() == 0
    clipped = [name for name, codes in case.wanted.stored.items() if ((codes == 127) | (codes == -128)).any()]
    assert len(clipped) > 3, "the case is too tame: too few tensors are clipped"


def test_the_checkpoint_gives_the_same_integers(case: Case) -> None:
    output = net_of(case.checkpoint)(torch.from_numpy(case.batch))
    assert np.array_equal(output.numpy(), case.wanted.output)


def test_weights_lie_on_the_grid_and_biases_on_whole_sums(case: Case) -> None:
    again = case.plan
    for name, steps in again.weight_scales.items():
        value = again.graph.parameters[name]
        shaped = steps.reshape(-1, *[1] * (value.ndim - 1))
        assert np.array_equal(again.codes(name).astype(np.float32) * shaped, value)


class Guided(FakeNumbers):
    """Training arithmetic whose every stored tensor is held against the integers, which then go on."""

    def __init__(self, net: FakeQuantNet, truth: list[Tensor]) -> None:
        super().__init__(net)
        self.truth, self.apart, self.count, self.most = iter(truth), 0, 0, 0.0

    def store(self, value: Pending | Tensor, group: str) -> Tensor:
        right = next(self.truth) * self.steps[group]
        gap = ((super().store(value, group) - right) / self.steps[group]).detach().abs()
        self.apart += int((gap > 0.5).sum())
        self.count += gap.numel()
        self.most = max(self.most, float(gap.max()))
        return right


class Recorded(ExactNumbers):
    """The integers in the order in which they are stored."""

    def __init__(self, net: FakeQuantNet) -> None:
        super().__init__(net)
        self.seen: list[Tensor] = []

    def store(self, value: Pending | Tensor, group: str) -> Tensor:
        self.seen.append(super().store(value, group))
        return self.seen[-1]


def guided(net: FakeQuantNet, batch: NDArray[np.float32]) -> tuple[Guided, Tensor, Tensor]:
    with torch.no_grad():
        exact = Recorded(net)
        wanted = Walk(net.graph, net.sites, exact).run(torch.from_numpy(batch))
        rough = Guided(net, exact.seen)
        found = Walk(net.graph, net.sites, rough).run(torch.from_numpy(batch))
    return rough, found, wanted


def test_training_arithmetic_is_the_same_up_to_float_sums(case: Case) -> None:
    """On equal inputs a layer's values differ by one step at most, and only where a sum lies on the edge of two."""
    rough, found, wanted = guided(case.net, case.batch)
    assert rough.most < 1.5 and rough.apart <= 2e-4 * rough.count, (rough.apart, rough.count, rough.most)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


# ---------------------------------------------------------------------------------------------- what must not pass
Patch = pytest.MonkeyPatch


def away_from_zero(patch: Patch) -> None:
    """Ties (and all else) round half away from zero."""
    patch.setattr(Tensor, "round", lambda x: torch.sign(x) * torch.floor(x.abs() + 0.5))


def per_tensor_weights(patch: Patch) -> None:
    plain = FakeQuantNet.weight_step
    patch.setattr(FakeQuantNet, "weight_step", lambda net, i: plain(net, i).amax().expand(len(net.ratios[i])))


def unshared_concat(patch: Patch) -> None:
    """The second half of a ghost module is stored with a step of its own."""
    plain = Walk._store

    def store(walk: Walk, value: Any, group: str) -> Stored:
        if isinstance(value, Parts):
            first, second = (plain(walk, piece, group).values for piece in value.pieces)
            return Stored(torch.cat([first, (second * 1.25).round().clamp(-128, 127)], 1), group)
        return plain(walk, value, group)

    patch.setattr(Walk, "_store", store)


def no_clamp(patch: Patch) -> None:
    patch.setattr(
        Tensor, "clamp", lambda x, low=None, high=None: x if high == fake_net.HIGH else torch.clip(x, low, high)
    )


def no_relu(patch: Patch) -> None:
    patch.setattr("calib.values._clipped", lambda value, low, high: value)


def double_multiplier(patch: Patch) -> None:
    """Requantising in float64 instead of by one float32 product."""

    def scaled(numbers: ExactNumbers, value: Pending, step: float) -> Tensor:
        parts = [
            t.values.double() * (numbers.wide[t.origin.group] / step)
            if isinstance(t.origin, Stored)
            else t.values.double() * (numbers.unit(t.origin) / step).view(-1, 1, 1)
            for t in value.terms
        ]
        return torch.stack(parts).sum(0).float()

    patch.setattr(ExactNumbers, "_scaled", scaled)


def pool_reuses_step(patch: Patch) -> None:
    """The mean is rounded to the step of what is pooled: what ruins landmark int8."""
    plain = ExactNumbers.pool
    patch.setattr(ExactNumbers, "pool", lambda n, s: (plain(n, s) / n.wide[s.group]).round() * n.wide[s.group])


def unordered_head(patch: Patch) -> None:
    patch.setattr(
        ExactNumbers,
        "linear",
        lambda n, node, x: FakeNumbers.linear(n, node, x),  # type: ignore[arg-type]
    )


def float_bias(patch: Patch) -> None:
    """The bias as a float that is not on a whole number of units."""
    patch.setattr(
        ExactNumbers, "whole_bias", lambda n, i: n.net.float_bias(i).double() / n.unit(n.net.graph.weighted[i])
    )


MUTANTS: list[Callable[[Patch], None]] = [
    away_from_zero,
    per_tensor_weights,
    unshared_concat,
    no_clamp,
    no_relu,
    double_multiplier,
    pool_reuses_step,
    unordered_head,
    float_bias,
]


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_rule_shows(mutate: Callable[[Patch], None], ghost: Case, tied: Case, monkeypatch: Patch) -> None:
    case = tied if mutate is away_from_zero else ghost
    assert case.differing() == 0
    mutate(monkeypatch)
    assert case.differing() > 0


TRAINING_MUTANTS: dict[str, Callable[[Patch], None]] = {
    "wrong rounding": lambda patch: patch.setattr(
        fake_net, "rounded", lambda x, s, low, high: (torch.floor(x / s + 0.75).clamp(low, high)) * s
    ),
    "per-tensor weights": lambda patch: patch.setattr(
        fake_net, "rounded_weight", lambda v, unit, step: (v * unit.amax() / step.amax()).round() * step.amax()
    ),
    "missing clamp": lambda patch: patch.setattr(fake_net, "rounded", lambda x, s, *_: (x / s).round() * s),
}


@pytest.mark.parametrize("name", TRAINING_MUTANTS)
def test_a_wrong_rule_in_training_shows(name: str, ghost: Case, monkeypatch: Patch) -> None:
    TRAINING_MUTANTS[name](monkeypatch)
    rough, _, _ = guided(ghost.net, ghost.batch)
    assert rough.apart > 2e-4 * rough.count


# ---------------------------------------------------------------------------------------------- names and steps
def test_groups_have_the_same_names_in_both_forms(case: Case) -> None:
    onnx, traced = (group_names(g, find_sites(g)) for g in (case.plan.graph, case.net.graph))
    assert set(onnx.values()) == set(traced.values()) == set(case.steps.activations)


def test_steps_of_another_network_are_refused(ghost: Case) -> None:
    graph, steps = ghost.plan.graph, ghost.steps
    name = next(iter(steps.weights))
    lost = {k: v for k, v in steps.weights.items() if k != name}
    with pytest.raises(InputError, match=rf"x\.ckpt: lacks the int8 step of the weight '{name}'"):
        plan_with(graph, Int8Steps(steps.activations, lost), "x.ckpt")
    with pytest.raises(InputError, match="has a foreign int8 step of the activation 'other'"):
        plan_with(graph, Int8Steps({**steps.activations, "other": torch.tensor(1.0)}, steps.weights))
    with pytest.raises(InputError, match=r"int8 steps of shape \(1,\)"):
        plan_with(graph, Int8Steps(steps.activations, {**steps.weights, name: torch.ones(1)}))
    with pytest.raises(InputError, match="carries no int8 steps"):
        net_of(Checkpoint("fused", ghost.spec, ghost.checkpoint.model))


def test_a_network_beyond_int8_is_refused() -> None:
    spec = ModelSpec("mobilenetv3-small", 0.5, 98, 64, 1, "wflw98")
    with pytest.raises(InputError, match=r"int8 does not know|cannot be followed"):
        trace(build(spec, fused=True), spec)
