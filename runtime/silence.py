"""Libraries in C that print to stdout, where our JSON goes: their words are dropped."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_one_at_a_time = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop whatever is written to the process's standard output inside; for short calls such as loading a model."""
    with _one_at_a_time:
        sys.stdout.flush()
        _flush_c()
        try:
            saved = os.dup(1)
        except OSError:  # no standard output: nothing to keep clean
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        try:
            yield
        finally:
            sys.stdout.flush()
            _flush_c()
            os.dup2(saved, 1)
            os.close(saved)


def _flush_c() -> None:
    """C keeps what it prints in a buffer of its own, which must not be emptied after the stream is back."""
    try:
        ctypes.CDLL(None).fflush(None)
    except (OSError, AttributeError, TypeError):  # not every system gives its C library by this name
        return
