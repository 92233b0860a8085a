"""The generated C of one tiny model, kept under version control so that a review shows every change of it.

`python -m tests.export.c.golden` writes it again after a wanted change; `--model` makes the model anew as well.
The weights are small integers over powers of two: neither torch nor the machine has a say in them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx

from export.c import COptions, export_c
from runtime.files import write_text
from runtime.spec import ModelSpec

FOLDER = Path(__file__).parent / "golden"
SPEC = ModelSpec("ghostone", 0.125, 5, 32, layout="plain5")
SEED = 5
MODEL = FOLDER / "fp32.onnx"
LONG_TABLE = re.compile(r"(\w+\[\d+\] = \{)\n((?:    [^{}\n]*,\n){24,})\}")


def folder_of(precision: str) -> Path:
    return FOLDER / precision


def fp32_model() -> onnx.ModelProto:
    return onnx.load(MODEL)


def sha256() -> str:
    """What the header calls the model."""
    return hashlib.sha256(fp32_model().SerializeToString(deterministic=True)).hexdigest()


def int8_model() -> onnx.ModelProto:
    """The int8 form with the same round scale everywhere."""
    from calib.graph import read_graph
    from calib.plan import Plan, plain_weight_scales
    from calib.sites import find_sites
    from export.int8 import write_int8

    model = fp32_model()
    graph = read_graph(model)
    sites = find_sites(graph)
    scales = {group: np.float32(1 / 32) for group in [*sites.group.values(), graph.input]}
    return write_int8(model, Plan(graph, sites, scales, plain_weight_scales(graph, sites)))


def abridged(source: str) -> str:
    """Long tables as their hash: what is left can be read."""

    def hashed(table: re.Match[str]) -> str:
        return f"{table[1]} /* sha256 of the text: {hashlib.sha256(table[2].encode()).hexdigest()} */ }}"

    return LONG_TABLE.sub(hashed, source)


def write_golden(folder: Path) -> None:
    """The whole float package, and the int8 source without its tables.

    Plain C only: the kernels of the other instruction sets lie in the tree by themselves.
    """
    options = COptions(isas=("scalar",))
    export_c(fp32_model(), SPEC, folder / "fp32", options=options)
    with tempfile.TemporaryDirectory() as scratch:
        export_c(int8_model(), SPEC, scratch, precision="int8", options=options)
        write_text(folder / "int8-abridged.c.txt", abridged((Path(scratch) / "landmarks.c").read_text()))


def _integer_like(shape: list[int], draw: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        return (draw.integers(-4, 5, shape) / 16).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (draw.integers(-2, 3, shape) / 2.0 ** round(np.log2(fan_in**0.5))).astype(np.float32)


def make_model() -> None:
    """A fused net of the family with plain weights."""
    import torch

    from train.models.zoo import build

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        face = torch.zeros(1, 3, SPEC.input_size, SPEC.input_size)
        net = build(SPEC, fused=True).eval()
        for parameter in net.parameters():  # equal tensors would be merged
            torch.nn.init.normal_(parameter)
        torch.onnx.export(net, (face,), stream, dynamo=False, opset_version=13, input_names=["face"])
    model = onnx.load_from_string(stream.getvalue())
    model.producer_name = model.producer_version = ""
    draw = np.random.default_rng(SEED)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(_integer_like(list(tensor.dims), draw), tensor.name))
    onnx.save(model, MODEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="store_true", help="make the model anew first (needs torch)")
    if parser.parse_args().model:
        make_model()
    write_golden(FOLDER)


if __name__ == "__main__":
    main()
