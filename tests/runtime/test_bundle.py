"""Reading bundles: only what was written is read, and every other thing is one clear error."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle import MANIFEST, Artefact, Bundle, Check, Manifest, Source, arrays_to_bytes, read_arrays
from runtime.errors import InputError, UsageError
from runtime.files import sha256_bytes
from runtime.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]


def artefact(name: str, data: bytes, parent: str | None = None, **values: Any) -> Artefact:
    fields = {"file": f"{name}.bin", "kind": "onnx", "settings": {"opset": 18}, **values}
    return Artefact(name=name, sha256=sha256_bytes(data), bytes=len(data), parent=parent, **fields)


def write(place: Path, files: dict[str, bytes] | None = None) -> Manifest:
    """A bundle of two files, the second made from the first."""
    place.mkdir(exist_ok=True)
    contents = files or {"a": b"first", "b": b"second"}
    first = artefact("a", contents["a"], checks=(Check("shift", "pixels", 0.5, 1.0, "0" * 64, 3),))
    second = artefact("b", contents["b"], first.sha256)
    manifest = Manifest(ModelSpec("pfld"), Source("1" * 64, "fused", None), "0.1.0", {"onnx": "1"}, (first, second))
    for name, data in contents.items():
        (place / f"{name}.bin").write_bytes(data)
    (place / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def test_round_trip(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    bundle = Bundle.open(tmp_path)
    assert bundle.manifest == manifest and bundle.spec == ModelSpec("pfld")
    assert bundle.read("b") == b"second"
    assert [a.name for a, _ in bundle.read_all()] == ["a", "b"]
    assert manifest.parent_of(manifest.artefact("b")) == manifest.artefact("a")
    assert bundle.strays() == []
    assert manifest.artefact("a").checks[0].passed
    with pytest.raises(UsageError, match="has no 'c'; it has: a, b"):
        bundle.read("c")


def test_every_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    write(tmp_path)
    whole = (tmp_path / MANIFEST).read_bytes()
    for place in range(0, len(whole), 7):
        damaged = whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :]
        with pytest.raises(InputError):
            Manifest.from_bytes(damaged)
    for damaged in (whole[:-1], whole + b" ", b"", b"{}", b"[]", b"[" * 100_000, whole.replace(b"\n", b"\r\n")):
        with pytest.raises(InputError):
            Manifest.from_bytes(damaged)


def broken(change: Any) -> bytes:
    """A manifest whose data were changed and whose digest was mended."""
    manifest = json.loads(
        Manifest(ModelSpec("pfld"), Source("1" * 64, "fused", None), "0.1.0", {}, (artefact("a", b"x"),)).to_bytes()
    )
    change(manifest)
    manifest.pop("digest", None)
    text = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
    return json.dumps({**manifest, "digest": sha256_bytes(text)}, indent=1, sort_keys=True).encode() + b"\n"


BREAKS = {
    "unknown key": (lambda m: m.update(extra=1), "unknown key 'extra'"),
    "near key": (lambda m: m["artefacts"][0].update(setings={}), "did you mean 'settings'"),
    "missing key": (lambda m: m.pop("tools"), "'tools' is missing"),
    "other format": (lambda m: m.update(format="x"), "format: found 'x'"),
    "newer schema": (lambda m: m.update(schema=2), "schema: found 2"),
    "schema as text": (lambda m: m.update(schema="1"), "schema"),
    "true is no number": (lambda m: m["artefacts"][0].update(bytes=True), "expected integer"),
    "absolute path": (lambda m: m["artefacts"][0].update(file="/etc/passwd"), "does not match"),
    "path upwards": (lambda m: m["artefacts"][0].update(file="../x"), "does not match"),
    "path upwards inside": (lambda m: m["artefacts"][0].update(file="c/../../x"), "does not match"),
    "hidden file": (lambda m: m["artefacts"][0].update(file=".x"), "does not match"),
    "line end in a name": (lambda m: m["artefacts"][0].update(file="x\n"), "does not match"),
    "the manifest itself": (lambda m: m["artefacts"][0].update(file="manifest.json"), "listed twice"),
    "short hash": (lambda m: m["artefacts"][0].update(sha256="abc"), "does not match"),
    "orphan": (lambda m: m["artefacts"][0].update(parent="2" * 64), "chain is broken"),
    "twice": (lambda m: m["artefacts"].append(m["artefacts"][0]), "listed twice"),
    "bad spec": (lambda m: m["spec"].update(width=-1), "width must lie"),
    "text as value": (
        lambda m: m["artefacts"][0]["checks"].append({"name": "n", "metric": "m", "value": "0", "limit": 1}),
        "is missing",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_has_its_message(name: str) -> None:
    change, message = BREAKS[name]
    with pytest.raises(InputError, match=message):
        Manifest.from_bytes(broken(change))


def test_the_mender_mends() -> None:
    Manifest.from_bytes(broken(lambda m: m["artefacts"][0]["settings"].update(opset=19)))


def test_a_parent_must_come_first(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    turned = replace(manifest, artefacts=manifest.artefacts[::-1])
    with pytest.raises(InputError, match="chain is broken"):
        Manifest.from_bytes(turned.to_bytes())


def test_files_are_checked_at_every_read(tmp_path: Path) -> None:
    write(tmp_path)
    bundle = Bundle.open(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"First")
    with pytest.raises(InputError, match="changed or damaged"):
        bundle.read("a")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(InputError, match="missing"):
        bundle.read("a")
    (tmp_path.parent / "outside").write_bytes(b"first")
    (tmp_path / "a.bin").symlink_to(tmp_path.parent / "outside")
    with pytest.raises(InputError, match="symbolic link"):
        bundle.read("a")


def test_strays_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.c").write_text("int x;")
    assert Bundle.open(tmp_path).strays() == ["c/x.c"]


@pytest.mark.parametrize(
    ("make", "message"), [("nothing", "no such directory"), ("file", "not a bundle"), ("empty", "without manifest")]
)
def test_not_a_bundle(tmp_path: Path, make: str, message: str) -> None:
    place = tmp_path / "place"
    if make == "file":
        place.write_text("x")
    elif make == "empty":
        place.mkdir()
    with pytest.raises(InputError, match=message):
        Bundle.open(place)


def test_arrays_round_trip_and_bytes_are_stable() -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((1, 2, 2, 3), np.uint8)}
    data = arrays_to_bytes(arrays)
    assert data == arrays_to_bytes(dict(reversed(arrays.items())))
    back = read_arrays(data, "x")
    assert sorted(back) == ["a", "b"]
    assert all(np.array_equal(back[k], arrays[k]) and back[k].dtype == arrays[k].dtype for k in arrays)


def npz(member: bytes, name: str = "a.npy", compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, member)
    return buffer.getvalue()


def forged_header(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\x00" * 8


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 and nothing",
        npz(b"no array"),
        npz(forged_header("(1000000, 1000000)")),
        npz(pickled()),
        npz(b"text", "readme.txt"),
        npz(b"\x93NUMPY\x09\x00" + b"\x00" * 100),
    ],
    ids=["empty", "cut", "no array", "forged shape", "object", "stranger", "version"],
)
def test_bad_array_files(data: bytes) -> None:
    with pytest.raises(InputError):
        read_arrays(data, "probe.npz")


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = npz(b"\x00" * (1 << 20), compression=zipfile.ZIP_DEFLATED)
    grown = bytearray(bomb)
    at = bomb.rindex(b"PK\x01\x02")
    grown[at + 24 : at + 28] = (0xF0000000).to_bytes(4, "little")
    with pytest.raises(InputError, match="unpacks to"):
        read_arrays(bytes(grown), "probe.npz")


def test_reading_needs_numpy_and_json_only(tmp_path: Path) -> None:
    write(tmp_path)
    code = (
        "import sys; from runtime.bundle import Bundle; b = Bundle.open(sys.argv[1]); b.read('a'); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'cv2', 'rich') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "[]"
