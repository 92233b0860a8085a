"""Which back end runs a bundle: a table of names, and what "auto" means."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.backends.formats import FORMATS
from runtime.backends.protocol import FaceModel
from runtime.bundle import Bundle, Manifest
from runtime.errors import MissingBackendError, UsageError


@dataclass(frozen=True)
class BackEnd:
    """Where a back end lives, what its factory is given, and which files of a bundle it needs."""

    module: str
    factory: str
    settings: dict[str, Any]
    needs: str
    """The artefact it reads; a name ending in `/` stands for any file in that folder."""
    how: str
    """What to do when the bundle lacks it."""
    threaded: bool = False
    """Whether the factory takes `threads`."""


BACKENDS: dict[str, BackEnd] = {
    "onnx": BackEnd("runtime.backends.onnx", "open_onnx", {"precision": "fp32"}, "fp32", "export it again", True),
    "onnx-fp16": BackEnd(
        "runtime.backends.onnx", "open_onnx", {"precision": "fp16"}, "fp16", "export with --fp16", True
    ),
    "onnx-int8": BackEnd(
        "runtime.backends.onnx", "open_onnx", {"precision": "int8"}, "int8", "export with --int8 fast or best", True
    ),
    "c": BackEnd("runtime.backends.c", "open_c", {"precision": "fp32"}, "c/", "export with --c"),
    "c-int8": BackEnd("runtime.backends.c", "open_c", {"precision": "int8"}, "c-int8/", "export with --c and --int8"),
    "tensorrt": BackEnd("runtime.backends.tensorrt", "open_tensorrt", {}, "trt/", "run toolkit build-engine"),
    **{
        f"tensorrt-{name}": BackEnd(
            "runtime.backends.tensorrt",
            "open_tensorrt",
            {"precision": name},
            "trt/",
            f"run toolkit build-engine --{name}",
        )
        for name in ("fp32", "fp16", "int8")
    },
    **{
        form.artefact(precision): BackEnd(
            "runtime.backends.formats",
            "open_format",
            {"form": form.name, "precision": precision},
            form.artefact(precision),
            f"export with --{form.name}" + f" and --{precision}" * (precision != "fp32"),
            True,
        )
        for form in FORMATS.values()
        for precision in form.precisions
    },
    "onnx-cuda": BackEnd("runtime.backends.ort_gpu", "open_onnx_cuda", {}, "fp32", "export it again"),
    "onnx-tensorrt": BackEnd("runtime.backends.ort_gpu", "open_onnx_tensorrt", {}, "fp32", "export it again"),
}

AUTO_ORDER = ("tensorrt", "c", "onnx")
"""Fastest first. int8 is never chosen by itself: it moves landmarks, so people ask for it."""

_announced: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Choice:
    """An opened back end, its name in the table, and why it was taken."""

    name: str
    why: str
    model: FaceModel


def open_backend(bundle: Bundle, name: str = "auto", threads: int = 1) -> Choice:
    """Open the named back end of a bundle, or the first of `AUTO_ORDER` that works here.

    A file that is not what the manifest says is an error in every case, never a reason to take another back end.
    """
    if name != "auto":
        return Choice(name, "asked for", _open(bundle, name, threads))
    reasons = []
    for candidate in AUTO_ORDER:
        if not _present(bundle.manifest, BACKENDS[candidate].needs):
            reasons.append(f"{candidate}: not in the bundle")
            continue
        try:
            model = _open(bundle, candidate, threads)
        except MissingBackendError as error:
            reasons.append(f"{candidate}: {error}")
            continue
        choice = Choice(candidate, "; ".join(reasons) or "the fastest that the bundle has", model)
        _announce(bundle, choice)
        return choice
    raise MissingBackendError(f"{bundle.directory}: no back end works here ({'; '.join(reasons)})")


def factory_of(name: str) -> Callable[..., FaceModel]:
    """The function that opens a back end, imported now."""
    entry = _entry(name)
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name != entry.module:
            raise MissingBackendError(f"back end {name!r} needs the package {error.name}, which is not here") from error
        raise MissingBackendError(f"back end {name!r} is not part of this installation") from error
    factory: Callable[..., FaceModel] = getattr(module, entry.factory)
    return factory


def _entry(name: str) -> BackEnd:
    if name not in BACKENDS:
        raise UsageError(f"unknown back end {name!r}; known: auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]


def _open(bundle: Bundle, name: str, threads: int) -> FaceModel:
    entry = _entry(name)
    if not _present(bundle.manifest, entry.needs):
        have = ", ".join(n for n, e in BACKENDS.items() if _present(bundle.manifest, e.needs)) or "none"
        raise UsageError(
            f"{bundle.directory}: has no files for the back end {name!r} ({entry.how}); it has files for: {have}"
        )
    extra = {"threads": threads} if entry.threaded else {}
    return factory_of(name)(bundle, **entry.settings, **extra)


def _present(manifest: Manifest, needs: str) -> bool:
    if needs.endswith("/"):
        return any(artefact.file.startswith(needs) for artefact in manifest.artefacts)
    return manifest.has(needs)


def _announce(bundle: Bundle, choice: Choice) -> None:
    key = (str(bundle.directory), choice.name)
    if key not in _announced:
        _announced.add(key)
        print(f"{bundle.directory}: back end {choice.name}, {choice.model.name} ({choice.why})", file=sys.stderr)
