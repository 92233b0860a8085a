"""Models and photos for `toolkit data label`, opened and checked before the first slow step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artefact import open_artefact, require_spec
from export.importer import looks_like_archive
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import InputError, MissingBackendError, UsageError
from runtime.files import require_file, sha256_file
from toolkit.evaluate import expand, runnable
from train.label.ensemble import Member

_WEIGHTED = re.compile(r"^(?P<model>.+?):(?P<weight>\d+(?:\.\d*)?|\.\d+)$", re.DOTALL)


def open_members(texts: Sequence[str], spec: str | None = None, device: str = "cpu") -> list[Member]:
    """Open MODEL or MODEL:WEIGHT texts: checkpoints, ONNX files, bundles (their fp32) or BUNDLE:PART."""
    if not texts:
        raise UsageError("name at least one model with --model")
    members = []
    for text in texts:
        name, weight = _weighted(text)
        members.append(_member(_one_file(name), weight, spec, device))
    return members


def _weighted(text: str) -> tuple[str, float]:
    found = None if Path(text).exists() else _WEIGHTED.match(text)
    if found is None:
        return text, 1.0
    weight = float(found["weight"])
    if not 0 < weight <= 1000:
        raise UsageError(f"--model {text}: the weight must lie above 0 and be at most 1000")
    return found["model"], weight


def _one_file(name: str) -> Path:
    path = Path(name)
    if (path / MANIFEST).is_file():
        parts = runnable(Bundle.open(path), engines=False)
        if not parts:
            raise InputError(f"{path}: nothing in this bundle puts out landmarks")
        name = f"{path}:{'fp32' if 'fp32' in parts else parts[0]}"
    return expand([name])[0]


def _member(path: Path, weight: float, spec: str | None, device: str) -> Member:
    if path.is_file() and looks_like_archive(require_file(path)):
        return _checkpoint(path, weight, device)
    artefact = open_artefact(path, spec)
    return Member(str(path), require_spec(artefact), artefact.predict, weight, artefact.sha256)


def _checkpoint(path: Path, weight: float, device: str) -> Member:
    """A checkpoint, fused, on the device that was asked for."""
    import torch

    from export.fuse import fuse
    from train.checkpoint import load_model

    if device != "cpu" and not torch.cuda.is_available():
        raise MissingBackendError(f"--device {device}: PyTorch finds no CUDA device here; use cpu")
    model, checkpoint = load_model(path)
    if checkpoint.kind != "fused":
        model = fuse(model, checkpoint.spec)
    model = model.to(device).eval()

    def predict(batch: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(batch).to(device)).float().cpu().numpy())

    return Member(str(path), checkpoint.spec, predict, weight, sha256_file(path))
