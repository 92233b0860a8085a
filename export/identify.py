"""Which model a table of weights belongs to: architecture, form, width, points and input size, by names and shapes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from runtime.errors import InputError, UsageError
from runtime.layouts import IBUG68, WFLW98
from runtime.spec import MAX_INPUT, MAX_POINTS, ModelSpec
from train.checkpoint import Kind
from train.models.nets import GHOSTNET_STAGES, SLIM_STAGES, channels
from train.models.zoo import FAMILY, build, entry

Shape = tuple[int, ...]

_FOREIGN = (
    (
        r"conv3_1\.conv\.\d+\.weight$|block3_2\.",
        "polarisZhao's PFLD, whose second and last convolutions differ from ours",
    ),
    (r"conv_out\.weight$", "the Ultralight-Digital-Human variant, which predicts residuals to a mean face"),
    (r"output_layer\.|linear7\.|bottleneck_", "a MobileFaceNet, not a PFLD"),
)
_NAMES_SHOWN = 3
MIN_WIDTH, MAX_WIDTH = 0.01, 8
_MAX_DECIMALS = 3
_STEM, _HEAD = 64, 128
_PFLD_POOLED = (16, 32, 128)
_STAGES = {"ghostnet": GHOSTNET_STAGES, "ghostnet-slim": SLIM_STAGES, "ghostone": SLIM_STAGES}
_INNER = "conv5_2.ghost_conv.0.primary_conv."
_LAYOUT_OF = {layout.count: layout.name for layout in (WFLW98, IBUG68)}


@dataclass(frozen=True)
class Identity:
    """What the weights themselves tell about their model."""

    architecture: str
    kind: Kind
    width: float
    points: int
    input_size: int
    branches: int

    def spec(self) -> ModelSpec:
        """A spec that builds this model; what its input means is still the default."""
        return ModelSpec(
            self.architecture, self.width, self.points, self.input_size, self.branches, layout_for(self.points)
        )


def layout_for(points: int) -> str:
    """The point layout that a number of points suggests."""
    return _LAYOUT_OF.get(points, f"plain{points}")


def identify(state: Mapping[str, Tensor], where: str, architecture: str | None = None) -> Identity:
    """Find the one model of the zoo that the weights fit exactly; anything else is an error that says what differs."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    branches = _branches(shapes)
    wanted = [entry(architecture).name] if architecture else list(FAMILY)
    forms = [(name, kind) for name in wanted for kind in ("multi-branch", "fused")]
    fitting = [form for form in forms if _names(*form, branches) == shapes.keys()]
    if not fitting:
        raise InputError(f"{where}: {_misfit(shapes, forms, branches)}")
    points, size = _points(shapes, where), _input_size(shapes, where)
    stem = _stem(shapes, where)
    for width in _widths(stem):
        for form, kind in fitting:
            if _plausible(form, width, shapes) and _shapes(form, kind, width, points, size, branches) == shapes:
                return Identity(form, "fused" if kind == "fused" else "multi-branch", width, points, size, branches)
    raise InputError(f"{where}: {_odd_shapes(shapes, fitting, stem, points, size, branches)}")


def outline(architecture: str) -> nn.Module:
    """A fused model of full width without memory, for its layer names and their order."""
    with torch.device("meta"):
        return build(ModelSpec(architecture), fused=True)


def with_width(identity: Identity, width: float) -> Identity:
    """The same weights under another width, where rounding gives both the same channels; else unchanged."""
    if width == identity.width or not MIN_WIDTH <= width <= MAX_WIDTH:
        return identity
    name, rest = identity.architecture, (identity.points, identity.input_size, identity.branches)
    same = _shapes(name, identity.kind, width, *rest) == _shapes(name, identity.kind, identity.width, *rest)
    return replace(identity, width=width) if same else identity


def foreign_project(names: Iterable[str]) -> str | None:
    """The other project whose names these are, in words; None when they are not known."""
    every = list(names)
    return next((what for pattern, what in _FOREIGN if any(re.search(pattern, name) for name in every)), None)


def _branches(shapes: Iterable[str]) -> int:
    found = [int(m[1]) for name in shapes if (m := re.search(r"\.rbr_conv\.(\d{1,2})\.", name))]
    return min(max(found) + 1, 64) if found else ModelSpec("any").branches


@lru_cache(maxsize=64)
def _shapes(architecture: str, kind: str, width: float, points: int, size: int, branches: int) -> dict[str, Shape]:
    spec = ModelSpec(architecture, width, points, size, branches, layout_for(points))
    with torch.device("meta"):
        model = build(spec, fused=kind == "fused")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _names(architecture: str, kind: str, branches: int) -> Iterable[str]:
    return _shapes(architecture, kind, 1.0, 98, 112, branches).keys()


