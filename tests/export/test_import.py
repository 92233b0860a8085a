"""Import: what is recognised, what is refused and how, and that every import is proven before it is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from family import SIZE, exported, in_another_order, save, spec_of_upstream, state, trained

from export import importer
from export.identify import identify, with_width
from export.importer import PROOF_LIMIT, SpecFlags, import_file
from export.onnx_file import set_spec, write_onnx
from export.presets import PRESETS, RECOGNISED
from runtime.errors import CheckFailedError, InputError, ToolkitError, UsageError
from runtime.files import sha256_file
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint
from train.models.zoo import FAMILY, build

PUBLISHED = {"ghostone": 2086, "ghostnet": 351, "ghostnet-slim": 351, "pfld": 255}
"""How many weights upstream's checkpoints hold."""
FACES = "synth:3@5"
Weights = Callable[..., dict[str, Tensor]]


def preset(architecture: str) -> SpecFlags:
    return SpecFlags(preset=f"upstream-{architecture}")


@pytest.fixture(scope="module")
def upstream() -> Weights:
    """Weights of a trained-looking model of an architecture, made once."""
    made: dict[tuple[str, int], dict[str, Tensor]] = {}

    def weights(architecture: str, branches: int = 6) -> dict[str, Tensor]:
        if (architecture, branches) not in made:
            made[architecture, branches] = state(trained(spec_of_upstream(architecture, branches=branches)))
        return dict(made[architecture, branches])

    return weights


@pytest.fixture(scope="module")
def graph() -> Callable[..., ModelProto]:
    """An exported graph of an architecture, made once."""
    made: dict[str, ModelProto] = {}

    def of(architecture: str) -> ModelProto:
        if architecture not in made:
            spec = spec_of_upstream(architecture)
            model = build(spec, fused=True) if architecture == "ghostone" else trained(spec)
            made[architecture] = exported(model, spec)
        copy = ModelProto()
        copy.CopyFrom(made[architecture])
        return copy

    return of


def run_import(path: Path, out: Path, flags: SpecFlags, **options: Any) -> importer.Imported:
    return import_file(path, out, flags, faces=FACES, **options)


def refused(
    tmp_path: Path, path: Path, flags: SpecFlags, pattern: str, error: type[ToolkitError] = InputError, **options: Any
) -> str:
    """The import fails with one line that says so, and leaves nothing behind."""
    before = set(tmp_path.iterdir())
    with pytest.raises(error, match=pattern) as caught:
        run_import(path, tmp_path / "out.ckpt", flags, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200
    assert set(tmp_path.iterdir()) == before
    return str(caught.value)


# ------------------------------------------------------------------------------------------- PyTorch files


@pytest.mark.parametrize("architecture", list(PUBLISHED))
def test_a_published_form_is_identified_and_kept_exactly(tmp_path: Path, upstream: Weights, architecture: str) -> None:
    weights = upstream(architecture)
    assert len(weights) == PUBLISHED[architecture]
    save(OrderedDict(weights), tmp_path / "w.pth")
    result = run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset(architecture))
    checkpoint = load_checkpoint(tmp_path / "m.ckpt")
    assert (checkpoint.kind, checkpoint.spec) == ("multi-branch", spec_of_upstream(architecture))
    assert checkpoint.parent == sha256_file(tmp_path / "w.pth") == result.source_sha256
    assert result.sha256 == sha256_file(tmp_path / "m.ckpt")
    assert checkpoint.model.keys() == weights.keys()
    assert all(torch.equal(checkpoint.model[name], tensor) for name, tensor in weights.items())


def test_the_imported_model_computes_what_the_original_does(tmp_path: Path, upstream: Weights) -> None:
    spec = spec_of_upstream("ghostone")
    original = build(spec)
    original.load_state_dict(upstream("ghostone"))
    save(upstream("ghostone"), tmp_path / "w.pth")
    run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("ghostone"))
    model, _ = load_model(tmp_path / "m.ckpt")
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(original.eval()(x), model(x))


