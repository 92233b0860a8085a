"""TensorBoard events, when the package is there; a board that cannot be written never stops a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.rundir import Row


class Board:
    """Writes each epoch's row as scalars; `None` inside means it is off."""

    def __init__(self, folder: Path, wanted: bool, note: Callable[[str], object], purge_epoch: int) -> None:
        self._note = note
        self._writer = _writer(folder, purge_epoch, note) if wanted else None

    def write(self, row: Row) -> None:
        """Add an epoch."""
        if self._writer is None:
            return
        try:
            for name, value in row.items():
                if name != "epoch":
                    group = name.split("_")[0] if "_" in name else "run"
                    self._writer.add_scalar(f"{group}/{name}", value, int(row["epoch"]))
            self._writer.flush()
        except OSError as error:
            self._note(f"TensorBoard events cannot be written ({error.strerror or error}); going on without them")
            self._writer = None

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path, purge_epoch: int, note: Callable[[str], object]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        note(f"no TensorBoard events: {error}; pip install tensorboard, or --no-tensorboard to silence this")
        return None
    # Events of epochs that a resumed run repeats are hidden.
    return SummaryWriter(str(folder), purge_step=purge_epoch)
