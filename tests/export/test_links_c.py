"""The C link: made from its ONNX to the byte, measured where a compiler is, and no forged file gets through."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.chain import verify_bundle
from export.links_c import (
    CRequest,
    Generated,
    Truth,
    artefact_name,
    folder_of,
    generate,
    int8_truth,
    measure,
    refuse_c_request,
)
from export.onnx_file import parse_onnx
from runtime.backends.c import open_c
from runtime.bundle import Bundle, Manifest, read_arrays
from runtime.errors import CheckFailedError, InputError, UsageError
from tests.export.test_chain import caught, forge, swapped
from tests.export.with_c import add_to

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(c_bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(c_bundle_dir, tmp_path / "copy"))


@pytest.fixture
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the numbers matter and the speed does not."""
    flags = ("-std=c99", "-O0", "-ffp-contract=off", "-fPIC", "-shared")
    monkeypatch.setattr("runtime.backends.c_build.BASE_FLAGS", flags)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_bundle_with_c_is_proven(c_bundle_dir: Path, quick_builds: None) -> None:
    report = verify_bundle(c_bundle_dir)
    assert report.passed, report.failures
    assert not report.not_run
    values = {(r.link, r.name): r.value for r in report.results if r.link in ("c", "c-int8") and r.value is not None}
    assert set(values) == {
        *((link, name) for link in ("c", "c-int8") for name in ("warnings", "self-test", "arena", "outputs")),
        ("c", "shift-pixels"),
    }
    assert values["c-int8", "outputs"] == 0
    assert 0 < values["c", "shift-pixels"] < 0.01
    manifest = Bundle.open(c_bundle_dir).manifest
    for artefact in manifest.artefacts:
        if folder_of(artefact.name):
            parent = manifest.parent_of(artefact)
            assert parent is not None
            assert parent.name == {"c": "fp32", "c-int8": "int8"}[artefact.file.split("/")[0]]
    for folder, parent_name in (("c", "fp32"), ("c-int8", "int8")):
        header = (c_bundle_dir / folder / "landmarks.h").read_text()
        assert f'_MODEL_SHA256 "{manifest.artefact(parent_name).sha256}"' in header
        settings = manifest.artefact(folder).settings
        assert values[folder, "arena"] == settings["arena bytes"]
        assert f"_ARENA_BYTES {settings['arena bytes']}\n" in header


def one_bit(at: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


@pytest.mark.parametrize(("name", "at"), [("c", 0.5), ("c.landmarks.h", 0.01), ("c-int8", 0.99)])
def test_one_byte_changed_with_all_hashes_mended_is_caught(copy: Path, name: str, at: float) -> None:
    forge(copy, {name: one_bit(at)})
    assert f"{name.split('.')[0]} files: not what" in caught(copy)


def test_a_weight_changed_by_a_percent_with_all_hashes_mended_is_caught(copy: Path) -> None:
    forge(copy, {"c": larger_weight})
    assert caught(copy).startswith("c files")


def test_swapped_folders_are_caught(copy: Path) -> None:
    bundle = Bundle.open(copy)
    names = [a.name for a in bundle.manifest.artefacts if folder_of(a.name) == "c"]
    pairs = [(name, "c-int8" + name[1:]) for name in names]
    changes = {a: swapped(bundle.read(b)) for a, b in pairs} | {b: swapped(bundle.read(a)) for a, b in pairs}
    forge(copy, changes)
    assert "c files" in caught(copy)


def edit_c(folder: str, **settings: Any) -> Callable[[Manifest], Manifest]:
    def edit(manifest: Manifest) -> Manifest:
        artefacts = [
            replace(a, settings={**a.settings, **settings}) if a.name == folder else a for a in manifest.artefacts
        ]
        return replace(manifest, artefacts=tuple(artefacts))

    return edit


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (edit_c("c", **{"arena bytes": 64}), "c settings: arena bytes"),
        (edit_c("c", prefix="other"), "c files"),
        (edit_c("c", prefix="*/"), "C prefix"),
        (edit_c("c", isas="avx2"), "records isas"),
        (edit_c("c", **{"max ram": "1"}), "records max ram"),
        (edit_c("c", **{"max ram": 64}), "--max-ram allows 64"),
    ],
)
def test_lies_in_the_manifest_are_caught(copy: Path, edit: Callable[[Manifest], Manifest], word: str) -> None:
    forge(copy, {}, edit)
    assert word in caught(copy)


