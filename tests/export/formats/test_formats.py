"""Files for engines of others as links of the chain; converters and engines are stand-ins here."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.artefact import open_artefact
from export.chain import verify_bundle
from export.chain_report import Report
from export.formats import chain, convert, links
from export.formats.child import ChildError, child_environment, run_script
from export.formats.convert import CONVERTERS, Home, find_homes, require_homes
from export.formats.homes import Environment
from export.inspection import inspect_path
from export.onnx_file import parse_onnx, to_bytes
from export.road import Options, export_bundle
from runtime.backends.formats import FORMATS, located
from runtime.bundle import MANIFEST, Artefact, Bundle, Manifest
from runtime.errors import CheckFailedError, InputError, MissingBackendError, ToolkitError
from runtime.files import sha256_bytes
from tests.export.formats.with_formats import add_to
from tests.fakes.fake_formats import ENVIRONMENT, HEADS, python_at
from toolkit.cli import main

NAMES = ("mnn", "ncnn", "openvino")


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(python_at(tmp_path_factory.mktemp("fake")), ENVIRONMENT)


@pytest.fixture(scope="session")
def made(bundle_dir: Path, fake: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    homes = {name: Home(fake, fake) for name in NAMES}
    return add_to(bundle_dir, tmp_path_factory.mktemp("formats") / "bundle", homes, ("fp32", "fp16"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def here(fake: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins are what is installed."""
    monkeypatch.setattr(convert, "environments", lambda: [fake])


