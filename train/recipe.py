"""The recipe: every choice of a training run as data. One tree of dataclasses gives TOML form, flags and docs."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from runtime.errors import InputError, UsageError
from runtime.files import read_bytes

T = TypeVar("T")
MAX_RECIPE_BYTES = 1 << 20


def _option(
    default: T,
    text: str,
    *,
    flag: str | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    later: bool = False,
) -> T:
    """A key of the recipe: its default, what it means, its flag when that is not the key, what it may be.

    `later` marks a key that may change when a run is resumed.
    """
    about = {"help": text, "flag": flag, "low": low, "high": high, "choices": choices, "later": later}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class ModelRecipe:
    """Which network."""

    architecture: str = _option(
        "ghostone",
        "network; 'toolkit inspect --models' shows the table",
        flag="model",
        choices=(
            "pfld",
            "ghostnet",
            "ghostnet-slim",
            "ghostone",
            "mobilenetv3-small",
            "mobilenetv3-large",
            "shufflenetv2",
            "mobileone-s0",
            "resnet18",
            "hrnet-w18",
        ),
    )
    width: float = _option(1.0, "channels, as a factor of the full network's", low=0.01, high=8)
    input_size: int = _option(112, "side of the network's input in pixels, a multiple of 16", low=16, high=1024)
    branches: int = _option(4, "parallel convolutions of a GhostOne block, fused into one afterwards", low=1, high=64)
    layout: str = _option(
        "auto", "order of the points; auto = that of the first training faces", choices=("auto", "wflw98", "ibug68")
    )
    crop_scale: float = _option(1.2, "side of the crop over the longer side of the landmark box", low=0.5, high=4)
    normaliser: str = _option("auto", "what NME divides by: inter-ocular, inter-pupil, box; auto = the layout's first")
    init: str = _option(
        "", "start from the weights of this checkpoint, of the same network or of a narrower one (it is grown)"
    )


@dataclass(frozen=True)
class DataRecipe:
    """Which faces."""

    train: tuple[str, ...] = _option(
        (),
        "training faces: a data folder, a list file, a pack, or synth:COUNT (synth:COUNT@SEED); "
        "a trailing :WEIGHT (default 1) shows its faces that many times as often as others; may be repeated",
        flag="data",
    )
    val: tuple[str, ...] = _option((), "validation faces; without any, a part of the training photos", flag="val-data")
    test: tuple[str, ...] = _option((), "measured once at the end, never used to choose", flag="test-data", later=True)
    val_fraction: float = _option(0.1, "part of the training photos kept for validation", low=0.001, high=0.9)
    batch_size: int = _option(64, "faces per step and process", low=1, high=65536)
    workers: int = _option(0, "threads that prepare batches; 0 = by the number of cores", low=0, high=256, later=True)
    cache: str = _option("", "folder for packed faces, so that the next run starts at once", later=True)


@dataclass(frozen=True)
class AugmentRecipe:
    """How training faces are varied."""

    preset: str = _option(
        "default", "how much faces are varied", flag="augment", choices=("none", "light", "default", "strong")
    )
    change: tuple[str, ...] = _option(
        (), "change one value of the preset: NAME=NUMBER or NAME=LOW,HIGH; may be repeated", flag="augment-change"
    )


@dataclass(frozen=True)
class LossRecipe:
    """What is made small."""

    name: str = _option(
        "wing", "loss on the points", flag="loss", choices=("wing", "smoothl1", "l2", "log-l2", "nme", "pfld", "awing")
    )
    option: tuple[str, ...] = _option(
        (), "an option of the loss: NAME=VALUE, e.g. w=10; may be repeated", flag="loss-option"
    )
    aux_pose: float = _option(
        0.0, "weight of the head-pose loss of PFLD's auxiliary net; 0 = off, or 1 with the loss pfld", low=0, high=1000
    )


@dataclass(frozen=True)
class DistillRecipe:
    """What is learned from other networks."""

    teacher: tuple[str, ...] = _option(
        (),
        "checkpoint of a trained network, whose landmarks on the same augmented crop are learned too; "
        "a trailing :WEIGHT (default 1) counts it more or less than the others; may be repeated",
    )
    weight: float = _option(
        1.0, "weight of the teachers' term; 1 = as much as the labels", flag="teacher-weight", low=0, high=1000
    )
    labels: float = _option(
        1.0,
        "weight of the labels' term where there are teachers; 0 = learn from them alone",
        flag="label-weight",
        low=0,
        high=1000,
    )


@dataclass(frozen=True)
class OptimizerRecipe:
    """How weights move."""

    name: str = _option("adamw", "optimizer", flag="optimizer", choices=("adamw", "adam", "sgd", "muon"))
    lr: float = _option(2e-3, "peak learning rate", low=1e-9, high=100)
    weight_decay: float = _option(
        1e-4, "decay of convolution and linear weights, never of norms or biases", low=0, high=1
    )
    momentum: float = _option(0.9, "momentum of sgd and muon, first beta of adam", low=0, high=0.9999)
    clip: float = _option(0.0, "largest gradient norm; 0 = no clipping", low=0)


@dataclass(frozen=True)
class ScheduleRecipe:
    """How long, and how the learning rate goes."""

    name: str = _option(
        "cosine", "course of the learning rate", flag="schedule", choices=("cosine", "multistep", "plateau", "constant")
    )
    epochs: int = _option(60, "passes over the training faces", low=1, high=1_000_000, later=True)
    warmup: float = _option(1.0, "epochs in which the learning rate rises from near zero", low=0, high=1000)
    floor: float = _option(0.01, "cosine and plateau: last learning rate, as a part of the peak", low=0, high=1)
    milestones: tuple[int, ...] = _option(
        (), "multistep: epochs after which the rate is multiplied by gamma; may be repeated", flag="milestone"
    )
    gamma: float = _option(0.1, "multistep and plateau: that factor", low=1e-6, high=1)
    patience: int = _option(5, "plateau: epochs without improvement that are waited for", low=0, high=100_000)


@dataclass(frozen=True)
class AverageRecipe:
    """The running average of the weights, which is what gets measured and shipped."""

    decay: float = _option(
        0.999, "decay per step of the average of weights; 0 = no average", flag="ema", low=0, high=0.999999
    )


@dataclass(frozen=True)
class QatRecipe:
    """Fine-tuning as the int8 network computes."""

    enabled: bool = _option(
        False,
        "fine-tune --init, fused, as its int8 form computes; --lr then counts in int8 steps of a weight",
        flag="qat",
    )
    learn_steps: bool = _option(
        True, "learn the steps (scales) of weights and activations along", flag="qat-learn-steps"
    )
    step_rate: float = _option(
        0.1, "learning rate of these steps, as a part of --lr", flag="qat-step-rate", low=0, high=100
    )
    faces: int = _option(
        512, "augmented training faces that the first steps are calibrated on", flag="qat-faces", low=16, high=100_000
    )


@dataclass(frozen=True)
class RunRecipe:
    """How the machine is used."""

    seed: int = _option(0, "seed of weights, split, order and augmentation", low=0, high=2**31 - 1)
    device: str = _option("auto", "auto, cpu, cuda or cuda:N", later=True)
    threads: int = _option(0, "threads of torch on the CPU; 0 = all cores", low=0, high=1024)
    amp: str = _option(
        "auto", "mixed precision; auto = bf16 or fp16 on a GPU, off on the CPU", choices=("auto", "off", "bf16", "fp16")
    )
    channels_last: bool = _option(True, "keep images with channels innermost in memory; quicker almost everywhere")
    deterministic: bool = _option(False, "only deterministic kernels (the CPU always is)")
    joint_norms: bool = _option(
        True, "several processes: batch statistics over all of them; off = each its own part's, quicker on CPUs"
    )
    save_every: int = _option(
        0, "keep a checkpoint of every so many epochs; 0 = only best and last", low=0, high=1_000_000, later=True
    )
    save_minutes: float = _option(
        0.0, "also refresh last.ckpt in the middle of an epoch after so many minutes; 0 = never", low=0, later=True
    )
    max_minutes: float = _option(0.0, "stop cleanly after so many minutes; 0 = no limit", low=0, later=True)
    tensorboard: bool = _option(True, "write TensorBoard events", later=True)


@dataclass(frozen=True)
class Recipe:
    """All choices of a run."""

    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    loss: LossRecipe = LossRecipe()
    distill: DistillRecipe = DistillRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    average: AverageRecipe = AverageRecipe()
    qat: QatRecipe = QatRecipe()
    run: RunRecipe = RunRecipe()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data: sections of keys, tuples as lists."""
        return {
            section: {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
            for section, keys in asdict(self).items()
        }

    def to_toml(self) -> str:
        """The recipe as TOML text, every key written out."""
        parts = []
        for section, keys in self.to_dict().items():
            lines = "\n".join(f"{key} = {_toml_value(value)}" for key, value in keys.items())
            parts.append(f"[{section}]\n{lines}\n")
        return "\n".join(parts)


@dataclass(frozen=True)
class Key:
    """One key of the recipe, as seen by flags and docs."""

    section: str
    name: str
    kind: type
    """str, int, float or bool; the element's type when `many`."""
    many: bool
    default: Any
    help: str
    flag: str
    low: float
    high: float
    choices: tuple[str, ...]
    later: bool

    def check(self, value: Any, where: str) -> Any:
        """The value in its right type, or an error that says what was expected."""
        if self.many:
            if not isinstance(value, (list, tuple)):
                raise UsageError(f"{where}: expected a list, found {value!r}")
            return tuple(self._check_one(item, where) for item in value)
        return self._check_one(value, where)

    def _check_one(self, given: Any, where: str) -> Any:
        is_whole = type(given) is int
        value: Any = float(given) if self.kind is float and is_whole else given
        fits: bool = type(value) is self.kind
        if not fits:
            raise UsageError(f"{where}: expected {_KIND_NAMES[self.kind]}, found {value!r}")
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{where}: {value!r} is none of {', '.join(self.choices)}{hint}")
        if self.kind in (int, float) and not self.low <= value <= self.high:
            raise UsageError(f"{where}: {value!r} is outside {self.low:g}..{self.high:g}")
        return value


_KIND_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def recipe_keys() -> Iterator[Key]:
    """Every key, section by section."""
    for section in fields(Recipe):
        part: Any = type(section.default)
        kinds = get_type_hints(part)
        for one in fields(part):
            yield _key(section.name, one, kinds[one.name])


def _key(section: str, one: Field[Any], kind: Any) -> Key:
    if one.default is MISSING:
        raise TypeError(f"recipe key {section}.{one.name} has no default")
    about, many = one.metadata, get_origin(kind) is tuple
    return Key(
        section=section,
        name=one.name,
        kind=get_args(kind)[0] if many else kind,
        many=many,
        default=one.default,
        help=about["help"],
        flag=about["flag"] or one.name.replace("_", "-"),
        low=about["low"],
        high=about["high"],
        choices=about["choices"],
        later=about["later"],
    )


KEYS: dict[tuple[str, str], Key] = {(key.section, key.name): key for key in recipe_keys()}


def recipe_from(data: Any, where: str = "recipe", base: Recipe | None = None) -> Recipe:
    """Lay sections of keys over a recipe, strictly: an unknown key or a wrong value is an error."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: expected sections, found {data!r}")
    recipe = base or Recipe()
    sections = [one.name for one in fields(Recipe)]
    for section, values in data.items():
        if section not in sections:
            raise UsageError(f"{where}: unknown section or key {section!r}{_nearest(str(section), sections)}")
        if not isinstance(values, Mapping):
            raise UsageError(f"{where}: {section} must be a section, found {values!r}")
        known = [name for part, name in KEYS if part == section]
        checked = {}
        for name, value in values.items():
            if name not in known:
                raise UsageError(f"{where}: unknown key {section}.{name}{_nearest(str(name), known)}")
            checked[name] = KEYS[section, name].check(value, f"{where}: {section}.{name}")
        part = replace(getattr(recipe, section), **checked)
        recipe = replace(recipe, **{section: part})
    return recipe


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    elsewhere = [f"{part}.{key}" for part, key in KEYS if key == name]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else f"; known: {', '.join(known)}"


def read_recipe(path: Path | str) -> Recipe:
    """Read a recipe file (TOML)."""
    return recipe_from(read_sections(path), str(path))


def read_sections(path: Path | str) -> dict[str, Any]:
    """What a recipe file says, not yet checked."""
    data = read_bytes(path, MAX_RECIPE_BYTES)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from runtime.lazy import require

        tomllib = require("tomli", "reading a recipe")
    try:
        return dict(tomllib.loads(data.decode("utf-8")))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def overlay(recipe: Recipe, given: Mapping[Key, Any]) -> Recipe:
    """Lay flags over a recipe."""
    for key, value in given.items():
        checked = key.check(value, f"--{key.flag}")
        part = replace(getattr(recipe, key.section), **{key.name: checked})
        recipe = replace(recipe, **{key.section: part})
    return recipe


def recipe_table() -> str:
    """The Markdown table of all keys, for the docs."""
    lines = ["| key | flag | default | meaning |", "|---|---|---|---|"]
    for (section, name), key in KEYS.items():
        default = json.dumps(list(key.default) if key.many else key.default, ensure_ascii=False)
        choices = f" ({', '.join(key.choices)})" if key.choices else ""
        lines.append(f"| `{section}.{name}` | `--{key.flag}` | `{default}` | {key.help}{choices} |")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, apart from DEL, which TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