@pytest.mark.parametrize("name", ["c", "c.landmarks.h"])
def test_a_missing_file_is_caught(copy: Path, name: str) -> None:
    file = Bundle.open(copy).manifest.artefact(name).file

    def without(manifest: Manifest) -> Manifest:
        return replace(manifest, artefacts=tuple(a for a in manifest.artefacts if a.name != name))

    forge(copy, {}, without)
    (copy / file).unlink()
    assert caught(copy)


def test_an_added_file_is_caught(copy: Path) -> None:
    (copy / "c" / "extra.c").write_text("int main(void) { return 0; }\n")
    assert "extra.c" in caught(copy)


def test_a_number_that_was_not_recorded_is_caught(copy: Path, quick_builds: None) -> None:
    """Recorded numbers are measured again."""

    def edit(manifest: Manifest) -> Manifest:
        artefacts = [
            replace(a, checks=tuple(c for c in a.checks if c.name != "outputs")) if a.name == "c" else a
            for a in manifest.artefacts
        ]
        return replace(manifest, artefacts=tuple(artefacts))

    forge(copy, {}, edit)
    assert "does not record" in caught(copy)


def generated(place: Path, precision: str, request: CRequest) -> tuple[Generated, Truth, Bundle]:
    bundle = Bundle.open(place)
    model = parse_onnx(bundle.read(precision), precision)
    arrays = read_arrays(bundle.read("probe"), "probe.npz")
    made = generate(model, bundle.spec, precision, request)  # type: ignore[arg-type]
    if precision == "int8":
        return made, int8_truth(model, bundle.spec, arrays["int8"]), bundle
    return made, Truth(arrays["fp32"].astype(np.float64), 64.0, arrays["fp32"]), bundle


def larger_weight(data: bytes) -> bytes:
    """The largest of the float weights grows by a percent."""
    head, numbers, tail = table(data, b"lm_weights[")
    literals = [text.strip() for text in numbers.split(b",")]
    values = [float.fromhex(text.removesuffix(b"f").decode()) for text in literals]
    at = int(np.argmax(np.abs(values)))
    literals[at] = float(np.float32(values[at] * 1.01)).hex().encode() + b"f"
    return head + b",".join(literals) + tail


def int8_code(data: bytes) -> bytes:
    """The first of the largest packed codes becomes one step smaller."""
    head, numbers, tail = table(data, b"int8_t LM_ALIGNED lm_codes[")
    assert b"127" in numbers
    return head + numbers.replace(b"127", b"126", 1) + tail


def table(data: bytes, name: bytes) -> tuple[bytes, bytes, bytes]:
    """The source up to the numbers of a table, the numbers, the rest."""
    start = data.index(b"{", data.index(name)) + 1
    end = data.index(b"}", start)
    return data[:start], data[start:end].strip().rstrip(b","), data[end:]


@pytest.mark.parametrize(("precision", "change"), [("fp32", larger_weight), ("int8", int8_code)])
def test_the_measures_themselves_find_a_changed_weight(
    c_bundle_dir: Path, quick_builds: None, precision: str, change: Callable[[bytes], bytes]
) -> None:
    made, truth, bundle = generated(c_bundle_dir, precision, CRequest())
    crops = read_arrays(bundle.read("probe"), "probe.npz")["crops"]
    broken = replace(made, files={**made.files, "landmarks.c": change(made.files["landmarks.c"])})
    for version, fine in ((made, True), (broken, False)):
        checks = {c.name: c for c in measure(version, bundle.spec, CRequest(), crops, truth).checks}
        assert checks["outputs"].passed == fine, checks["outputs"]
        assert checks["self-test"].passed == fine or precision == "fp32"


def test_without_a_compiler_verify_says_what_it_could_not_run(c_bundle_dir: Path, no_compiler: None) -> None:
    report = verify_bundle(c_bundle_dir)
    assert report.passed
    assert [(r.link, r.name) for r in report.not_run] == [("c", "outputs"), ("c-int8", "outputs")]
    assert all("no C compiler" in r.detail for r in report.not_run)
    assert ("c", "files") in {(r.link, r.name) for r in report.results}


