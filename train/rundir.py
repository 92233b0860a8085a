"""The folder of a run: what lies where, who may write into it, and the log as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UsageError
from runtime.files import write_text

Row = Mapping[str, float]

COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_nme",
    "val_nme",
    "val_fr",
    "val_auc",
    "best_nme",
    "images_per_second",
    "data_seconds",
    "model_seconds",
    "val_seconds",
)
"""Columns of log.csv; NME and FR in percent."""


@dataclass(frozen=True)
class RunDirectory:
    """Names inside a run's folder."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def events(self) -> Path:
        return self.path / "tensorboard"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    def epoch(self, number: int) -> Path:
        return self.path / f"epoch-{number:04d}.ckpt"

    def picture(self, name: str) -> Path:
        return self.path / f"{name}.png"

    def refuse_if_used(self, force: bool) -> None:
        """Refuse a folder that holds anything, unless it may be overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, not a folder; choose another --out")
        if self.path.is_dir() and any(self.path.iterdir()) and not force:
            way = "--resume to go on" if self.last.exists() else "another --out"
            raise UsageError(f"{self.path} is not empty; use {way}, or --force to overwrite the run in it")

    def claim(self, force: bool) -> None:
        """Make the folder, free of an earlier run."""
        self.refuse_if_used(force)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if force:
                self._clear()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie there."""
        ours = [self.best, self.last, self.recipe, self.log, self.results, *self.path.glob("epoch-????.ckpt")]
        ours += [self.picture(name) for name in ("curves", "ced", "predictions")]
        ours += list(self.events.glob("events.out.tfevents.*"))
        for path in ours:
            path.unlink(missing_ok=True)

    def write_log(self, rows: Sequence[Row]) -> None:
        """Write log.csv whole: short, and never half a line after a crash."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{row[name]:.6g}" for name in COLUMNS})
        write_text(self.log, text.getvalue())
