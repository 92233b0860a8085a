"""State dicts of other projects out of PyTorch files: found under their key, freed of wrappers' prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import InputError, UsageError
from train.archive import Expectation, read_plain_archive
from train.checkpoint import FORMAT

KEYS = ("pfld_backbone", "plfd_backbone", "state_dict", "model_state_dict", "model", "net")
"""Where published checkpoints keep the network; the second is a misspelling that several projects share."""
PREFIXES = ("module.", "_orig_mod.")
"""Left by DataParallel and torch.compile."""
_WIDENED = (torch.float16, torch.bfloat16)

WEIGHTS = Expectation(
    "a PyTorch file that holds a state dict (.pth, .pt, .tar) or an ONNX file",
    'where you trust the file, save its bare weights and import those: python -c "import torch; '
    "c = torch.load('FILE', map_location='cpu', weights_only=False); c = c.get('state_dict', c) if isinstance(c, dict) "
    "else c.state_dict(); torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, 'weights.pth')\"",
)


@dataclass(frozen=True)
class StateDict:
    """The weights of one network, and what was done to find them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def read_state_dict(path: Path | str, key: str | None = None) -> StateDict:
    """Read the network's weights from a PyTorch file that may come from anywhere."""
    content = read_plain_archive(path, WEIGHTS)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        raise InputError(f"{path}: already a checkpoint of this toolkit; use it as it is")
    table, notes = _find(content, key, path)
    tensors, stripped = _without_prefixes(table, path)
    notes += [f"prefix {prefix!r} removed" for prefix in stripped]
    widened = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.dtype in _WIDENED})
    notes += [f"{dtype} weights widened to float32 (exact)" for dtype in widened]
    return StateDict({name: _plain(name, tensor, path) for name, tensor in tensors.items()}, tuple(notes))


def _find(content: Any, key: str | None, path: Path | str) -> tuple[Mapping[str, Tensor], list[str]]:
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a table of weights (a state dict)")
    inner = {str(name): value for name, value in content.items() if _is_state_dict(value)}
    if key is not None:
        if key not in inner:
            raise UsageError(f"{path}: --key {key}: no table of weights there; {_choices(inner)}")
        return inner[key], [f"weights taken from the key {key!r}"]
    if _is_state_dict(content):
        return content, []
    found = [name for name in KEYS if name in inner]
    if len(found) == 1 or (not found and len(inner) == 1):
        name = (found or list(inner))[0]
        ignored = ", ".join(repr(other) for other in map(str, content) if other != name)
        return inner[name], [f"weights taken from the key {name!r}" + (f", left aside: {ignored}" if ignored else "")]
    raise InputError(f"{path}: which table holds the network? name it with --key; {_choices(inner)}")


def _choices(inner: Mapping[str, Any]) -> str:
    return f"tables of weights here: {', '.join(list(inner)[:8])}" if inner else "the file holds no table of weights"


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _without_prefixes(table: Mapping[str, Tensor], path: Path | str) -> tuple[dict[str, Tensor], list[str]]:
    result: dict[str, Tensor] = {}
    stripped: list[str] = []
    for name, tensor in table.items():
        short = name
        while prefix := next((p for p in PREFIXES if short.startswith(p)), None):
            short = short[len(prefix) :]
            if prefix not in stripped:
                stripped.append(prefix)
        if short in result:
            raise InputError(f"{path}: weight {short!r} is there twice, with and without a prefix")
        result[short] = tensor
    return result, stripped


def _plain(name: str, tensor: Tensor, path: Path | str) -> Tensor:
    counter = name.endswith("num_batches_tracked")
    if counter and tensor.dtype == torch.int64 and tensor.ndim == 0:
        return tensor.detach().clone()
    if tensor.dtype not in (torch.float32, *_WIDENED) or counter:
        kind = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        raise InputError(f"{path}: weight {name!r} is {kind}; expected float32 (or half precision)")
    values = tensor.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{path}: weight {name!r} holds NaN or infinity; the training that made it diverged")
    return values
