"""`toolkit export --int8 qat`: the steps of training reach the ONNX file and the C, unchanged and proven."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "toolkit"))

from small import face_like

from calib.fake_net import FakeQuantNet, net_of
from calib.observe import Observation, observe_peaks
from calib.plan import Plan, plain_weight_scales
from calib.ranges import group_scales
from calib.sites import find_sites
from calib.trace import trace
from export.chain import verify_bundle
from export.fuse import fuse
from export.links_c import CRequest
from export.probes import DEFAULT_SOURCE
from export.road import Options, crop_uint8, export_bundle
from runtime.bundle import Bundle, read_arrays
from runtime.errors import CheckFailedError, UsageError
from runtime.geometry import network_input
from runtime.spec import ModelSpec
from toolkit.cli import main
from train.checkpoint import Checkpoint, Int8Steps, load_checkpoint, save_checkpoint

SPEC = ModelSpec("ghostone", 0.1, 98, 32, 1, "wflw98")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with --qat leaves, with steps that no calibration would choose."""
    model = fuse(face_like(SPEC), SPEC)
    graph = trace(model, SPEC)
    sites = find_sites(graph)
    seen = Observation(observe_peaks(graph, sites, crop_uint8(DEFAULT_SOURCE, SPEC), SPEC), {})
    net = FakeQuantNet(SPEC)
    net.load_plan(Plan(graph, sites, group_scales(sites, seen), plain_weight_scales(graph, sites)))
    torch.manual_seed(3)
    with torch.no_grad():
        net.group_ratio.mul_(torch.rand_like(net.group_ratio) * 0.2 + 0.95)
        for ratio in net.ratios:
            ratio.mul_(torch.rand_like(ratio) * 0.2 + 0.9)
    weights, steps = net.ship()
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    recipe, state = {"data": {"train": ["/home/me/faces"]}}, {"network": net.state_dict()}
    save_checkpoint(path, Checkpoint("fused", SPEC, weights, parent="0" * 64, recipe=recipe, state=state, int8=steps))
    return path


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "b"
    request = CRequest(("int8",)) if shutil.which("cc") else None
    export_bundle(trained, out, Options(exporter="torchscript", int8="qat", c=request))
    return out


def test_the_file_holds_exactly_the_steps_of_training(bundle: Path, trained: Path) -> None:
    steps = load_checkpoint(trained).int8
    assert steps is not None
    model = onnx.load(bundle / "model.int8.onnx")
    constants = {t.name: np.asarray(numpy_helper.to_array(t)) for t in model.graph.initializer}
    for name, values in steps.weights.items():
        assert np.array_equal(constants[f"{name}_scale"], values.numpy())
    found = {float(v) for n, v in constants.items() if n.endswith("_scale") and v.ndim == 0}
    assert found == {float(v) for v in steps.activations.values()}


def test_torch_oracle_and_c_give_the_same_integers(bundle: Path, trained: Path) -> None:
    """The oracle's outputs lie in the bundle; the check counts every stored integer; the C repeats the outputs."""
    opened = Bundle.open(bundle)
    arrays = read_arrays(opened.read("probe"), "probe.npz")
    batch = network_input(arrays["crops"], SPEC)
    assert np.array_equal(net_of(load_checkpoint(trained))(torch.from_numpy(batch)).numpy(), arrays["int8"])
    checks = {c.name: c for c in opened.manifest.artefact("int8").checks}
    assert checks["trained-integers"].value == 0 and checks["trained-integers"].limit == 0
    if opened.manifest.has("c-int8"):
        repeated = [c for c in opened.manifest.artefact("c-int8").checks if "outputs" in c.name or "bytes" in c.name]
        assert repeated and all(c.passed for c in repeated), opened.manifest.artefact("c-int8").checks


def test_the_bundle_is_proven_again_and_carries_no_state_of_the_run(bundle: Path) -> None:
    report = verify_bundle(bundle)
    assert not report.failures, report.failures
    kept = load_checkpoint(bundle / "fused.ckpt")
    assert not kept.state and not kept.recipe and kept.int8 is not None
    assert b"/home/me" not in (bundle / "fused.ckpt").read_bytes()


def test_steps_that_the_module_did_not_judge_stop_the_export(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = FakeQuantNet.load_plan

    def other(net: FakeQuantNet, plan: Plan, to_judge: bool = False) -> None:
        plain(net, plan, to_judge)
        net.get_buffer("group_unit")[3] *= 1.01

    monkeypatch.setattr(FakeQuantNet, "load_plan", other)
    with pytest.raises(CheckFailedError, match="trained-integers"):
        export_bundle(trained, tmp_path / "b", Options(exporter="torchscript", int8="qat"))
    assert not (tmp_path / "b").exists()


def test_useless_steps_stop_the_export(trained: Path, tmp_path: Path) -> None:
    good = load_checkpoint(trained)
    assert good.int8 is not None
    coarse = {name: step * 40 for name, step in good.int8.activations.items()}
    lively = {**good.model, "fc.weight": good.model["fc.weight"] * 60}  # landmarks that follow the features
    steps = Int8Steps(coarse, good.int8.weights)
    save_checkpoint(tmp_path / "bad.ckpt", Checkpoint("fused", SPEC, lively, int8=steps))
    with pytest.raises(CheckFailedError, match="shift"):
        export_bundle(tmp_path / "bad.ckpt", tmp_path / "b", Options(exporter="torchscript", int8="qat"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--int8", "qat", "--calib", "synth:32"], "--calib is about calibration"),
        (["--int8", "qat", "--calib-count", "5"], "--calib-count is about calibration"),
        (["--int8", "qat", "--calib-cache", "x"], "--calib-cache is about calibration"),
        (["--int8", "qat", "--max-drop", "1%"], "--max-drop needs labelled faces"),
    ],
)
def test_contradictions(flags: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "absent.ckpt"), "-o", str(tmp_path / "out"), *flags])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and len(said.strip().splitlines()) == 1


def test_a_checkpoint_without_steps_is_refused(checkpoint_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="carries no int8 steps"):
        export_bundle(checkpoint_file, tmp_path / "out", Options(int8="qat"))
    assert not (tmp_path / "out").exists()
