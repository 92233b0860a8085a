"""bench: everybody in a process of their own, held against the reference first, timed in turns, never lost silently."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.formats.homes import Environment, environments
from runtime.bundle import Bundle
from runtime.errors import InputError, UsageError
from toolkit.bench import environment
from toolkit.bench import run as bench_run
from toolkit.bench.contenders import PEERS, Absent, Contender, parse_against, peer_contenders
from toolkit.bench.environment import Watcher, describe, quickest
from toolkit.bench.process import Worker, WorkerError
from toolkit.bench.result import BenchResult, Figures, Refused, compare, summary
from toolkit.bench.run import Request, bench_bundle, choose_cores, difference
from toolkit.bench.show import COLUMNS, markdown, rows
from toolkit.cli import main
from toolkit.machine import Machine

QUICK = Request(rounds=3, burst=4, throughput=False, pace_runs=2)


def broken(bundle: Path, title: str, **options: object) -> Contender:
    path = bundle / "model.onnx"
    return Contender(title, "broken", "fp32", path, (path,), options=dict(options))


@pytest.fixture(autouse=True)
def _short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "MOST_WARMUP_SECONDS", 0.1)


@pytest.fixture(scope="module")
def result(small: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """One bench of the small bundle with two engines that cheat: one adds to its output, one dies."""
    candidates = [broken(small, "off by a lot", amount=0.01), broken(small, "dies", dies=True)]
    candidates.append(broken(small, "off by nearly nothing", amount=1e-5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_run, "MOST_WARMUP_SECONDS", 0.1)
        patch.setattr("toolkit.bench.contenders.C_FLAGS", ("-O1",))  # compiles in a fifth of the time
        true = bench_run.own_contenders
        patch.setattr(bench_run, "own_contenders", lambda *a: [*true(*a), *candidates])
        return bench_bundle(small, replace(QUICK, throughput=True), lambda _: None)


def test_every_artefact_is_timed(result: BenchResult) -> None:
    wanted = {"ONNX Runtime fp32", "ONNX Runtime fp16", "ONNX Runtime int8", "off by nearly nothing"}
    if shutil.which("cc"):
        wanted |= {"C fp32", "C int8"}
    assert {f.title for f in result.figures} == wanted
    for f in result.figures:
        assert [len(burst) for burst in f.bursts] == [QUICK.burst] * QUICK.rounds and len(f.pace) == QUICK.pace_runs
        assert 0 < f.median < 1 and f.load_s > 0 and f.first_s > 0 and f.model_bytes > 1000
    ort = result.find("ONNX Runtime fp32")
    assert ort is not None and ort.max_px == 0 and ort.version and ort.library_bytes > 1e6 and ort.rss > 1e6
    assert set(ort.throughput) == {str(b) for b in bench_run.BATCHES}


def test_who_computes_something_else_is_not_timed(result: BenchResult) -> None:
    reasons = {a.title: a.reason for a in result.absent}
    assert "computes something else" in reasons["off by a lot"] and "0.905 px" in reasons["off by a lot"]
    assert "ended with code 9" in reasons["dies"]


def test_loose_times_them_and_says_so(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "own_contenders", lambda *a: [broken(small, "off", amount=0.01)])
    found = bench_bundle(small, replace(QUICK, loose=True, pace_runs=0), lambda _: None)
    assert found.figures[0].note and any("off computes something else" in w for w in found.warnings)
    assert rows(found)[0][-1].endswith("!")


def test_difference_is_in_pixels_of_the_input(small: Path) -> None:
    spec = Bundle.open(small).spec
    wanted = np.zeros((2, 2 * spec.points))
    found = np.zeros_like(wanted)
    found[1, 4:6] = 3 / 64, 4 / 64
    assert difference(found, wanted, spec) == (pytest.approx(5), pytest.approx(5 / (2 * spec.points)))
    assert difference(found * np.nan, wanted, spec)[0] == float("inf")
    assert difference(found[:1], wanted, spec)[0] == float("inf")


def test_the_file_holds_every_sample_and_reads_back(result: BenchResult, tmp_path: Path) -> None:
    result.write(tmp_path / "bench.json")
    again = BenchResult.read(tmp_path / "bench.json")
    assert again == result
    figures = json.loads((tmp_path / "bench.json").read_text())["figures"][0]
    samples = np.concatenate(figures["bursts"])
    assert figures["summary_us"]["p50"] == pytest.approx(1e6 * np.median(samples))
    assert figures["summary_us"]["min"] == pytest.approx(1e6 * samples.min())
    for change, words in (
        ({"format": "else"}, "format"),
        ({"figures": [{"title": 3}]}, "figures"),
        ({"more": 1}, "unknown key"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**json.loads((tmp_path / "bench.json").read_text()), **change}))
        with pytest.raises(InputError, match=words):
            BenchResult.read(tmp_path / "bad.json")


def figures(title: str, bursts: list[list[float]]) -> Figures:
    return Figures(title, "e", "fp32", "1", "", 0.1, 0.1, 0.1, 1, 1, 1, 0.0, 0.0, 1, bursts, [], {})


def made(bursts: list[list[float]], **environment: object) -> BenchResult:
    facts = {"cpu": "x", "cores": 2, "threads": 1, "fingerprint": "a", **environment}
    return BenchResult({"sha256": "0"}, facts, {}, (figures("one", bursts),))


def test_compare_refuses_other_machines_and_sees_changes_beyond_the_noise() -> None:
    generator = np.random.default_rng(0)
    before = made((1e-3 + 1e-5 * generator.normal(size=(30, 12))).tolist())
    same = made((1e-3 + 1e-5 * generator.normal(size=(30, 12))).tolist())
    slower = made((1.05e-3 + 1e-5 * generator.normal(size=(30, 12))).tolist())
    assert compare(same, before, "old.json")[0].verdict == "no change beyond the noise"
    (change,) = compare(slower, before, "old.json")
    assert change.verdict == "slower" and change.ratio == pytest.approx(1.05, abs=0.005)
    assert compare(before, slower, "old.json")[0].verdict == "faster"
    for other in ({"fingerprint": "b"}, {"threads": 2}):
        with pytest.raises(InputError, match="another machine or with other threads"):
            compare(made([[1.0]], **other), before, "old.json")


def test_percentiles_and_ratios() -> None:
    one = figures("one", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert summary(one) == {"min": 1, "p50": 3.5, "p90": 5.5, "p95": 5.75, "p99": 5.95, "mean": 3.5}
    assert one.ratio_to(figures("two", [[1.0, 1.0, 1.0], [10.0, 10.0, 10.0]])) == pytest.approx((2 + 0.5) / 2)


def test_markdown_lists_who_is_missing_and_cannot_be_broken_by_names(result: BenchResult) -> None:
    hostile = replace(
        result, model={**result.model, "bundle": "a|b`<script>\n# c"}, absent=(Refused("x|y", "z\n# w", "pip a"),)
    )
    text = markdown(hostile)
    assert "a/b'&lt;script> # c" in text and "- x/y: z # w; `pip a`" in text and "<script>" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert table[0].count("|") == len(COLUMNS) + 1 == table[1].count("|")


def faces(place: Path) -> Path:
    np.save(place / "values.npy", np.zeros((2, 3, 64, 64), np.float32))
    return place / "values.npy"


def test_missing_engines_come_with_their_line(small: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(small)
    bare = Environment(sys.executable, {"numpy": "2"})
    found = peer_contenders(bundle, tuple(PEERS), [bare], faces(tmp_path), tmp_path, lambda _: None)
    assert found and all(isinstance(one, Absent) and one.fix.startswith("pip install") for one in found)
    assert {one.title for one in found} >= {"OpenVINO fp32", "OpenVINO int8", "LiteRT fp32", "ncnn fp32", "MNN fp32"}
    half = Environment(sys.executable, {"ai-edge-litert": "2"})
    one, _ = peer_contenders(bundle, ("litert",), [half], faces(tmp_path), tmp_path, lambda _: None)
    assert (
        isinstance(one, Absent)
        and "litert-torch" in one.reason
        and one.fix.endswith("pip install litert-torch ai-edge-quantizer")
    )


def test_a_converter_that_fails_is_a_line(small: Path, tmp_path: Path) -> None:
    home = Environment(sys.executable, {"ai-edge-litert": "2", "litert-torch": "0", "ai-edge-quantizer": "0"})
    one, other = peer_contenders(
        Bundle.open(small), ("litert",), [home], faces(tmp_path), tmp_path / "cache", lambda _: None
    )
    assert isinstance(one, Absent) and "litert_torch" in one.reason and isinstance(other, Absent)
    assert not list((tmp_path / "cache").glob("*"))


def test_against() -> None:
    assert parse_against("all") == tuple(PEERS) and parse_against(None) == ()
    assert parse_against("MNN, ncnn,mnn") == ("mnn", "ncnn")
    for text in ("tflite", "", ","):
        with pytest.raises(UsageError, match=r"known: onnxruntime, openvino, litert, .*, all"):
            parse_against(text)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_the_quickest_core_is_chosen_and_the_process_may_use_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core 1 is quick three times of five only, core 2 is steady, core 3 slow."""
    here = {0, 1, 2, 3}
    visits = dict.fromkeys(here, 0)

    def move(_: int, cores: set[int]) -> None:
        here.clear()
        here.update(cores)

    def spin() -> float:
        (core,) = here
        visits[core] += 1
        return {0: 1.3, 1: 0.9 if visits[core] <= 6 else 2.0, 2: 1.0, 3: 1.5}[core]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(here), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", move, raising=False)
    monkeypatch.setattr(environment, "spin", spin)
    assert choose_cores(Request()) == (2,) and here == {0, 1, 2, 3}
    assert set(visits.values()) == {15}
    assert choose_cores(Request(threads=2)) == (0, 2)
    assert choose_cores(Request(cores=(3,))) == (3,)
    assert choose_cores(Request(threads=4)) == (0, 1, 2, 3)
    with pytest.raises(UsageError, match="this process may use 4 cores"):
        choose_cores(Request(threads=5))


