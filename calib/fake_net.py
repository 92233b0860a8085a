"""The int8 network as a torch module: imitated with gradients while it trains, in exact integers when it is judged.

Weights count in int8 steps, so that one learning rate fits every layer. In eval mode the forward pass is docs/int8.md,
number by number; in training the same rounding and clamping is done to float sums, straight through for the gradient.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calib.fake import HIGH, LOW, WEIGHT_LIMIT, channel_view
from calib.graph import Node
from calib.grid import rounded, rounded_weight
from calib.plan import Plan, channels_last
from calib.sites import find_sites
from calib.steps import group_names, plan_with
from calib.trace import trace
from calib.values import Pending, Stored, Term, Walk
from runtime.errors import InputError
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, Int8Steps, model_of
from train.models.zoo import build

BIAS_UNIT = 8.0
"""A bias moves this many accumulator units where a weight moves one step."""
LEAST_RATIO, MOST_RATIO = 1 / 16, 16.0
"""How far a step may be learned away from where it started."""
_EXACT_IN_SINGLE = 1 << 24


class FakeQuantNet(nn.Module):
    """A fused network of the zoo, every convolution in int8, the last layer in float."""

    def __init__(self, spec: ModelSpec, learn_steps: bool = True) -> None:
        super().__init__()
        self.spec = spec
        self.graph = trace(build(spec, fused=True), spec)
        self.sites = find_sites(self.graph)
        self.groups = self.sites.groups
        self.names = group_names(self.graph, self.sites)
        self.place = {str(node.weight): index for index, node in enumerate(self.graph.weighted)}
        self._of_group = {group: index for index, group in enumerate(self.groups)}
        self.weights, self.biases, self.ratios = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for index, node in enumerate(self.graph.weighted):
            weight = torch.from_numpy(self.graph.parameters[str(node.weight)].copy())
            self.weights.append(nn.Parameter(channels_last(weight)))
            self.biases.append(nn.Parameter(torch.zeros(len(weight)), requires_grad=node.bias is not None))
            self.ratios.append(nn.Parameter(torch.ones(len(weight)), requires_grad=learn_steps and self.is_int8(node)))
            self.register_buffer(f"unit_{index}", torch.ones(len(weight)))
            self.register_buffer(f"bias_unit_{index}", torch.ones(len(weight)))
        self.group_ratio = nn.Parameter(torch.ones(len(self.groups)), requires_grad=learn_steps)
        self.register_buffer("group_unit", torch.ones(len(self.groups)))

    def is_int8(self, node: Node) -> bool:
        return node.name in self.sites.quantised

    @property
    def step_parameters(self) -> list[nn.Parameter]:
        """What is learned of the steps."""
        return [p for p in (*self.ratios, self.group_ratio) if p.requires_grad]

    @property
    def weight_parameters(self) -> list[nn.Parameter]:
        """Weights and biases, all counted in steps."""
        return [p for p in (*self.weights, *self.biases) if p.requires_grad]

    def unit(self, index: int) -> Tensor:
        return self.get_buffer(f"unit_{index}")

    def bias_unit(self, index: int) -> Tensor:
        return self.get_buffer(f"bias_unit_{index}")

    def weight_step(self, index: int) -> Tensor:
        """Per output channel."""
        step: Tensor = self.unit(index) * self.ratios[index].clamp(LEAST_RATIO, MOST_RATIO)
        return step

    def group_steps(self) -> Tensor:
        """Per scale group."""
        buffer: Tensor = self.get_buffer("group_unit")
        return buffer * self.group_ratio.clamp(LEAST_RATIO, MOST_RATIO)

    def step_of(self, group: str, steps: Tensor) -> Tensor:
        return steps[self._of_group[group]]

    @torch.no_grad()
    def load_plan(self, plan: Plan, to_judge: bool = False) -> None:
        """Take over a plan of this network, traced or read from ONNX; `to_judge` keeps float weights to the bit."""
        steps = {group_names(plan.graph, plan.sites)[group]: float(step) for group, step in plan.scales.items()}
        self.group_ratio.fill_(1.0)
        self.get_buffer("group_unit").copy_(torch.tensor([steps[self.names[group]] for group in self.groups]))
        for index, node in enumerate(self.graph.weighted):
            value = torch.from_numpy(plan.graph.parameters[str(node.weight)].copy())
            if self.is_int8(node):
                unit = torch.from_numpy(plan.weight_scales[str(node.weight)].copy())
                into = self.step_of(self.sites.group[node.inputs[0]], self.get_buffer("group_unit"))
                bias_unit = unit * into.cpu() * BIAS_UNIT
            else:
                peak = value.abs().amax()
                unit = torch.ones(len(value)) if to_judge or peak == 0 else (peak / WEIGHT_LIMIT).expand(len(value))
                bias_unit = torch.full((len(value),), 1.0 if to_judge else 1e-3)
            self.unit(index).copy_(unit)
            self.bias_unit(index).copy_(bias_unit)
            self.ratios[index].fill_(1.0)
            self.weights[index].copy_(value / channel_view(unit, value))
            bias = None if node.bias is None else plan.graph.parameters.get(node.bias)
            self.biases[index].copy_(torch.zeros(len(value)) if bias is None else torch.from_numpy(bias) / bias_unit)

    @torch.no_grad()
    def ship(self) -> tuple[dict[str, Tensor], Int8Steps]:
        """Weights of the fused network, on the grid where they are int8, and the steps that they are int8 with."""
        weights: dict[str, Tensor] = {}
        steps: dict[str, Tensor] = {}
        exact = ExactNumbers(self)
        for index, node in enumerate(self.graph.weighted):
            name = str(node.weight)
            if self.is_int8(node):
                steps[name] = self.weight_step(index).cpu()
                weights[name] = (exact.codes(index) * channel_view(self.weight_step(index), self.weights[index])).cpu()
                bias = (exact.whole_bias(index) * exact.unit(node)).float()
            else:
                weights[name] = self.float_weight(index).cpu()
                bias = self.float_bias(index)
            if node.bias is not None:
                weights[node.bias] = bias.cpu()
            weights[name] = weights[name].contiguous()
        found = self.group_steps().cpu()
        return weights, Int8Steps({self.names[g]: found[i].clone() for i, g in enumerate(self.groups)}, steps)

    def float_weight(self, index: int) -> Tensor:
        weight: Tensor = self.weights[index]
        return weight * channel_view(self.unit(index), weight)

    def float_bias(self, index: int) -> Tensor:
        bias: Tensor = self.biases[index] * self.bias_unit(index)
        return bias

    def forward(self, batch: Tensor) -> Tensor:
        if self.training:
            return Walk(self.graph, self.sites, FakeNumbers(self)).run(batch)
        return self.integers(batch)

    def integers(self, batch: Tensor, keep: dict[str, Tensor] | None = None) -> Tensor:
        """The int8 network's own output; `keep` collects the int8 values of every stored tensor."""
        with torch.no_grad():
            return Walk(self.graph, self.sites, ExactNumbers(self), keep).run(batch.float())