def test_full_size_ghostone_has_the_published_fused_form(tmp_path: Path) -> None:
    weights = state(build(spec_of_upstream("ghostone", 1.0, 112), fused=True))
    assert len(weights) == 103 and weights["conv1.reparam_conv.weight"].shape == (64, 3, 3, 3)
    save(weights, tmp_path / "w.pth")
    result = run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("ghostone"))
    assert (result.kind, result.spec.width, result.spec.input_size) == ("fused", 1.0, 112)


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("pfld_backbone", ""),
        ("plfd_backbone", "module."),
        ("state_dict", "_orig_mod."),
        ("model", "module._orig_mod."),
        ("anything", "_orig_mod.module."),
    ],
)
def test_keys_and_prefixes(tmp_path: Path, upstream: Weights, key: str, prefix: str) -> None:
    weights = upstream("pfld")
    content = {key: {prefix + name: tensor for name, tensor in weights.items()}, "epoch": 335}
    save(content, tmp_path / "w.pth.tar")
    result = run_import(tmp_path / "w.pth.tar", tmp_path / "m.ckpt", preset("pfld"))
    assert load_checkpoint(tmp_path / "m.ckpt").model.keys() == weights.keys()
    notes = " ".join(result.notes)
    assert repr(key) in notes and all(repr(p + ".") in notes for p in prefix.split(".") if p)


def test_the_auxiliary_net_is_left_aside_and_said(tmp_path: Path, upstream: Weights) -> None:
    save({"plfd_backbone": upstream("pfld"), "auxiliarynet": {"fc.weight": torch.ones(2)}}, tmp_path / "w.pth")
    result = run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("pfld"))
    assert any("left aside: 'auxiliarynet'" in note for note in result.notes)


def test_two_candidates_need_a_key(tmp_path: Path, upstream: Weights) -> None:
    first, second = upstream("pfld"), upstream("pfld") | {"fc.bias": torch.zeros(196)}
    save({"model": first, "net": second}, tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", preset("pfld"), "name it with --key; tables of weights here: model, net")
    refused(tmp_path, tmp_path / "w.pth", preset("pfld"), "--key ema: no table", UsageError, key="ema")
    run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("pfld"), key="net")
    assert torch.equal(load_checkpoint(tmp_path / "m.ckpt").model["fc.bias"], second["fc.bias"])


def test_a_name_with_and_without_prefix_is_refused(tmp_path: Path, upstream: Weights) -> None:
    save(upstream("pfld") | {"module.fc.bias": torch.zeros(196)}, tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", preset("pfld"), "'fc.bias' is there twice")


def test_half_precision_is_widened_exactly_and_said(tmp_path: Path, upstream: Weights) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in upstream("pfld").items()}
    save(half, tmp_path / "w.pth")
    result = run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("pfld"))
    assert "float16 weights widened to float32 (exact)" in result.notes
    kept = load_checkpoint(tmp_path / "m.ckpt").model
    assert all(torch.equal(kept[name].to(tensor.dtype), tensor) for name, tensor in half.items())


