"""ONNX Runtime on the CPU: one-threaded and repeatable unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, UsageError
from runtime.lazy import require

_ERRORS_ONLY = 3
CPU = "CPUExecutionProvider"


class OrtModel:
    """An ONNX model with one input, ready to run."""

    def __init__(
        self,
        model: bytes | Path | str,
        *,
        threads: int = 1,
        optimise: bool = True,
        providers: Sequence[str | tuple[str, dict[str, Any]]] = (CPU,),
    ) -> None:
        ort = require("onnxruntime", "running an ONNX model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        where = "ONNX model" if isinstance(model, bytes) else str(model)
        data = model if isinstance(model, bytes) else str(model)
        try:
            self._session = ort.InferenceSession(data, options, providers=list(providers))
        except Exception as error:
            raise InputError(f"{where}: ONNX Runtime refuses it: {_first_line(error)}") from error
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs) or "none"
            raise InputError(f"{where}: expected one input, found {len(inputs)} ({names})")
        self.input_name: str = inputs[0].name
        self.input_shape: tuple[int | str | None, ...] = tuple(inputs[0].shape)
        self.input_type: str = inputs[0].type
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        """The first output for one batch; a model of fixed batch size is run piece by piece."""
        return self.outputs(batch, self.output_names[:1])[0]

    def outputs(self, batch: NDArray[Any], names: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The named outputs (all by default) for one batch."""
        wanted = list(self.output_names if names is None else names)
        fixed = self.input_shape[0] if self.input_shape else None
        if not isinstance(fixed, int) or fixed == len(batch):
            return self._run(wanted, batch)
        if len(batch) % fixed:
            raise UsageError(f"the model takes batches of {fixed} only, {len(batch)} inputs do not divide into them")
        pieces = [self._run(wanted, batch[i : i + fixed]) for i in range(0, len(batch), fixed)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _run(self, names: list[str], batch: NDArray[Any]) -> list[NDArray[Any]]:
        try:
            values = self._session.run(names, {self.input_name: batch})
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error
        return [np.asarray(value) for value in values]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
