"""The real converters and engines, where they are: same bytes twice, right numbers, no changed weight gets through."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.artefact import open_artefact
from export.chain import verify_bundle
from export.chain_report import Report
from export.formats import chain, links
from export.formats.alone.convert import _join_quantisers
from export.formats.convert import Home, find_homes, missing
from export.onnx_file import parse_onnx
from runtime.backends.choose import open_backend
from runtime.backends.formats import FORMATS, Format
from runtime.backends.openvino_net import the_core
from runtime.backends.ort import OrtModel
from runtime.bundle import MANIFEST, Artefact, Bundle, read_arrays
from runtime.errors import ToolkitError
from runtime.files import sha256_bytes
from runtime.geometry import network_input
from tests.export.formats.with_formats import add_to

ROOT = Path(__file__).parents[3]
PRECISIONS = {"mnn": ("fp32", "fp16"), "ncnn": ("fp32",), "openvino": ("fp32", "int8"), "tflite": ("fp32", "fp16")}
"""Each child costs seconds: float16 is converted by the same step, int8 by one of its own."""


def home_of(name: str) -> Home:
    """Where the format's tools are, or a skip that says what to install."""
    with pytest.MonkeyPatch.context() as patch:
        if "TOOLKIT_BENCH_ENV" not in os.environ:
            patch.chdir(ROOT)
        home = find_homes([name])[name]
    if why := missing(FORMATS[name], home):
        pytest.skip(f"{name}: {why}")
    return home


@pytest.fixture(scope="module", params=["mnn", "ncnn", "openvino", pytest.param("tflite", marks=pytest.mark.slow)])
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def home(form: Format) -> Home:
    return home_of(form.name)


