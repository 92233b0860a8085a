"""What a Jetson says of itself while it works: power by its INA sensors or tegrastats, power mode, clocks."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MissingBackendError

_HWMON = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
"""JetPack 5 and newer."""
_IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
"""JetPack 4."""
_DEVFREQ = "sys/class/devfreq/*"
_GPU_NAMES = re.compile(r"gpu|gv11b|ga10b|gb10b|gp10b", re.I)
TOTAL_RAILS = (("VDD_IN",), ("POM_5V_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
"""Which rails make the whole board, by what a board has; the first row that is there counts."""


@dataclass(frozen=True)
class TegraSample:
    """One line of tegrastats."""

    rails: Mapping[str, int]
    """Milliwatts now, by rail."""
    gpu_percent: int | None
    gpu_mhz: tuple[int, ...]
    temperatures: Mapping[str, float]

    @property
    def total_mw(self) -> int | None:
        return total_power(self.rails)


@dataclass(frozen=True)
class PowerMode:
    """What nvpmodel says."""

    name: str
    number: int


@dataclass(frozen=True)
class GpuClock:
    """The GPU's clock in MHz."""

    now: int
    most: int


@dataclass(frozen=True)
class PowerUse:
    """Power over a stretch of work."""

    seconds: float
    samples: int
    rails: Mapping[str, float]
    """Mean milliwatts."""
    total_mw: float | None

    def millijoules(self, runs: int) -> float | None:
        """Energy of one run of the whole board; None where the rails do not make a whole."""
        return None if self.total_mw is None or runs < 1 else self.total_mw * self.seconds / runs


def total_power(rails: Mapping[str, float | int]) -> int | None:
    """Milliwatts of the whole board, from the rails that carry it."""
    for names in TOTAL_RAILS:
        if all(name in rails for name in names):
            return round(sum(rails[name] for name in names))
    return None


def parse_tegrastats(line: str) -> TegraSample:
    """Any of the forms since JetPack 4: `RAIL now/average`, with or without `mW`, two or three numbers."""
    rails = {m[1]: int(m[2]) for m in re.finditer(r"\b([A-Z][A-Z0-9_]{2,}) (\d+)mW(?:/\d+mW){1,2}", line)}
    rails |= {m[1]: int(m[2]) for m in re.finditer(r"\b(POM_\w+|VDD_\w+) (\d+)/\d+(?![\dM])", line)}
    gpu = re.search(r"GR3D_FREQ (?:(\d+)%)?(?:@(\[[\d,]*\]|\d+))?", line)
    percent = int(gpu[1]) if gpu and gpu[1] else None
    clocks = tuple(int(part) for part in re.findall(r"\d+", gpu[2])) if gpu and gpu[2] else ()
    heat = {m[1].lower(): float(m[2]) for m in re.finditer(r"\b([A-Za-z]\w*)@(-?[\d.]+)C", line)}
    return TegraSample(rails, percent, clocks, heat)


def parse_power_mode(text: str) -> PowerMode | None:
    """The answer of `nvpmodel -q`."""
    found = re.search(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)", text)
    return PowerMode(found[1], int(found[2])) if found else None


def read_power_mode() -> PowerMode | None:
    """Ask nvpmodel; None on anything but a Jetson."""
    try:
        run = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_power_mode(run.stdout)


def read_rails(root: Path = Path("/")) -> dict[str, int]:
    """Milliwatts by rail from the INA3221 sensors, newer and older kernels; empty where there are none."""
    return {**_iio_rails(root), **_hwmon_rails(root)}


def _hwmon_rails(root: Path) -> dict[str, int]:
    rails: dict[str, int] = {}
    for label in sorted(root.glob(f"{_HWMON}/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = (_number(label.with_name(f"{kind}{number}_input")) for kind in ("in", "curr"))
        name = _text(label)
        if name and volts is not None and amperes is not None:
            rails[name] = round(volts * amperes / 1000)
    return rails


def _iio_rails(root: Path) -> dict[str, int]:
    rails: dict[str, int] = {}
    for label in sorted(root.glob(f"{_IIO}/rail_name_*")):
        power = _number(label.with_name(f"in_power{label.name.removeprefix('rail_name_')}_input"))
        name = _text(label)
        if name and power is not None:
            rails[name] = power
    return rails


def read_gpu_clock(root: Path = Path("/")) -> GpuClock | None:
    """The GPU's clock now and at most; None where the kernel shows none."""
    for folder in sorted(root.glob(_DEVFREQ)):
        if _GPU_NAMES.search(folder.name):
            now, most = _number(folder / "cur_freq"), _number(folder / "max_freq")
            if now is not None and most is not None:
                return GpuClock(now // 1_000_000, most // 1_000_000)
    return None


def clock_warnings(mode: PowerMode | None, clock: GpuClock | None) -> list[str]:
    """Why a Jetson may be slower than it can be."""
    told = []
    if mode is not None and not mode.name.upper().startswith("MAXN"):
        told.append(f"power mode {mode.name}: not the fastest; sudo nvpmodel -m 0 (then restart if it asks)")
    if clock is not None and clock.now < clock.most:
        told.append(f"the GPU's clock is at {clock.now} of {clock.most} MHz; sudo jetson_clocks holds it at the top")
    return told


class PowerMeter:
    """Samples the sensors in the background while a `with` block works.

    Example: `with PowerMeter() as meter: work()`, then `meter.use().millijoules(runs)`.
    """

    def __init__(self, root: Path = Path("/"), period: float = 0.02) -> None:
        if not read_rails(root):
            raise MissingBackendError("no INA3221 power sensors here; they are on Jetson boards")
        self._root, self._period = root, period
        self._found: list[dict[str, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="power-meter", daemon=True)
        self._seconds = 0.0

    def __enter__(self) -> PowerMeter:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._seconds = time.monotonic() - self._began

    def use(self) -> PowerUse:
        """What the work drew, once the block is left."""
        return summarise(self._found, self._seconds)

    def _watch(self) -> None:
        while True:
            self._found.append(read_rails(self._root))
            if self._stop.wait(self._period):
                return


def summarise(samples: Sequence[Mapping[str, int]], seconds: float) -> PowerUse:
    """Means of the rails that every sample has."""
    names = set.intersection(*(set(sample) for sample in samples)) if samples else set()
    rails = {name: sum(sample[name] for sample in samples) / len(samples) for name in sorted(names)}
    return PowerUse(seconds, len(samples), rails, total_power(rails))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None
