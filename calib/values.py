"""A network run as int8 hardware runs it: results wait in the accumulator until they are stored or read as float.

The walk is the same for training and for judging; what a sum, a stored value or a float is, the arithmetic says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from calib.graph import Graph, Node
from calib.sites import Sites
from runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in memory, on the grid of its group's step."""

    values: Tensor
    group: str


@dataclass(frozen=True, eq=False)
class Term:
    """A convolution's result, or a stored tensor that is being added; `origin` tells what a unit of it is worth."""

    values: Tensor
    origin: Node | Stored


@dataclass(frozen=True, eq=False)
class Pending:
    """A result in the accumulator: one term, or two that are being added, perhaps clipped."""

    terms: tuple[Term, ...]
    low: float = -float("inf")
    high: float = float("inf")
    kept: dict[str, Stored] = field(default_factory=dict)
    """Its stored form, made once however many read it."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Results side by side along the channels."""

    pieces: tuple[Any, ...]
    kept: dict[str, Stored] = field(default_factory=dict)


class Arithmetic(Protocol):
    """What the steps of a run compute."""

    def convolve(self, node: Node, source: Stored) -> Term: ...

    def store(self, value: Pending | Tensor, group: str) -> Tensor: ...

    def pool(self, source: Stored) -> Tensor: ...

    def real(self, value: Pending) -> Tensor: ...

    def linear(self, node: Node, source: Tensor) -> Tensor: ...


class Walk:
    """One pass through a network; `keep` collects the stored tensors by name."""

    def __init__(
        self, graph: Graph, sites: Sites, arithmetic: Arithmetic, keep: dict[str, Tensor] | None = None
    ) -> None:
        self.graph, self.sites, self.arithmetic, self.keep = graph, sites, arithmetic, keep
        self.last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}

    def run(self, batch: Tensor) -> Tensor:
        values: dict[str, Any] = {self.graph.input: batch}
        stored: dict[str, Stored] = {}
        for index, node in enumerate(self.graph.nodes):
            sources = [self._read(node, name, values, stored) for name in node.inputs]
            values[node.output] = _STEPS[node.op](self, node, sources)
            for name in node.inputs:
                if self.last[name] == index:
                    values.pop(name, None)
                    stored.pop(name, None)
        return self.real(values[self.graph.output])

    def _read(self, node: Node, name: str, values: dict[str, Any], stored: dict[str, Stored]) -> Any:
        if (node.name, name) not in self.sites.readers:
            return values[name]
        if name not in stored:
            stored[name] = self._store(values[name], self.sites.group[name])
            if self.keep is not None:
                self.keep[name] = stored[name].values
        return stored[name]

    def _store(self, value: Any, group: str) -> Stored:
        if isinstance(value, Tensor):
            return Stored(self.arithmetic.store(value, group), group)
        if isinstance(value, Stored):
            raise InputError("a tensor is stored twice; int8 training does not know this network")
        if group not in value.kept:
            if isinstance(value, Parts):
                pieces = [self._store(piece, group).values for piece in value.pieces]
                value.kept[group] = Stored(torch.cat(pieces, 1), group)
            else:
                value.kept[group] = Stored(self.arithmetic.store(value, group), group)
        kept: Stored = value.kept[group]
        return kept

    def real(self, value: Any) -> Tensor:
        """The float form of a result."""
        if isinstance(value, Pending):
            return self.arithmetic.real(value)
        if isinstance(value, Tensor):
            return value
        raise InputError("an int8 tensor is read as float; int8 training does not know this network")

    def conv(self, node: Node, sources: list[Any]) -> Pending:
        return Pending((self.arithmetic.convolve(node, sources[0]),))

    def clip(self, node: Node, sources: list[Any]) -> Any:
        return _clipped(sources[0], 0.0, float(node.attributes.get("max", float("inf"))))

    def add(self, node: Node, sources: list[Any]) -> Pending:
        terms: list[Term] = []
        for value in sources:
            if isinstance(value, Stored):
                terms.append(Term(value.values, value))
            elif isinstance(value, Pending) and len(value.terms) == 1 and value.low < 0:
                terms.append(value.terms[0])
            else:
                raise InputError(f"addition {node.name!r}: int8 training knows sums of convolutions and stored tensors")
        return Pending(tuple(terms))

    def concat(self, _: Node, sources: list[Any]) -> Any:
        if all(isinstance(value, Tensor) for value in sources):
            return torch.cat(sources, 1)
        return Parts(tuple(sources))

    def pool(self, _: Node, sources: list[Any]) -> Tensor:
        return self.arithmetic.pool(sources[0])

    def flatten(self, _: Node, sources: list[Any]) -> Tensor:
        return self.real(sources[0]).flatten(1)

    def gemm(self, node: Node, sources: list[Any]) -> Tensor:
        return self.arithmetic.linear(node, self.real(sources[0]))


_STEPS: dict[str, Callable[[Walk, Node, list[Any]], Any]] = {
    "Conv": Walk.conv,
    "Relu": Walk.clip,
    "Clip": Walk.clip,
    "Add": Walk.add,
    "Concat": Walk.concat,
    "Pool": Walk.pool,
    "Flatten": Walk.flatten,
    "Gemm": Walk.gemm,
}


def _clipped(value: Any, low: float, high: float) -> Any:
    if isinstance(value, Parts):
        return Parts(tuple(_clipped(piece, low, high) for piece in value.pieces))
    if isinstance(value, Pending):
        return Pending(value.terms, max(low, value.low), min(high, value.high))
    raise InputError("a clip of a stored tensor; int8 training does not know this network")
