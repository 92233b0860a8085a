"""Checkpoints: everything needed to go on training, to fuse or to export, in one file that is whole or not there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from runtime.errors import InputError, UsageError
from runtime.files import write_atomic
from runtime.spec import ModelSpec
from train.archive import read_plain_archive

FORMAT = "landmark-toolkit checkpoint"
SCHEMA = 1
Kind = Literal["multi-branch", "fused"]

_NAMES_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Int8Steps:
    """The steps of an int8 network that were learned with its weights; which tensor a name means, calib/ knows."""

    activations: dict[str, Tensor]
    """A number for each group of tensors that share a step."""
    weights: dict[str, Tensor]
    """A number per output channel of each int8 weight."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One moment of a model's life."""

    kind: Kind
    spec: ModelSpec
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None
    """The averaged weights, with every key of `model`; what a user of the model wants."""
    parent: str | None = None
    """sha256 of the file this one was made from."""
    recipe: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    """Epoch, step, best NME, ..."""
    state: dict[str, Any] = field(default_factory=dict)
    """Optimizer, scheduler, random generators; empty in a file that is not meant for resuming."""
    int8: Int8Steps | None = None
    """The steps of the int8 network, where training was aware of them; the weights then lie on their grid."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the average where there is one."""
        return self.model if self.ema is None else self.ema


def save_checkpoint(path: Path | str, checkpoint: Checkpoint, *copies: Path | str) -> None:
    """Write a checkpoint atomically, perhaps under several names; equal content gives equal bytes."""
    content = {
        "format": FORMAT,
        "schema": SCHEMA,
        "kind": checkpoint.kind,
        "spec": checkpoint.spec.to_dict(),
        "model": _plain(checkpoint.model),
        "ema": _plain(checkpoint.ema),
        "parent": checkpoint.parent,
        "recipe": _plain(checkpoint.recipe),
        "progress": _plain(checkpoint.progress),
        "state": _plain(checkpoint.state),
    }
    if checkpoint.int8 is not None:
        content["int8"] = _plain({"activations": checkpoint.int8.activations, "weights": checkpoint.int8.weights})
    # Through memory, because torch hides a full disk's error code when it writes to a file by itself.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    for name in (path, *copies):
        write_atomic(name, lambda stream: stream.write(buffer.getbuffer()))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint that may come from anywhere; whatever is wrong with it is one InputError."""
    content = read_plain_archive(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path}: {_describe(content)}, expected a checkpoint of this toolkit; "
            "weights of another project come in through 'toolkit import'"
        )
    if content.get("schema") != SCHEMA:
        raise InputError(f"{path}: checkpoint schema {content.get('schema')!r}, this version reads {SCHEMA}")
    wanted = {"format", "schema", "kind", "spec", "model", "ema", "parent", "recipe", "progress", "state"}
    if set(content) - {"int8"} != wanted:
        odd = ", ".join(sorted(map(str, wanted.symmetric_difference(set(content) - {"int8"}))))
        raise InputError(f"{path}: a damaged checkpoint: missing or unknown keys {odd}")
    kind, parent = content["kind"], content["parent"]
    if kind not in get_args(Kind):
        raise InputError(f"{path}: kind {kind!r}, expected one of {', '.join(get_args(Kind))}")
    if parent is not None and not isinstance(parent, str):
        raise InputError(f"{path}: parent must be a hash, found {type(parent).__name__}")
    for key in ("recipe", "progress", "state"):
        if not isinstance(content[key], dict):
            raise InputError(f"{path}: {key} must be a table, found {type(content[key]).__name__}")
    model = _weights(content["model"], "model", path)
    ema = None if content["ema"] is None else _weights(content["ema"], "ema", path)
    if ema is not None and {n: t.shape for n, t in ema.items()} != {n: t.shape for n, t in model.items()}:
        raise InputError(f"{path}: the averaged weights do not fit the model's")
    spec = ModelSpec.from_dict(content["spec"], f"{path}: spec")
    return Checkpoint(
        kind=cast(Kind, kind),
        spec=spec,
        model=model,
        ema=ema,
        parent=parent,
        recipe=content["recipe"],
        progress=content["progress"],
        state=content["state"],
        int8=_steps(content["int8"], path) if "int8" in content else None,
    )


def load_model(path: Path | str) -> tuple[nn.Module, Checkpoint]:
    """The network of a checkpoint in eval mode, averaged weights where present, and the checkpoint itself."""
    checkpoint = load_checkpoint(path)
    return model_of(checkpoint, str(path)), checkpoint


def model_of(checkpoint: Checkpoint, where: str = "checkpoint") -> nn.Module:
    """Build the network of a checkpoint; every weight must fit, none may be left over."""
    from train.models.zoo import build

    fused = checkpoint.kind == "fused"
    try:
        # Without memory first: a forged spec may describe a network of any size.
        with torch.device("meta"):
            outline = build(checkpoint.spec, fused=fused)
    except UsageError as error:
        raise InputError(f"{where}: {error}") from error
    refuse_misfit(outline.state_dict(), checkpoint.weights, where)
    model = build(checkpoint.spec, fused=fused)
    model.load_state_dict(checkpoint.weights, strict=True)
    return model.eval()


def refuse_misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Say what does not fit when weights and the network they are meant for differ."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        raise InputError(f"{where}: weights do not fit its spec: {_some(missing)} missing, {_some(extra)} left over")
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape or tensor.dtype != found[name].dtype:
            raise InputError(
                f"{where}: weight {name} is {tuple(found[name].shape)} {found[name].dtype}, "
                f"its spec wants {tuple(tensor.shape)} {tensor.dtype}"
            )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{len(names)} ({shown}{', ...' if len(names) > _NAMES_SHOWN else ''})" if names else "none"


def _weights(value: Any, name: str, path: Path | str) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path}: {name} must be a table of tensors, found {_describe(value)}")
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise InputError(f"{path}: {name}[{key!r}] is {type(tensor).__name__}, expected a tensor")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {name}[{key!r}] holds NaN or infinity; the training diverged, use an earlier checkpoint"
            )
    return dict(value)


def _steps(value: Any, path: Path | str) -> Int8Steps:
    if not isinstance(value, dict) or set(value) != {"activations", "weights"}:
        raise InputError(f"{path}: int8 must hold the steps of activations and weights, found {_describe(value)}")
    tables = {kind: _weights(value[kind], f"int8 {kind}", path) for kind in value}
    for kind, rank in (("activations", 0), ("weights", 1)):
        for name, steps in tables[kind].items():
            if steps.dtype != torch.float32 or steps.dim() != rank or not bool((steps > 0).all()):
                raise InputError(f"{path}: int8 {kind}[{name!r}]: expected positive float32 steps of rank {rank}")
    return Int8Steps(**tables)


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        keys = ", ".join(map(str, list(value)[:_NAMES_SHOWN])) or "nothing"
        return f"a table of {len(value)} entries ({keys}, ...)"
    return f"a {type(value).__name__}"


def _plain(value: Any) -> Any:
    """Tensors as compact CPU copies, containers as their plain kin: what `weights_only` reads back."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UsageError(f"a checkpoint cannot hold a {type(value).__name__}; only tensors and plain values")
