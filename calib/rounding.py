"""Learned rounding, block by block: each weight learns to round up or down, so that the block's outputs stay right.

A block ends where the network joins branches. Its error is weighted by how much each output channel moves the
landmarks, its inputs are those of the already rounded network, and biases and activation scales learn along (AdaRound
with LSQ scales, with the landmarks as the measure).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fake import WEIGHT_LIMIT, channel_view, run_fake
from calib.graph import PASSING, Graph, Node, run
from calib.landmarks import divisors
from calib.learn import HALVES, Halves, cosine, mean_point_distance, one_thread
from calib.plan import BATCH, Plan, to_batch, torch_parameters, torch_scales, torch_weight_scales
from calib.sensitivity import Sensitivity
from runtime.errors import UsageError
from runtime.spec import ModelSpec

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1
"""The sigmoid is stretched past 0 and 1 and cut there, so that a decision can become final."""
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Rounding:
    """How long each block learns."""

    steps: int = 120
    batch: int = 16
    rate: float = 0.1
    bias_rate: float = 0.02
    """In accumulator-like units, see `learn_rounding`."""
    scale_rate: float = 0.002
    decide: float = 0.02
    """Weight of the term that pushes every decision to up or down, against a block error scaled to start at 1."""


@dataclass(frozen=True)
class Block:
    """A run of nodes, the tensors it needs from before, and those that later nodes need from it."""

    nodes: tuple[Node, ...]
    needs: tuple[str, ...]
    gives: tuple[str, ...]


def split_blocks(graph: Graph) -> tuple[Block, ...]:
    """Cut behind every join of branches (concat with its slice, addition); the head and what leads to it are one."""
    cuts: list[list[Node]] = [[]]
    for index, node in enumerate(graph.nodes):
        cuts[-1].append(node)
        following = graph.nodes[index + 1] if index + 1 < len(graph.nodes) else None
        goes_on = (
            following is not None
            and following.op in ("Slice", "Gather", "Relu", "Add")
            and node.output in following.inputs
        )
        joins = node.op in ("Concat", "Add", "Slice", "Gather") and any(
            n.op == "Conv" for n in graph.consumers(node.output)
        )
        if joins and not goes_on and any(n.weight for n in cuts[-1]):
            cuts.append([])
    if not cuts[-1] or not any(n.weight for n in cuts[-1]):
        tail = cuts.pop()
        cuts[-1].extend(tail)
    blocks = []
    for place, nodes in enumerate(cuts):
        made = {node.output for node in nodes}
        needs = tuple(dict.fromkeys(name for node in nodes for name in node.inputs if name not in made))
        later = {name for rest in cuts[place + 1 :] for node in rest for name in node.inputs} | {graph.output}
        blocks.append(Block(tuple(nodes), needs, tuple(node.output for node in nodes if node.output in later)))
    return tuple(blocks)


class _Soft:
    """The rounding decisions of a block's weights, its biases and its activation scales as leaves."""

    def __init__(self, plan: Plan, block: Block, settings: Rounding) -> None:
        self.weights = {str(n.weight): n for n in block.nodes if n.name in plan.sites.quantised}
        parameters, steps = torch_parameters(plan.graph), torch_weight_scales(plan)
        self.floor: Values = {}
        self.step: Values = {}
        self.choice: Values = {}
        for name in self.weights:
            step = channel_view(steps[name], parameters[name])
            ratio = parameters[name] / step
            self.floor[name], self.step[name] = ratio.floor(), step
            part = ((ratio - ratio.floor()) - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)
            self.choice[name] = torch.log(part / (1 - part)).requires_grad_()
        self.bias = {
            n.bias: torch.zeros_like(parameters[n.bias]).requires_grad_() for n in self.weights.values() if n.bias
        }
        self.unit = {
            str(n.bias): steps[w] * float(plan.scales[plan.sites.group[n.inputs[0]]]) * 8
            for w, n in self.weights.items()
            if n.bias
        }
        groups = {plan.sites.group[t] for n in block.nodes for t in (*n.inputs, n.output) if t in plan.sites.group}
        before = {plan.sites.group[t] for t in block.needs if t in plan.sites.group}
        self.log_scale = {g: torch.zeros(()).requires_grad_() for g in sorted(groups - before)}
        self.settings = settings

    def up(self, name: str) -> Tensor:
        stretched = torch.sigmoid(self.choice[name]) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
        return stretched.clamp(0, 1)

    def weight(self, name: str, hard: bool = False) -> Tensor:
        up = (self.up(name) >= 0.5).float() if hard else self.up(name)
        return (self.floor[name] + up).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) * self.step[name]

    def undecided(self, sharpness: float) -> Tensor:
        """0 when all is decided; `sharpness` falls from 20 to 2, so that clear cases settle last."""
        terms = [(1 - (2 * self.up(n) - 1).abs().pow(sharpness)).sum() for n in self.weights]
        return torch.stack(terms).sum() / sum(f.numel() for f in self.floor.values())

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.choice.values(), *self.bias.values(), *self.log_scale.values()]


