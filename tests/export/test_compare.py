"""compare: equal artefacts pass, a planted fault is found and its layer named, specs are blamed first."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from family import exported, spec_of_upstream, state, trained

from export import compare as compare_module
from export.artefact import Precision, open_artefact, open_artefacts
from export.compare import INPUT, Comparison, compare
from export.onnx_file import read_onnx, set_spec, write_onnx
from export.probes import ProbeFaces, open_probes
from export.torch_layers import block_names, weighted_blocks
from runtime.errors import InputError, UsageError
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, save_checkpoint
from train.models.zoo import ZOO, build

ARCHITECTURE = "pfld"
SPEC = spec_of_upstream(ARCHITECTURE, size=32)


@pytest.fixture(scope="module")
def faces() -> ProbeFaces:
    return open_probes("synth:3@3")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Multi-branch in name, plain convolutions with BN in fact: its exported graph is the fused form."""
    torch.set_num_threads(1)
    model = trained(SPEC)
    fc = model.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    with torch.no_grad():
        fc.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: nn.Module) -> Path:
    """model.ckpt and model.onnx of one model."""
    folder = tmp_path_factory.mktemp("pair")
    save_checkpoint(folder / "model.ckpt", Checkpoint("multi-branch", SPEC, state(model)))
    graph = exported(model, SPEC)
    set_spec(graph, SPEC)
    write_onnx(folder / "model.onnx", graph)
    return folder


def both(a: Path, b: Path, faces: ProbeFaces, **options: Any) -> Comparison:
    first, second = open_artefacts((a, b))
    return compare(first, second, faces, **options)


def with_graph(folder: Path, tmp_path: Path, change: Callable[[ModelProto], Any], name: str = "other.onnx") -> Path:
    graph = read_onnx(folder / "model.onnx")
    change(graph)
    write_onnx(tmp_path / name, graph)
    return tmp_path / name


