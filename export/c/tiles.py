"""Which tiles of the matrix kernels a model uses: the others shrink to a few bytes that work one pixel at a time.

The rules below repeat how the kernels cut their pixels. Were one wrong, results would stay right and only be slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from export.c.ir import Dense
from export.c.pack import panels, tail_group
from export.c.plan import Group, Plan, Step, gemm_mode, patch_band, read_step

Calls = frozenset[tuple[int, int]]
"""(pixels, vectors of a panel) of every call of the matrix kernel."""
Rule = Callable[[int, int], set[int]]
NEAR_PIXELS = 14
"""Size of the tiles that are made for a pixel step (LM_NEAR_STEPS)."""


def tile_calls(plan: Plan) -> Calls:
    """All calls that the schedule makes; the last vector of a pixel may be handled by itself."""
    calls: set[tuple[int, int]] = set()
    for layer, pixels in _products(plan):
        vectors = plan.place(layer.output).pixel.vectors
        sizes = {*panels(vectors), *panels(vectors - 1), 1}
        calls |= {(count, size) for count in pixels for size in sizes}
    return frozenset(calls)


def near_steps(plan: Plan) -> tuple[int, ...]:
    """Pixel steps of the products that fill one vector and have pixels enough for the largest tile of it."""
    steps = set()
    for layer, pixels in _products(plan):
        place = plan.place(layer.output)
        vectors = place.pixel.vectors - (tail_group(layer, place.pixel) > 0)
        if vectors == 1 and max(pixels) >= NEAR_PIXELS:
            steps.add(read_step(layer, plan.place(layer.inputs[0]).buffer, plan.graph.input))
    return tuple(sorted(steps))


def _products(plan: Plan) -> Iterator[tuple[Dense, set[int]]]:
    """Every layer that the matrix kernel computes, and how many pixels its calls have."""
    for group in plan.groups:
        for step in group.steps:
            if isinstance(step.layer, Dense):
                yield step.layer, _pixels(plan, group, step, step.layer)


def _pixels(plan: Plan, group: Group, step: Step, layer: Dense) -> set[int]:
    width = layer.output.shape.width
    pixels = {width}
    mode = gemm_mode(layer, plan.graph.input)
    whole = all(plan.place(tensor).buffer.full for tensor in (*layer.inputs, layer.output))
    if mode == "point" and layer.stride == 1 and whole:
        pixels |= {width * len(rows) for other, rows in group.in_order() if other is step} - {0}
    if mode == "patch":
        band = patch_band(layer, group, plan.places)
        pixels |= {width * band, width * (layer.output.shape.height % band)} - {0}
    return pixels


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


def up_to_eight(pixels: int, vectors: int) -> set[int]:
    """The same with at most 8 pixels."""
    if vectors == 4:
        return few_sizes(pixels, vectors)
    sizes: set[int] = set()
    while pixels > 0:
        eight = pixels >= 8 and (pixels % 8 == 0 or pixels % 7 != 0)
        size = 8 if eight else next(s for s in (7, 4, 2, 1) if pixels >= s)
        sizes.add(size)
        pixels %= size
    return sizes


RULES: dict[Rule, tuple[str, ...]] = {
    nearly_equal: (
        "const int limit = n == 4 ? 6 : 8;",
        "const int tiles = (a->pixels + limit - 1) / limit;",
        "const int m = a->pixels / tiles, larger = a->pixels % tiles;",
    ),
    few_sizes: (
        "const int tiles = (left + 5) / 6;\n        size = (left + tiles - 1) / tiles;",
        "*count = left % tiles == 0 ? tiles : left % tiles;",
        "if (vectors == 3 && left >= 8 && (left % 8 == 0 || left % 7 != 0)) {\n        size = 8;",
        "} else if (vectors != 3 && left >= 14) {\n        size = 14;",
        "size = left >= 7 ? 7 : left >= 4 ? 4 : left >= 2 ? 2 : 1;",
        "*count = left / size;",
    ),
    up_to_eight: (
        "const int tiles = (left + 5) / 6;\n        size = (left + tiles - 1) / tiles;",
        "*count = left % tiles == 0 ? tiles : left % tiles;",
        "size = left >= 8 && (left % 8 == 0 || left % 7 != 0) ? 8 : left >= 7 ? 7 : left >= 4 ? 4 : left >= 2 ? 2 : 1;",
        "*count = left / size;",
    ),
}
"""Rule -> the lines of a kernel that it repeats. A kernel that says something else keeps all its tiles."""


def rule_of(source: str) -> Rule | None:
    return next((rule for rule, lines in RULES.items() if all(line in source for line in lines)), None)


def _shrink(source: str, macro: str, needed: Callable[[int, int], bool]) -> str:
    """Where LM_`macro`(M, N) makes a function, let those that are not needed call the one of a single pixel instead."""
    pattern = r"static (\w+) void (\w+?)_##M##_##\w+\(const (\w+) \*a, const (\w+) \*t\)"
    function = re.search(rf"#define LM_{macro}\(M, [^\n]*\n\s*{pattern}", source)
    uses = re.compile(rf"LM_{macro}\((\d+), (\d+)(?:, \w+)?\)")
    first = uses.search(source)
    if function is None or first is None:
        return source
    target, name, arguments, tiles = function.groups()
    small = (
        "/* A size that this model does not use. */\n"
        f"#define LM_FEW_{macro}(M, N) \\\n"
        f"    static {target} void {name}_##M##_##N(const {arguments} *a, const {tiles} *t) \\\n"
        "    { \\\n"
        f"        {tiles} ones = *t; \\\n"
        "        ones.count *= M; \\\n"
        f"        {name}_1_##N(a, &ones); \\\n"
        "    }\n\n"
    )

    def use(match: re.Match[str]) -> str:
        size, vectors = int(match[1]), int(match[2])
        return match[0] if size == 1 or needed(size, vectors) else f"LM_FEW_{macro}({size}, {vectors})"

    kept = uses.sub(use, source)
    return kept[: first.start()] + small + kept[first.start() :] if kept != source else source


def only_needed(source: str, calls: Calls, near: bool = False) -> str:
    """A kernel's source with the tiles that the calls need; the others fall back on the tile of one pixel.

    `near`: the largest tiles of one vector are made for the model's pixel steps; the one for all steps is not needed.
    """
    rule = rule_of(source)
    if rule is None:
        return source
    needed = {(size, vectors) for pixels, vectors in calls for size in rule(pixels, vectors)}
    alone = {size for size, vectors in needed if vectors == 1}
    general = needed - ({(NEAR_PIXELS, 1)} if near else set())
    source = _shrink(source, "TILE", lambda size, vectors: (size, vectors) in general)
    return _shrink(source, "TAIL", lambda size, _: size in alone)