def only_formats(place: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The proof of the converted files; the other links have tests of their own."""
    from export.chain import _Proof

    everything = _Proof.steps

    def chosen(proof: _Proof) -> dict[str, Callable[[], None]]:
        return {n: s for n, s in everything(proof).items() if n in ("probe", "fused", "model", *NAMES)}

    monkeypatch.setattr(_Proof, "steps", chosen)
    return verify_bundle(place)


def caught(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    try:
        report = only_formats(place, monkeypatch)
    except ToolkitError as error:
        return str(error)
    return "; ".join(f"{r.link} {r.name}: {r.detail}" for r in report.failures)


def test_every_format_is_a_link(made: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Bundle.open(made).manifest
    by_name = {a.name: a for a in manifest.artefacts}
    assert by_name["mnn"].file == "mnn/landmarks.mnn" and by_name["mnn-fp16"].file == "mnn/landmarks.fp16.mnn"
    assert by_name["ncnn.bin"].file == "ncnn/landmarks.bin" and by_name["ncnn-fp16.bin"].file.endswith(".fp16.bin")
    assert by_name["openvino"].settings["converter"] == "openvino 9.4, recipe 1"
    assert by_name["ncnn"].settings["engine"] == "ncnn 9.2"
    for name in NAMES:
        assert manifest.parent_of(by_name[name]) == by_name["fp32"]
        assert {c.name for c in by_name[name].checks} == {"outputs", "shift-pixels"}
        assert all(c.data == by_name["probe"].sha256 for c in by_name[name].checks)
    report = only_formats(made, monkeypatch)
    assert report.passed, report.failures
    assert not report.not_run
    measured = {(r.link, r.name) for r in report.results if r.value is not None and r.link in by_name}
    assert measured >= {("mnn", "outputs"), ("ncnn", "shift-pixels"), ("openvino-fp16", "shift")}
    again = {(r.link, r.detail) for r in report.results if r.name == "converted"}
    assert ("ncnn-fp16", "converted again by pnnx 9.3, recipe 1, to the byte") in again and len(again) == 6


def test_the_card_says_what_the_files_do_not(made: Path) -> None:
    card = json.loads((made / "mnn/landmarks.json").read_text())
    bundle = Bundle.open(made)
    assert card["spec"] == bundle.spec.to_dict()
    entry = card["files"]["landmarks.fp16.mnn"]
    assert entry["sha256"] == bundle.manifest.artefact("mnn-fp16").sha256 and entry["precision"] == "fp16"
    assert entry["input"] == {"name": "input", "layout": "NCHW", "shape": [1, 3, 64, 64]}
    assert json.loads((made / "ncnn/landmarks.json").read_text())["files"]["landmarks.bin"]["weights of"]


def forge(
    place: Path,
    changes: dict[str, Callable[[bytes], bytes]],
    edit: Callable[[Artefact], Artefact] = lambda a: a,
    drop: str = "",
) -> None:
    """Change files and mend every hash and card that follows."""
    bundle = Bundle.open(place)
    artefacts: dict[str, Artefact] = {}
    for artefact in bundle.manifest.artefacts:
        if artefact.name == drop:
            (place / artefact.file).unlink()
            continue
        data = changes.get(artefact.name, lambda d: d)(bundle.read(artefact.name))
        mended = edit(replace(artefact, sha256=sha256_bytes(data), bytes=len(data)))
        artefacts[artefact.name] = mended
        (place / artefact.file).write_bytes(data)
    for name in NAMES:
        at = f"{name}.card"
        if at in artefacts and at not in changes:
            try:
                data = links.card(FORMATS[name], artefacts, bundle.spec)
            except KeyError:
                continue
            (place / artefacts[at].file).write_bytes(data)
            artefacts[at] = replace(artefacts[at], sha256=sha256_bytes(data), bytes=len(data))
    manifest: Manifest = replace(bundle.manifest, artefacts=tuple(artefacts.values()))
    (place / MANIFEST).write_bytes(manifest.to_bytes())


def one_percent(skip: int) -> Callable[[bytes], bytes]:
    """One weight of the model inside changed by one percent."""

    def change(data: bytes) -> bytes:
        model = parse_onnx(data[skip:], "model")
        tensor = next(t for t in model.graph.initializer if t.name.endswith("weight"))
        values = numpy_helper.to_array(tensor).copy()
        values.flat[int(np.abs(values).argmax())] *= np.float32(1.01)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return data[:skip] + to_bytes(model)

    return change


def test_mending_alone_changes_nothing(copy: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    forge(copy, {})
    assert before == {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "change"), [("mnn", one_percent(len(HEADS["mnn"]) + 36)), ("ncnn.bin", one_percent(0))]
)
def test_a_changed_weight_is_found_with_and_without_the_converter(
    copy: Path, fake: Environment, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[bytes], bytes]
) -> None:
    forge(copy, {name: change})
    link = name.split(".")[0]
    monkeypatch.setattr(convert, "environments", lambda: [fake])
    assert f"{link} converted: not what" in caught(copy, monkeypatch)
    engine = Environment(fake.python, {k: v for k, v in ENVIRONMENT.items() if k not in ("pnnx",)})
    monkeypatch.setattr(chain, "find_homes", lambda names: {n: Home(None, engine) for n in names})  # the engine alone
    assert f"{link} outputs" in caught(copy, monkeypatch)


def test_without_engines_nothing_is_claimed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "environments", lambda: [Environment(sys.executable, {"numpy": "2"})])
    report = only_formats(made, monkeypatch)
    assert report.passed
    skipped = {(r.link, r.name): r.detail for r in report.not_run}
    assert set(skipped) >= {("mnn", "converted"), ("mnn", "outputs"), ("ncnn-fp16", "outputs")}
    assert "pip install 'landmark-toolkit[mnn]'" in skipped["mnn", "outputs"]
    assert "pnnx 9.3" in skipped["ncnn", "converted"]


def test_another_version_of_the_converter_proves_by_the_outputs(
    made: Path, fake: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = Environment(fake.python, {**ENVIRONMENT, "mnn": "9.9"})
    monkeypatch.setattr(convert, "environments", lambda: [newer])
    report = only_formats(made, monkeypatch)
    assert report.passed
    assert {r.link for r in report.not_run} == {"mnn", "mnn-fp16"} and "9.9" in report.not_run[0].detail


FORGERIES: dict[str, tuple[dict[str, Any], str]] = {
    "a card with another mean": (
        {"changes": {"mnn.card": lambda d: d.replace(b'"mean": [\n   0.5', b'"mean": [\n   0.4')}},
        "mnn.card card",
    ),
    "a card of another layout": ({"changes": {"ncnn.card": lambda d: d.replace(b"NCHW", b"NHWC")}}, "ncnn.card card"),
    "no card": ({"drop": "openvino.card"}, "openvino files"),
    "no weights": ({"drop": "ncnn.bin"}, "ncnn files"),
    "another parent": (
        {"edit": lambda a: replace(a, parent=None) if a.name == "mnn" else a},
        "mnn parent: made from nothing, expected fp32",
    ),
    "another layout in the manifest": (
        {"edit": lambda a: replace(a, settings={**a.settings, "layout": "NHWC"}) if a.name == "mnn" else a},
        "mnn interface: not as recorded: layout",
    ),
    "a precision that it is not": (
        {"edit": lambda a: replace(a, settings={**a.settings, "precision": "fp16"}) if a.name == "mnn" else a},
        "does not record what it is",
    ),
    "a better number than the real one": (
        {
            "edit": lambda a: (
                replace(a, checks=tuple(replace(c, limit=1e6) for c in a.checks)) if a.name == "openvino" else a
            )
        },
        "openvino outputs: recorded against",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forgeries_are_found(copy: Path, here: None, monkeypatch: pytest.MonkeyPatch, forgery: str) -> None:
    arguments, words = FORGERIES[forgery]
    forge(copy, **{"changes": {}, **arguments})
    assert words in caught(copy, monkeypatch)


def test_a_file_that_takes_its_engine_down_is_a_failed_check(
    copy: Path, fake: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(copy, {"mnn": lambda data: b"XXXX" + data[4:]})
    monkeypatch.setattr(chain, "find_homes", lambda names: {n: Home(None, fake) for n in names})
    assert "MNN cannot run its file: measure.py crashed (SIGABRT)" in caught(copy, monkeypatch)


def test_what_is_missing_is_said_before_the_first_slow_step(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(convert, "environments", lambda: [Environment(sys.executable, {"numpy": "2", "ncnn": "1"})])
    began = time.perf_counter()
    with pytest.raises(SystemExit) as ended:
        main(["export", str(checkpoint_file), "--ncnn", "-o", str(tmp_path / "out")])
    assert ended.value.code == 2 and time.perf_counter() - began < 20
    err = capsys.readouterr().err
    assert "--ncnn: its converter (pnnx) not installed; pip install 'landmark-toolkit[ncnn]'" in err
    assert "Traceback" not in err and not (tmp_path / "out").exists()
    for name, form in FORMATS.items():
        if name != "ncnn":
            with pytest.raises(MissingBackendError, match=f"--{name}: .*engine .*{form.distributions[0]}"):
                require_homes([name])


def test_the_road_ends_where_a_converted_file_breaks_its_limit(
    checkpoint_file: Path, fake: Environment, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SHIFT_LIMIT_PX", -1.0)
    target = tmp_path / "bundle"
    options = Options(exporter="torchscript", probes="synth:12@3", formats=("mnn",))
    with pytest.raises(CheckFailedError, match=r"MNN fp32: shift-pixels is .* nothing was written"):
        export_bundle(checkpoint_file, target, options)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(links, "SHIFT_LIMIT_PX", 0.01)
    manifest = export_bundle(checkpoint_file, target, options)
    assert manifest.artefact("mnn").checks[0].data == manifest.artefact("probe").sha256
    assert {p.name for p in (target / "mnn").iterdir()} == {"landmarks.mnn", "landmarks.json"}


def test_a_converter_that_fails_is_one_line(fake: Environment, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho noise; echo 'cannot read operator X' >&2; exit 3\n")
    broken.chmod(0o755)
    home = Home(Environment(str(broken), ENVIRONMENT), None)
    with pytest.raises(CheckFailedError, match="MNN fp32: its converter fails: cannot read operator X"):
        convert.convert(FORMATS["mnn"], home, "fp32", b"model", 64)
    broken.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(CheckFailedError, match=r"wrote no .param file"):
        convert.convert(FORMATS["ncnn"], Home(Environment(str(broken), ENVIRONMENT), None), "fp32", b"model", 64)


def test_children_that_hang_or_die(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    left = tmp_path / "left"
    later = f"import pathlib, time; time.sleep(3); pathlib.Path({str(left)!r}).touch()"
    script.write_text(
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {later!r}])\ntime.sleep(60)\n"
    )
    with pytest.raises(ChildError, match=r"script.py took more than 1.5 s"):
        run_script(sys.executable, script, [], 1.5, child_environment(1))
    time.sleep(2.5)
    assert not left.exists(), "what the child started must end with it"
    script.write_text("import os; os.abort()")
    with pytest.raises(ChildError, match=r"crashed \(SIGABRT\)"):
        run_script(sys.executable, script, [], 30, child_environment(1))
    with pytest.raises(ChildError, match="No such file"):
        run_script(str(tmp_path / "none"), script, [], 30, child_environment(1))


def test_mnn_files_get_an_identity_of_their_own() -> None:
    first = b"head 4f42d383-679b-42cb-869e-5c7425f10838 tail"
    second = b"head 00000000-679b-42cb-869e-5c7425f10838 tail"
    one, two = (convert._own_uuid(data, "origin") for data in (first, second))
    assert one == two and one != first and len(one) == len(first)
    assert convert._own_uuid(first, "another") != one
    for wrong in (b"none", first + first):
        with pytest.raises(InputError, match="expected one identity"):
            convert._own_uuid(wrong, "origin")


def test_mnn_is_given_weights_that_float16_holds() -> None:
    values = np.float32([1.0009, -0.3333, 1e-6, 65519.0, 65521.0, 1e-30])
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "w"], ["landmarks"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [6])],
        [helper.make_tensor_value_info("landmarks", TensorProto.FLOAT, [6])],
        [numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.int64([3]), "n")],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    found = {t.name: numpy_helper.to_array(t) for t in parse_onnx(convert._rounded(given), "m").graph.initializer}
    wanted = [np.float32(np.float16(v)) for v in values[:4]]
    assert found["w"].tolist() == [*wanted, np.float32(65521.0), 0.0] and found["n"].tolist() == [3]
    assert wanted[0] > values[0] - 0.0005 and found["w"][3] == 65504.0


def test_traces_of_the_machine_are_refused(fake: Environment, tmp_path: Path) -> None:
    talker = tmp_path / "python"
    talker.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[4], 'w').write('made in /home/me/x')\n")
    talker.chmod(0o755)
    home = Home(
        Environment(str(talker), {**ENVIRONMENT, **dict.fromkeys(CONVERTERS["tflite"].distributions, "1")}), None
    )
    with pytest.raises(InputError, match="trace of the machine"):
        convert.convert(FORMATS["tflite"], home, "fp32", b"model", 64)


def test_homes_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = (
        Environment("a", {"numpy": "2", "ncnn": "1"}),
        Environment("b", {"numpy": "2", "ncnn": "2", "pnnx": "3"}),
    )
    monkeypatch.setattr(convert, "environments", lambda: [ours, other])
    home = find_homes(["ncnn"])["ncnn"]
    assert (home.run, home.convert) == (ours, other)
    assert home.engine(FORMATS["ncnn"]) == "ncnn 1" and home.converter(FORMATS["ncnn"]) == "pnnx 3, recipe 1"
    assert find_homes([]) == {}


def test_names_of_files() -> None:
    assert located("x/mnn/landmarks.fp16.mnn") == (FORMATS["mnn"], "fp16")
    assert located("x/openvino/landmarks.int8.xml") == (FORMATS["openvino"], "int8")
    assert located("x/mnn/other.mnn") is None and located("landmarks.tflite") is None
    assert FORMATS["ncnn"].artefact("fp16") == "ncnn-fp16"


def test_inspect_tells_what_a_converted_file_is(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = inspect_path(made / "ncnn/landmarks.fp16.param")
    assert facts["what"] == "ncnn file, fp16" and "pnnx 9.3" in facts["producer"]
    assert facts["inputs"][0]["shape"] == [1, 3, 64, 64] and facts["lineage"][0].startswith("model.onnx")
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(made / "mnn/landmarks.mnn")])
    assert ended.value.code in (0, None) and "largest landmark distance" in capsys.readouterr().out


def test_a_converted_file_alone_says_nothing_about_its_input(made: Path, tmp_path: Path) -> None:
    lone = tmp_path / "landmarks.mnn"
    shutil.copy(made / "mnn/landmarks.mnn", lone)
    with pytest.raises(InputError, match="does not lie in a bundle"):
        open_artefact(lone)


def test_a_bundle_s_own_files_are_benched(made: Path, fake: Environment, tmp_path: Path) -> None:
    from toolkit.bench.contenders import Contender, peer_contenders

    np.save(tmp_path / "values.npy", np.zeros((2, 3, 64, 64), np.float32))
    found = peer_contenders(
        Bundle.open(made), ("mnn", "ncnn", "openvino"), [fake], tmp_path / "values.npy", tmp_path, lambda _: None
    )
    own = {c.title: c for c in found if isinstance(c, Contender) and c.note == "the bundle's own file"}
    assert set(own) == {"MNN fp32", "ncnn fp32", "OpenVINO fp32"}
    assert own["ncnn fp32"].model == made / "ncnn/landmarks.param" and len(own["ncnn fp32"].files) == 2