def learn_rounding(
    plan: Plan,
    teacher: Graph,
    crops: NDArray[np.uint8],
    spec: ModelSpec,
    sensitivity: Sensitivity,
    settings: Rounding | None = None,
    seed: int = 0,
    progress: Callable[[], object] | None = None,
) -> Plan:
    """Round every int8 weight by learning; `teacher` is the float network with the plan's own channel factors."""
    chosen = Rounding() if settings is None else settings
    if chosen.steps < 1 or chosen.batch % HALVES or len(crops) < 1:
        raise UsageError(
            f"learned rounding: expected steps > 0, an even batch and faces, found {chosen}, {len(crops)} faces"
        )
    known = torch_parameters(teacher)
    start = to_batch(crops, spec)
    exact: Values = {plan.graph.input: start}
    rough: Values = {plan.graph.input: start}
    size = torch.from_numpy(divisors(_outputs(teacher, known, start), spec).astype(np.float32))
    blocks = split_blocks(plan.graph)
    with one_thread(), Halves() as halves:
        for number, block in enumerate(blocks):
            exact.update(_block_values(teacher, known, block, exact))
            plan = _learn_block(plan, block, exact, rough, size, sensitivity, chosen, seed + number, halves)
            rough.update(_rough_values(plan, block, rough))
            needed = {name for later in blocks[number + 1 :] for name in later.needs}
            exact = {name: value for name, value in exact.items() if name in needed}
            rough = {name: value for name, value in rough.items() if name in needed}
            if progress is not None:
                progress()
    return plan


