"""ONNX files from anywhere: a valid model or one clear error, nothing else, and no other file touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from export.onnx_file import parse_onnx, read_onnx, set_spec, spec_of, to_bytes, write_onnx
from export.onnx_info import describe
from runtime.errors import InputError, ToolkitError
from runtime.spec import METADATA_KEY, ModelSpec


def test_round_trip(tmp_path: Path, onnx_model: ModelProto) -> None:
    write_onnx(tmp_path / "m.onnx", onnx_model)
    assert to_bytes(read_onnx(tmp_path / "m.onnx")) == to_bytes(onnx_model)


@pytest.mark.parametrize("data", [b"hello world", b"\x00" * 64, b"{}", b"\x08\x08", b"PK\x03\x04" + b"\x00" * 99])
def test_not_onnx(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(InputError, match="not an ONNX file"):
        read_onnx(tmp_path / "x.onnx")


def external(model: ModelProto) -> TensorProto:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")
    return tensor


def test_external_data_is_refused(onnx_model: ModelProto) -> None:
    name = external(onnx_model).name
    with pytest.raises(InputError, match="external data") as caught:
        parse_onnx(to_bytes(onnx_model), "m")
    assert name in str(caught.value)


def test_external_data_hidden_in_an_attribute_is_refused(onnx_model: ModelProto) -> None:
    hidden = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    onnx_model.graph.node.append(helper.make_node("Constant", [], ["h"], value=hidden))
    with pytest.raises(InputError, match=r"hidden.*external data"):
        parse_onnx(to_bytes(onnx_model), "m")


def test_external_data_hidden_in_an_inner_graph_is_refused(onnx_model: ModelProto) -> None:
    hidden = TensorProto(name="deep", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    inner = helper.make_graph([helper.make_node("Identity", ["deep"], ["o"])], "inner", [], [], [hidden])
    onnx_model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner))
    with pytest.raises(InputError, match=r"deep.*external data"):
        parse_onnx(to_bytes(onnx_model), "m")


def test_forged_sizes_are_refused(onnx_model: ModelProto) -> None:
    for dims in ([1 << 40], [1 << 20, 1 << 20], [7], [-3]):
        copy = parse_onnx(to_bytes(onnx_model), "m")
        copy.graph.initializer[0].dims[:] = dims
        with pytest.raises(InputError):
            parse_onnx(to_bytes(copy), "m")


def test_damaged_files_give_a_clear_error_or_a_model(onnx_model: ModelProto) -> None:
    data = to_bytes(onnx_model)
    generator = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(data)
        kind = int(generator.integers(3))
        place = int(generator.integers(len(data)))
        if kind == 0:
            damaged[place] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del damaged[place:]
        else:
            damaged[place:place] = generator.bytes(5)
        try:
            describe(parse_onnx(bytes(damaged), "m"), "m")
        except ToolkitError as error:
            assert str(error).count("\n") == 0


def test_spec_in_the_metadata(onnx_model: ModelProto, spec: ModelSpec) -> None:
    assert spec_of(onnx_model, "m") == spec
    other = ModelSpec("pfld")
    set_spec(onnx_model, other)
    assert spec_of(onnx_model, "m") == other
    onnx_model.metadata_props.add(key=METADATA_KEY, value=spec.to_json())
    with pytest.raises(InputError, match="2 model specs"):
        spec_of(onnx_model, "m")
    del onnx_model.metadata_props[:]
    assert spec_of(onnx_model, "m") is None
    onnx_model.metadata_props.add(key=METADATA_KEY, value="{broken")
    with pytest.raises(InputError, match="spec in the metadata"):
        spec_of(onnx_model, "m")


@pytest.mark.data
def test_foreign_files_are_described(shared: Path) -> None:
    cost = {
        "PFLD_GhostOne_112_1_opt_sim": (702_864, 74_913_944),
        "PFLD_GhostNet_112_1_opt_sim": (804_444, 98_401_800),
        "PFLD_GhostNet_Slim_112_1_opt_sim": (735_968, 81_922_120),
    }
    for name, (params, macs) in cost.items():
        info = describe(read_onnx(shared / "models" / "landmarks" / f"{name}.onnx"), name)
        assert (info.params, info.macs, info.precision, info.spec) == (params, macs, "float32", None)
    for path in (shared / "models").rglob("*.onnx"):
        info = describe(read_onnx(path), path.name)
        assert info.layers and info.inputs and onnx.__version__