def test_of_cores_alike_the_last_ones_are_chosen() -> None:
    times = {0: 1.0, 1: 1.04, 2: 1.03, 3: 1.4}
    assert quickest(times, 1) == (2,) and quickest(times, 2) == (1, 2) and quickest(times, 4) == (0, 1, 2, 3)


def test_environments_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environments([])[0].has(("numpy",))
    place = tmp_path / ".bench-env" / "engines" / "bin"
    place.mkdir(parents=True)
    (place / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S -c \'print("{{\\"openvino\\": \\"9\\"}}")\'\n')
    (place / "python").chmod(0o755)
    assert environments([])[1].packages == {"openvino": "9"}
    with pytest.raises(UsageError, match="no bin/python in it"):
        environments([tmp_path / "nothing"])


def test_a_worker_that_hangs_is_stopped(small: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((1, 64, 64, 3), np.uint8))
    np.save(tmp_path / "v.npy", np.zeros((1, 3, 64, 64), np.float32))
    worker = Worker(sys.executable, (), 1)
    arrays = {"crops": str(tmp_path / "c.npy"), "values": str(tmp_path / "v.npy")}
    try:
        worker.ask("load", engine="onnxruntime", model=str(small / "model.onnx"), threads=1, **arrays)
        with pytest.raises(WorkerError, match="took more than"):
            worker.ask("run", 0.3, count=3, interval=5.0)
        with pytest.raises(WorkerError, match="ended with code"):
            worker.ask("memory")
    finally:
        worker.close()


