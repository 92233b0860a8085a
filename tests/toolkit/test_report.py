"""report.html: what it says, that nobody can write into it, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, find_chromium
from test_bench import figures

from export.chain import verify_bundle
from runtime.bundle import REPORT, Bundle
from runtime.errors import InputError
from toolkit.bench.result import BenchResult, Refused
from toolkit.cli import main
from toolkit.report import build_report, write_report
from toolkit.report.html import tag, text

HOSTILE = "\"'><img src=http://127.0.0.1:9/x onerror=alert(1)><script>alert(2)</script></style>&\u202e"


def bench_of(bundle: Bundle, name: str = "C int8") -> BenchResult:
    facts = {"cpu": "Testium", "cores": 2, "threads": 1, "fingerprint": "a"}
    quick, slow = (
        figures(name, [[0.001, 0.0012]] * 3),
        replace(figures("ONNX Runtime fp32", [[0.003, 0.004]] * 3), pace=[0.005]),
    )
    model = {"bundle": "b", "sha256": bundle.manifest.artefact("fp32").sha256, "faces": "probes"}
    absent = (Refused("LiteRT fp32", "not installed"),)
    return BenchResult(model, facts, {"rounds": 3, "burst": 2}, (quick, slow), absent, ("only 6 runs",))


def evaluation_of(bundle: Bundle, name: str = "model.onnx") -> dict[str, Any]:
    scores = {s: {"count": 9, "nme": 0.0557, "failure_rate": 0.07, "auc": 0.478} for s in ("all", "pose")}
    one = {"path": name, "name": name, "sha256": bundle.manifest.artefact("fp32").sha256, "precision": "float32"}
    one |= {"crop": "1.2 x landmarks box", "normaliser": "inter-ocular", "scores": scores, "difference": None}
    other = {**one, "name": "int8", "difference": {"relative": 0.012, "low": 0.004, "high": 0.021}}
    top = {"format": "landmark-toolkit evaluation", "schema": 1, "data": "synth:9", "faces": 9, "missed": 0}
    return {**top, "artefacts": [one, other]}


class Reader(HTMLParser):
    """Tags, attributes and words of a page; complains about tags that do not close."""

    VOID = ("meta", "link", "input", "image", "br")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(small: Path) -> str:
    """A page with everything on it, and one check of numbers as large as they get."""
    bundle = Bundle.open(small)
    large = [
        replace(a, checks=(replace(a.checks[0], value=12_345_678.0, limit=12_345_678.0), *a.checks[1:]))
        if a.checks
        else a
        for a in bundle.manifest.artefacts
    ]
    bundle = replace(bundle, manifest=replace(bundle.manifest, artefacts=tuple(large)))
    return build_report(bundle, evaluation_of(bundle), bench_of(bundle))


def test_it_says_what_the_manifest_says(small: Path, page: str) -> None:
    words = " ".join(" ".join(Reader(page).words).split())
    manifest = Bundle.open(small).manifest
    for artefact in manifest.artefacts:
        assert artefact.file in words and artefact.sha256 in words
        for check in artefact.checks:
            assert check.metric in words
    assert "\nfrom runtime.bundle import Bundle\n" in "".join(Reader(page).words), "code keeps its lines"
    checks = sum(len(a.checks) for a in manifest.artefacts)
    assert f"{checks} measured checks, all within their limits" in words
    for expected in (
        "5.570",
        "+1.20 (+0.40 to +2.10)",
        "1.10 ms",
        "5.000",
        "LiteRT fp32 (not installed)",
        "only 6 runs",
    ):
        assert expected in words, expected
    layers = manifest.artefact("int8").settings["layers"]
    assert all(layer["name"] in words for layer in layers)
    assert page.count("<figure>") == 8 and page.count('class="p8"') == 8


def test_a_number_over_its_limit_is_shown_as_such(small: Path) -> None:
    bundle = Bundle.open(small)
    first = bundle.manifest.artefacts[-2]
    bad = replace(first, checks=(replace(first.checks[0], value=7.0, limit=2.0), *first.checks[1:]))
    artefacts = tuple(bad if a is first else a for a in bundle.manifest.artefacts)
    page = build_report(replace(bundle, manifest=replace(bundle.manifest, artefacts=artefacts)))
    assert "a check is outside its limit" in page and 'class="over"' in page and "7 of 2" in page


def test_without_evaluation_and_bench_it_says_how(small: Path) -> None:
    page = build_report(Bundle.open(small))
    assert "toolkit bench BUNDLE" in page and "toolkit eval BUNDLE" in page


def test_equal_inputs_give_equal_bytes(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "small")
    first = write_report(tmp_path / "small").read_bytes()
    assert write_report(tmp_path / "small").read_bytes() == first
    shutil.copytree(small, tmp_path / "deep" / "small")
    assert write_report(tmp_path / "deep" / "small").read_bytes() == first
    assert str(tmp_path).encode() not in first


def hostile_page(small: Path) -> str:
    """Every text that comes from a model or a user is hostile."""
    bundle = Bundle.open(small)
    manifest = bundle.manifest
    artefacts = []
    for a in manifest.artefacts:
        settings = json.loads(json.dumps(a.settings))
        for layer in settings.get("layers", []):
            layer["name"] = layer["operator"] = HOSTILE
        settings |= {"faces": HOSTILE, "float layers": [HOSTILE]} if a.name in ("probe", "int8") else {}
        checks = tuple(replace(c, metric=HOSTILE) for c in a.checks)
        artefacts.append(replace(a, settings=settings, checks=checks))
    spec = replace(manifest.spec, architecture=HOSTILE[:64])
    tools = {HOSTILE: HOSTILE}
    hostile = replace(manifest, artefacts=tuple(artefacts), spec=spec, tools=tools, toolkit=HOSTILE)
    evaluated = evaluation_of(bundle, HOSTILE)
    evaluated["data"] = evaluated["artefacts"][0]["crop"] = HOSTILE
    evaluated["artefacts"][1]["scores"][HOSTILE] = evaluated["artefacts"][1]["scores"]["pose"]
    evaluated["artefacts"][0]["scores"][HOSTILE] = evaluated["artefacts"][0]["scores"]["pose"]
    bench = bench_of(bundle, HOSTILE)
    bench = replace(bench, environment={**bench.environment, "cpu": HOSTILE}, warnings=(HOSTILE,))
    bench = replace(bench, absent=(Refused(HOSTILE, HOSTILE, HOSTILE),))
    return build_report(replace(bundle, manifest=hostile), evaluated, bench, name=HOSTILE)


def test_nobody_writes_into_the_page(small: Path, page: str) -> None:
    hostile = hostile_page(small)
    assert "\u202e" not in hostile
    plain, attacked = Reader(page), Reader(hostile)
    known = {name for name, _ in plain.tags} | {"title"}
    assert {name for name, _ in attacked.tags} <= known and "script" not in known and "img" not in known
    for name, attributes in attacked.tags:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith("data:"), (name, attributes)
    assert any("<script>alert(2)</script>" in word for word in attacked.words)


def test_escaping() -> None:
    assert tag("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'
    assert text(tag("i", "x")) == "<i>x</i>" and text("a\x00b\u2066") == "a\N{WHITE SQUARE}b\N{WHITE SQUARE}"


def test_the_report_is_outside_the_proof(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "b")
    write_report(tmp_path / "b")
    assert Bundle.open(tmp_path / "b").strays() == []
    (tmp_path / "b" / "Report.html").write_text("x")
    assert Bundle.open(tmp_path / "b").strays() == ["Report.html"]
    (tmp_path / "b" / "Report.html").unlink()
    (tmp_path / "b" / REPORT).write_text("changed by somebody")
    assert verify_bundle(tmp_path / "b").passed


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    found = capsys.readouterr()
    return int(str(ended.value.code)), found.out, found.err


def test_the_command(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(small)
    (tmp_path / "e.json").write_text(json.dumps(evaluation_of(bundle)))
    bench_of(bundle).write(tmp_path / "b.json")
    out = tmp_path / "x.html"
    code, printed, err = run(capsys, small, "--eval", tmp_path / "e.json", "--bench", tmp_path / "b.json", "-o", out)
    assert (code, printed.strip()) == (0, str(out)), err
    assert "1.10 ms" in out.read_text() and "+1.20" in out.read_text()
    other = json.loads((tmp_path / "b.json").read_text())
    other["model"]["sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    strange = evaluation_of(bundle)
    for one in strange["artefacts"]:
        one["sha256"] = "0" * 64
    (tmp_path / "strange.json").write_text(json.dumps(strange))
    (tmp_path / "list.json").write_text("[]")
    for flags, words in (
        (["--bench", tmp_path / "other.json"], "was measured on the model 000000000000"),
        (["--eval", tmp_path / "strange.json"], "none of its artefacts is in this bundle"),
        (["--eval", tmp_path / "list.json"], "expected object"),
        (["--bench", tmp_path / "e.json"], "'model' is missing"),
    ):
        code, printed, err = run(capsys, small, *flags, "-o", tmp_path / "no.html")
        assert code == 2 and words in err and "Traceback" not in err and not printed
        assert not (tmp_path / "no.html").exists()
    with pytest.raises(InputError, match="not a bundle"):
        write_report(tmp_path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    found = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


SCREENS = [(1280, 900, False), (1280, 900, True), (390, 844, False), (390, 844, True)]


@pytest.mark.parametrize(("width", "height", "dark"), SCREENS)
def test_in_a_browser(browser: Chromium, page: str, tmp_path: Path, width: int, height: int, dark: bool) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "report.html", width, height, dark)
    assert browser.complaints() == [] and browser.requests() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    size = "[...document.querySelectorAll('h1,h2,p,figure,.link,.line')].filter(e => e.offsetWidth < 40).length"
    assert browser.evaluate(size) == 0, "something is squeezed to nothing"
    spill = "[...document.querySelectorAll('.link,.tile,.card')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.evaluate(spill) == 0, "something is wider than its box"
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 380
    assert light != dark, background
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    dots = "getComputedStyle(document.querySelector('.p8')).display"
    assert browser.evaluate(dots) == "inline"
    browser.evaluate("document.getElementById('s8').click()")
    assert browser.evaluate(dots) == "none"


def test_a_hostile_page_stays_quiet_in_a_browser(browser: Chromium, small: Path, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(hostile_page(small), encoding="utf-8")
    browser.open(tmp_path / "a.html", 390, 844)
    assert browser.complaints() == [] and browser.requests() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("document.scripts.length + document.images.length") == 0


def test_the_browser_would_have_told(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text("<h1>x</h1><img src='http://127.0.0.1:9/x'><script>console.error('no')</script>")
    browser.open(tmp_path / "b.html", 390, 844)
    assert browser.requests() == ["http://127.0.0.1:9/x"] and browser.complaints()
