"""Plans with their sidecars, made for the fake TensorRT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fake_tensorrt import MAGIC, SURFACES
from numpy.typing import NDArray

from runtime.engine import Built, EngineCard, EngineOptions, Here, Port, Profile, sidecar_of
from runtime.files import sha256_bytes
from runtime.gpu import Gpu, platform_name
from runtime.spec import ModelSpec

SPEC = ModelSpec("ghostone", points=5, layout="plain5", input_size=16)
GPU = Gpu("Fake GPU", "8.7", "12.6", "")


def numpy_engine(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ten numbers of each face that depend on all of its pixels, and on no other face."""
    flat = batch.reshape(len(batch), -1).astype(np.float64)
    weights = np.cos(np.arange(10)[:, None] * np.arange(flat.shape[1])[None, :])
    return (flat @ weights.T / flat.shape[1]).astype(np.float32)


def plan_bytes(version: str = "10.3", profile: tuple[int, int, int] = (1, 4, 8), **head: Any) -> bytes:
    """A plan as the fake builder writes it, without a model inside."""
    size = SPEC.input_size
    values = {
        "version": SURFACES[version].version,
        "ports": [["input", "INPUT", [-1, 3, size, size]], ["landmarks", "OUTPUT", [-1, 10]]],
        "profile": [[n, 3, size, size] for n in profile],
        "layers": ["Float"],
        "detailed": True,
        **head,
    }
    text = json.dumps(values).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text


def card_of(
    plan: bytes, version: str = "10.3", profile: tuple[int, int, int] = (1, 4, 8), **changes: Any
) -> EngineCard:
    """What the builder would say about it."""
    size = SPEC.input_size
    ports = (
        Port("input", "input", "float32", (-1, 3, size, size)),
        Port("landmarks", "output", "float32", (-1, 10)),
    )
    built = Built("tensorrt", SURFACES[version].version, "12.6", "", platform_name())
    card = EngineCard(
        sha256_bytes(plan), len(plan), built, GPU.name, GPU.sm, "model.onnx", "0" * 64, "fp32", Profile(*profile),
        ports, {"float32": 1}, EngineOptions("strong", 3, 256), SPEC, "test",
    )  # fmt: skip
    return replace(card, **changes)


def here(version: str = "10.3", gpu: Gpu | None = GPU, module: str = "tensorrt") -> Here:
    return Here({module: SURFACES.get(version, SURFACES["11"]).version}, gpu, "no GPU can be used", platform_name())


def write_engine(folder: Path, version: str = "10.3", name: str = "face.plan", **changes: Any) -> Path:
    """A plan and its sidecar on disk."""
    path = folder / name
    data = plan_bytes(version)
    path.write_bytes(data)
    sidecar_of(path).write_bytes(card_of(data, version, **changes).to_bytes())
    return path