def test_a_bundle_made_without_a_compiler_says_so_and_is_measured_where_one_is(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_builds: None
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.setenv("PATH", str(tmp_path))
        place = add_to(bundle_dir, tmp_path / "made", CRequest())
    source = Bundle.open(place).manifest.artefact("c")
    assert not source.checks
    assert "no C compiler" in source.settings["not run"]
    report = verify_bundle(place)
    assert report.passed, report.failures
    assert not report.not_run
    assert ("c", "shift-pixels") in {(r.link, r.name) for r in report.results if r.value is not None}


def test_c_that_needs_too_much_memory_stops_the_road(bundle_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--max-ram allows 1000"):
        add_to(bundle_dir, tmp_path / "made", CRequest(max_ram=1000))
    assert not list(tmp_path.iterdir())


def test_c_that_is_wrong_stops_the_road(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_builds: None
) -> None:
    def wrong(*args: Any) -> Generated:
        made = generate(*args)
        return replace(made, files={**made.files, "landmarks.c": larger_weight(made.files["landmarks.c"])})

    monkeypatch.setattr("export.road_c.generate", wrong)
    with pytest.raises(CheckFailedError, match=r"C fp32: (outputs|self-test)"):
        add_to(bundle_dir, tmp_path / "made", CRequest())
    assert not list(tmp_path.iterdir())


def test_the_files_depend_on_nothing_but_the_model(c_bundle_dir: Path, tmp_path: Path) -> None:
    """Another directory, hash seed and number of threads give the same bytes."""
    script = (
        "import sys; from pathlib import Path; from export.links_c import *; from export.onnx_file import *\n"
        "from runtime.bundle import Bundle; bundle = Bundle.open(sys.argv[1])\n"
        "for p in ('fp32', 'int8'):\n"
        "    made = generate(parse_onnx(bundle.read(p), p), bundle.spec, p, CRequest())\n"
        "    for file, data in sorted(made.files.items()):\n"
        "        print(p, file, __import__('hashlib').sha256(data).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(c_bundle_dir)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(c_bundle_dir)
    stored = {
        f"{'fp32' if folder_of(a.name) == 'c' else 'int8'} {a.file.partition('/')[2]} {a.sha256}"
        for a in bundle.manifest.artefacts
        if folder_of(a.name)
    }
    assert set(done.stdout.split("\n")) - {""} == stored


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (CRequest(prefix="int"), "C prefix 'int'"),
        (CRequest(isas=("avx3",)), "--c-isa avx3"),
        (CRequest(isas=()), "at least one"),
        (CRequest(max_ram=0), "--max-ram 0"),
    ],
)
def test_impossible_requests_are_refused_at_once(request_: CRequest, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        refuse_c_request(request_)


def test_names_of_artefacts_and_their_folders() -> None:
    assert artefact_name("c", "landmarks.c") == "c"
    assert artefact_name("c-int8", "tools/bench.c") == "c-int8.tools.bench.c"
    assert [folder_of(n) for n in ("c", "c.demo.c", "c-int8", "c-int8.demo.c", "code", "fp32")] == [
        "c",
        "c",
        "c-int8",
        "c-int8",
        None,
        None,
    ]


def test_every_form_of_the_c_is_proven_and_runs(bundle_dir: Path, tmp_path: Path, quick_builds: None) -> None:
    """Another prefix, one header, instruction sets chosen at run time: recorded, so that verify makes them again."""
    request = CRequest(("int8",), "face", ("avx2", "scalar"), dispatch=True, single_header=True)
    place = add_to(bundle_dir, tmp_path / "made", request)
    manifest = Bundle.open(place).manifest
    assert CRequest.of_settings(manifest.artefact("c-int8").settings, "manifest") == replace(
        request, precisions=("fp32",)
    )
    assert "LM_IMPLEMENTATION" not in (place / "c-int8" / "landmarks.c").read_text()
    assert "FACE_IMPLEMENTATION" in (place / "c-int8" / "landmarks.c").read_text()
    report = verify_bundle(place)
    assert report.passed, report.failures
    assert {r.value for r in report.results if (r.link, r.name) == ("c-int8", "outputs")} == {0.0}
    crops = read_arrays((place / "probe.npz").read_bytes(), "probe")["crops"]
    model = open_c(Bundle.open(place), "int8")
    assert model.landmarks(crops).shape == (len(crops), 98, 2)


def test_a_warning_of_the_compiler_is_counted(c_bundle_dir: Path, quick_builds: None) -> None:
    made, truth, bundle = generated(c_bundle_dir, "fp32", CRequest())
    source = made.files["landmarks.c"] + b"static int never_called(void)\n{\n    return 0;\n}\n"
    crops = read_arrays(bundle.read("probe"), "probe.npz")["crops"]
    measured = measure(
        replace(made, files={**made.files, "landmarks.c": source}), bundle.spec, CRequest(), crops, truth
    )
    assert [(c.name, c.value) for c in measured.checks if not c.passed] == [("warnings", 1.0)]
