"""`make bench`: run every bench of this folder, one after another."""

from __future__ import annotations

import importlib
import sys

BENCHES = ("loader", "wide_branch", "synth")


def main() -> None:
    for name in BENCHES:
        print(f"== {name}", flush=True)
        importlib.import_module(f"tests.bench.{name}").main(sys.argv[1:])


if __name__ == "__main__":
    main()
