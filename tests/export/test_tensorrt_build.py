"""Engines of a whole bundle on the fake TensorRT: built, looked into, measured, listed, proven again, refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_tensorrt
from fake_cuda import FakeCuda, fake_cuda  # noqa: F401

from export.chain import verify_bundle
from export.chain_engines import engine_steps
from export.chain_report import Report
from export.tensorrt_build import Request, build_engines
from export.tensorrt_rules import BuildOptions
from runtime.backends.choose import open_backend
from runtime.backends.ort import OrtModel
from runtime.backends.tensorrt import open_tensorrt
from runtime.bundle import Bundle, read_arrays
from runtime.engine import Profile, sidecar_of
from runtime.errors import CheckFailedError, InputError, MissingBackendError, ToolkitError, UsageError
from runtime.geometry import network_input
from toolkit.cli import main


@pytest.fixture
def behaviour() -> fake_tensorrt.Behaviour:
    return fake_tensorrt.Behaviour()


@pytest.fixture
def install(
    fake_cuda: FakeCuda,  # noqa: F811
    behaviour: fake_tensorrt.Behaviour,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[[str], None]:
    """Put a version of TensorRT on this machine; its build cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(version: str) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make(version, fake_cuda, behaviour))

    return put


@pytest.fixture
def bundle(bundle_dir: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_dir, copy)
    return copy


def proof_of_engines(bundle: Path) -> Report:
    """The part of a bundle's proof that is about engines."""
    opened = Bundle.open(bundle)
    report = Report(opened.manifest)
    crops = read_arrays(opened.read("probe"), "probe")["crops"]
    for step in engine_steps(opened, report, lambda: network_input(crops, opened.spec)).values():
        step()
    return report


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("version", ["10.3", "11"])
def test_every_precision_of_the_bundle(
    install: Any,
    bundle: Path,
    fake_cuda: FakeCuda,  # noqa: F811
    version: str,
) -> None:
    install(version)
    before = fake_cuda.live()
    engines = build_engines(bundle, Request())
    assert fake_cuda.live() == before, "all memory of the GPU was given back"
    assert [e.card.precision for e in engines] == ["fp32", "fp16", "int8"]
    layers = [set(e.card.layers) for e in engines]
    assert layers == [{"float32"}, {"float16", "float32"}, {"float32", "int8"}]
    number = fake_tensorrt.SURFACES[version].version
    for engine in engines:
        assert engine.file == f"trt/{engine.card.precision}-fake-gpu-sm8.7-{number}.plan"
        assert (bundle / engine.file).is_file() and sidecar_of(bundle / engine.file).is_file()
        assert engine.card.checks[0].value <= engine.card.checks[0].limit
    calibrated = Bundle.open(bundle).manifest.artefact("int8").settings["calibration"]["sha256"]
    assert engines[2].card.calibration is not None and engines[2].card.calibration.sha256 == calibrated
    assert not Bundle.open(bundle).strays()
    report = verify_bundle(bundle) if version == "11" else proof_of_engines(bundle)
    assert report.passed, report.failures
    measured = {r.link for r in report.results if r.name == "engine-shift"}
    assert measured == {e.name for e in engines}


def test_the_back_end_runs_what_was_built(install: Any, bundle: Path) -> None:
    install("10.3")
    build_engines(bundle, Request(("fp32",), BuildOptions(Profile(1, 4, 4))))
    opened = Bundle.open(bundle)
    crops = read_arrays(opened.read("probe"), "probe")["crops"]
    wanted = OrtModel(opened.read("fp32"))(network_input(crops, opened.spec)).reshape(len(crops), -1, 2)
    with open_tensorrt(opened) as model:
        np.testing.assert_allclose(model.landmarks(crops), wanted, atol=1e-6)
    with pytest.raises(MissingBackendError, match=r"no int8 engine, it has engines in fp32; .* --backend onnx"):
        open_tensorrt(opened, "int8")


