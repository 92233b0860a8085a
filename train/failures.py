"""When training goes wrong, one line tells what, where, what is still good and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runtime.errors import CheckFailedError, ToolkitError
from runtime.files import DiskError
from train.rundir import RunDirectory
from train.state import Progress

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class OutOfMemoryError(ToolkitError):
    """The machine has too little memory for this run."""


def refuse_divergence(progress: Progress, run: RunDirectory) -> None:
    """Stop when the loss is no number any more."""
    loss = progress.totals[0]
    if not math.isfinite(loss):
        raise CheckFailedError(
            f"the loss became {'NaN' if math.isnan(loss) else 'infinite'} in epoch {progress.epoch + 1}, batch "
            f"{progress.batch}, step {progress.step}; {last_good(run)}; try a lower --lr, a longer --warmup, "
            "gradient clipping (--clip 1) or --amp off"
        )


def last_good(run: RunDirectory) -> str:
    """Which checkpoint is intact, in words."""
    kept = [path.name for path in (run.last, run.best) if path.exists()]
    return f"intact in {run.path}: {', '.join(kept)}" if kept else "no checkpoint was written yet"


@contextmanager
def explained(run: RunDirectory) -> Iterator[None]:
    """Full disks and exhausted memory as errors that name the last good checkpoint."""
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{error}; {last_good(run)}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory; {last_good(run)}; try a smaller --batch-size, fewer --branches or a smaller --input-size"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error).lower() for words in _NO_MEMORY)
