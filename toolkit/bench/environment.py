"""What a reader must know before believing a number: the machine, and signs that it was not left alone."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.doctor import cpu_flags
from toolkit.machine import Machine

_CPU = "/sys/devices/system/cpu"
SPIN = 20_000
"""Length of the loop that stands for the clock."""
VISITS, ALIKE = 5, 1.05
"""How often each core is tried when one is chosen; how much slower counts as the same."""
DRIFT, BUSY, STOLEN, SWITCHES = 0.08, 0.3, 0.005, 0.02
FEW_RUNS = 200


def describe(machine: Machine, cores: Sequence[int], threads: int) -> dict[str, Any]:
    """The environment block."""
    info = machine.read("/proc/cpuinfo") or ""
    core = cores[0] if cores else 0
    flags = cpu_flags(info)
    facts: dict[str, Any] = {
        "cpu": _field(info, "model name") or platform.processor() or machine.architecture(),
        "cpu id": " ".join(_field(info, k) for k in ("cpu family", "model", "stepping")).strip(),
        "flags": sorted(f for f in flags if re.match(r"avx|sse|fma|asimd|neon|sve|amx|f16c", f)),
        "caches": [_cache(machine, core, index) for index in range(5) if _cache(machine, core, index)],
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in flags,
        "memory_mib": _memory(machine),
        "architecture": machine.architecture(),
        "system": machine.system(),
        "kernel": platform.release(),
        "governor": _text(machine, f"{_CPU}/cpu{core}/cpufreq/scaling_governor"),
        "mhz": {
            name: _text(machine, f"{_CPU}/cpu{core}/cpufreq/scaling_{name}_freq") for name in ("min", "cur", "max")
        },
        "turbo": {"0": "on", "1": "off"}.get(_text(machine, f"{_CPU}/intel_pstate/no_turbo"), ""),
        "pinned": list(cores),
        "threads": threads,
        "python": platform.python_version(),
    }
    same = {key: facts[key] for key in ("cpu", "cpu id", "flags", "caches", "cores", "architecture", "system")}
    facts["fingerprint"] = hashlib.sha256(repr(sorted(same.items())).encode()).hexdigest()[:16]
    return facts


def _field(info: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _text(machine: Machine, path: str) -> str:
    return (machine.read(path) or "").strip()


def _cache(machine: Machine, core: int, index: int) -> str:
    place = f"{_CPU}/cpu{core}/cache/index{index}"
    level, size, kind = (_text(machine, f"{place}/{name}") for name in ("level", "size", "type"))
    return f"L{level} {kind.lower()} {size}" if level and size else ""


def _memory(machine: Machine) -> int:
    found = re.search(r"^MemTotal:\s*(\d+)", machine.read("/proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0


def allowed_cores() -> list[int]:
    """Cores that this process may use; empty where the system cannot pin."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def spin() -> float:
    """Seconds of a fixed piece of work: longer when the clock falls or somebody else is on the core."""
    start = time.perf_counter()
    total = 0
    for i in range(SPIN):
        total += i * i & 7
    return time.perf_counter() - start


def core_seconds(cores: Sequence[int]) -> dict[int, float]:
    """How long each core takes for `spin`: the median of a few visits, core after core in turns."""
    before = os.sched_getaffinity(0)
    found: dict[int, list[float]] = {core: [] for core in cores}
    try:
        for _ in range(VISITS):
            for core in cores:
                os.sched_setaffinity(0, {core})
                found[core].append(min(spin() for _ in range(3)))
    finally:
        os.sched_setaffinity(0, before)
    return {core: sorted(times)[VISITS // 2] for core, times in found.items()}


def quickest(seconds: Mapping[int, float], count: int) -> tuple[int, ...]:
    """The quickest cores; of cores that are alike the last ones, since the first serve interrupts.

    >>> quickest({0: 1.0, 1: 1.02, 2: 1.5}, 1)
    (1,)
    """
    limit = ALIKE * sorted(seconds.values())[count - 1]
    return tuple(sorted(sorted(core for core, each in seconds.items() if each <= limit)[-count:]))


@dataclass
class Watcher:
    """Looks at the machine before, during and after the timing."""

    machine: Machine
    cores: Sequence[int]

    def __post_init__(self) -> None:
        self.spins: list[float] = []
        self.load_before = _load()
        self._stolen = self._ticks()

    def look(self) -> None:
        """Once a round."""
        self.spins.append(min(spin() for _ in range(3)))

    def _ticks(self) -> tuple[int, int]:
        """Ticks stolen by other virtual machines, and all ticks, of our cores."""
        stolen = total = 0
        for line in (self.machine.read("/proc/stat") or "").splitlines():
            found = re.match(r"cpu(\d+) (.+)", line)
            if found and (not self.cores or int(found.group(1)) in self.cores):
                ticks = [int(t) for t in found.group(2).split()]
                stolen += ticks[7] if len(ticks) > 7 else 0
                total += sum(ticks[:8])
        return stolen, total

    def warnings(self, facts: dict[str, Any], runs: int, interrupted: int, unsettled: Sequence[str]) -> list[str]:
        """Why a number may be wrong."""
        found = []
        if runs < FEW_RUNS:
            found.append(f"only {runs} runs each: p99 is little more than the slowest of them; use more --rounds")
        if facts["governor"] and facts["governor"] != "performance":
            found.append(f"the CPU governor is {facts['governor']}: the clock moves with the load")
        if facts["virtual"]:
            found.append("a virtual machine: its host may share cores and caches with others")
        if not facts["pinned"]:
            found.append("this system cannot pin processes to cores")
        cores = facts["cores"] or 1
        if self.load_before > BUSY * cores:
            found.append(f"the machine was busy: load {self.load_before:.1f} on {cores} cores before the first run")
        spread = _spread(self.spins)
        if spread > DRIFT:
            found.append(
                f"a fixed loop took {100 * spread:.0f} % longer in some rounds: the clock moved or the core was shared"
            )
        stolen, total = (after - before for after, before in zip(self._ticks(), self._stolen, strict=True))
        if total and stolen / total > STOLEN:
            found.append(f"{100 * stolen / total:.1f} % of the core's time went to other virtual machines")
        if interrupted > SWITCHES * runs:
            found.append(f"a run was interrupted {interrupted} times in {runs} by other programs on the core")
        found += [f"{name} had not settled when its warm-up ended" for name in unsettled]
        return found


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _spread(values: Sequence[float]) -> float:
    """How far the slow rounds are behind the fast ones, as a fraction."""
    if len(values) < 2:
        return 0.0
    ordered = sorted(values)
    return ordered[int(0.9 * (len(ordered) - 1))] / ordered[int(0.1 * (len(ordered) - 1))] - 1


def hash_of(path: Path) -> str:
    """First part of a file's hash, for the environment block."""
    from runtime.files import sha256_file

    return sha256_file(path)[:16]