class Loaded(Machine):
    """A machine with reasons to doubt its numbers."""

    ticks = 100

    def read(self, path: str) -> str | None:
        if path == "/proc/stat":
            self.ticks += 100
            return f"cpu  0\ncpu0 {self.ticks} 0 0 0 0 0 0 {self.ticks // 2}\n"
        if path.endswith("scaling_governor"):
            return "powersave\n"
        return "processor : 0\nflags : avx2 hypervisor\nmodel name : T\n" if path == "/proc/cpuinfo" else None


def test_reasons_to_doubt_a_number() -> None:
    machine = Loaded()
    watcher = Watcher(machine, (0,))
    watcher.load_before = 99.0
    watcher.spins = [1.0, 1.0, 1.0, 1.3, 1.3]
    facts = describe(machine, (0,), 1)
    assert (facts["cpu"], facts["flags"], facts["governor"]) == ("T", ["avx2"], "powersave")
    text = " / ".join(watcher.warnings(facts, runs=60, interrupted=30, unsettled=["X"]))
    for words in (
        "only 60 runs",
        "powersave",
        "virtual",
        "load 99",
        "30 % longer",
        "other virtual",
        "30 times",
        "X had",
    ):
        assert words in text
    quiet = Watcher(Machine(), (0,))
    quiet.load_before, quiet.spins = 0.0, [1.0, 1.01]
    facts = {"governor": "performance", "virtual": False, "pinned": [0], "cores": 8}
    assert not [w for w in quiet.warnings(facts, 1000, 0, []) if "machines" not in w]


def test_the_command(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.bench.contenders.shutil.which", lambda _: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *map(str, arguments)])
        found = capsys.readouterr()
        return int(str(ended.value.code)), found.out, found.err

    out = tmp_path / "out"
    code, text, err = run(small, "--quick", "--rounds", 2, "--burst", 2, "-o", out)
    assert code == 0, err
    assert "C int8: no C compiler here; sudo apt-get install -y gcc" in text
    assert "ONNX Runtime fp32" in text and "why a number may be wrong" in text
    assert {p.name for p in out.iterdir()} == {"bench.json", "bench.md", "bench.png"}
    code, text, _ = run(
        small, "--quick", "--rounds", 2, "--burst", 2, "--compare", out / "bench.json", "--json", "-o", out
    )
    assert code == 0 and json.loads(text)["changes"][0]["title"]
    data = json.loads((out / "bench.json").read_text())
    data["environment"]["fingerprint"] = "elsewhere"
    (tmp_path / "other.json").write_text(json.dumps(data))
    for flags, words in (
        (["--compare", tmp_path / "other.json"], "another machine"),
        (["--against", "tensorflow"], "unknown engine 'tensorflow'"),
        (["--cores", "x"], "expected numbers"),
        (["--cores", "4000"], "may use"),
        (["--threads", "200"], "may use"),
        (["--env", tmp_path], "give a virtual environment"),
    ):
        extra = ["--against", "mnn"] if flags[0] == "--env" else []
        code, text, err = run(small, "--quick", "--rounds", 1, "--burst", 1, "-o", out, *flags, *extra)
        assert code == 2 and words in err and "Traceback" not in err and not text, (flags, err)
    assert run(tmp_path / "none", "-o", out)[0] == 2