def test_without_a_gpu_the_record_stands(install: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3")
    build_engines(bundle, Request(("fp16",)))
    monkeypatch.setattr("runtime.gpu.DRIVER_NAMES", ("libnothing.so",))
    report = proof_of_engines(bundle)
    assert report.passed
    told = next(r.detail for r in report.results if r.name == "measured")
    assert told.startswith("measured on Fake GPU, not again here: no GPU can be used")
    choice = open_backend(Bundle.open(bundle))
    assert choice.name == "onnx" and "tensorrt: TensorRT: no GPU can be used" in choice.why, "and auto says so"
    with pytest.raises(MissingBackendError, match=r"TensorRT: no GPU can be used.*--backend onnx"):
        open_tensorrt(Bundle.open(bundle))


def lies(how: fake_tensorrt.Behaviour) -> None:
    how.lies = True


def says_nothing(how: fake_tensorrt.Behaviour) -> None:
    how.says_nothing = True


def half_output(how: fake_tensorrt.Behaviour) -> None:
    how.half_output = True


def skewed(how: fake_tensorrt.Behaviour) -> None:
    how.skew = 0.01


def breaks(how: fake_tensorrt.Behaviour) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    how.on_step = fail


@pytest.mark.parametrize(
    ("harm", "precision", "error", "told"),
    [
        (lies, "fp16", CheckFailedError, "asked for fp16, but no layer of the engine computes in float16"),
        (lies, "int8", CheckFailedError, "asked for int8, but no layer of the engine computes in int8"),
        (says_nothing, "fp32", CheckFailedError, "layers: none at all"),
        (half_output, "fp32", CheckFailedError, "landmarks of the engine is float16, expected float32"),
        (skewed, "fp32", CheckFailedError, r"engine-shift is .* the limit is 0.01; nothing was written"),
    ],
    ids=lambda value: value.__name__ if callable(value) and not isinstance(value, type) else None,
)
def test_a_bad_engine_is_not_kept(
    install: Any,
    bundle: Path,
    behaviour: fake_tensorrt.Behaviour,
    harm: Any,
    precision: Any,
    error: type[Exception],
    told: str,
) -> None:
    install("10.3")
    before = snapshot(bundle)
    harm(behaviour)
    with pytest.raises(error, match=told):
        build_engines(bundle, Request((precision,)))
    assert snapshot(bundle) == before


def test_interrupted_while_writing(install: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3")
    build_engines(bundle, Request(("fp32",)))
    before = snapshot(bundle)
    import export.bundle_extend as module

    real, calls = module.write_atomic, []

    def fourth_fails(path: Path, write: Any) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(path, write)

    monkeypatch.setattr(module, "write_atomic", fourth_fails)
    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, Request(("fp32", "fp16"), BuildOptions(level=4)), force=True)
    assert len(calls) == 4 and snapshot(bundle) == before


def test_building_twice_needs_force(install: Any, bundle: Path, behaviour: fake_tensorrt.Behaviour) -> None:
    install("10.3")
    notes: list[str] = []
    build_engines(bundle, Request(("fp32",)), say=notes.append)
    assert "expect one to five minutes" in notes[0]
    count = len(behaviour.builds)
    with pytest.raises(UsageError, match=r"has trt-fp32-fake-gpu-sm8\.7-10\.3\.0 already; --force replaces it"):
        build_engines(bundle, Request(("fp32",)))
    assert len(behaviour.builds) == count, "refused before the slow part"
    build_engines(bundle, Request(("fp32",)), force=True, say=notes.append)
    assert "the last such build here took" in notes[-1]
    assert behaviour.builds[-1]["timing"] == b"timing+", "the second build starts from the first one's timings"
    assert proof_of_engines(bundle).passed


def test_boards_share_a_bundle(install: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3")
    build_engines(bundle, Request(("fp16",)))
    monkeypatch.setenv("FAKE_GPU", "Another GPU")
    monkeypatch.setenv("FAKE_SM", "89")
    with pytest.raises(MissingBackendError, match=r"built for Fake GPU \(SM 8.7\), here is Another GPU \(SM 8.9\)"):
        open_tensorrt(Bundle.open(bundle))
    build_engines(bundle, Request(("fp16",)))
    with open_tensorrt(Bundle.open(bundle)) as model:
        assert model.card.gpu_name == "Another GPU"
    assert proof_of_engines(bundle).passed


@pytest.mark.parametrize("method", ["entropy", "minmax"])
def test_legacy_calibrators_see_our_faces(
    install: Any, bundle: Path, behaviour: fake_tensorrt.Behaviour, method: Any
) -> None:
    install("10.3")
    request = Request(options=BuildOptions(legacy=method), calib="synth:12@9", calib_count=8)
    (engine,) = build_engines(bundle, request)
    seen, build = behaviour.builds
    assert seen["calibrated on"].shape == (8, 3, 64, 64) and abs(seen["calibrated on"]).max() <= 1.0
    assert len({face.tobytes() for face in seen["calibrated on"]}) == 8, "each face once"
    assert build["strong"] is False and build["flags"] == ["INT8"]
    assert engine.name == f"trt-int8-{method}-fake-gpu-sm8.7-10.3.0" and engine.card.options.typing == "weak"
    assert engine.card.calibration is not None and engine.card.calibration.by == method
    assert engine.card.model_file == "model.onnx"
    assert proof_of_engines(bundle).passed
    build_engines(bundle, request, force=True)
    assert behaviour.builds[2] == {"calibrated from": b"scales of 1"}, "the table is found again by its hash"
    build_engines(bundle, replace(request, calib="synth:12@10"), force=True)
    assert "calibrated on" in behaviour.builds[4], "other faces, another table"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Request(options=BuildOptions(legacy="entropy")), "give --calib"),
        (Request(("fp16",), BuildOptions(legacy="entropy"), calib="synth:8"), "leave --fp32 and --fp16 out"),
        (Request(calib="synth:8"), "--calib is for --legacy-calibrator"),
    ],
)
def test_contradictions(install: Any, bundle: Path, request_: Request, told: str) -> None:
    install("10.3")
    with pytest.raises(UsageError, match=told):
        build_engines(bundle, request_)