def one_weight_changed(layer: int, amount: float = 3.0) -> Callable[[ModelProto], None]:
    """One number of the n-th weighted layer is off."""

    def change(graph: ModelProto) -> None:
        node = [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm")][layer]
        tensor = next(t for t in graph.graph.initializer if t.name == node.input[1])
        values = onnx.numpy_helper.to_array(tensor).copy()
        flat = values.reshape(-1)
        flat[len(flat) // 2] += amount * max(1.0, float(np.abs(values).max()))
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    return change


def test_a_checkpoint_and_its_graph_are_equal(folder: Path, faces: ProbeFaces) -> None:
    result = both(folder / "model.ckpt", folder / "model.onnx", faces)
    assert result.passed and result.first_bad is None and not result.spec_differences and not result.notes
    assert [gap.name for gap in result.layers] == [INPUT, *block_names(ARCHITECTURE)]
    assert result.layers[0].difference == 0
    assert 0 < max(gap.relative for gap in result.layers) < 1e-5
    assert 0 < result.points.max_px < 1e-3 and result.points.mean_px <= result.points.max_px
    assert result.faces == "3 faces of synth:3@3"


@pytest.mark.parametrize("layer", [0, 1, 20, 42, 43])
def test_one_changed_weight_names_its_layer(folder: Path, tmp_path: Path, faces: ProbeFaces, layer: int) -> None:
    other = with_graph(folder, tmp_path, one_weight_changed(layer))
    result = both(other, folder / "model.ckpt", faces)
    assert not result.passed
    assert result.first_bad == block_names(ARCHITECTURE)[layer]
    gaps = {gap.name: gap for gap in result.layers}
    before = [INPUT, *block_names(ARCHITECTURE)[:layer]]
    assert all(not gaps[name].bad for name in before) and gaps[str(result.first_bad)].bad


def test_a_missing_activation_names_the_next_layer(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    def without_relu(graph: ModelProto) -> None:
        relu = [n for n in graph.graph.node if n.op_type == "Relu"][-1]
        for node in graph.graph.node:
            node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
        graph.graph.node.remove(relu)

    result = both(with_graph(folder, tmp_path, without_relu), folder / "model.onnx", faces)
    assert not result.passed and result.first_bad == "conv8"


def test_two_checkpoints(folder: Path, tmp_path: Path, model: nn.Module, faces: ProbeFaces) -> None:
    weights = state(model)
    weights["conv5_3.inv_res.2.1.running_var"] *= 1.5
    save_checkpoint(tmp_path / "b.ckpt", Checkpoint("multi-branch", SPEC, weights))
    result = both(tmp_path / "b.ckpt", folder / "model.ckpt", faces)
    assert not result.passed and result.first_bad == "conv5_3.inv_res.2"
    same = both(folder / "model.ckpt", folder / "model.ckpt", faces)
    assert same.passed and all(gap.difference == 0 for gap in same.layers) and same.points.max_px == 0


def test_the_points_are_measured_in_pixels_of_the_input(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    """An output bias of one pixel in x moves one point by one pixel of the input, whatever the photo's scale."""

    def nudge(graph: ModelProto) -> None:
        name = next(n for n in graph.graph.node if n.op_type == "Gemm").input[2]
        tensor = next(t for t in graph.graph.initializer if t.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[2 * 10] += 1 / SPEC.input_size
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    result = both(with_graph(folder, tmp_path, nudge), folder / "model.onnx", faces, limit_px=2)
    assert result.passed and result.points.worst_point == 10
    assert abs(result.points.max_px - 1) < 1e-3 and abs(result.points.mean_px - 1 / SPEC.points) < 1e-4
    sizes, name = faces.face_size()
    _, regions = faces.crop(SPEC)
    expected = max(100 * region.side / SPEC.input_size / size for region, size in zip(regions, sizes, strict=True))
    assert name == result.points.size == "inter-ocular" and abs(result.points.max_percent - expected) < 0.05


def test_a_gap_that_grows_slowly_is_blamed_on_its_steepest_layer(
    folder: Path, tmp_path: Path, faces: ProbeFaces
) -> None:
    other = with_graph(folder, tmp_path, one_weight_changed(20))
    result = both(other, folder / "model.onnx", faces, layer_limit=1e9)
    assert not result.passed and not any(gap.bad for gap in result.layers)
    assert result.first_bad == block_names(ARCHITECTURE)[20]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": "rgb"}, "channels: rgb against bgr"),
        ({"crop": replace(SPEC.crop, scale=1.3)}, "crop scale: 1.3 against 1.2"),
    ],
)
def test_a_spec_that_differs_is_the_first_suspect(
    folder: Path, tmp_path: Path, faces: ProbeFaces, changes: dict[str, Any], words: str
) -> None:
    other = with_graph(folder, tmp_path, lambda graph: set_spec(graph, replace(SPEC, **changes)))
    result = both(other, folder / "model.ckpt", faces)
    assert result.spec_differences == (words,)
    assert not result.passed and result.first_bad == INPUT
    alone = both(other, folder / "model.ckpt", faces, same_input=True)
    assert alone.passed and alone.spec_differences == (words,) and alone.first_bad is None


def test_coordinates_move_points_but_no_layer(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    other = with_graph(folder, tmp_path, lambda graph: set_spec(graph, replace(SPEC, coordinates="centre")))
    result = both(other, folder / "model.ckpt", faces)
    assert result.spec_differences == ("coordinates: centre against corner",)
    assert not result.passed and not any(gap.bad for gap in result.layers)


def test_a_graph_without_a_spec_uses_the_others(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    bare = with_graph(folder, tmp_path, lambda graph: graph.ClearField("metadata_props"))
    result = both(bare, folder / "model.ckpt", faces)
    assert result.passed and any("carries no spec" in note for note in result.notes)
    with pytest.raises(InputError, match=r"neither says .* --spec"):
        both(bare, bare, faces)
    named = open_artefact(bare, f"upstream-{ARCHITECTURE}")
    assert named.spec == SPEC and not named.own_spec
    with pytest.raises(UsageError, match="carries its own spec"):
        open_artefacts((folder / "model.ckpt", folder / "model.onnx"), "upstream-pfld")


def test_other_points_and_other_nets(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    spec = spec_of_upstream(ARCHITECTURE, size=32, points=12)
    save_checkpoint(tmp_path / "12.ckpt", Checkpoint("multi-branch", spec, state(build(spec))))
    with pytest.raises(UsageError, match="12 points"):
        both(tmp_path / "12.ckpt", folder / "model.ckpt", faces)
    spec = spec_of_upstream("ghostnet", size=32)
    save_checkpoint(tmp_path / "other.ckpt", Checkpoint("multi-branch", spec, state(trained(spec))))
    result = both(tmp_path / "other.ckpt", folder / "model.ckpt", faces)
    assert not result.passed and "architecture: ghostnet against pfld" in result.spec_differences
    assert any("layers do not correspond (60 against 44 weighted layers)" in note for note in result.notes)


def test_another_input_size_is_compared_in_the_photo(tmp_path: Path, folder: Path, faces: ProbeFaces) -> None:
    spec = replace(SPEC, input_size=64)
    save_checkpoint(tmp_path / "64.ckpt", Checkpoint("multi-branch", spec, state(trained(spec))))
    result = both(tmp_path / "64.ckpt", folder / "model.ckpt", faces)
    assert "input size: 64 against 32" in result.spec_differences and result.first_bad == INPUT
    assert np.isfinite(result.points.max_px)
    with pytest.raises(UsageError, match="--same-input: the inputs are 64 and 32"):
        both(tmp_path / "64.ckpt", folder / "model.ckpt", faces, same_input=True)


def test_half_precision_has_its_own_limits(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    def halve(graph: ModelProto) -> None:
        for tensor in list(graph.graph.initializer):
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
                graph.graph.node.insert(
                    0, onnx.helper.make_node("Cast", [tensor.name + "_h"], [tensor.name], to=onnx.TensorProto.FLOAT)
                )
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name + "_h"))

    other = with_graph(folder, tmp_path, halve)
    assert open_artefact(other).precision == "float16"
    result = both(other, folder / "model.onnx", faces)
    assert result.passed and result.limit_px == 0.5 and result.points.max_px > 1e-3


def test_nan_is_infinitely_far(folder: Path, tmp_path: Path, faces: ProbeFaces) -> None:
    other = with_graph(folder, tmp_path, one_weight_changed(10, float("inf")))
    result = both(other, folder / "model.onnx", faces)
    assert not result.passed and result.points.max_px == float("inf")
    assert result.first_bad == block_names(ARCHITECTURE)[10]


class Watched:
    """An artefact that counts how many of its layers' tensors are alive."""

    path, sha256, kind, own_spec, spec = "watched", "", "onnx", True, SPEC
    precision: Precision = "float32"

    def __init__(self) -> None:
        self.layers = ("a", "b", "c")
        self.alive: list[weakref.ref[Any]] = []
        self.most = self.calls = 0

    def predict(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        return np.zeros((len(batch), 2 * SPEC.points), np.float32)

    def layer(self, name: str) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        def run(batch: NDArray[np.float32]) -> NDArray[Any]:
            tensor = np.ones((len(batch), 3), np.float32)
            self.alive = [ref for ref in self.alive if ref() is not None]
            self.alive.append(weakref.ref(tensor))
            self.most = max(self.most, len(self.alive))
            self.calls += 1
            return tensor

        return run


def test_one_tensor_of_each_is_alive_at_a_time(faces: ProbeFaces) -> None:
    first, second = Watched(), Watched()
    compare(first, second, faces)
    assert (first.calls, second.calls) == (3, 3)
    assert (first.most, second.most) == (1, 1)


@pytest.mark.parametrize("architecture", list(ZOO))
def test_layer_names_are_the_same_in_both_forms(architecture: str) -> None:
    spec = ModelSpec(architecture, branches=1)
    with torch.device("meta"):
        names = [[name for name, _ in weighted_blocks(build(spec, fused=fused))] for fused in (False, True)]
    assert names[0] == names[1] == list(block_names(architecture)) and names[0][-1] == "fc"


def test_a_fixed_batch_is_filled_up(tmp_path: Path, model: nn.Module, folder: Path) -> None:
    graph = exported(model, SPEC, batch=3)
    set_spec(graph, SPEC)
    write_onnx(tmp_path / "three.onnx", graph)
    inputs, _ = open_probes("synth:5@3").crop(SPEC)
    one, three = open_artefact(folder / "model.onnx"), open_artefact(tmp_path / "three.onnx")
    assert three.predict(inputs).shape == (5, 196)
    assert np.abs(one.predict(inputs) - three.predict(inputs)).max() < 1e-5
    assert np.abs(one.layer("conv8")(inputs) - three.layer("conv8")(inputs)).max() < 1e-3


# ---------------------------------------------------------------------------------------------- the command


def toolkit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_command_tells_the_shell(folder: Path, tmp_path: Path) -> None:
    other = with_graph(folder, tmp_path, one_weight_changed(5))
    right = folder / "model.ckpt"
    run = toolkit("compare", other, right, "--data", "synth:2", "--plot", "p.png", "--json", cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    facts = json.loads(run.stdout)
    assert facts["first_bad"] == block_names(ARCHITECTURE)[5] and facts["passed"] is False
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_verdict_is_readable(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from toolkit.cli import main

    other, right = str(with_graph(folder, tmp_path, one_weight_changed(5))), str(folder / "model.ckpt")
    with pytest.raises(SystemExit) as ended:
        main(["compare", other, right, "--data", "synth:2"])
    assert ended.value.code == 1
    assert f"first bad layer: {block_names(ARCHITECTURE)[5]}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(folder / "model.onnx"), right, "--data", "synth:2", "--no-layers"])
    assert ended.value.code == 0
    assert "equal within 0.01 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--limit-px", "0"], "--limit-px must be a positive number"),
        (["--layer-limit", "nan"], "--layer-limit must be a positive number"),
        (["--plot", "a.png", "--no-layers"], "--plot draws layers"),
        (["--plot", "a.jpg"], "ends in .png"),
        (["--count", "0"], "--count must lie in"),
        (["--split", "val"], "expected train or test"),
        (["--data", "nowhere"], "no such file or folder"),
    ],
)
def test_flags_that_make_no_sense(
    folder: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit.cli import main

    pair = [str(folder / "model.ckpt"), str(folder / "model.ckpt")]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *pair, *flags])
    found = capsys.readouterr()
    assert ended.value.code == 2 and words in found.err and found.out == "" and "Traceback" not in found.err


@pytest.mark.data
@pytest.mark.slow
def test_the_published_graph_and_its_import(shared: Path, tmp_path: Path) -> None:
    from export.importer import import_file

    source = shared / "models" / "landmarks" / "PFLD_GhostOne_112_1_opt_sim.onnx"
    import_file(source, tmp_path / "m.ckpt", faces="synth:2")
    result = both(source, tmp_path / "m.ckpt", open_probes(str(shared / "data" / "wflw_real"), 6))
    assert result.passed and result.points.max_px < 1e-3
    other = shared / "models" / "landmarks" / "PFLD_GhostOne_112_1_retrained_sim.onnx"
    result = both(other, tmp_path / "m.ckpt", open_probes(str(shared / "data" / "wflw_real"), 2))
    assert not result.passed and result.first_bad == "conv1"


def test_probes_are_spread_over_their_source(shared_list: Path) -> None:
    assert open_probes("synth:10", 4).indices == (0, 2, 5, 7)
    assert len(open_probes()) == 16 and len(open_probes("synth:40")) == 40
    assert open_probes(str(shared_list), split="train").indices == tuple(i * 20 // 16 for i in range(16))


@pytest.fixture(scope="module")
def shared_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty faces on disk in the train list, five in the test list."""
    from train.data.synth import write_synth

    folder = tmp_path_factory.mktemp("twenty")
    write_synth(folder / "faces", 25, seed=1, size=48, test_fraction=0.2)
    return folder / "faces"


def test_limits_exist_for_every_precision() -> None:
    assert set(compare_module.LIMITS_PX) == set(compare_module.LAYER_LIMITS) == {"float32", "float16", "int8"}