@pytest.fixture(scope="module")
def made(form: Format, home: Home, bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_to(bundle_dir, tmp_path_factory.mktemp(form.name) / "bundle", {form.name: home}, PRECISIONS[form.name])


def proof_of(place: Path, form: Format, home: Home, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The proof of one format's files."""
    from export.chain import _Proof

    everything = _Proof.steps

    def chosen(proof: _Proof) -> dict[str, object]:
        return {n: s for n, s in everything(proof).items() if n in ("probe", "fused", "model", form.name)}

    with monkeypatch.context() as patch:
        patch.setattr(_Proof, "steps", chosen)
        patch.setattr(chain, "find_homes", lambda names: {form.name: home})
        return verify_bundle(place)


def test_converted_again_to_the_byte_and_run_again(
    made: Path, form: Format, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = proof_of(made, form, home, monkeypatch)
    assert report.passed, report.failures
    found = {(r.link, r.name) for r in report.results}
    for precision in PRECISIONS[form.name]:
        assert (form.artefact(precision), "converted") in found and not report.not_run
    values = {(r.link, r.name): r.value for r in report.results}
    assert values[form.name, "shift-pixels"] < 1e-3, "float32 engines agree far below the limit"


def largest_weight(bundle: Bundle) -> bytes:
    """Four bytes that stand once in a float32 file: the largest weight of the first convolution."""
    model = parse_onnx(bundle.read("fp32"), "model")
    first = next(t for t in model.graph.initializer if t.name.endswith("weight"))
    values = numpy_helper.to_array(first)
    return np.float32(values.flat[int(np.abs(values).argmax())]).tobytes()


def test_a_changed_weight_is_found(
    made: Path, form: Format, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(shutil.copytree(made, tmp_path / "copy"))
    bundle = Bundle.open(place)
    heavy = f"{form.name}{form.weights}"
    old = largest_weight(bundle)
    data = bundle.read(heavy)
    assert data.count(old) == 1
    data = data.replace(old, (np.frombuffer(old, np.float32) * np.float32(1.01)).tobytes())
    artefacts: dict[str, Artefact] = {a.name: a for a in bundle.manifest.artefacts}
    artefacts[heavy] = replace(artefacts[heavy], sha256=sha256_bytes(data))
    card = links.card(form, artefacts, bundle.spec)
    name = links.card_name(form)
    artefacts[name] = replace(artefacts[name], sha256=sha256_bytes(card), bytes=len(card))
    (place / artefacts[heavy].file).write_bytes(data)
    (place / artefacts[name].file).write_bytes(card)
    (place / MANIFEST).write_bytes(replace(bundle.manifest, artefacts=tuple(artefacts.values())).to_bytes())
    failures = proof_of(place, form, home, monkeypatch).failures
    assert failures and failures[0].name == "converted"
    failures = proof_of(place, form, Home(None, home.run), monkeypatch).failures
    assert failures and failures[0].name == "outputs" and failures[0].value is not None


def test_a_bundle_runs_on_it(made: Path, form: Format) -> None:
    if importlib.util.find_spec(form.module) is None:
        pytest.skip(f"{form.module} is not in this environment; {form.install}")
    bundle = Bundle.open(made)
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    crops, size = arrays["crops"], bundle.spec.input_size
    for precision in PRECISIONS[form.name]:
        found = open_backend(bundle, form.artefact(precision)).model.landmarks(crops)
        apart = np.abs(found.reshape(len(crops), -1) - arrays["fp32"]).max() * size
        assert apart < {"fp32": 0.01, "fp16": 0.5, "int8": 5.0}[precision]
        artefact = open_artefact(made / form.file(precision))
        assert np.array_equal(artefact.predict(network_input(crops, bundle.spec)).reshape(found.shape), found)
    damaged = bundle.read(form.name)[:-200]
    with pytest.raises(ToolkitError, match="refuses it"):
        from runtime.backends.formats import open_net

        open_net(form.name, damaged, b"")


CTRL_C = """
import gc, os, signal, sys, threading
from pathlib import Path
from runtime.backends.openvino_net import load
signal.signal(signal.SIGINT, signal.default_int_handler)
kept = [load(Path(sys.argv[1]), 1)]
last = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
last.start()
last.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    print("not heard")
except KeyboardInterrupt:
    print("heard")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("form", ["openvino"], indirect=True, scope="module")
def test_ctrl_c_is_heard_after_openvino_let_go_in_another_thread(made: Path) -> None:
    command = [sys.executable, "-c", CTRL_C, str(made / "openvino/landmarks.xml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "heard\n")


def pair(x: str, scale: float, out: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [x, f"{out}.s", "zero"], [f"{out}.q"]),
        helper.make_node("DequantizeLinear", [f"{out}.q", f"{out}.s", "zero"], [out]),
    ]


def test_openvino_keeps_the_scale_of_a_pair_behind_a_concatenation(tmp_path: Path) -> None:
    """Read as it is, OpenVINO 2026.4 rounds the concatenated values to whole numbers."""
    scale, channels = 0.37, 8
    generator = np.random.default_rng(0)
    constants = {
        "zero": np.int8(0),
        "a.s": np.float32(scale),
        "b.s": np.float32(scale),
        "w1.q": generator.integers(-127, 127, (channels, 1, 3, 3)).astype(np.int8),
        "w1.s": np.full(channels, 0.003, np.float32),
        "w1.z": np.zeros(channels, np.int8),
        "w2.q": np.eye(2 * channels, dtype=np.int8)[:, :, None, None] * 100,
        "w2.s": np.full(2 * channels, 0.01, np.float32),
        "w2.z": np.zeros(2 * channels, np.int8),
        "bias": np.zeros(2 * channels, np.float32),
        "bias1": np.zeros(channels, np.float32),
    }
    nodes = [
        *pair("input", scale, "a"),
        helper.make_node("DequantizeLinear", ["w1.q", "w1.s", "w1.z"], ["w1"], axis=0),
        helper.make_node("Conv", ["a", "w1", "bias1"], ["c"], group=channels, pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Concat", ["input", "c"], ["both"], axis=1),
        *pair("both", scale, "b"),
        helper.make_node("DequantizeLinear", ["w2.q", "w2.s", "w2.z"], ["w2"], axis=0),
        helper.make_node("Conv", ["b", "w2", "bias"], ["landmarks"], kernel_shape=[1, 1]),
    ]
    shapes = ["input", ["N", channels, 12, 12]], ["landmarks", ["N", 2 * channels, 12, 12]]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    x = (generator.normal(size=(2, channels, 12, 12)) * 40 * scale).astype(np.float32)
    wanted = OrtModel(model, optimise=False)(x)
    (tmp_path / "model.onnx").write_bytes(model)
    pytest.importorskip("openvino", reason="openvino is not in this environment")
    network = the_core().read_model(str(tmp_path / "model.onnx"))
    _join_quantisers(network)
    compiled = the_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = np.array(compiled.create_infer_request().infer({0: x})[compiled.output(0)])
    assert np.mean(np.abs(found - wanted) / scale > 0.01) < 0.001, "but for ties, the very same codes"
