"""The sidecar of a TensorRT plan: which file, made of what, for which GPU and version; and whether it will load here.

A plan is a program. None is given to TensorRT before this module has found it to be the file that the toolkit built,
for the GPU and the TensorRT that are here; nothing in it is read but its length and its hash.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runtime.bundle import Check
from runtime.errors import InputError, MissingBackendError, ToolkitError
from runtime.files import read_bytes, require_file, sha256_bytes, sha256_file
from runtime.gpu import Gpu, platform_name, probe_gpu
from runtime.schema import validate
from runtime.spec import ModelSpec

FORMAT = "landmark-toolkit engine"
SCHEMA = 1
SUFFIX = ".json"
PLAN_SUFFIXES = (".plan", ".engine", ".trt")
MAX_CARD_BYTES = 1 << 20
MODULES = ("tensorrt", "tensorrt_rtx")
_VERSION_STEPS = {(8, 10), (10, 11)}
"""Majors between which a version-compatible plan may travel, besides staying within one."""
_AMPERE = (8, 0)

Precision = Literal["fp32", "fp16", "int8"]
Hardware = Literal["none", "ampere-plus", "same-sm"]
Typing = Literal["strong", "weak"]


@dataclass(frozen=True)
class Port:
    """An input or output of the engine, as the engine itself tells it; -1 is an open size."""

    name: str
    mode: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest batch that an engine takes."""

    min: int = 1
    opt: int = 1
    max: int = 8


@dataclass(frozen=True)
class Built:
    """What built a plan."""

    module: str
    version: str
    cuda: str
    driver: str
    platform: str


@dataclass(frozen=True)
class Calibration:
    """Who chose int8 scales, and on which faces."""

    by: str
    sha256: str


@dataclass(frozen=True)
class EngineOptions:
    """How it was built."""

    typing: Typing
    level: int
    workspace_mib: int
    version_compatible: bool = False
    hardware_compatible: Hardware = "none"


@dataclass(frozen=True)
class EngineCard:
    """Everything the sidecar says."""

    plan_sha256: str
    plan_bytes: int
    built: Built
    gpu_name: str
    gpu_sm: str
    model_file: str
    model_sha256: str
    precision: Precision
    profile: Profile
    ports: tuple[Port, ...]
    layers: Mapping[str, int]
    """How many layers compute in each precision."""
    options: EngineOptions
    spec: ModelSpec
    toolkit: str
    calibration: Calibration | None = None
    checks: tuple[Check, ...] = ()

    @property
    def input(self) -> Port:
        return next(port for port in self.ports if port.mode == "input")

    @property
    def output(self) -> Port:
        return next(port for port in self.ports if port.mode == "output")

    def to_bytes(self) -> bytes:
        """The one way a card is written."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "toolkit": self.toolkit,
            "plan": {"sha256": self.plan_sha256, "bytes": self.plan_bytes},
            "built": asdict(self.built),
            "gpu": {"name": self.gpu_name, "sm": self.gpu_sm},
            "model": {"file": self.model_file, "sha256": self.model_sha256, "precision": self.precision},
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "profile": asdict(self.profile),
            "ports": [asdict(port) for port in self.ports],
            "layers": dict(self.layers),
            "options": asdict(self.options),
            "checks": [asdict(check) for check in self.checks],
            "spec": self.spec.to_dict(),
        }
        data["digest"] = sha256_bytes(_canonical(data))
        return _canonical(data)

    @staticmethod
    def from_bytes(data: bytes, where: str) -> EngineCard:
        """Read a card strictly; one byte that was changed is found."""
        try:
            values = json.loads(data)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON, so not a plan's sidecar; build the engine again") from error
        validate(values, "engine", where)
        digest = values.pop("digest")
        if sha256_bytes(_canonical(values)) != digest:
            raise InputError(f"{where}: was changed after it was written; build the engine again")
        modes = sorted(port["mode"] for port in values["ports"])
        if modes != ["input", "output"]:
            raise InputError(f"{where}: an engine with {len(modes)} inputs and outputs, expected one of each")
        calibration = values["calibration"]
        return EngineCard(
            values["plan"]["sha256"],
            values["plan"]["bytes"],
            Built(**values["built"]),
            values["gpu"]["name"],
            values["gpu"]["sm"],
            values["model"]["file"],
            values["model"]["sha256"],
            values["model"]["precision"],
            Profile(**values["profile"]),
            tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in values["ports"]),
            values["layers"],
            EngineOptions(**values["options"]),
            ModelSpec.from_dict(values["spec"], f"{where}: spec"),
            values["toolkit"],
            None if calibration is None else Calibration(**calibration),
            tuple(Check(**check) for check in values["checks"]),
        )


def _canonical(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


@dataclass(frozen=True)
class Here:
    """What this machine can load."""

    modules: Mapping[str, str]
    """Importable TensorRT modules and their versions."""
    gpu: Gpu | None
    no_gpu: str = ""
    """Why there is none."""
    platform: str = ""


@dataclass(frozen=True)
class Verdict:
    """One question about a plan, answered."""

    question: str
    passed: bool
    answer: str
    about: Literal["file", "place"]
    """Whether the file is wrong, or only this machine."""


def sidecar_of(plan: Path) -> Path:
    """Where a plan's card lies."""
    return plan.with_name(plan.name + SUFFIX)


