"""What each TensorRT can do, asked of the module that is here and not of its version number; one row per ability.

| ability | 8.6 | 10.x | 11 |
|---|---|---|---|
| precision comes from the graph (strong typing) | no: FP16 and INT8 flags | yes | yes, nothing else |
| calibrators | yes | yes, deprecated | no |
| progress monitor | no | yes | yes |
| several contexts share one profile | preview feature | yes | yes |
| engines for any GPU of the same compute capability | no | from 10.x on | yes |
| DLA | yes, not for Q/DQ graphs | to 10.7 | from 11.4.1 on |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.engine import Hardware, Precision, Profile, Typing
from runtime.errors import UsageError
from runtime.gpu import l4t_release

Legacy = Literal["entropy", "minmax"]
MAX_BATCH = 1024
LEVELS = range(6)
CALIBRATOR_CLASSES: dict[Legacy, str] = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
WEAK_FLAGS: dict[Precision, tuple[str, ...]] = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8",)}
"""Only where the graph's own types do not count."""
HARDWARE_LEVELS: dict[Hardware, str] = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-sm": "SAME_COMPUTE_CAPABILITY",
}
_NO_DLA = (
    ((11, 0), (11, 4, 1), "has no DLA; it came back with 11.4.1, on AGX Orin with JetPack 7.2.2 and newer"),
    ((10, 8), (11, 0), "has no DLA; 10.7 was the last of the 10 line with it"),
)


@dataclass(frozen=True)
class BuildOptions:
    """What `toolkit build-engine` was asked for."""

    profile: Profile = field(default_factory=Profile)
    workspace_mib: int = 1024
    level: int = 3
    version_compatible: bool = False
    hardware: Hardware = "none"
    legacy: Legacy | None = None
    dla: bool = False
    timing_cache: bool = True


@dataclass(frozen=True)
class Abilities:
    """What the module that is here offers."""

    module: str
    version: str
    typed_flag: bool
    """Strong typing has to be asked for."""
    weak: bool
    """Flags for precisions exist."""
    batch_flag: bool
    """The batch has to be declared explicit."""
    calibrators: bool
    monitor: bool
    sharing: bool
    """Sharing a profile among contexts has to be asked for."""
    version_compatible: bool
    hardware: tuple[Hardware, ...]
    level: bool

    @property
    def title(self) -> str:
        return f"{'TensorRT-RTX' if self.module == 'tensorrt_rtx' else 'TensorRT'} {self.version}"

    @property
    def line(self) -> str:
        """Which rules of the graph contract apply; RTX follows those of 11."""
        return "11" if self.module == "tensorrt_rtx" else ".".join(self.version.split(".")[:2])

    def typing(self, legacy: Legacy | None) -> Typing:
        """The graph's types where they count; a calibrator needs weak typing."""
        return "weak" if legacy is not None or (self.weak and not self.typed_flag) else "strong"


def abilities_of(trt: Any) -> Abilities:
    """Ask a module; a test holds this against stand-ins of 8.6, 10.3 and 11, and against the real RTX module."""
    creation = getattr(trt, "NetworkDefinitionCreationFlag", None)
    levels = getattr(trt, "HardwareCompatibilityLevel", None)
    weak = hasattr(trt.BuilderFlag, "FP16")
    return Abilities(
        trt.__name__.split(".")[0],
        str(trt.__version__),
        typed_flag=weak and hasattr(creation, "STRONGLY_TYPED"),
        weak=weak,
        batch_flag=hasattr(creation, "EXPLICIT_BATCH") and not hasattr(creation, "STRONGLY_TYPED"),
        calibrators=all(hasattr(trt, name) for name in CALIBRATOR_CLASSES.values()),
        monitor=hasattr(trt, "IProgressMonitor"),
        sharing=hasattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806"),
        version_compatible=hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"),
        hardware=tuple(ours for ours, theirs in HARDWARE_LEVELS.items() if hasattr(levels, theirs)),
        level=_has_level(trt),
    )


def _has_level(trt: Any) -> bool:
    config = getattr(trt, "IBuilderConfig", None)
    return config is None or hasattr(config, "builder_optimization_level")


def network_flags(trt: Any, able: Abilities, typing: Typing) -> int:
    """Flags to create the network with."""
    flags = 0
    if able.typed_flag and typing == "strong":
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if able.batch_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    return flags


def refuse_options(options: BuildOptions, able: Abilities) -> None:
    """Say what this TensorRT cannot do before anything slow begins."""
    for rule in _REFUSALS:
        problem = rule(options, able)
        if problem:
            raise UsageError(problem)


def _bad_profile(options: BuildOptions, _: Abilities) -> str | None:
    low, usual, high = options.profile.min, options.profile.opt, options.profile.max
    if 1 <= low <= usual <= high <= MAX_BATCH:
        return None
    return f"batches of {low}, {usual}, {high}: expected 1 <= --min-batch <= --batch <= --max-batch <= {MAX_BATCH}"


def _bad_level(options: BuildOptions, able: Abilities) -> str | None:
    if options.level not in LEVELS:
        return f"--level {options.level}: expected {LEVELS[0]} to {LEVELS[-1]}; 3 is usual, 5 searches longest"
    if options.level != BuildOptions.level and not able.level:
        return f"{able.title} has no optimisation level; leave --level out"
    return None


def _bad_workspace(options: BuildOptions, _: Abilities) -> str | None:
    return None if options.workspace_mib >= 1 else f"--workspace {options.workspace_mib}: expected MiB, 1 or more"


def _no_calibrators(options: BuildOptions, able: Abilities) -> str | None:
    if options.legacy is None or able.calibrators:
        return None
    return (
        f"{able.title} has no calibrators (11 removed them); leave --legacy-calibrator out: the int8 model of the "
        "bundle carries its scales as Q/DQ, which every version takes"
    )


def _no_version_compatible(options: BuildOptions, able: Abilities) -> str | None:
    if options.version_compatible and not able.version_compatible:
        return f"{able.title} makes no version-compatible engines; 8.6 was the first"
    return None


def _no_hardware(options: BuildOptions, able: Abilities) -> str | None:
    if options.hardware == "none":
        return None
    if options.hardware not in able.hardware:
        have = ", ".join(able.hardware) or "none"
        return f"{able.title} knows no hardware compatibility {options.hardware!r}; it knows: {have}"
    if l4t_release():
        return "hardware-compatible engines are for desktop and server GPUs, not for Jetson; build on each board"
    return None


def _dla(options: BuildOptions, able: Abilities) -> str | None:
    if not options.dla:
        return None
    version = tuple(int(part) for part in re.findall(r"\d+", able.version)[:3])
    for first, before, sentence in _NO_DLA:
        if first <= version < before:
            return f"--dla: {able.title} {sentence}; build for the GPU"
    return (
        f"--dla: {able.title} may have a DLA, but this toolkit builds for the GPU only: the DLA takes no open batch, "
        "before 11.4.1 no Q/DQ, and nobody has measured these networks on it"
    )


_REFUSALS: tuple[Callable[[BuildOptions, Abilities], str | None], ...] = (
    _bad_profile,
    _bad_level,
    _bad_workspace,
    _dla,
    _no_calibrators,
    _no_version_compatible,
    _no_hardware,
)
