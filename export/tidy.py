"""One canonical graph from every exporter: means as GlobalAveragePool, readable names, nothing about the host."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from export.onnx_file import check_onnx, opset_of, set_spec
from runtime.errors import InputError
from runtime.spec import ModelSpec

INPUT, OUTPUT, BATCH = "input", "landmarks", "batch"
PRODUCER = "landmark-toolkit"
_IR_OF_OPSET = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
_DEFAULTS: dict[tuple[str, str], object] = {
    ("Conv", "auto_pad"): b"NOTSET",
    ("Gemm", "alpha"): 1.0,
    ("Gemm", "beta"): 1.0,
    ("Gemm", "transA"): 0,
    ("Flatten", "axis"): 1,
}
_SUFFIX = {"GlobalAveragePool": "mean", "Flatten": "flat"}
_HOST_PATH = re.compile(rb"(?:/(?:home|root|usr|tmp|work|opt|var|mnt|Users)/|site-packages|[A-Z]:\\\\|File \")")


def tidy(model: ModelProto, spec: ModelSpec) -> ModelProto:
    """Rewrite an exported float graph to the canonical form; numerically the same up to the order of a mean's sum."""
    result = ModelProto()
    result.CopyFrom(model)
    if result.functions:
        raise InputError(f"exported graph holds {len(result.functions)} local functions; expected plain operators")
    _strip(result)
    _plain_constants(result.graph)
    means_to_pools(result)
    _drop_zero_biases(result.graph)
    _own_biases(result.graph)
    _plain_attributes(result.graph)
    _rename(result.graph)
    _order_constants(result.graph)
    return finish(result, spec)


def finish(model: ModelProto, spec: ModelSpec) -> ModelProto:
    """Metadata, shapes and the format's full check: what every ONNX file of ours goes through last."""
    _strip(model)
    _standard_domain_only(model)
    model.producer_name, model.producer_version = PRODUCER, ""
    model.ir_version = _IR_OF_OPSET.get(opset_of(model), model.ir_version)
    model.graph.name = spec.architecture
    set_spec(model, spec)
    _set_interface(model.graph.input, INPUT, [3, spec.input_size, spec.input_size])
    _set_interface(model.graph.output, OUTPUT, [2 * spec.points])
    result = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    check_onnx(result, "exported model")
    return result


def refuse_host_traces(data: bytes, where: str) -> None:
    """A shipped file must not tell where it was made: no paths, no stack traces."""
    own = [text.encode() for text in {str(Path.cwd()), str(Path.home())} if len(text) > 1]
    found = _HOST_PATH.search(data)
    hits = [text for text in own if text in data] or ([found.group(0)] if found else [])
    if hits:
        what = hits[0].decode("utf-8", "replace")
        raise InputError(f"{where}: holds a trace of the machine it was made on ({what!r}); not shipped")


def _strip(model: ModelProto) -> None:
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for info in (*graph.input, *graph.output):
        info.doc_string = ""
        del info.metadata_props[:]


def _standard_domain_only(model: ModelProto) -> None:
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in used or o.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _set_interface(values: list[ValueInfoProto], name: str, sizes: list[int]) -> None:
    if len(values) != 1 or values[0].name != name:
        raise InputError(f"exported graph: expected one {name!r}, found {[v.name for v in values]}")
    info = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [BATCH, *sizes])
    values[0].CopyFrom(info)


def _plain_constants(graph: GraphProto) -> None:
    """Constants become initializers, and Identity nodes, through which an exporter shares equal ones, go."""
    outputs = {info.name for info in graph.output}
    alias: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = alias.get(name, name)
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            alias[node.output[0]] = node.input[0]
        elif node.op_type == "Constant" and values:
            graph.initializer.append(values[0])
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def means_to_pools(model: ModelProto) -> None:
    """Rewrite, in place, means over the whole map to GlobalAveragePool, and reshapes to (B, C) to Flatten."""
    shapes = _shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    constants = {t.name: t for t in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        source = shapes.get(node.input[0], [])
        if node.op_type in ("ReduceMean", "AveragePool") and _is_global_mean(node, source, constants):
            kept = node.op_type == "AveragePool" or _attribute(node, "keepdims", 1)
            pooled = node.output[0] if kept else f"{node.output[0]}/pooled"
            nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled]))
            if not kept:
                nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], axis=1))
        elif node.op_type == "Reshape" and _is_flatten(source, shapes.get(node.output[0], [])):
            nodes.append(helper.make_node("Flatten", [node.input[0]], [node.output[0]], axis=1))
        else:
            nodes.append(node)
    _replace_nodes(model.graph, nodes)


