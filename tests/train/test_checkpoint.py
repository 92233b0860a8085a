"""Checkpoints: round trip, equal bytes, and one clear error for every way a file can be wrong."""

from __future__ import annotations

import errno
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runtime.errors import InputError, ToolkitError, UsageError
from runtime.spec import ModelSpec
from train.archive import MAX_FILE_BYTES
from train.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint

SPEC = ModelSpec("ghostone", width=0.25, branches=2, crop=ModelSpec("x").crop)


def example(**changes: object) -> Checkpoint:
    generator = torch.Generator().manual_seed(3)
    weights = {"fc.weight": torch.randn(4, 3, generator=generator), "bn.num_batches_tracked": torch.tensor(7)}
    checkpoint = Checkpoint(
        kind="multi-branch",
        spec=SPEC,
        model=weights,
        ema={name: tensor + 1 for name, tensor in weights.items()},
        parent="ab" * 32,
        recipe={"schedule": {"epochs": 3}, "data": ["synth:4", "x:0.5"]},
        progress={"epoch": 2, "best_nme": 0.04},
        state={"rng": (3, (1, 2**40), None), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    )
    return replace(checkpoint, **changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, example())
    return path


def test_round_trip(saved: Path) -> None:
    found, wanted = load_checkpoint(saved), example()
    assert (found.kind, found.spec, found.parent) == (wanted.kind, wanted.spec, wanted.parent)
    assert (found.recipe, found.progress) == (wanted.recipe, wanted.progress)
    assert found.state["rng"] == wanted.state["rng"]
    assert torch.equal(found.state["optimizer"]["state"][0]["exp_avg"], torch.ones(2))
    for name, tensor in wanted.model.items():
        assert torch.equal(found.model[name], tensor) and found.model[name].dtype == tensor.dtype
        assert found.ema is not None and torch.equal(found.ema[name], tensor + 1)
    assert found.weights is found.ema and replace(found, ema=None).weights is found.model


def test_equal_content_gives_equal_bytes(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other-name.ckpt", example())
    assert saved.read_bytes() == (tmp_path / "other-name.ckpt").read_bytes()


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    save_checkpoint(tmp_path / "a.ckpt", example(model={"w": big[:2]}, ema=None))
    assert (tmp_path / "a.ckpt").stat().st_size < 20_000


def test_objects_are_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot hold a PosixPath"):
        save_checkpoint(tmp_path / "a.ckpt", example(recipe={"out": tmp_path}))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ToolkitError, match="disk is full"):
        save_checkpoint(saved, example(progress={"epoch": 99}))
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


# ---------------------------------------------------------------------------------------------- bad files


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 600


def test_no_file_directory_empty(tmp_path: Path) -> None:
    refused(tmp_path / "none.ckpt", "no such file")
    refused(tmp_path, "is a directory")
    (tmp_path / "empty.ckpt").touch()
    refused(tmp_path / "empty.ckpt", "empty")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9, 0.999])
def test_truncated(saved: Path, keep: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * keep)])
    refused(saved, "cut short|damaged")