def test_old_tensorrt_and_a_newer_opset(install: Any, bundle: Path) -> None:
    install("8.6")
    with pytest.raises(InputError, match=r"TensorRT 8.6.2 would not take it: .*export with --opset 17"):
        build_engines(bundle, Request())


def test_each_missing_piece_is_a_sentence(
    bundle: Path,
    fake_cuda: FakeCuda,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingBackendError, match=r"tensorrt cannot be imported .*build-engine BUNDLE' there"):
        build_engines(bundle, Request())
    monkeypatch.setenv("FAKE_CUINIT", "100")
    with pytest.raises(MissingBackendError, match="the driver finds no GPU"):
        build_engines(bundle, Request())


def forge_layers(bundle: Path) -> None:
    _forge(bundle, lambda card: card.replace(b'"float16"', b'"float31"'))


def forge_model(bundle: Path) -> None:
    other = Bundle.open(bundle).manifest.artefact("fp32").sha256.encode()
    mine = Bundle.open(bundle).manifest.artefact("fp16").sha256.encode()
    _forge(bundle, lambda card: card.replace(mine, other))


def forge_numbers(bundle: Path) -> None:
    _forge(bundle, lambda card: card.replace(b'"limit": 0.1', b'"limit": 9.1'))


def _forge(bundle: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the sidecar and mend every hash after it."""
    from runtime.files import sha256_bytes

    opened = Bundle.open(bundle)
    entry = next(a for a in opened.manifest.artefacts if a.kind == "tensorrt-card")
    path = bundle / entry.file
    before = path.read_bytes()
    values = json.loads(change(before))
    assert json.dumps(values, indent=1, sort_keys=True).encode() + b"\n" != before
    del values["digest"]
    text = (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()
    values["digest"] = sha256_bytes(text)
    data = (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()
    path.write_bytes(data)
    entries = tuple(
        replace(a, sha256=sha256_bytes(data), bytes=len(data)) if a is entry else a for a in opened.manifest.artefacts
    )
    (bundle / "manifest.json").write_bytes(replace(opened.manifest, artefacts=entries).to_bytes())


@pytest.mark.parametrize(
    ("harm", "check"), [(forge_layers, "layers"), (forge_model, "parent"), (forge_numbers, "recorded")]
)
def test_a_forged_sidecar_is_found_in_the_chain(install: Any, bundle: Path, harm: Any, check: str) -> None:
    install("10.3")
    build_engines(bundle, Request(("fp16",)))
    harm(bundle)
    report = proof_of_engines(bundle)
    assert check in {r.name for r in report.failures}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    told = capsys.readouterr()
    return int(exit_.value.code or 0), told.out, told.err


def test_the_commands(install: Any, bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    install("10.3")
    code, out, _ = run(
        capsys, "build-engine", str(bundle), "--fp16", "--batch", "4", "--triton", str(tmp_path / "models")
    )
    assert code == 0 and "float16" in out
    plan = next(bundle.glob("trt/*.plan"))
    code, out, _ = run(capsys, "verify", str(plan), "--json", str(tmp_path / "plan.json"))
    assert code == 0 and "it is the file that was built, and it will load here" in out
    assert all(v["passed"] for v in json.loads((tmp_path / "plan.json").read_text())["verdicts"])
    assert (tmp_path / "models" / "landmarks-trt-fp16-fake-gpu-sm8.7-10.3.0" / "1" / "model.plan").is_file()
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    code, out, err = run(capsys, "verify", str(plan))
    assert code == 1 and "not the file that was built" in err and "NO" in out
    sidecar_of(plan).unlink()
    code, _, err = run(capsys, "verify", str(plan))
    assert code == 2 and "has no sidecar" in err and "Traceback" not in err
    code, _, err = run(capsys, "build-engine", str(bundle), "--dla")
    assert code == 2 and "--dla" in err


def test_the_export_command_puts_engines_into_the_bundle(
    install: Any,
    checkpoint_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("10.3")
    target = tmp_path / "made"
    arguments = ["export", str(checkpoint_file), "--exporter", "torchscript", "--tensorrt", "--probes", "synth:12@3"]
    code, _, err = run(capsys, *arguments, "-o", str(target), "--triton", str(tmp_path / "models"))
    assert code == 0, err
    assert [p.name.split("-")[0] for p in sorted(target.glob("trt/*.plan"))] == ["fp32"]
    assert proof_of_engines(target).passed
    assert len(list((tmp_path / "models").glob("*/1/model.plan"))) == 1


def test_export_says_at_once_that_there_is_no_gpu(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.gpu.DRIVER_NAMES", ("libnothing.so",))
    code, _, err = run(capsys, "export", str(checkpoint_file), "--tensorrt", "-o", str(tmp_path / "made"))
    assert code == 2 and "toolkit build-engine BUNDLE" in err and err.count("\n") == 1
    assert issubclass(MissingBackendError, ToolkitError)


def test_building_needs_no_torch() -> None:
    """On the device there is none."""
    import subprocess

    code = "import sys, export.tensorrt_build, toolkit.cli.build_engine, export.triton; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert told.stdout.strip() == "False"
