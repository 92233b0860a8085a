"""How the hardware is used: device, threads, mixed precision, seeds."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from runtime.errors import MissingBackendError, UsageError
from train.recipe import RunRecipe

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """The chosen device and number format."""

    device: torch.device
    precision: torch.dtype | None
    """The narrow type of mixed precision; None when everything is float32."""
    channels_last: bool

    @property
    def is_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def needs_scaler(self) -> bool:
        """Only fp16 gradients underflow."""
        return self.precision is torch.float16

    def mixed(self) -> AbstractContextManager[object]:
        """The forward pass runs inside this."""
        if self.precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def describe(self) -> str:
        """In words, for the head of the run."""
        name = f"{torch.get_num_threads()} threads" if self.is_cpu else torch.cuda.get_device_name(self.device)
        return f"{self.device} ({name}), {'float32' if self.precision is None else str(self.precision)[6:]}"


@contextlib.contextmanager
def without_denormals() -> Iterator[None]:
    """Averages and moments decay towards zero; denormal numbers there make a CPU many times slower.

    The switch holds for the whole process, so that whoever trains as a library call gets it back as it was by default.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What lives now lives long: the garbage collector stops looking through it, several times a second otherwise."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


_MALLOC_TRIM, _MALLOC_MMAP, _KEEP_BYTES = -1, -3, 1 << 30
"""glibc's names of two thresholds, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and what they are set to."""


def keep_freed_memory() -> None:
    """Let the C library keep what is freed: a step frees its maps, the next one asks for them again."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MALLOC_MMAP, _KEEP_BYTES)
        library.mallopt(_MALLOC_TRIM, _KEEP_BYTES)


def prepare(run: RunRecipe, local_rank: int = 0) -> Machine:
    """Choose the device, then set threads, seeds and switches for the whole process."""
    device = _device(run.device, local_rank)
    precision = _precision(run.amp, device)
    torch.set_num_threads(run.threads or default_threads())
    seed_everything(run.seed)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    elif device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if device.type == "cpu" and sys.platform == "linux":
        keep_freed_memory()
    return Machine(device, precision, run.channels_last)


def default_threads() -> int:
    """All cores this process may use, shared among the processes that torchrun started here; OMP_NUM_THREADS wins."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores // max(1, int(here) if here.isdigit() else 1))


def seed_everything(seed: int) -> None:
    """Seed every generator that anything might use."""
    random.seed(seed)
    np.random.seed(seed)  # libraries may use the global generator
    torch.manual_seed(seed)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise MissingBackendError(f"device {name!r}: PyTorch finds no CUDA device here; use --device cpu")
        index = device.index if ":" in name else local_rank
        if index >= torch.cuda.device_count():
            raise UsageError(f"device {name!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return torch.device("cuda", index)
    return torch.device("cpu")


def _precision(amp: str, device: torch.device) -> torch.dtype | None:
    if amp == "off" or (amp == "auto" and device.type == "cpu"):
        return None
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and amp == "fp16":
        raise UsageError("fp16 mixed precision needs a GPU; on the CPU use --amp bf16 or --amp off")
    return _PRECISIONS[amp]
