"""Which weights each layer asks the cache for while it computes, so that the next layers find them there."""

from __future__ import annotations

from dataclasses import dataclass

from export.c.ir import Dense
from export.c.pack import Weights, panels, tail_group
from export.c.plan import Plan

LINE = 16
"""Floats per cache line."""
AHEAD = 600 << 10
"""Bytes of weights that may wait in the second-level cache."""


TILE = {1: 14, 2: 14, 3: 8, 4: 6}
"""Pixels per tile of the widest kernel, by the vectors of a panel."""


@dataclass(frozen=True)
class Fetch:
    """Lines to ask for: from `start` (an index into the weights), `lines` per call."""

    start: int
    lines: int


def tiles(pixels: int, vectors: int) -> int:
    """How many tiles the widest kernel cuts a product into; each asks for one line per input channel.

    Panels of one vector ask for nothing: their loop is bound by its loads.
    """
    return sum(-(-pixels // TILE[size]) for size in panels(vectors) if size > 1)


def plan_fetches(plan: Plan, weights: dict[int, Weights], total: int) -> dict[int, Fetch]:
    """Give every layer that runs as a whole the next stretch of weights that nobody has asked for yet."""
    fetches: dict[int, Fetch] = {}
    cursor = 0
    for group in plan.groups:
        for step in group.steps:
            layer = step.layer
            if not isinstance(layer, Dense):
                continue
            place = plan.place(layer.output).pixel
            k_total = int(layer.weights[0].size)
            end = weights[id(layer)].bias + place.lanes
            cursor = max(cursor, end)
            if group.ticks > 1:
                continue
            pixels = layer.output.shape.height * layer.output.shape.width
            room = min(
                tiles(pixels, place.vectors - (tail_group(layer, place) > 0)) * k_total,
                (total - cursor) // LINE,
                (end + AHEAD // 4 - cursor) // LINE,
            )
            lines = max(0, room // k_total * k_total)
            if lines:
                fetches[id(layer)] = Fetch(cursor, lines)
                cursor += lines * LINE
    return fetches