def _outputs(graph: Graph, parameters: Mapping[str, Tensor], batch: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.concatenate([run(graph, parameters, part).numpy() for part in torch.split(batch, BATCH)])


def _block_values(graph: Graph, parameters: Mapping[str, Tensor], block: Block, values: Values) -> Values:
    made: dict[str, list[Tensor]] = {name: [] for name in block.gives}
    with torch.no_grad():
        for first in range(0, len(values[block.needs[0]]), BATCH):
            keep: Values = dict.fromkeys(block.gives, values[block.needs[0]])
            inputs = {name: values[name][first : first + BATCH] for name in block.needs}
            run(graph, parameters, inputs[block.needs[0]], keep=keep, nodes=block.nodes, start=inputs)
            for name, value in keep.items():
                made[name].append(value)
    return {name: torch.cat(parts) for name, parts in made.items()}


def _rough_values(plan: Plan, block: Block, values: Values) -> Values:
    parameters, scales, steps = torch_parameters(plan.graph), torch_scales(plan), torch_weight_scales(plan)
    made: dict[str, list[Tensor]] = {name: [] for name in block.gives}
    with torch.no_grad():
        for first in range(0, len(values[block.needs[0]]), BATCH):
            keep: Values = dict.fromkeys(block.gives, values[block.needs[0]])
            inputs = {name: values[name][first : first + BATCH] for name in block.needs}
            begin = inputs[block.needs[0]]
            run_fake(
                plan.graph, plan.sites, parameters, scales, begin, steps, keep=keep, nodes=block.nodes, start=inputs
            )
            for name, value in keep.items():
                made[name].append(value)
    return {name: torch.cat(parts) for name, parts in made.items()}


def _learn_block(
    plan: Plan,
    block: Block,
    exact: Values,
    rough: Values,
    size: Tensor,
    sensitivity: Sensitivity,
    settings: Rounding,
    seed: int,
    halves: Halves,
) -> Plan:
    soft = _Soft(plan, block, settings)
    if not soft.weights:
        return plan
    parameters, scales = torch_parameters(plan.graph), torch_scales(plan)
    importance = _importance(plan.graph, block, sensitivity)
    is_head = plan.graph.output in block.gives
    if not is_head and not importance:
        return plan
    optimiser = torch.optim.Adam(
        [
            {"params": list(soft.choice.values()), "lr": settings.rate},
            {"params": list(soft.bias.values()), "lr": settings.bias_rate},
            {"params": list(soft.log_scale.values()), "lr": settings.scale_rate},
        ],
        foreach=False,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, settings.steps))
    random = np.random.default_rng(seed)
    half = settings.batch // HALVES
    first_error = 0.0

    def loss(step: int, picked: NDArray[np.int64], index: int) -> Tensor:
        rows = torch.from_numpy(picked[index * half : (index + 1) * half])
        begin = {name: rough[name][rows] for name in block.needs}
        keep: Values = dict.fromkeys(block.gives, size)
        values = {**parameters, **{b: parameters[b] + soft.unit[b] * moved for b, moved in soft.bias.items()}}
        steps = {g: s * torch.exp(soft.log_scale[g]) if g in soft.log_scale else s for g, s in scales.items()}
        run_fake(
            plan.graph,
            plan.sites,
            values,
            steps,
            begin[block.needs[0]],
            on_weight=lambda node, weight: (
                soft.weight(str(node.weight)) if str(node.weight) in soft.weights else weight
            ),
            keep=keep,
            nodes=block.nodes,
            start=begin,
        )
        error = torch.zeros(())
        if is_head:
            error = error + mean_point_distance(keep[plan.graph.output], exact[plan.graph.output][rows], size[rows])
        else:
            for name in importance:
                gap = (keep[name] - exact[name][rows]).square().sum((2, 3), keepdim=True)
                error = error + (gap * importance[name]).sum() / len(rows)
        error = error / first_error if first_error else error
        if step > settings.steps // 5:
            progress = (step - settings.steps / 5) / (settings.steps * 0.8)
            error = error + settings.decide * soft.undecided(20 - 18 * progress)
        return error / HALVES

    enough = len(size) >= settings.batch
    for step in range(settings.steps):
        picked = (
            random.permutation(len(size))[: settings.batch] if enough else random.integers(len(size), size=half * 2)
        )
        value = halves.backward(partial(loss, step, picked), soft.leaves)
        first_error = first_error or max(value, 1e-12)
        optimiser.step()
        schedule.step()
    return _decided(plan, soft)


def _importance(graph: Graph, block: Block, sensitivity: Sensitivity) -> Values:
    """Squared landmark movement per squared error, per channel, of what the block hands on."""

    def of(tensor: str) -> NDArray[np.float64] | None:
        if tensor in sensitivity.activation:
            return sensitivity.activation[tensor]
        producer = graph.producer(tensor)
        if producer is None or producer.op not in PASSING:
            return None
        parts = [of(name) for name in producer.inputs]
        if any(part is None for part in parts):
            return None
        joined = np.concatenate([part for part in parts if part is not None])
        if producer.op == "Gather":
            return np.asarray(joined[list(producer.attributes["channels"])])
        return joined[producer.attributes["start"] : producer.attributes["end"]] if producer.op == "Slice" else joined

    found = {name: of(name) for name in block.gives}
    return {
        name: torch.from_numpy(value.astype(np.float32)).reshape(1, -1, 1, 1)
        for name, value in found.items()
        if value is not None
    }


def _decided(plan: Plan, soft: _Soft) -> Plan:
    changed = dict(plan.graph.parameters)
    with torch.no_grad():
        for name in soft.weights:
            changed[name] = np.ascontiguousarray(soft.weight(name, hard=True).numpy())
        for name, moved in soft.bias.items():
            changed[name] = plan.graph.parameters[name] + (soft.unit[name] * moved).numpy()
        scales = {
            group: np.float32(float(step) * float(torch.exp(soft.log_scale[group])))
            if group in soft.log_scale
            else step
            for group, step in plan.scales.items()
        }
    return replace(plan, graph=replace(plan.graph, parameters=changed), scales=scales)


def nearest(plan: Plan) -> Plan:
    """The plan with every int8 weight put on its nearest step: what no learning gives."""
    changed = dict(plan.graph.parameters)
    for name, steps in plan.weight_scales.items():
        shaped = steps.reshape(-1, *([1] * (changed[name].ndim - 1)))
        changed[name] = plan.codes(name).astype(np.float32) * shaped
    return replace(plan, graph=replace(plan.graph, parameters=changed))
