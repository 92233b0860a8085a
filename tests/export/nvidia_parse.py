"""Ask NVIDIA's parser and builder about ONNX files, in a process of its own; prints JSON {file: [refusals]}.

Usage: nvidia_parse.py FILES [--build FILES_TO_BUILD]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def refusals_of(path: str, build: bool) -> list[str]:
    """Errors of the parser, or of the builder when `build`; empty when the file is taken."""
    import tensorrt_rtx

    trt: Any = tensorrt_rtx
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        return [parser.get_error(i).desc() for i in range(parser.num_errors)] or ["refused without a word"]
    if not build:
        return []
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(network.get_input(0).name, (1, *shape), (4, *shape), (8, *shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return [] if plan is not None and plan.nbytes > 0 else ["parsed, but the builder made no engine"]


if __name__ == "__main__":
    split = sys.argv.index("--build") if "--build" in sys.argv else len(sys.argv)
    built = sys.argv[split + 1 :]
    print(json.dumps({path: refusals_of(path, path in built) for path in sys.argv[1:split]}))
