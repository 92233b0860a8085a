"""ModelSpec: everything that must travel with a model so that training and device cannot drift apart."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from runtime.errors import InputError, UsageError
from runtime.layouts import LAYOUTS, Layout, plain_layout
from runtime.schema import validate

SPEC_SCHEMA = 1
METADATA_KEY = "landmark_toolkit_spec"
"""Key of the JSON text inside ONNX metadata."""

ChannelOrder = Literal["bgr", "rgb"]
Coordinates = Literal["centre", "corner"]
Rounding = Literal["none", "pixel"]
MAX_POINTS = 2000
MAX_INPUT = 1024


@dataclass(frozen=True)
class CropRule:
    """How a face box becomes the square that the network sees.

    The square has `scale` times the longer side of the box, its centre moved by `shift` (fractions of that side).
    Pixels outside the photo are filled with `padding`, a grey level. With `rounding` "pixel" (upstream's preparation)
    the box edges are cut to whole pixels first, and so are side and corner of the square.
    """

    box: str = "landmarks"
    scale: float = 1.2
    shift: tuple[float, float] = (0.0, 0.0)
    padding: int = 0
    rounding: Rounding = "none"


@dataclass(frozen=True)
class ModelSpec:
    """The contract between a network and everybody who feeds it or reads its output.

    `coordinates` tells what the outputs in [0, 1] mean. With "centre", output t lies at pixel t*size - 0.5 of the crop
    (pixel centres are integers); with "corner" (upstream's files) it lies at photo pixel corner + t*side, where corner
    is the photo's pixel at the crop's top left: half a photo pixel away from "centre".
    """

    architecture: str
    width: float = 1.0
    points: int = 98
    input_size: int = 112
    branches: int = 6
    layout: str = "wflw98"
    channels: ChannelOrder = "bgr"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop: CropRule = CropRule()
    coordinates: Coordinates = "centre"
    normaliser: str = "inter-ocular"
    flip: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        problem = _first_problem(self)
        if problem:
            raise UsageError(f"model spec: {problem}")

    @property
    def point_layout(self) -> Layout:
        """The layout object, built in or anonymous (`plainN`)."""
        return LAYOUTS[self.layout] if self.layout in LAYOUTS else plain_layout(self.points)

    @property
    def flip_permutation(self) -> tuple[int, ...]:
        return self.flip if self.flip is not None else self.point_layout.flip

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the schema number and the flip permutation written out."""
        data = asdict(self)
        data["flip"] = list(self.flip_permutation)
        data["mean"], data["std"] = list(self.mean), list(self.std)
        data["crop"]["shift"] = list(self.crop.shift)
        return {"schema": SPEC_SCHEMA, **data}

    def to_json(self) -> str:
        """Byte-stable JSON text.

        >>> ModelSpec.from_json(ModelSpec("ghostone").to_json()).architecture
        'ghostone'
        """
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_dict(data: Any, where: str = "model spec") -> ModelSpec:
        """Read a spec strictly: a missing architecture, an unknown key or a wrong type is an error."""
        if not isinstance(data, dict):
            raise InputError(f"{where}: expected an object, found {type(data).__name__}")
        values = dict(data)
        schema = values.pop("schema", None)
        if schema != SPEC_SCHEMA:
            raise InputError(f"{where}: schema {schema!r}, this version reads {SPEC_SCHEMA}")
        _refuse_unknown(values, [f.name for f in fields(ModelSpec)], where)
        crop = values.get("crop", {})
        if not isinstance(crop, dict):
            raise InputError(f"{where}: crop must be an object")
        _refuse_unknown(crop, [f.name for f in fields(CropRule)], f"{where}: crop")
        validate(data, "spec", where)
        try:
            crop = dict(crop)
            if "shift" in crop:
                crop["shift"] = tuple(crop["shift"])
            values["crop"] = CropRule(**crop)
            for key in ("mean", "std", "flip"):
                if values.get(key) is not None:
                    values[key] = tuple(values[key])
            spec = ModelSpec(**values)
        except (TypeError, UsageError) as error:
            raise InputError(f"{where}: {error}") from error
        if spec.flip == spec.point_layout.flip:
            spec = replace(spec, flip=None)
        return spec

    @staticmethod
    def from_json(text: str, where: str = "model spec") -> ModelSpec:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON: {error}") from error
        return ModelSpec.from_dict(data, where)


def _refuse_unknown(values: dict[str, Any], known: list[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise InputError(f"{where}: unknown key {key!r}{hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _numbers(value: object, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(_is_number(v) for v in value)


def _first_problem(spec: ModelSpec) -> str | None:
    """Name the first thing that makes a spec impossible."""
    texts: dict[str, object] = {
        "architecture": spec.architecture,
        "layout": spec.layout,
        "normaliser": spec.normaliser,
        "box": spec.crop.box,
    }
    for name, text in texts.items():
        if not isinstance(text, str) or not text or len(text) > 64:
            return f"{name} must be a short text, found {text!r}"
    if not _is_number(spec.width) or not 0.01 <= spec.width <= 8:
        return f"width must lie in 0.01..8, found {spec.width!r}"
    if not _is_count(spec.points, 1, MAX_POINTS):
        return f"points must lie in 1..{MAX_POINTS}, found {spec.points!r}"
    if not _is_count(spec.input_size, 16, MAX_INPUT) or spec.input_size % 16:
        return f"input_size must be a multiple of 16 in 16..{MAX_INPUT}, found {spec.input_size!r}"
    if not _is_count(spec.branches, 1, 64):
        return f"branches must lie in 1..64, found {spec.branches!r}"
    if spec.channels not in ("bgr", "rgb"):
        return f"channels must be 'bgr' or 'rgb', found {spec.channels!r}"
    if spec.coordinates not in ("centre", "corner"):
        return f"coordinates must be 'centre' or 'corner', found {spec.coordinates!r}"
    if not _numbers(spec.mean, 3) or not _numbers(spec.std, 3) or min(spec.std) <= 0:
        return f"mean and std must be three numbers each, std positive; found {spec.mean!r} and {spec.std!r}"
    if not _is_number(spec.crop.scale) or not 0.1 <= spec.crop.scale <= 10:
        return f"crop scale must lie in 0.1..10, found {spec.crop.scale!r}"
    if not _numbers(spec.crop.shift, 2) or max(map(abs, spec.crop.shift)) > 1:
        return f"crop shift must be two numbers in -1..1, found {spec.crop.shift!r}"
    if str(spec.crop.rounding) not in ("none", "pixel"):
        return f"crop rounding must be 'none' or 'pixel', found {spec.crop.rounding!r}"
    if not _is_count(spec.crop.padding, 0, 255):
        return f"crop padding must lie in 0..255, found {spec.crop.padding!r}"
    layout = LAYOUTS.get(spec.layout)
    if layout is None and spec.layout != f"plain{spec.points}":
        return f"unknown layout {spec.layout!r}; known: {', '.join(LAYOUTS)}, or plain{spec.points}"
    if layout is not None and layout.count != spec.points:
        return f"layout {spec.layout} has {layout.count} points, the spec says {spec.points}"
    if spec.flip is not None and sorted(spec.flip) != list(range(spec.points)):
        return "flip is not a permutation of the points"
    if spec.flip is not None and any(spec.flip[spec.flip[i]] != i for i in range(spec.points)):
        return "flip applied twice must give every point back"
    return None