class FakeNumbers:
    """Float sums of values that lie on the int8 grid: what the integers are worth, up to float rounding."""

    def __init__(self, net: FakeQuantNet) -> None:
        self.net = net
        # One small tensor per step, because a slice of a tensor makes a gradient of the tensor's size.
        self.steps = dict(zip(net.groups, net.group_steps().unbind(), strict=True))

    def convolve(self, node: Node, source: Stored) -> Term:
        net, index = self.net, self.net.place[str(node.weight)]
        weight = rounded_weight(net.weights[index], net.unit(index), net.weight_step(index))
        bias = self.whole_bias(index, source) if node.bias is not None else None
        pads, group = node.attributes["pads"], node.attributes["group"]
        return Term(F.conv2d(source.values, weight, bias, node.attributes["strides"], pads[:2], 1, group), node)

    def whole_bias(self, index: int, source: Stored) -> Tensor:
        """The bias on a whole number of units of the sum, straight through for the gradient."""
        bias = self.net.float_bias(index)
        with torch.no_grad():
            unit = self.net.weight_step(index) * self.steps[source.group]
            gap = (bias / unit).round() * unit - bias
        return bias + gap

    def store(self, value: Pending | Tensor, group: str) -> Tensor:
        step = self.steps[group]
        if isinstance(value, Tensor):
            return rounded(value, step, LOW, HIGH)
        low = 0 if value.low == 0 else LOW
        high = HIGH if np.isinf(value.high) else _clip_code(value.high, float(step))
        return rounded(_sum(value), step, low, high)

    def pool(self, source: Stored) -> Tensor:
        return source.values.mean((2, 3))

    def real(self, value: Pending) -> Tensor:
        return _between(_sum(value), value)

    def linear(self, node: Node, source: Tensor) -> Tensor:
        index = self.net.place[str(node.weight)]
        bias = self.net.float_bias(index) if node.bias is not None else None
        return F.linear(source, self.net.float_weight(index), bias)


def _sum(value: Pending) -> Tensor:
    result = value.terms[0].values
    for term in value.terms[1:]:
        result = result + term.values
    return result


def _between(values: Tensor, limits: Pending) -> Tensor:
    if limits.low == 0:
        values = values.relu()
    return values if np.isinf(limits.high) else values.clamp_max(limits.high)


def _clip_code(high: float, step: float) -> int:
    return int(min(HIGH, np.rint(np.float64(high) / np.float64(step))))