def _shapes(graph: GraphProto) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        dims = info.type.tensor_type.shape.dim
        found[info.name] = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]
    return found


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _is_global_mean(node: NodeProto, source: list[int | str], constants: dict[str, onnx.TensorProto]) -> bool:
    if len(source) != 4:
        return False
    if node.op_type == "AveragePool":
        kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [])
        pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [0])
        return kernel == source[2:] and not any(pads)
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1 and node.input[1] in constants:
        axes = [int(v) for v in np.atleast_1d(numpy_helper.to_array(constants[node.input[1]]))]
    return axes is not None and sorted(a % 4 for a in axes) == [2, 3]


def _is_flatten(source: list[int | str], target: list[int | str]) -> bool:
    """Does a reshape only put channels and map into one axis?"""
    inner = [size for size in source[1:] if isinstance(size, int) and size > 0]
    return len(target) == 2 and len(source) > 2 and len(inner) == len(source) - 1 and target[1] == math.prod(inner)


def _drop_zero_biases(graph: GraphProto) -> None:
    """One exporter leaves them out, the other does not."""
    constants = {t.name: t for t in graph.initializer}
    zeros = {name for name, tensor in constants.items() if not numpy_helper.to_array(tensor).any()}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]


def _own_biases(graph: GraphProto) -> None:
    """Equal biases are shared by exporters; each layer gets its own back, under its own name."""
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in constants:
            continue
        name = node.input[1].removesuffix(".weight") + ".bias"
        if node.input[1].endswith(".weight") and node.input[2] != name and name not in constants:
            constants[name] = graph.initializer.add()
            constants[name].CopyFrom(constants[node.input[2]])
            constants[name].name = name
            node.input[2] = name


def _plain_attributes(graph: GraphProto) -> None:
    """Sorted, and without those that only repeat the operator's default."""
    for node in graph.node:
        kept = sorted((a for a in node.attribute if not _is_default(node.op_type, a)), key=lambda a: a.name)
        copies = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
        for attribute in node.attribute:
            attribute.doc_string = ""


def _is_default(op_type: str, attribute: AttributeProto) -> bool:
    wanted = _DEFAULTS.get((op_type, attribute.name))
    return wanted is not None and helper.get_attribute_value(attribute) == wanted


def _order_constants(graph: GraphProto) -> None:
    """Constants in the order of their use, stored one way; unused ones go."""
    by_name = {t.name: t for t in graph.initializer}
    used = dict.fromkeys(name for node in graph.node for name in node.input if name in by_name)
    kept = [numpy_helper.from_array(numpy_helper.to_array(by_name[name]), name) for name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _rename(graph: GraphProto) -> None:
    """Layers are called after their weights, everything else after what it reads."""
    constants = {t.name for t in graph.initializer}
    fixed = {INPUT, OUTPUT}
    producer: dict[str, str] = {INPUT: ""}
    tensor_of: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.node:
        weight = next((n for n in node.input if n in constants), "")
        if weight.endswith(".weight"):
            base = weight.removesuffix(".weight")
        else:
            base = _joined([producer.get(n, "") for n in node.input if n not in constants], node.op_type)
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name
        for i, source in enumerate(node.input):
            node.input[i] = tensor_of.get(source, source)
        for i, output in enumerate(node.output):
            producer[output] = name
            tensor_of[output] = output if output in fixed else name if i == 0 else f"{name}:{i}"
            node.output[i] = tensor_of[output]


def _joined(names: list[str], op_type: str) -> str:
    """The part that all producers' names share, and what is done to them."""
    parts = [name.split(".") for name in names]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    if not any(shared) and op_type == "Add":
        shared = [parts[-1][0]]
    suffix = _SUFFIX.get(op_type, op_type.lower())
    return ".".join([*[s for s in shared if s], suffix])