def read_card(plan: Path | str) -> EngineCard:
    """The card beside a plan; a plan without one is refused."""
    place = require_file(plan)
    card = sidecar_of(place)
    if not card.is_file():
        raise InputError(
            f"{place}: has no sidecar {card.name}, so nobody knows what it is; a plan is a program, and only those "
            "that toolkit build-engine made are loaded"
        )
    return EngineCard.from_bytes(read_bytes(card, MAX_CARD_BYTES), str(card))


def look_around() -> Here:
    """Find TensorRT modules and the GPU; nothing of TensorRT is called."""
    versions = {name: version for name in MODULES if (version := module_version(name))}
    try:
        return Here(versions, probe_gpu(), "", platform_name())
    except MissingBackendError as error:
        return Here(versions, None, str(error), platform_name())


def module_version(name: str) -> str | None:
    """The version of an importable TensorRT module, None where it is missing or broken."""
    try:
        return str(importlib.import_module(name).__version__)
    except (ImportError, OSError, AttributeError):
        return None


def judge(plan: Path | str, here: Here) -> list[Verdict]:
    """Is it the file we built, and will it load here? The plan is hashed, never deserialised."""
    place = require_file(plan)
    return _judge(place, place.stat().st_size, sha256_file(place), read_card(place), here)


def _judge(place: Path, size: int, sha256: str, card: EngineCard, here: Here) -> list[Verdict]:
    verdicts = [
        Verdict("whole", size >= card.plan_bytes, _whole(place, size, card), "file"),
        Verdict("the file we built", sha256 == card.plan_sha256, _same(place, sha256, card), "file"),
    ]
    return [*verdicts, *(_as_verdict(name, rule(place, card, here)) for name, rule in _PLACE_RULES)]


def load_plan(plan: Path | str, here: Here) -> tuple[bytes, EngineCard]:
    """The bytes of a plan that may be given to TensorRT."""
    place = require_file(plan)
    card = read_card(place)
    data = read_bytes(place, max(card.plan_bytes, place.stat().st_size))
    admit(place, data, card, here)
    return data, card


def admit(place: Path, data: bytes, card: EngineCard, here: Here) -> None:
    """Raise unless these bytes may be given to TensorRT here; a wrong file is an InputError, a wrong place is not."""
    for verdict in _judge(place, len(data), sha256_bytes(data), card, here):
        if not verdict.passed:
            error: type[ToolkitError] = InputError if verdict.about == "file" else MissingBackendError
            raise error(verdict.answer)


def _as_verdict(name: str, problem: str | None) -> Verdict:
    return Verdict(name, problem is None, problem or "yes", "place")


def _whole(place: Path, size: int, card: EngineCard) -> str:
    if size >= card.plan_bytes:
        return f"{size} bytes"
    return f"{place}: cut short, {size} of {card.plan_bytes} bytes; copy it again"


def _same(place: Path, sha256: str, card: EngineCard) -> str:
    if sha256 == card.plan_sha256:
        return f"sha256 {sha256}"
    return (
        f"{place}: not the file that was built: sha256 {sha256[:12]}..., the sidecar says {card.plan_sha256[:12]}...; "
        "it is never loaded, build the engine again"
    )


def _platform(place: Path, card: EngineCard, here: Here) -> str | None:
    if card.built.platform == here.platform:
        return None
    return f"{place}: built on {card.built.platform}, here is {here.platform}; plans do not cross it: {_again()}"


def _module(place: Path, card: EngineCard, here: Here) -> str | None:
    if card.built.module in here.modules:
        return None
    return f"{place}: needs the package {card.built.module} {card.built.version}, which is not here; {install_hint()}"


def _version(place: Path, card: EngineCard, here: Here) -> str | None:
    found = here.modules.get(card.built.module)
    if found is None:
        return "cannot be told without it"
    if _numbers(found)[:3] == _numbers(card.built.version)[:3]:
        return None
    if card.options.version_compatible and _travels(card.built.version, found):
        return None
    compatible = " (version-compatible, but not over this distance)" if card.options.version_compatible else ""
    return (
        f"{place}: built by {_TITLES[card.built.module]} {card.built.version}{compatible}, here is {found}; "
        f"plans load in the version that made them: {_again()}"
    )


def _gpu(place: Path, card: EngineCard, here: Here) -> str | None:
    if here.gpu is None:
        return f"{place}: {here.no_gpu}"
    mine, its = _numbers(here.gpu.sm), _numbers(card.gpu_sm)
    compatible = {
        "none": here.gpu.name == card.gpu_name and mine == its,
        "same-sm": mine == its,
        "ampere-plus": mine >= _AMPERE,
    }
    if compatible[card.options.hardware_compatible]:
        return None
    return f"{place}: built for {card.gpu_name} (SM {card.gpu_sm}), here is {here.gpu}; {_again()}"


_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_PLACE_RULES = (
    ("this platform", _platform),
    ("this package", _module),
    ("this version", _version),
    ("this GPU", _gpu),
)


def _travels(built: str, here: str) -> bool:
    old, new = _numbers(built)[0], _numbers(here)[0]
    return old == new or (old, new) in _VERSION_STEPS


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def _again() -> str:
    return "toolkit build-engine BUNDLE makes one for this machine"


def install_hint() -> str:
    """Where TensorRT comes from: never from the public registry on a Jetson."""
    if "aarch64" in platform_name():
        return "on Jetson it comes with JetPack: sudo apt install nvidia-jetpack, and never from pip"
    return "pip install tensorrt --extra-index-url https://pypi.nvidia.com, or NVIDIA's container"


def with_checks(card: EngineCard, checks: tuple[Check, ...]) -> EngineCard:
    """The same card with measured numbers."""
    return replace(card, checks=checks)
