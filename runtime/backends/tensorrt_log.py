"""TensorRT's own words, kept so that an error can repeat the last of them instead of flooding the terminal."""

from __future__ import annotations

import threading
from typing import Any

_KEPT = 40


def make_logger(trt: Any) -> Any:
    """A logger for this TensorRT module; `errors` and `warnings` hold what it said, newest last."""
    severe = {str(trt.ILogger.INTERNAL_ERROR), str(trt.ILogger.ERROR)}
    warning = str(trt.ILogger.WARNING)

    class Log(trt.ILogger):  # type: ignore[misc]  # a class of the module that is here
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._lock = threading.Lock()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            kind = str(severity)
            if kind in severe or kind == warning:
                with self._lock:
                    lines = self.errors if kind in severe else self.warnings
                    lines.append(" ".join(text.split()))
                    del lines[:-_KEPT]

    return Log()


def last_error(log: Any, otherwise: str) -> str:
    """The newest complaint, short enough for one line."""
    return str(log.errors[-1])[:300] if log.errors else otherwise