def test_weights_in_another_memory_order_are_the_same_weights(tmp_path: Path, upstream: Weights) -> None:
    weights = {
        n: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for n, t in upstream("pfld").items()
    }
    assert not all(tensor.is_contiguous() for tensor in weights.values())
    save(weights, tmp_path / "w.pth")
    run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("pfld"))
    assert torch.equal(load_checkpoint(tmp_path / "m.ckpt").model["conv1.0.weight"], weights["conv1.0.weight"])


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (
            lambda w: w.pop("conv7.rbr_conv.1.bn.running_mean"),
            r"1 \[conv7.rbr_conv.1.bn.running_mean.* missing, none unex",
        ),
        (lambda w: w.update({"fc2.weight": torch.ones(2)}), r"none missing, 1 \[fc2.weight.*unexpected"),
        (
            lambda w: w.update({"conv2.rbr_conv.0.convs.weight": w.pop("conv2.rbr_conv.0.conv.weight")}),
            r"nearest: conv2.rbr_conv.0.convs.weight.*nearest: conv2.rbr_conv.0.conv.weight",
        ),
        (lambda w: w.update({"conv7.rbr_conv.0.conv.weight": torch.ones(8, 4, 1, 1)}), "no width gives these shapes"),
        (lambda w: w.update({"fc.weight": torch.ones(196)}), "fc.weight has shape"),
        (lambda w: w.update({"fc.weight": torch.ones(195, 512)}), "195 outputs, expected two per point"),
        (lambda w: w.update({"conv8.0.weight": torch.ones(32, 8, 3, 4)}), "kernel of 3x4"),
        (lambda w: w.update({"fc.bias": torch.full((196,), torch.nan)}), "'fc.bias' holds NaN"),
        (lambda w: w.update({"fc.bias": torch.ones(196, dtype=torch.float64)}), "float64; expected float32"),
        (lambda w: w.update({"fc.bias": torch.ones(196, dtype=torch.complex64)}), "complex64; expected float32"),
    ],
)
def test_weights_that_do_not_fit_are_never_loaded_in_part(
    tmp_path: Path, upstream: Weights, change: Callable[[dict[str, Tensor]], Any], pattern: str
) -> None:
    weights = upstream("ghostone", 2)
    change(weights)
    save(weights, tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", preset("ghostone"), pattern)


@pytest.mark.parametrize(
    ("name", "project"),
    [("block3_2.conv.0.weight", "polarisZhao"), ("conv_out.weight", "Ultralight-Digital-Human")],
)
def test_relatives_that_differ_are_named(tmp_path: Path, name: str, project: str) -> None:
    save({"pfld_backbone": {"conv1.weight": torch.ones(64, 3, 3, 3), name: torch.ones(2)}}, tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", preset("pfld"), project)


def test_our_own_checkpoint_is_not_imported(tmp_path: Path) -> None:
    spec = spec_of_upstream("pfld")
    save_checkpoint(tmp_path / "a.ckpt", Checkpoint("multi-branch", spec, state(build(spec))))
    refused(tmp_path, tmp_path / "a.ckpt", SpecFlags(), "already a checkpoint of this toolkit")


def test_no_table_of_weights(tmp_path: Path) -> None:
    save({"epoch": 3, "lr": [0.1]}, tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", SpecFlags(), "holds no table of weights")
    save([torch.ones(2)], tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", SpecFlags(), "holds a list")


# --------------------------------------------------------------------------------------------- ONNX files


@pytest.mark.parametrize("architecture", list(FAMILY))
@pytest.mark.parametrize("shuffled", [False, True])
def test_an_anonymous_graph_maps_by_its_wiring(
    tmp_path: Path, graph: Callable[..., ModelProto], architecture: str, shuffled: bool
) -> None:
    model = graph(architecture)
    if shuffled:
        reordered = in_another_order(model)
        assert [n.output[0] for n in reordered.graph.node] != [n.output[0] for n in model.graph.node]
        model = reordered
    write_onnx(tmp_path / "m.onnx", model)
    result = run_import(tmp_path / "m.onnx", tmp_path / "m.ckpt", preset(architecture))
    assert (result.kind, result.spec) == ("fused", spec_of_upstream(architecture))
    assert result.proof.difference is not None and result.proof.difference <= PROOF_LIMIT


def test_the_proof_finds_a_graph_that_is_wired_otherwise(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    model = graph("ghostnet-slim")
    relu = next(node for node in model.graph.node if node.op_type == "Relu" and "conv7" in node.output[0])
    reader = next(node for node in model.graph.node if relu.output[0] in node.input)
    reader.input[0] = relu.input[0]
    model.graph.node.remove(relu)
    write_onnx(tmp_path / "m.onnx", model)
    refused(tmp_path, tmp_path / "m.onnx", preset("ghostnet-slim"), "differs from its source by", CheckFailedError)


def test_the_proof_finds_swapped_weights(
    tmp_path: Path, graph: Callable[..., ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importer.named_as

    def swapped(*arguments: Any) -> dict[str, Tensor]:
        weights = real(*arguments)
        a, b = "conv5_3.ghost_conv.0.primary_conv.0.weight", "conv5_4.ghost_conv.0.primary_conv.0.weight"
        weights[a], weights[b] = weights[b], weights[a]
        return weights

    monkeypatch.setattr(importer, "named_as", swapped)
    write_onnx(tmp_path / "m.onnx", graph("ghostnet"))
    refused(tmp_path, tmp_path / "m.onnx", preset("ghostnet"), "differs from its source", CheckFailedError)


def test_weights_that_change_on_disk_are_found(
    tmp_path: Path, upstream: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(path: Path, checkpoint: Checkpoint) -> None:
        damaged = dict(checkpoint.model) | {"fc.bias": checkpoint.model["fc.bias"] + 1e-6}
        save_checkpoint(path, replace(checkpoint, model=damaged))

    save(upstream("pfld"), tmp_path / "w.pth")
    monkeypatch.setattr(importer, "save_checkpoint", careless)
    refused(tmp_path, tmp_path / "w.pth", preset("pfld"), "fc.bias came back changed", CheckFailedError)


def test_weights_that_overflow_are_found(tmp_path: Path, upstream: Weights) -> None:
    weights = upstream("pfld")
    weights["fc.weight"] = weights["fc.weight"] * 0 + 3e38
    save(weights, tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", preset("pfld"), "NaN or infinity", CheckFailedError)


def test_names_that_contradict_the_order_are_refused(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    model = graph("ghostone")
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    tensor = next(t for t in model.graph.initializer if t.name == convs[4].input[1])
    tensor.name = convs[4].input[1] = "conv7.reparam_conv.weight"
    write_onnx(tmp_path / "m.onnx", model)
    refused(tmp_path, tmp_path / "m.onnx", preset("ghostone"), "'conv7.reparam_conv.weight' stands where conv3_1")


def _set(model: ModelProto, index: int, name: str, value: Any) -> None:
    node = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")][index]
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda m: _set(m, 3, "strides", [2, 2]), "stride"),
        (lambda m: _set(m, 1, "pads", [0, 0, 0, 0]), "padding"),
        (lambda m: _set(m, 1, "pads", [1, 1, 0, 0]), "pads unevenly"),
        (lambda m: _set(m, 1, "dilations", [2, 2]), "dilation"),
        (lambda m: _set(m, 1, "group", 4), "groups"),
        (lambda m: _set(m, -1, "alpha", 0.5), "scales or transposes"),
        (lambda m: m.graph.node.add(op_type="BatchNormalization", input=["x"], output=["y"]), "fold them first"),
        (lambda m: m.graph.node.add(op_type="QuantizeLinear", input=["x"], output=["y"]), "is quantised"),
        (lambda m: m.graph.node.add(op_type="If", input=["x"], output=["y"]), "control flow"),
        (lambda m: m.graph.output.pop(), "no output"),
    ],
)
def test_graphs_of_another_make(
    tmp_path: Path, graph: Callable[..., ModelProto], change: Callable[[ModelProto], Any], pattern: str
) -> None:
    model = graph("ghostone")
    change(model)
    write_onnx(tmp_path / "m.onnx", model)
    refused(tmp_path, tmp_path / "m.onnx", preset("ghostone"), pattern)


def test_half_precision_graphs_and_nan_are_refused(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    for dtype, value, pattern in ((np.float16, 1.0, "is float16; import the float32"), (np.float32, np.nan, "NaN")):
        model = graph("ghostone")
        name = next(n for n in model.graph.node if n.op_type == "Conv").input[1]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, value, dtype), name))
        write_onnx(tmp_path / "m.onnx", model)
        refused(tmp_path, tmp_path / "m.onnx", preset("ghostone"), pattern)
        (tmp_path / "m.onnx").unlink()


def test_a_graph_with_a_layer_too_few(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    model = graph("ghostone")
    at = next(i for i, n in enumerate(model.graph.node) if n.op_type == "Gemm")
    head = model.graph.node[at]
    del model.graph.node[at]
    model.graph.node.add(op_type="Identity", input=[head.input[0]], output=["output"])
    write_onnx(tmp_path / "m.onnx", model)
    refused(tmp_path, tmp_path / "m.onnx", SpecFlags(), "51 weighted layers fits none of: pfld has 44, ghostnet has 60")


def test_a_key_is_for_pytorch_files(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    write_onnx(tmp_path / "m.onnx", graph("pfld"))
    refused(tmp_path, tmp_path / "m.onnx", preset("pfld"), "--key is for PyTorch files", UsageError, key="model")


# ------------------------------------------------------------------------------------------------- the spec


def test_a_spec_inside_the_file_is_used(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    model, spec = graph("pfld"), replace(spec_of_upstream("pfld"), channels="rgb", width=0.251)
    set_spec(model, spec)
    write_onnx(tmp_path / "m.onnx", model)
    assert run_import(tmp_path / "m.onnx", tmp_path / "m.ckpt", SpecFlags()).spec == spec
    refused(tmp_path, tmp_path / "m.onnx", SpecFlags(channels="bgr"), "--channels bgr contradicts", UsageError)
    refused(tmp_path, tmp_path / "m.onnx", preset("pfld"), "--spec upstream-pfld contradicts the spec in", UsageError)


def test_without_a_spec_it_says_what_is_missing(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    write_onnx(tmp_path / "m.onnx", graph("pfld"))
    text = refused(tmp_path, tmp_path / "m.onnx", SpecFlags(channels="bgr"), "name a preset", UsageError)
    assert "--mean --std --crop-scale --coordinates" in text and all(name in text for name in PRESETS)


def test_flags_make_a_spec(tmp_path: Path, upstream: Weights) -> None:
    save(upstream("pfld"), tmp_path / "w.pth")
    flags = SpecFlags(channels="rgb", mean=(0.0, 0.1, 0.2), std=(1.0, 1.0, 2.0), crop_scale=1.5, coordinates="centre")
    spec = run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", flags).spec
    assert (spec.channels, spec.mean, spec.std) == ("rgb", (0.0, 0.1, 0.2), (1.0, 1.0, 2.0))
    assert (spec.crop.scale, spec.crop.rounding, spec.coordinates) == (1.5, "none", "centre")
    refused(tmp_path, tmp_path / "w.pth", replace(flags, crop_scale=0.0), "crop scale must lie", UsageError)
    refused(tmp_path, tmp_path / "w.pth", replace(flags, std=(0.0, 1.0, 1.0)), "std positive", UsageError)


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        ({"width": 0.5}, "--width 0.5 contradicts"),
        ({"points": 68}, "--points 68 contradicts"),
        ({"input_size": 112}, "--input-size 112 contradicts"),
        ({"channels": "rgb"}, "--channels rgb contradicts"),
        ({"crop_scale": 1.3}, "--crop-scale 1.3 contradicts"),
        ({"crop_rounding": "none"}, "--crop-rounding none contradicts"),
        ({"layout": "ibug68"}, "--layout ibug68 contradicts"),
        ({"normaliser": "inter-pupil"}, "--normaliser inter-pupil contradicts"),
        ({"preset": "upstream-ghostnet"}, "spec says architecture ghostnet, but the weights say pfld"),
        ({"preset": "upstream-pfdl"}, "did you mean 'upstream-pfld'"),
        ({"architecture": "resnet"}, "unknown architecture"),
    ],
)
def test_contradictions(tmp_path: Path, upstream: Weights, flags: dict[str, Any], pattern: str) -> None:
    save(upstream("pfld"), tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", replace(preset("pfld"), **flags), pattern, UsageError)


def test_a_named_architecture_that_does_not_fit(tmp_path: Path, upstream: Weights) -> None:
    save(upstream("pfld"), tmp_path / "w.pth")
    refused(tmp_path, tmp_path / "w.pth", SpecFlags(architecture="ghostone"), "do not fit the nearest model, ghostone")


def test_a_spec_file(tmp_path: Path, upstream: Weights) -> None:
    save(upstream("pfld"), tmp_path / "w.pth")
    spec = replace(spec_of_upstream("pfld"), channels="rgb", normaliser="inter-pupil")
    (tmp_path / "s.json").write_text(spec.to_json())
    flags = SpecFlags(preset=str(tmp_path / "s.json"))
    assert run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", flags).spec == spec
    (tmp_path / "s.json").write_text(replace(spec, input_size=64).to_json())
    refused(tmp_path, tmp_path / "w.pth", flags, "spec says input size 64, but the weights say 48", UsageError)


def test_an_existing_checkpoint_is_kept(tmp_path: Path, upstream: Weights) -> None:
    save(upstream("pfld"), tmp_path / "w.pth")
    (tmp_path / "m.ckpt").write_text("mine")
    for target, pattern in (("m.ckpt", "--force"), ("w.pth", "is the file to import"), ("", "is a directory")):
        with pytest.raises(UsageError, match=pattern):
            run_import(tmp_path / "w.pth", tmp_path / target, preset("pfld"))
    assert (tmp_path / "m.ckpt").read_text() == "mine"
    run_import(tmp_path / "w.pth", tmp_path / "m.ckpt", preset("pfld"), force=True)
    load_checkpoint(tmp_path / "m.ckpt")


def test_equal_imports_give_equal_bytes(tmp_path: Path, graph: Callable[..., ModelProto]) -> None:
    write_onnx(tmp_path / "m.onnx", graph("ghostone"))
    for name in ("a.ckpt", "b.ckpt"):
        run_import(tmp_path / "m.onnx", tmp_path / name, preset("ghostone"))
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


# ------------------------------------------------------------------------------------------------- identity


def outline_state(spec: ModelSpec, fused: bool) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(spec, fused=fused).state_dict()


@pytest.mark.parametrize("architecture", list(FAMILY))
@pytest.mark.parametrize("width", [0.25, 0.35, 0.8, 1.0, 1.5])
def test_every_model_of_the_zoo_is_recognised_by_shape(architecture: str, width: float) -> None:
    spec = spec_of_upstream(architecture, width, 96, 68)
    for fused in (False, True):
        found = identify(outline_state(spec, fused), "w.pth")
        assert (found.architecture, found.kind == "fused", found.width) == (architecture, fused, width)
        assert (found.points, found.input_size) == (68, 96)


@pytest.mark.parametrize("branches", [1, 3])
def test_the_number_of_branches_is_read(branches: int) -> None:
    spec = replace(spec_of_upstream("ghostone"), branches=branches)
    assert identify(outline_state(spec, False), "w.pth").branches == branches


def test_widths_that_round_to_the_same_channels() -> None:
    found = identify(outline_state(spec_of_upstream("pfld", 0.25), True), "w.pth")
    assert with_width(found, 0.251).width == 0.251
    assert with_width(found, 0.5).width == 0.25 and with_width(found, 99.0).width == 0.25


# ---------------------------------------------------------------------------------------------- the command


def toolkit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_command(tmp_path: Path, upstream: Weights) -> None:
    save(upstream("ghostone"), tmp_path / "run.v2.pth.tar")
    flags = ["--spec", "upstream-ghostone", "--proof-data", FACES]
    run = toolkit("import", "run.v2.pth.tar", *flags, "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts["path"] == "run.v2.ckpt" and facts["spec"]["architecture"] == "ghostone"
    assert facts["proof"]["faces"] == "3 faces of synth:3@5"
    assert load_checkpoint(tmp_path / "run.v2.ckpt").spec == spec_of_upstream("ghostone")
    again = toolkit("import", "run.v2.pth.tar", *flags, cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.startswith("error: run.v2.ckpt: is there already")
    assert again.stderr.count("\n") == 1


def test_recognised_files_name_presets_that_exist() -> None:
    assert all(name in PRESETS and len(digest) == 64 for digest, (_, name) in RECOGNISED.items())


# ---------------------------------------------------------------------------------------------- real files


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture", "nme", "failures", "auc"),
    [
        ("PFLD_GhostOne_112_1_opt_sim", "ghostone", 5.571, 36, 0.478),
        # Upstream's own preparation gives 39 failures: one face lies within 0.0003 of the limit.
        ("PFLD_GhostNet_112_1_opt_sim", "ghostnet", 5.670, 38, 0.471),
        ("PFLD_GhostNet_Slim_112_1_opt_sim", "ghostnet-slim", 5.701, 40, 0.464),
    ],
)
def test_published_files_keep_their_accuracy(
    shared: Path, tmp_path: Path, name: str, architecture: str, nme: float, failures: int, auc: float
) -> None:
    from toolkit.evaluate import score_artefacts
    from train.data.open import open_source

    result = import_file(shared / "models" / "landmarks" / f"{name}.onnx", tmp_path / "m.ckpt")
    assert result.spec == spec_of_upstream(architecture, 1.0, 112)
    assert result.proof.difference is not None and result.proof.difference <= PROOF_LIMIT
    board = score_artefacts([tmp_path / "m.ckpt"], open_source(shared / "data" / "wflw_real"))
    scores = board.rows[0].evaluation.overall
    assert scores.count == 466
    assert abs(100 * scores.nme - nme) <= 0.02
    assert round(scores.failure_rate * scores.count) == failures
    assert abs(scores.auc - auc) <= 0.001


@pytest.mark.data
def test_the_other_pfld_is_refused_by_name(shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "landmarks" / "pfld_68_cunjian.onnx"
    refused(tmp_path, source, SpecFlags(), "polarisZhao's PFLD")


def test_network_input_is_what_the_proof_feeds() -> None:
    """Guards the proof itself: probes are normalised faces, not zeros."""
    from export.probes import open_probes

    spec = spec_of_upstream("pfld")
    inputs, regions = open_probes(FACES).crop(spec)
    assert inputs.shape == (3, 3, SIZE, SIZE) and len(regions) == 3
    assert inputs.std() > 0.2 and -1 <= inputs.min() < inputs.max() <= 1
    assert not np.array_equal(inputs, network_input(np.zeros((3, SIZE, SIZE, 3), np.uint8), spec))