def _misfit(shapes: Mapping[str, Shape], forms: list[tuple[str, str]], branches: int) -> str:
    if project := foreign_project(shapes):
        return f"this looks like {project}; it is not of the family that can be imported ({', '.join(FAMILY)})"
    form, kind = min(forms, key=lambda f: len(set(_names(f[0], f[1], branches)) ^ shapes.keys()))
    wanted = list(_names(form, kind, branches))
    missing = [name for name in wanted if name not in shapes]
    unexpected = [name for name in shapes if name not in set(wanted)]
    return (
        f"{len(shapes)} weights do not fit the nearest model, {form} ({kind}, {len(wanted)} weights): "
        f"{_listed(missing, unexpected)} missing, {_listed(unexpected, wanted)} unexpected; nothing was imported"
    )


def _listed(names: list[str], others: list[str]) -> str:
    """A count and the first few names, each with the name on the other side that it resembles."""
    if not names:
        return "none"
    shown = []
    for name in names[:_NAMES_SHOWN]:
        near = difflib.get_close_matches(name[:200], others[:4000], 1, 0.75)
        shown.append(f"{name[:200]} (nearest: {near[0][:200]})" if near else name[:200])
    return f"{len(names)} [{', '.join(shown)}{', ...' if len(names) > _NAMES_SHOWN else ''}]"


def _dims(shapes: Mapping[str, Shape], name: str, count: int, where: str) -> Shape:
    shape = shapes[name]
    if len(shape) != count or min(shape) < 1:
        raise InputError(f"{where}: weight {name} has shape {shape}, expected {count} dimensions")
    return shape


def _stem(shapes: Mapping[str, Shape], where: str) -> int:
    """Output channels of the first convolution."""
    name = next(n for n in shapes if n.startswith("conv1.") and n.endswith("weight") and len(shapes[n]) != 1)
    return _dims(shapes, name, 4, where)[0]


def _points(shapes: Mapping[str, Shape], where: str) -> int:
    outputs = _dims(shapes, "fc.weight", 2, where)[0]
    if outputs % 2 or not 1 <= outputs // 2 <= MAX_POINTS:
        raise InputError(f"{where}: fc.weight gives {outputs} outputs, expected two per point")
    return outputs // 2


def _input_size(shapes: Mapping[str, Shape], where: str) -> int:
    """The last convolution covers the whole map, which is a sixteenth of the input."""
    height, width = _dims(shapes, "conv8.0.weight", 4, where)[2:]
    if height != width or not 16 <= 16 * height <= MAX_INPUT:
        raise InputError(f"{where}: conv8 has a kernel of {height}x{width}; expected a square of 1..{MAX_INPUT // 16}")
    return 16 * height


def _widths(stem: int) -> Iterable[float]:
    """Widths that give so many stem channels, the roundest first."""
    low, high = (stem - 1) / _STEM, (stem + 1) / _STEM
    seen: set[float] = set()
    for decimals in range(_MAX_DECIMALS + 1):
        step = 10**decimals
        for count in range(int(low * step), int(high * step) + 2):
            width = count / step
            if low <= width <= high and MIN_WIDTH <= width <= MAX_WIDTH and width not in seen:
                seen.add(width)
                yield width


def _plausible(architecture: str, width: float, shapes: Mapping[str, Shape]) -> bool:
    """A quick look at the two places where a width shows most, before a whole model is built for it."""
    stages = _STAGES.get(architecture)
    pooled = _PFLD_POOLED if stages is None else (_STEM, *(s.outputs for s in stages.values() if s.stride > 1), _HEAD)
    if shapes["fc.weight"][-1] != sum(channels(full, width) for full in pooled):
        return False
    inner = [shape[0] for name, shape in shapes.items() if name.startswith(_INNER) and len(shape) == 4]
    return stages is None or not inner or inner[0] == channels(stages["conv5"].rest, width) // 2


def _odd_shapes(
    shapes: Mapping[str, Shape], fitting: list[tuple[str, str]], stem: int, points: int, size: int, branches: int
) -> str:
    """What differs from the model that is nearest among those whose names fit."""
    best: tuple[int, str] | None = None
    for form, kind in fitting:
        try:
            wanted = _shapes(form, kind, stem / _STEM, points, size, branches)
        except UsageError:
            continue
        odd = [name for name in shapes if shapes[name] != wanted[name]]
        named = ", ".join(f"{n} {shapes[n]} against {wanted[n]}" for n in odd[:_NAMES_SHOWN])
        text = (
            f"all names fit {form} ({kind}), but no width gives these shapes; nearest is width {stem / _STEM:g}: "
            f"{len(odd)} differ [{named}{', ...' if len(odd) > _NAMES_SHOWN else ''}]; nothing was imported"
        )
        if best is None or len(odd) < best[0]:
            best = (len(odd), text)
    return best[1] if best else f"{stem} channels in the first convolution; expected 2..{MAX_WIDTH * _STEM}"