class ExactNumbers:
    """The integers themselves, held in floats that hold them exactly; rules 1 to 9 of docs/int8.md."""

    def __init__(self, net: FakeQuantNet) -> None:
        self.net = net
        steps = net.group_steps().detach()
        self.steps = dict(zip(net.groups, steps.unbind(), strict=True))
        self.wide = {group: float(step) for group, step in zip(net.groups, steps.tolist(), strict=True)}

    def codes(self, index: int) -> Tensor:
        """The int8 values of a weight."""
        step = channel_view(self.net.weight_step(index), self.net.weights[index])
        return (self.net.float_weight(index) / step).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)

    def unit(self, node: Node) -> Tensor:
        """What one unit of a convolution's sum is worth, per channel, in float64."""
        return (
            self.net.weight_step(self.net.place[str(node.weight)]).double()
            * self.wide[self.net.sites.group[node.inputs[0]]]
        )

    def whole_bias(self, index: int) -> Tensor:
        """The bias in units of the sum, in float64, as the file holds it: a float32 on a whole number of units."""
        unit = self.unit(self.net.graph.weighted[index])
        stored = ((self.net.float_bias(index).double() / unit).round() * unit).float()
        return (stored.double() / unit).round()

    def convolve(self, node: Node, source: Stored) -> Term:
        index = self.net.place[str(node.weight)]
        codes, bias = self.codes(index), self.whole_bias(index)
        largest = codes.abs().sum((1, 2, 3)).double() * -LOW + bias.abs()
        single = source.values.device.type == "cpu" and bool((largest < _EXACT_IN_SINGLE).all())
        kind = torch.float32 if single else torch.float64
        total = _whole_sums(source.values.to(kind), codes.to(kind), node) + bias.to(kind).view(-1, 1, 1)
        return Term(total.float(), node)

    def _scaled(self, value: Pending, step: float) -> Tensor:
        """Each term by one float32 multiplication; the multiplier is rounded once, from float64."""
        parts = []
        for term in value.terms:
            if isinstance(term.origin, Stored):
                parts.append(term.values * float(np.float32(self.wide[term.origin.group] / step)))
            else:
                parts.append(term.values * (self.unit(term.origin) / step).float().view(-1, 1, 1))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def store(self, value: Pending | Tensor, group: str) -> Tensor:
        if isinstance(value, Tensor):
            return (value / self.steps[group]).round().clamp(LOW, HIGH)
        step = self.wide[group]
        high = HIGH if np.isinf(value.high) else _clip_code(value.high, step)
        return self._scaled(value, step).round().clamp(0 if value.low == 0 else LOW, high)

    def pool(self, source: Stored) -> Tensor:
        count = source.values.shape[2] * source.values.shape[3]
        whole = source.values.sum((2, 3), dtype=torch.float64).float()
        return whole * float(np.float32(self.wide[source.group] / count))

    def real(self, value: Pending) -> Tensor:
        return _between(self._scaled(value, 1.0), value)

    def linear(self, node: Node, source: Tensor) -> Tensor:
        """In the order that the page fixes: the bias, then one product after the other, each rounded to float32."""
        index = self.net.place[str(node.weight)]
        weight = self.net.float_weight(index).t().contiguous()
        total = self.net.float_bias(index).expand(len(source), -1) if node.bias else source.new_zeros(())
        for row, column in zip(weight, source.t().contiguous(), strict=True):
            total = total + column[:, None] * row
        return total


def _whole_sums(codes: Tensor, weight: Tensor, node: Node) -> Tensor:
    """A convolution as matrix products or shifted products only: other algorithms round on their way."""
    (top, left), (down, right) = node.attributes["pads"][:2], node.attributes["strides"]
    outs, per_group, tall, wide = weight.shape
    groups = node.attributes["group"]
    padded = F.pad(codes, (left, left, top, top)) if top or left else codes
    height, width = (padded.shape[2] - tall) // down + 1, (padded.shape[3] - wide) // right + 1
    places = [
        (padded[:, :, y : y + (height - 1) * down + 1 : down, x : x + (width - 1) * right + 1 : right], y, x)
        for y in range(tall)
        for x in range(wide)
    ]
    if per_group == 1 and groups == outs:
        return torch.stack([part * weight[:, 0, y, x].view(-1, 1, 1) for part, y, x in places]).sum(0)
    if groups != 1:
        raise InputError(f"convolution {node.name!r} in {groups} groups: int8 training knows plain and depthwise ones")
    total: Tensor | None = None
    for part, y, x in places:
        product = part.movedim(1, -1) @ weight[:, :, y, x].t()
        total = product if total is None else total + product
    assert total is not None  # noqa: S101  (a kernel has at least one place)
    return total.movedim(-1, 1)


def net_of(checkpoint: Checkpoint, where: str = "checkpoint") -> FakeQuantNet:
    """The int8 network that a checkpoint carries the steps of, in eval mode."""
    if checkpoint.int8 is None:
        raise InputError(f"{where}: carries no int8 steps; it was not trained with --qat")
    net = FakeQuantNet(checkpoint.spec, learn_steps=False)
    net.load_plan(plan_with(trace(model_of(checkpoint, where), checkpoint.spec), checkpoint.int8, where), to_judge=True)
    return net.eval()