def test_text_image_and_pickle_files(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_text("# Training notes\n" * 50)
    refused(path, "looks like text")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(path, "not a PyTorch archive")
    path.write_bytes(pickle.dumps({"a": 1}))
    refused(path, "pickle.*code")
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    refused(path, "pickle.*code")


def test_every_flipped_byte_is_noticed_or_harmless(saved: Path, tmp_path: Path) -> None:
    data, wanted = saved.read_bytes(), example()
    path = tmp_path / "flipped.ckpt"
    for at in range(0, len(data), 61):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        try:
            found = load_checkpoint(path)
        except InputError:
            continue
        assert found.spec == wanted.spec and found.progress == wanted.progress, at
        assert all(torch.equal(found.model[n], t) for n, t in wanted.model.items()), at


def test_a_flipped_weight_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    at = data.find(example().model["fc.weight"].numpy().tobytes())
    assert at > 0
    data[at + 2] ^= 1
    saved.write_bytes(data)
    refused(saved, "damaged.*CRC")


class Trap:
    """Runs code when a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def test_code_in_the_pickle_never_runs(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "a.ckpt"
    torch.save({"format": "x", "trap": Trap(mark)}, path)
    refused(path, r"Python object \((posix|nt)\.system\).*toolkit import")
    assert not mark.exists()


def test_objects_that_torch_would_allow_are_refused_before_they_allocate(tmp_path: Path) -> None:
    class Huge:
        def __reduce__(self) -> tuple[object, ...]:
            return bytearray, (1 << 45,)

    path = tmp_path / "a.ckpt"
    torch.save({"a": Huge()}, path)
    refused(path, "bytearray")
    torch.save({"a": torch.nn.Linear(2, 2)}, path)
    refused(path, "Linear")


def test_a_tensor_that_claims_more_than_it_stores(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    content = {"format": "landmark-toolkit checkpoint", "model": {"w": torch.zeros(1).expand(1 << 40)}}
    torch.save(content, path)
    refused(path, "larger than the file")


def test_zip_bombs(saved: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300 << 20))
    assert bomb.stat().st_size < 1 << 20
    refused(bomb, "is compressed")
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(bomb, "without PyTorch's data.pkl")
    # One member listed a thousand times: each listing is honest, together they claim far more than the file holds.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(4096))
        archive.filelist.extend(archive.filelist * 1000)
    bomb.write_bytes(buffer.getvalue())
    refused(bomb, "forged archive")


def test_a_table_of_contents_of_any_size_is_not_read(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    end64 = data.rfind(b"PK\x06\x06")
    struct.pack_into("<Q", data, end64 + 40, 1 << 40)
    end = data.rfind(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 12, 0xFFFFFFFF)
    saved.write_bytes(data)
    refused(saved, "table of contents claims")


def test_a_sparse_file_of_three_gigabytes_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, f"limit for a checkpoint is {MAX_FILE_BYTES}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"w": torch.ones(1)}}, {}, torch.ones(2), {1: {}}])
def test_foreign_content(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "toolkit import")


def rewritten(path: Path, **changes: object) -> None:
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    torch.save(content, path)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"model": ...}, "missing or unknown keys model"),
        ({"surprise": 1}, "missing or unknown keys surprise"),
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"kind": "single"}, "kind 'single'"),
        ({"kind": ["fused"]}, "kind"),
        ({"parent": 3}, "parent must be a hash"),
        ({"recipe": []}, "recipe must be a table"),
        ({"state": None}, "state must be a table"),
        ({"model": {}}, "model must be a table of tensors"),
        ({"model": {"w": 3}}, r"model\['w'\] is int"),
        ({"model": {4: torch.ones(1)}}, "model"),
        ({"model": {"w": torch.tensor([1.0, float("nan")])}}, "NaN or infinity"),
        ({"ema": {"w": torch.tensor([float("inf")])}}, "NaN or infinity"),
        ({"ema": {"w": torch.ones(1)}}, "do not fit"),
        ({"spec": {"schema": 1}}, "spec"),
        ({"spec": {"schema": 1, "architecture": "ghostone", "widht": 1}}, "did you mean 'width'"),
        ({"spec": 3}, "spec"),
    ],
)
def test_wrong_fields(saved: Path, changes: dict[str, object], pattern: str) -> None:
    rewritten(saved, **changes)
    refused(saved, pattern)


def test_deeply_nested_content_is_no_crash(tmp_path: Path) -> None:
    code = """
import sys, torch
from pathlib import Path
sys.setrecursionlimit(10**6)
value = []
for _ in range(20000):
    value = [value]
torch.save({"format": "landmark-toolkit checkpoint", "x": value}, sys.argv[1])
"""
    path = tmp_path / "a.ckpt"
    made = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("this Python cannot pickle so deep a nest")
    refused(path, "checkpoint")


# ---------------------------------------------------------------------------------------------- models


def model_checkpoint(width: float = 0.25) -> Checkpoint:
    zoo = pytest.importorskip("train.models.zoo")
    spec = replace(SPEC, width=width, points=98)
    torch.manual_seed(5)
    model = zoo.build(spec)
    return Checkpoint("multi-branch", spec, model.state_dict())


def test_load_model_gives_the_averaged_weights_in_eval_mode(tmp_path: Path) -> None:
    checkpoint = model_checkpoint()
    ema = {n: t + 0.25 if t.is_floating_point() else t for n, t in checkpoint.model.items()}
    save_checkpoint(tmp_path / "a.ckpt", replace(checkpoint, ema=ema))
    model, found = load_model(tmp_path / "a.ckpt")
    assert not model.training and found.spec == checkpoint.spec
    state = model.state_dict()
    assert state.keys() == ema.keys() and all(torch.equal(state[n], ema[n]) for n in ema)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 112, 112)).shape == (2, 196)


def test_load_model_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    checkpoint, path = model_checkpoint(), tmp_path / "a.ckpt"
    name = next(iter(checkpoint.model))
    fewer = {n: t for n, t in checkpoint.model.items() if n != name}
    save_checkpoint(path, replace(checkpoint, model={**fewer, "stray": torch.ones(1)}))
    with pytest.raises(InputError, match=f"{name}.* missing, .*stray.* left over"):
        load_model(path)
    save_checkpoint(path, replace(checkpoint, model={**checkpoint.model, name: torch.ones(3, 3)}))
    with pytest.raises(InputError, match=rf"weight {name} is \(3, 3\)"):
        load_model(path)
    save_checkpoint(path, replace(checkpoint, spec=replace(checkpoint.spec, architecture="ghosttwo")))
    with pytest.raises(InputError, match="ghosttwo"):
        load_model(path)


def test_a_spec_of_a_giant_network_allocates_nothing(tmp_path: Path) -> None:
    checkpoint, path = model_checkpoint(), tmp_path / "a.ckpt"
    giant = replace(checkpoint.spec, width=8.0, input_size=1024, branches=1)
    save_checkpoint(path, replace(checkpoint, spec=giant))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"its spec wants|missing"):
        load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
