"""A worker process: JSON lines in and out, with time limits and one-line errors."""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.formats.child import ChildError, child_environment

ALONE = Path(__file__).parent / "alone"


class WorkerError(ChildError):
    """A worker died, hung or could not do what it was asked; the text is one line."""


class Worker:
    """One engine in its own process."""

    def __init__(self, python: str, cores: Sequence[int], threads: int) -> None:
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115
        pinned = [",".join(map(str, cores))] if cores else []
        self._process = subprocess.Popen(
            [python, str(ALONE / "worker.py"), *pinned],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            env=child_environment(threads),
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        stream = self._process.stdout
        if stream is not None:
            for line in stream:
                self._answers.put(line)
        self._answers.put(None)

    def ask(self, do: str, timeout: float = 60.0, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        if self._process.stdin is None:
            raise WorkerError("the process has no input")
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerError(self._obituary()) from None
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            raise WorkerError(f"{do} took more than {timeout:g} s") from None
        if line is None:
            raise WorkerError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _obituary(self) -> str:
        code = self._process.wait()
        self._noise.seek(0)
        lines = self._noise.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {lines[-1][:200]}" if lines else "")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._noise):
            if stream is not None:
                stream.close()
