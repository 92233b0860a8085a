"""Headless Chromium over its debugging pipe: load a page, emulate a screen, see every request and every complaint."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0


def find_chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """One browser with one page."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()
        high_in, high_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser))

        def as_three_and_four() -> None:
            """The browser wants its pipe at these two descriptors."""
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=as_three_and_four,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(high_in)
        os.close(high_out)
        os.close(to_browser)
        os.close(from_browser)
        self._out, self._in, self._rest, self._id = ours_out, ours_in, b"", 0
        os.set_blocking(ours_in, False)
        self.events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session: str | None = None
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def _messages(self) -> list[dict[str, Any]]:
        try:
            self._rest += os.read(self._in, 1 << 20)
        except BlockingIOError:
            time.sleep(0.005)
        *whole, self._rest = self._rest.split(b"\0")
        return [json.loads(message) for message in whole]

    def _ask(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self._id += 1
        request: dict[str, Any] = {"id": self._id, "method": method, "params": parameters or {}}
        if getattr(self, "_session", None):
            request["sessionId"] = self._session
        os.write(self._out, json.dumps(request).encode() + b"\0")
        end = time.monotonic() + SECONDS
        answer: dict[str, Any] | None = None
        while answer is None:
            if time.monotonic() > end:
                raise TimeoutError(f"Chromium did not answer {method}")
            for message in self._messages():
                if message.get("id") == self._id:
                    answer = message
                else:
                    self.events.append(message)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Load a file on a screen of this size."""
        self.events.clear()
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._ask("Page.navigate", {"url": path.absolute().as_uri()})
        end = time.monotonic() + SECONDS
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            if time.monotonic() > end:
                raise TimeoutError(f"{path} did not load")
            self.events += self._messages()

    def evaluate(self, expression: str) -> Any:
        return self._ask("Runtime.evaluate", {"expression": expression, "returnByValue": True})["result"].get("value")

    def requests(self) -> list[str]:
        """Everything the page asked for, beside itself and what it carries inside."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent[1:] if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """What stands in the console."""
        entries = [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"]
        return entries + [json.dumps(e["params"]) for e in self.events if e.get("method") in CONSOLE]

    def screenshot(self, path: Path) -> None:
        shot = self._ask("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)


CONSOLE = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown")
