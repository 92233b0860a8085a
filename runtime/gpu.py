"""Is there a GPU here? Asked of the driver itself, before anything that crashes without one is touched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MissingBackendError

DRIVER_NAMES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76
"""CUdevice_attribute numbers of the compute capability."""
_INIT_ERRORS = {
    3: "the driver is not initialised; restart it, or the machine",
    34: "libcuda is a stub for linking, not a driver; install the NVIDIA driver and leave the stub's folder out of "
    "LD_LIBRARY_PATH",
    35: "the driver is older than the CUDA runtime; update the NVIDIA driver",
    100: "the driver finds no GPU; in a container, start it with --gpus all (on Jetson: --runtime nvidia)",
    101: "CUDA_VISIBLE_DEVICES names a GPU that is not there",
    304: "the operating system refuses access to the GPU; check the rights of /dev/nvidia* (on Jetson: group video)",
    802: "the system is not ready; is the fabric manager running?",
    803: "driver and libcuda have different versions; restart the machine after a driver update",
    804: "the CUDA compatibility package does not support this GPU; remove cuda-compat or update the driver",
    999: "unknown driver error; see dmesg, and restart the machine after a driver update",
}


@dataclass(frozen=True)
class Gpu:
    """One CUDA device and the driver above it."""

    name: str
    sm: str
    """Compute capability, such as 8.7."""
    cuda: str
    """The newest CUDA version that the driver supports."""
    driver: str

    def __str__(self) -> str:
        return f"{self.name} (SM {self.sm})"


def probe_gpu(index: int = 0) -> Gpu:
    """The device, or a MissingBackendError that says which piece is missing and what to do."""
    driver = _load_driver()
    code = int(driver.cuInit(0))
    if code:
        reason = _INIT_ERRORS.get(code, "see the list of CUDA driver errors")
        raise MissingBackendError(f"no GPU can be used: cuInit gives error {code}: {reason}")
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    _expect(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if index >= count.value:
        raise MissingBackendError(f"no GPU number {index} here, the driver shows {count.value}")
    _expect(driver.cuDeviceGet(ctypes.byref(device), ctypes.c_int(index)), "cuDeviceGet")
    text = ctypes.create_string_buffer(_NAME_BYTES)
    _expect(driver.cuDeviceGetName(text, ctypes.c_int(_NAME_BYTES), device), "cuDeviceGetName")
    major, minor, version = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        status = driver.cuDeviceGetAttribute(ctypes.byref(value), ctypes.c_int(attribute), device)
        _expect(status, "cuDeviceGetAttribute")
    _expect(driver.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    name = text.value.decode("utf-8", "replace").strip()
    return Gpu(name, f"{major.value}.{minor.value}", cuda_text(version.value), driver_release())


def cuda_text(number: int) -> str:
    """CUDA's way to count versions.

    >>> cuda_text(12060)
    '12.6'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def driver_release(
    proc: Path = Path("/proc/driver/nvidia/version"), tegra: Path = Path("/etc/nv_tegra_release")
) -> str:
    """The driver's own number; on Jetson the release of L4T; empty where neither is told."""
    try:
        found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", proc.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
    except OSError:
        pass
    return l4t_release(tegra)


def l4t_release(tegra: Path = Path("/etc/nv_tegra_release")) -> str:
    """Such as `L4T 36.4.3`; empty on anything but a Jetson."""
    try:
        text = tegra.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"R(\d+)\D+REVISION:\s*([\d.]+)", text)
    return f"L4T {found[1]}.{found[2]}" if found else ""


def platform_name() -> str:
    """Operating system and machine: plans never cross it.

    >>> "-" in platform_name()
    True
    """
    return f"{platform.system().lower()}-{platform.machine().lower()}"


def first_library(names: Iterable[str]) -> ctypes.CDLL | None:
    """The first of these shared libraries that can be loaded."""
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _load_driver() -> ctypes.CDLL:
    library = first_library(DRIVER_NAMES)
    if library is not None:
        return library
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f" (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else ""
    raise MissingBackendError(
        f"no GPU can be used: libcuda, the NVIDIA driver, is not installed{where}; install the driver "
        "(on Jetson it is part of JetPack; in a container start it with --gpus all)"
    )


def _expect(status: int, call: str) -> None:
    if status:
        raise MissingBackendError(f"no GPU can be used: {call} gives error {status}; see dmesg")
