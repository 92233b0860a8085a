"""Reading ONNX into the calibration graph, and running it."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from calib.graph import read_graph, run
from calib.plan import predict_float, torch_parameters
from runtime.errors import InputError
from runtime.geometry import network_input


def by_onnxruntime(model: onnx.ModelProto, crops: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": network_input(crops, nets.SPEC)})[0]


@pytest.mark.parametrize(
    "model",
    [nets.ghost_net(opset=18), nets.ghost_net(opset=13), nets.residual_net()],
    ids=["reduce-mean", "global-pool", "residual"],
)
def test_the_executor_agrees_with_onnx_runtime(model: onnx.ModelProto) -> None:
    crops = nets.faces(3, margin=0)
    ours = predict_float(read_graph(model), crops, nets.SPEC)
    np.testing.assert_allclose(ours, by_onnxruntime(model, crops), rtol=0, atol=2e-6)


def test_a_part_of_the_graph_runs_alone() -> None:
    graph = read_graph(nets.ghost_net())
    parameters = torch_parameters(graph)
    batch = torch.from_numpy(network_input(nets.faces(2, margin=0), nets.SPEC))
    keep = {"one.cat": batch, "down": batch}
    whole = run(graph, parameters, batch, keep=keep)
    down = next(i for i, node in enumerate(graph.nodes) if node.output == "down")
    start = {"one.cat": keep["one.cat"], "p0": run(graph, parameters, batch, nodes=graph.nodes[: down - 1])}
    alone = run(graph, parameters, batch, nodes=(graph.nodes[down],), start=start)
    assert torch.equal(alone, keep["down"])
    assert whole.shape == (2, 2 * nets.POINTS)


def edited(change: str) -> onnx.ModelProto:
    model = nets.ghost_net()
    nodes = model.graph.node
    conv = next(n for n in nodes if n.op_type == "Conv")
    relu = next(n for n in nodes if n.op_type == "Relu")
    if change == "sigmoid":
        relu.op_type = "Sigmoid"
    elif change == "batchnorm":
        relu.op_type = "BatchNormalization"
    elif change == "dilation":
        conv.attribute.append(onnx.helper.make_attribute("dilations", [2, 2]))
    elif change == "nan":
        weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        weight[0, 0, 0, 0] = np.nan
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, model.graph.initializer[0].name))
    elif change == "opset":
        model.opset_import[0].version = 23
    elif change == "external":
        model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    elif change == "two outputs":
        model.graph.output.append(onnx.helper.make_tensor_value_info("p0", onnx.TensorProto.FLOAT, None))
    elif change == "order":
        relu.input[0] = "two.cat"
    elif change == "concat axis":
        next(n for n in nodes if n.op_type == "Concat").attribute[0].i = 2
    elif change == "quantised":
        relu.op_type = "QuantizeLinear"
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("sigmoid", "operator Sigmoid .* known: Add, AveragePool"),
        ("batchnorm", "fold it into the convolution"),
        ("dilation", "without dilation"),
        ("nan", "finite float32"),
        ("opset", "opset 23, this version reads 9 to 21"),
        ("external", "external file"),
        ("two outputs", "one input and one output"),
        ("order", "nothing before it makes"),
        ("concat axis", "only the channel axis"),
        ("quantised", "start from the fp32 file"),
    ],
)
def test_what_it_does_not_know_is_refused_in_words(change: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_graph(edited(change))
