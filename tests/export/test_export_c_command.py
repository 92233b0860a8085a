"""`toolkit export --c` as a person types it: refusals at once, and a directory that one line turns into a program."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from toolkit.cli import main

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler called cc on the PATH")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--c-prefix face", "--c-prefix is about C; add --c"),
        ("--c-isa avx2", "--c-isa is about C; add --c"),
        ("--max-ram 1M", "--max-ram is about C; add --c"),
        ("--c-precision fp32", "--c-precision is about C; add --c"),
        ("--dispatch", "--dispatch is about C; add --c"),
        ("--single-header", "--single-header is about C; add --c"),
        ("--c --dispatch --c-isa neon", "dispatch needs instruction sets of x86-64"),
        ("--c --c-precision int8", "--c-precision int8 needs the int8 model"),
        ("--c --c-prefix Face", "C prefix 'Face'"),
        ("--c --c-prefix ''", "C prefix ''"),
        (
            "--c --c-isa avx2,mmx",
            "--c-isa mmx: unknown instruction set; known: avx512, avx2vnni, avx2, neon, sse2, scalar",
        ),
        ("--c --c-isa ''", "--c-isa : unknown instruction set"),
        ("--c --max-ram 10kB", "--max-ram 10kB: expected bytes"),
        ("--c --max-ram 0", "--max-ram 0: expected bytes"),
        ("--c --max-ram -5", "--max-ram -5: expected bytes"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "absent.ckpt"), "-o", str(tmp_path / "out"), *shlex.split(flags)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@needs_cc
def test_one_line_makes_a_bundle_and_another_a_program(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "DIR"
    arguments = ["export", str(checkpoint_file), "--c", "--exporter", "torchscript", "--max-ram", "1M", "-o", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "c/landmarks.c" in capsys.readouterr().out
    subprocess.run(["sh", "-c", "cc -O3 -march=native DIR/c/*.c -o demo"], cwd=tmp_path, check=True)
    said = subprocess.run([str(tmp_path / "demo")], capture_output=True, text=True, check=True).stdout
    assert "fp32: self-test ok" in said
    manifest = Bundle.open(out).manifest
    assert not manifest.has("c-int8")
    checks = {check.name: check for check in manifest.artefact("c").checks}
    assert checks["arena"].limit == 1 << 20
    with pytest.raises(SystemExit):
        main(["inspect", str(out / "c"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["c"]["arena bytes"] == checks["arena"].value
    assert facts["parent"] == manifest.artefact("fp32").sha256


def test_verify_names_what_it_could_not_run(
    c_bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    report = tmp_path / "report.json"
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(c_bundle_dir), "--json", str(report)])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert "warning: c: outputs: not run: no C compiler here" in said.err
    assert "but for what could not be run here" in said.out
    checks = json.loads(report.read_text())["checks"]
    assert [c["link"] for c in checks if not c["ran"]] == ["c", "c-int8"]


def test_eval_and_compare_take_c(c_bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, full, exact = (str(c_bundle_dir / name) for name in ("model.onnx", "c", "c-int8"))
    with pytest.raises(SystemExit) as stop:
        main(["eval", model, full, exact, "--data", "synth:6@2", "--json"])
    assert stop.value.code == 0
    rows = json.loads(capsys.readouterr().out)["artefacts"]
    assert [row["precision"] for row in rows] == ["float32", "float32", "int8"]
    nme = [row["scores"]["all"]["nme"] for row in rows]
    assert nme[1] == pytest.approx(nme[0], rel=1e-4)
    with pytest.raises(SystemExit) as stop:
        main(["compare", model, full, "--data", "synth:3@2"])
    assert stop.value.code == 0
    assert "equal within 0.01 px" in capsys.readouterr().out


@needs_cc
def test_the_demo_builds_and_times_the_c(c_bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.demo_c.FLAGS", ("-O1",))
    from toolkit.demo_c import build_and_run

    result, files = build_and_run(c_bundle_dir, tmp_path)
    assert "fp32: self-test ok" in result
    assert "int8: self-test ok" in result
    lines = (tmp_path / "c.txt").read_text().splitlines()
    assert sum("p50" in line for line in lines) == 2
    assert all(file.is_file() for file in files)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CC", raising=False)
    assert "not run: no C compiler here" in build_and_run(c_bundle_dir, tmp_path)[0]


def test_a_machine_without_a_compiler_is_told_at_export(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.links_c import CRequest
    from tests.export.with_c import add_to
    from toolkit.cli.export import show_links

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    place = add_to(bundle_dir, tmp_path / "made", CRequest())
    show_links(Bundle.open(place).manifest, "made")
    assert "warning: c/landmarks.c: not compiled and measured: no C compiler here" in capsys.readouterr().err
