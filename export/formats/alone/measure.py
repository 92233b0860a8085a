"""Run a converted file: `python measure.py FORMAT MODEL INPUTS.npy OUTPUTS.npy FACTS.json`.

A script, run where the engine is, through the runtime's own back end (from PYTHONPATH); that needs numpy alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Load, run, write what came out and what the file says about itself."""
    formats, np = importlib.import_module("runtime.backends.formats"), importlib.import_module("numpy")
    form, model, inputs = formats.FORMATS[sys.argv[1]], Path(sys.argv[2]), np.load(sys.argv[3], allow_pickle=False)
    weights = model.with_suffix(form.weights).read_bytes() if form.weights else b""
    try:
        net = formats.open_net(form.name, model.read_bytes(), weights)
        np.save(sys.argv[4], net(inputs))
    except importlib.import_module("runtime.errors").ToolkitError as error:
        raise SystemExit(str(error)) from error
    facts = {"input": net.input_name, "output": net.output_name, "layout": net.layout}
    Path(sys.argv[5]).write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
