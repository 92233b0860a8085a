"""A bundle proves itself from its files alone, and no forged one does, however carefully its hashes were mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from export.bundle import new_bundle
from export.chain import verify_bundle
from export.chain_report import Report
from export.onnx_file import parse_onnx, set_spec, spec_of, to_bytes
from export.road import Options, checkpoint_bytes, export_bundle
from runtime.bundle import MANIFEST, Artefact, Bundle, Manifest, arrays_to_bytes, read_arrays
from runtime.errors import ToolkitError
from runtime.files import sha256_bytes
from runtime.spec import ModelSpec
from train.checkpoint import Checkpoint, load_checkpoint
from train.models.zoo import build

FILES = ("manifest.json", "model.ckpt", "fused.ckpt", "model.onnx", "model.fp16.onnx", "model.int8.onnx", "probe.npz")
Change = Callable[[bytes], bytes]


@pytest.fixture
def copy(bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_dir, tmp_path / "copy"))


def caught(place: Path) -> str:
    """What verification has against a bundle; empty when it takes it."""
    try:
        report = verify_bundle(place)
    except ToolkitError as error:
        return str(error)
    return "; ".join(f"{r.link} {r.name}: {r.detail}" for r in report.failures)


def test_a_good_bundle_is_proven(bundle_dir: Path) -> None:
    report: Report = verify_bundle(bundle_dir)
    assert report.passed, report.failures
    proven = {(r.link, r.name) for r in report.results if r.value is not None}
    assert proven == {
        ("fused", "weights"),
        ("fused", "outputs"),
        ("fp32", "form"),
        ("fp32", "weights"),
        ("fp32", "outputs"),
        ("fp32", "simplify"),
        ("fp32", "repeat-fp32"),
        ("fp16", "weights"),
        ("fp16", "shift"),
        ("fp16", "shift-pixels"),
        ("fp16", "repeat-fp16"),
        ("int8", "contract"),
        ("int8", "shift"),
        ("int8", "engine"),
        ("int8", "repeat-int8"),
        ("int8", "repeat-integers"),
    }


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_byte_is_caught(copy: Path, file: str) -> None:
    path = copy / file
    whole = path.read_bytes()
    places = {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}
    places |= set(np.random.default_rng(0).integers(0, len(whole), 10).tolist())
    for place in sorted(places):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        assert caught(copy), f"byte {place} of {file}"
    path.write_bytes(whole[:-1])
    assert caught(copy)
    path.write_bytes(whole + b"\n")
    assert caught(copy)
    path.unlink()
    assert caught(copy)
    path.write_bytes(whole)
    assert not caught(copy)


def forge(place: Path, changes: dict[str, Change], edit: Callable[[Manifest], Manifest] = lambda m: m) -> None:
    """Change artefacts and mend every hash, size and parent that follows, inside the files too."""
    bundle = Bundle.open(place)
    old = bundle.manifest
    new_hash: dict[str, str] = {}
    artefacts: list[Artefact] = []
    for artefact in old.artefacts:
        data = changes.get(artefact.name, lambda d: d)(bundle.read(artefact.name))
        if artefact.kind == "checkpoint" and artefact.name == "fused" and old.has("model"):
            data = with_checkpoint(data, lambda c: replace(c, parent=new_hash[old.artefact("model").sha256]))
        (place / artefact.file).write_bytes(data)
        new_hash[artefact.sha256] = sha256_bytes(data)
        parent = None if artefact.parent is None else new_hash[artefact.parent]
        artefacts.append(replace(artefact, sha256=sha256_bytes(data), bytes=len(data), parent=parent))
    mended = tuple(
        replace(a, checks=tuple(replace(c, data=c.data and new_hash.get(c.data, c.data)) for c in a.checks))
        for a in artefacts
    )
    (place / MANIFEST).write_bytes(edit(replace(old, artefacts=mended)).to_bytes())


def with_checkpoint(data: bytes, change: Callable[[Checkpoint], Checkpoint]) -> bytes:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".ckpt") as stream:
        stream.write(data)
        stream.flush()
        return checkpoint_bytes(change(load_checkpoint(stream.name)))


def checkpoint_weight(seed: int) -> Change:
    def change(data: bytes) -> bytes:
        def one_percent(checkpoint: Checkpoint) -> Checkpoint:
            names = [n for n, t in checkpoint.model.items() if n.endswith("weight") and t.dim() == 4]
            generator = np.random.default_rng(seed)
            name = names[int(generator.integers(len(names)))]
            tensor = checkpoint.model[name].clone()
            flat = tensor.view(-1)
            flat[int(generator.integers(len(flat)))] *= 1.01
            return replace(checkpoint, model={**checkpoint.model, name: tensor})

        return with_checkpoint(data, one_percent)

    return change


def onnx_weight(seed: int) -> Change:
    def change(data: bytes) -> bytes:
        model = parse_onnx(data, "model")
        generator = np.random.default_rng(seed)
        weights = [t for t in model.graph.initializer if t.name.endswith("weight")]
        tensor = weights[int(generator.integers(len(weights)))]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[int(generator.integers(values.size))] *= values.dtype.type(1.01)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return to_bytes(model)

    return change


def test_mending_alone_changes_nothing(copy: Path) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    forge(copy, {})
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["model", "fused", "fp32", "fp16"])
def test_one_weight_changed_by_a_percent_is_caught_with_all_hashes_mended(copy: Path, name: str, seed: int) -> None:
    forge(copy, {name: (checkpoint_weight if name in ("model", "fused") else onnx_weight)(seed)})
    assert "weights" in caught(copy)


def int8_constant(end: str, seed: int) -> Change:
    """One value of a constant whose name ends so: a scale by one percent, a weight by one step."""

    def change(data: bytes) -> bytes:
        model = parse_onnx(data, "model")
        generator = np.random.default_rng(seed)
        wanted = {np.dtype(np.int8)} if end == "code" else {np.dtype(np.float32)}
        found = [t for t in model.graph.initializer if numpy_helper.to_array(t).dtype in wanted]
        found = [t for t in found if numpy_helper.to_array(t).any() and (end == "code" or "bias" not in t.name)]
        tensor = found[int(generator.integers(len(found)))]
        values = numpy_helper.to_array(tensor).copy()
        at = int(np.argmax(np.abs(values)))
        values.flat[at] = (
            values.flat[at] - np.sign(values.flat[at]) if end == "code" else values.flat[at] * np.float32(1.01)
        )
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return to_bytes(model)

    return change


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("end", ["code", "scale"])
def test_int8_constants_changed_with_all_hashes_mended_are_caught(copy: Path, end: str, seed: int) -> None:
    forge(copy, {"int8": int8_constant(end, seed)})
    assert "int8" in caught(copy)


def test_a_loosened_int8_limit_is_caught(copy: Path) -> None:
    def edit(manifest: Manifest) -> Manifest:
        artefacts = [
            replace(a, settings={**a.settings, "shift limit on the probes, %": 50.0}) for a in manifest.artefacts
        ]
        return replace(manifest, artefacts=tuple(artefacts))

    forge(copy, {}, edit)
    assert "shift limit" in caught(copy)


def swapped(data: bytes) -> Change:
    return lambda _: data


@pytest.mark.parametrize(
    ("one", "other"), [("fp32", "fp16"), ("fp16", "int8"), ("model", "fused"), ("fused", "fp32"), ("probe", "fp32")]
)
@pytest.mark.parametrize("mended", [False, True])
def test_swapped_artefacts_are_caught(copy: Path, one: str, other: str, mended: bool) -> None:
    bundle = Bundle.open(copy)
    first, second = bundle.read(one), bundle.read(other)
    if mended and "fused" in (one, other) and "fp32" in (one, other):
        pytest.skip("the mender needs a checkpoint in that place")
    if mended:
        forge(copy, {one: swapped(second), other: swapped(first)})
    else:
        (copy / bundle.manifest.artefact(one).file).write_bytes(second)
        (copy / bundle.manifest.artefact(other).file).write_bytes(first)
    assert caught(copy)


SPEC_EDITS: dict[str, dict[str, Any]] = {
    "mean": {"mean": (0.4, 0.5, 0.5)},
    "channels": {"channels": "rgb"},
    "coordinates": {"coordinates": "corner"},
    "branches": {"branches": 4},
    "width": {"width": 0.5},
}


@pytest.mark.parametrize("name", SPEC_EDITS)
def test_an_edited_spec_in_the_manifest_is_caught(copy: Path, name: str) -> None:
    forge(copy, {}, lambda m: replace(m, spec=replace(m.spec, **SPEC_EDITS[name])))
    assert "spec" in caught(copy)


@pytest.mark.parametrize("name", ["mean", "channels"])
def test_a_spec_edited_everywhere_is_caught_by_the_stored_outputs(copy: Path, name: str) -> None:
    def edited(spec: ModelSpec) -> ModelSpec:
        return replace(spec, **SPEC_EDITS[name])

    def in_checkpoint(data: bytes) -> bytes:
        return with_checkpoint(data, lambda c: replace(c, spec=edited(c.spec)))

    def in_graph(data: bytes) -> bytes:
        model = parse_onnx(data, "model")
        spec = spec_of(model, "model")
        assert spec is not None
        set_spec(model, edited(spec))
        return to_bytes(model)

    changes = {"model": in_checkpoint, "fused": in_checkpoint, "fp32": in_graph, "fp16": in_graph, "int8": in_graph}
    forge(copy, changes, lambda m: replace(m, spec=edited(m.spec)))
    assert "repeat-fp32" in caught(copy)


def test_probes_of_another_model_are_caught(copy: Path) -> None:
    def other(data: bytes) -> bytes:
        arrays = read_arrays(data, "probe")
        return arrays_to_bytes({**arrays, "fp32": np.asarray(arrays["fp32"] + np.float32(1e-3))})

    forge(copy, {"probe": other})
    assert "repeat-fp32" in caught(copy)


def test_fewer_or_other_faces_are_caught(copy: Path) -> None:
    def fewer(data: bytes) -> bytes:
        arrays = read_arrays(data, "probe")
        return arrays_to_bytes({name: a if "-" in name else a[:4] for name, a in arrays.items()})

    def turned(data: bytes) -> bytes:
        arrays = read_arrays(data, "probe")
        return arrays_to_bytes({**arrays, "crops": arrays["crops"][:, :, ::-1]})

    whole = {p.name: p.read_bytes() for p in copy.iterdir()}
    for change, word in ((fewer, "content"), (turned, "repeat-fp32")):
        forge(copy, {"probe": change})
        assert word in caught(copy)
        for file, data in whole.items():
            (copy / file).write_bytes(data)


def without(name: str) -> Callable[[Manifest], Manifest]:
    def edit(manifest: Manifest) -> Manifest:
        gone = manifest.artefact(name).sha256
        rest = [a for a in manifest.artefacts if a.name != name]
        return replace(
            manifest, artefacts=tuple(replace(a, parent=None if a.parent == gone else a.parent) for a in rest)
        )

    return edit


@pytest.mark.parametrize("name", ["model", "fused", "fp32", "probe"])
def test_a_missing_parent_is_caught(copy: Path, name: str) -> None:
    file = Bundle.open(copy).manifest.artefact(name).file
    forge(copy, {}, without(name))
    (copy / file).unlink()
    found = caught(copy)
    assert "parent" in found or "missing" in found or "origin" in found


def edit_check(artefact: str, check: str, **values: Any) -> Callable[[Manifest], Manifest]:
    def edit(manifest: Manifest) -> Manifest:
        artefacts = [
            replace(
                a, checks=tuple(replace(c, **values) if c.name == check and a.name == artefact else c for c in a.checks)
            )
            for a in manifest.artefacts
        ]
        return replace(manifest, artefacts=tuple(artefacts))

    return edit


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (edit_check("fp16", "shift", value=1e-6), "recorded as"),
        (edit_check("fp16", "shift", limit=5.0), "recorded against"),
        (edit_check("fp16", "shift", value=0.06), "above its limit"),
        (edit_check("fp32", "outputs", name="other"), "does not record"),
        (edit_check("fp32", "outputs", data="0" * 64), "other probes"),
    ],
    ids=["flattered value", "loosened limit", "failed check", "dropped check", "other data"],
)
def test_dishonest_numbers_are_caught(copy: Path, edit: Callable[[Manifest], Manifest], word: str) -> None:
    forge(copy, {}, edit)
    assert word in caught(copy)


def test_layers_not_kept_as_recorded_are_caught(copy: Path) -> None:
    def edit(manifest: Manifest) -> Manifest:
        artefacts = [replace(a, settings={**a.settings, "kept in float32": {}}) for a in manifest.artefacts]
        return replace(manifest, artefacts=tuple(artefacts))

    forge(copy, {}, edit)
    assert "fp16 weights" in caught(copy)


def test_a_hidden_file_and_a_link_are_caught(copy: Path) -> None:
    (copy / "notes.txt").write_text("hello")
    assert "notes.txt" in caught(copy)
    (copy / "notes.txt").unlink()
    (copy / "model.onnx").rename(copy.parent / "elsewhere.onnx")
    (copy / "model.onnx").symlink_to(copy.parent / "elsewhere.onnx")
    assert "symbolic link" in caught(copy)


def test_another_models_graph_is_caught(copy: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    spec, path = Bundle.open(copy).spec, tmp_path / "other.ckpt"
    other = Checkpoint("fused", spec, build(spec, fused=True).state_dict())
    path.write_bytes(checkpoint_bytes(other))
    export_bundle(path, tmp_path / "other", Options(exporter="torchscript", probes="synth:12@3"))
    assert not caught(tmp_path / "other")
    graph = Bundle.open(tmp_path / "other").read("fp32")
    forge(copy, {"fp32": swapped(graph)})
    assert "fp32 weights" in caught(copy)


def test_manifest_is_readable_json(bundle_dir: Path) -> None:
    data = json.loads((bundle_dir / MANIFEST).read_text())
    assert [a["name"] for a in data["artefacts"]] == ["model", "fused", "fp32", "fp16", "int8", "probe"]
    text = (bundle_dir / MANIFEST).read_text()
    assert "/" not in text.replace("multi-branch/", "") or not any(
        str(p) in text for p in bundle_dir.parents if len(str(p)) > 1
    )


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), new_bundle(tmp_path / "out") as writer:
        writer.add("probe", "probe", "probe.npz", b"data")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
