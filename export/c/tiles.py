"""Which tiles of the matrix kernels a model uses: the others shrink to a few bytes that work one pixel at a time.

The rules below repeat how the kernels cut their pixels. Were one wrong, results would stay right and only be slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from export.c.ir import Dense
from export.c.pack import panels
from export.c.plan import Plan, gemm_mode

Calls = frozenset[tuple[int, int]]
"""(pixels, vectors of a panel) of every call of the matrix kernel."""
Rule = Callable[[int, int], set[int]]


def tile_calls(plan: Plan) -> Calls:
    """All calls that the schedule makes; the last vector of a pixel may be handled by itself."""
    calls: set[tuple[int, int]] = set()
    for group in plan.groups:
        for step in group.steps:
            layer = step.layer
            if not isinstance(layer, Dense):
                continue
            place, width = plan.place(layer.output), layer.output.shape.width
            maps = [plan.place(tensor).buffer for tensor in (*layer.inputs, layer.output)]
            pixels = {width}
            if gemm_mode(layer, plan.graph.input) == "point" and all(buffer.full for buffer in maps):
                pixels |= {width * len(step.rows(tick)) for tick in range(group.ticks)} - {0}
            vectors = place.pixel.vectors
            sizes = {*panels(vectors), *panels(vectors - 1), 1}
            calls |= {(count, size) for count in pixels for size in sizes}
    return frozenset(calls)


def nearly_equal(pixels: int, vectors: int) -> set[int]:
    """Tiles of at most 8 pixels (6 with four vectors), of nearly equal size."""
    tiles = -(-pixels // (6 if vectors == 4 else 8))
    return {pixels // tiles, -(-pixels // tiles)}


def few_sizes(pixels: int, vectors: int) -> set[int]:
    """The sizes that suit the rows of real nets, largest first."""
    sizes: set[int] = set()
    while pixels > 0:
        if vectors == 4:
            tiles = -(-pixels // 6)
            size, count = -(-pixels // tiles), pixels % tiles or tiles
        elif vectors == 3 and pixels >= 8 and (pixels % 8 == 0 or pixels % 7 != 0):
            size, count = 8, pixels // 8
        else:
            size = 14 if vectors != 3 and pixels >= 14 else next(s for s in (7, 4, 2, 1) if pixels >= s)
            count = pixels // size
        sizes.add(size)
        pixels -= size * count
    return sizes


RULES: dict[str, Rule] = {"qgemm-s8-avx512vnni": nearly_equal}
"""Kernel -> how it cuts pixels."""

_USE = re.compile(r"LM_TILE\((\d+), (\d+)(?:, \w+)?\)")
_FUNCTION = re.compile(r"static (\w+) void (lm_q?tile)_##M##_##N\(const (\w+) \*a, const (\w+) \*t\)")


def only_needed(kernel: str, source: str, calls: Iterable[tuple[int, int]]) -> str:
    """A kernel's source with the tiles that the calls need; every other one falls back on the tile of one pixel."""
    rule, function, first = RULES.get(kernel), _FUNCTION.search(source), _USE.search(source)
    if rule is None or function is None or first is None:
        return source
    needed = {(size, vectors) for pixels, vectors in calls for size in rule(pixels, vectors)}
    target, name, arguments, tiles = function.groups()
    small = (
        "/* A size that this model does not use. */\n"
        "#define LM_FEW(M, N)                                                              \\\n"
        f"    static {target} void {name}_##M##_##N(const {arguments} *a, const {tiles} *t) \\\n"
        "    {                                                                             \\\n"
        f"        {tiles} ones = *t;                                                        \\\n"
        "        ones.count *= M;                                                          \\\n"
        f"        {name}_1_##N(a, &ones);                                                   \\\n"
        "    }\n\n"
    )

    def use(match: re.Match[str]) -> str:
        size, vectors = int(match[1]), int(match[2])
        return match[0] if size == 1 or (size, vectors) in needed else f"LM_FEW({size}, {vectors})"

    kept = _USE.sub(use, source)
    return kept[: first.start()] + small + kept[first.start() :] if kept != source else source
