"""The parts of the page, each from plain facts to markup; a part without facts is empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Artefact, Bundle, Check, Manifest
from toolkit.bench.result import DIFFERS, BenchResult, summary
from toolkit.report.charts import Bar, bars, meter
from toolkit.report.faces import face_figures
from toolkit.report.facts import about, how_to, precision_of, title_of
from toolkit.report.html import Markup, join, number, size, table, tag

LAYERS_SHOWN = 12
NOTHING = Markup("")


def _section(title: str, *content: object) -> Markup:
    return tag("section", tag("h2", title), *content)


def head(bundle: Bundle, name: str, evaluated: Mapping[str, Any] | None, bench: BenchResult | None) -> Markup:
    """Name, one sentence, the verdict, the numbers that people ask for first."""
    checks = [c for a in bundle.manifest.artefacts for c in a.checks]
    good = all(c.passed for c in checks)
    words = f"{len(checks)} measured checks, all within their limits" if good else "a check is outside its limit"
    badge = tag("div", words, class_="badge" if good else "badge bad")
    tiles = [(f"{bundle.spec.points}", "landmarks per face")]
    smallest = min((a for a in bundle.manifest.artefacts if a.kind == "onnx"), key=lambda a: a.bytes, default=None)
    if smallest is not None:
        tiles.append((size(smallest.bytes), f"smallest model file ({title_of(smallest)[0]})"))
    best = _best_nme(bundle.manifest, evaluated)
    if best is not None:
        tiles.append(best)
    if bench is not None:
        fastest = bench.fastest
        tiles.append((f"{1e3 * fastest.median:.2f} ms", f"per face, fastest ({fastest.title})"))
    boxes = [tag("div", tag("b", value), tag("span", label), class_="tile") for value, label in tiles]
    return tag(
        "header", tag("h1", name), tag("p", about(bundle.spec), class_="sub"), badge, tag("div", *boxes, class_="tiles")
    )


def _best_nme(manifest: Manifest, evaluated: Mapping[str, Any] | None) -> tuple[str, str] | None:
    if evaluated is not None:
        first = evaluated["artefacts"][0]
        return (
            f"{100 * first['scores']['all']['nme']:.2f} %",
            f"mean error (NME) of {first['name']}, {evaluated['faces']} faces",
        )
    for artefact in manifest.artefacts:
        nme = artefact.settings.get("nme")
        if isinstance(nme, dict) and "all" in nme:
            return f"{100 * nme['all']['int8']:.2f} %", "mean error (NME) of int8 on labelled faces"
    return None


def chain(manifest: Manifest) -> Markup:
    """The family tree of the files; each link with its numbers and how much of the limit they use."""
    children: dict[str | None, list[Artefact]] = {}
    for artefact in manifest.artefacts:
        if artefact.kind != "probe" and _is_link(artefact, manifest):
            children.setdefault(artefact.parent, []).append(artefact)
    source = manifest.source
    root = tag(
        "div",
        tag("h3", "Checkpoint that was given", tag("small", f"{source.kind}, sha256 {source.sha256[:16]}")),
        class_="link",
    )
    tree = tag("ul", tag("li", root, _branches(None, children)), class_="chain")
    words = (
        "Every file was made from the one above it. Each step was measured when the bundle was made; the bar shows "
        "how much of its limit a number uses up, and a number over its limit stops the export. An empty bar is a "
        "perfect zero."
    )
    return _section("How it was made", tag("p", words), tree)


def _is_link(artefact: Artefact, manifest: Manifest) -> bool:
    """One entry for a C package, not one for each of its files."""
    if "/" not in artefact.file or artefact.checks:
        return True
    folder = artefact.file.split("/")[0]
    return artefact is next(a for a in manifest.artefacts if a.file.startswith(f"{folder}/"))


def _branches(parent: str | None, children: Mapping[str | None, list[Artefact]]) -> Markup:
    found = children.get(parent, [])
    if not found:
        return NOTHING
    return tag(
        "ul", *(tag("li", _link(a), _branches(a.sha256, children) if a.sha256 != parent else NOTHING) for a in found)
    )


def _link(artefact: Artefact) -> Markup:
    name, what = title_of(artefact)
    header = tag("h3", name, tag("small", f"{what}; {artefact.file}, {size(artefact.bytes)}"))
    rows = join(_check(check) for check in artefact.checks)
    body = tag("div", rows, class_="checks") if artefact.checks else NOTHING
    return tag("div", header, body, class_=f"link {precision_of(artefact.name)}")


def _check(check: Check) -> Markup:
    shown = tag(
        "b", f"{number(check.value)} of {number(check.limit)}" if check.limit else f"{number(check.value)} (must be 0)"
    )
    return tag("div", tag("span", check.metric), meter(check.value, check.limit), shown, class_="check")


def accuracy(manifest: Manifest, evaluated: Mapping[str, Any] | None) -> Markup:
    """NME per subset and artefact, from an evaluation or from what the int8 gate measured."""
    if evaluated is not None:
        return _evaluated(evaluated)
    for artefact in manifest.artefacts:
        nme = artefact.settings.get("nme")
        if isinstance(nme, dict) and nme:
            rows = [
                (
                    subset,
                    f"{100 * v['float32']:.3f}",
                    f"{100 * v['int8']:.3f}",
                    f"{100 * (v['int8'] / v['float32'] - 1):+.2f}",
                )
                for subset, v in nme.items()
            ]
            words = (
                "Mean landmark error on labelled faces, in percent of the face's size (lower is better), as measured "
                "when int8 was made."
            )
            columns = ("faces", "float32 NME %", "int8 NME %", "change %")
            return _section("Accuracy", tag("p", words), table(columns, rows))
    return _section(
        "Accuracy",
        tag("p", "Not measured on labelled faces yet. These two commands do, and put the table here:"),
        tag("pre", "toolkit eval BUNDLE --data DIR --save results.json\ntoolkit report BUNDLE --eval results.json"),
    )


def _evaluated(evaluated: Mapping[str, Any]) -> Markup:
    artefacts = evaluated["artefacts"]
    subsets = list(artefacts[0]["scores"])
    rows = []
    for one in artefacts:
        overall = one["scores"]["all"]
        drop = one.get("difference")
        change = (
            "reference"
            if drop is None
            else f"{100 * drop['relative']:+.2f} ({100 * drop['low']:+.2f} to {100 * drop['high']:+.2f})"
        )
        rows.append(
            (
                one["name"],
                f"{100 * overall['nme']:.3f}",
                change,
                f"{100 * overall['failure_rate']:.2f}",
                f"{overall['auc']:.4f}",
                *(f"{100 * one['scores'][s]['nme']:.3f}" if s in one["scores"] else "-" for s in subsets[1:]),
            )
        )
    how = sorted({f"crop {a['crop']}, errors over {a['normaliser']}" for a in artefacts})
    words = (
        f"Measured on {evaluated['faces']} labelled faces of {evaluated['data']} ({'; '.join(how)}). NME is the mean "
        "landmark error in percent of the face's size, lower is better; FR the share of faces above 10 %; AUC the area "
        "under the error curve, higher is better. The change against the first row has a 95 % interval: where it "
        "contains 0, the difference is not news."
    )
    columns = ("artefact", "NME %", "change %", "FR@0.1 %", "AUC@0.1", *(f"{s}, NME %" for s in subsets[1:]))
    return _section("Accuracy", tag("p", words), table(columns, rows))


def speed(bench: BenchResult | None) -> Markup:
    """Latency bars and the table behind them."""
    if bench is None:
        return _section(
            "Speed",
            tag("p", "Not measured yet. These two commands do, and put the chart here:"),
            tag("pre", "toolkit bench BUNDLE --against all\ntoolkit report BUNDLE --bench bench-out/bench.json"),
        )
    ordered = sorted(bench.figures, key=lambda f: f.median)
    names = {f.title: f"{f.title} ({DIFFERS})" if f.note.endswith(DIFFERS) else f.title for f in ordered}
    chart = bars(
        [Bar(names[f.title], f.median, f"{1e3 * f.median:.2f} ms", f.precision, f.percentile(95)) for f in ordered]
    )
    facts = bench.environment
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    words = (
        f"Time for one face on {facts['cpu']}, {threads}. Bars are medians, the thin line is p95; contenders took "
        f"turns, {bench.settings['rounds'] * bench.settings['burst']} runs each."
    )
    rows = [
        (
            names[f.title],
            *(f"{1e3 * summary(f)[k]:.3f}" for k in ("p50", "p95", "p99", "min")),
            f"{1e3 * f.pace_median:.3f}" if f.pace else "-",
            f"{1e3 * f.load_s:.1f}",
            size(f.rss),
            size(f.model_bytes),
            size(f.library_bytes),
        )
        for f in ordered
    ]
    columns = (
        "engine",
        "p50 ms",
        "p95",
        "p99",
        "min",
        "at 30 a second",
        "load ms",
        "memory",
        "model file",
        "libraries",
    )
    parts = [tag("p", words), tag("div", chart, class_="card"), table(columns, rows)]
    if bench.absent:
        parts.append(
            tag("p", "Not timed: " + "; ".join(f"{a.title} ({a.reason})" for a in bench.absent) + ".", class_="note")
        )
    if bench.warnings:
        parts.append(tag("p", "Why a number may be wrong: " + "; ".join(bench.warnings) + ".", class_="note"))
    return _section("Speed", *parts)


def layers(manifest: Manifest) -> Markup:
    """Where int8 loses what it loses."""
    found = manifest.artefact("int8").settings.get("layers") if manifest.has("int8") else None
    if not isinstance(found, list) or not found:
        return NOTHING
    ordered = sorted(found, key=lambda layer: -layer["share"])
    chart = bars(
        [Bar(one["name"], one["share"], f"{100 * one['share']:.1f} %", "int8") for one in ordered[:LAYERS_SHOWN]]
    )
    rows = [(one["name"], one["operator"], f"{100 * one['share']:.2f}", f"{one['relative']:.2e}") for one in found]
    kept = manifest.artefact("int8").settings.get("float layers") or []
    words = "How much of the whole int8 error each layer adds, largest first. " + (
        f"Kept in float: {', '.join(map(str, kept))}." if kept else "Every layer is int8."
    )
    every = tag(
        "details", tag("summary", f"all {len(found)} layers"),
        table(("layer", "operator", "share of the error %", "own relative error"), rows, words=2),
    )  # fmt: skip
    return _section("Where int8 loses accuracy", tag("p", words), tag("div", chart, class_="card"), every)


def faces(bundle: Bundle, arrays: Mapping[str, NDArray[Any]]) -> Markup:
    """The probe faces with the landmarks that the stored outputs say."""
    outputs = {name: arrays[name] for name in ("fp32", "int8") if name in arrays}
    crops = np.asarray(arrays["crops"], dtype=np.uint8)
    if "fp32" not in outputs or not len(crops):
        return NOTHING
    named = bundle.manifest.artefact("probe").settings.get("faces", "unknown")
    synthetic = str(named).startswith("synth:")
    words = (
        f"The faces that travel with the bundle ({named}), as the network sees them. "
        + ("They are drawn by the toolkit and belong to nobody. " if synthetic else "")
        + "The landmarks are the stored outputs that verification repeats."
    )
    keys = [tag("label", Markup('<i style="background:#31c964"></i>'), "float32", for_="s32")]
    switches = [Markup('<input class="switch" type="checkbox" id="s32" checked>')]
    switches.append(Markup('<input class="switch" type="checkbox" id="s8" checked>'))
    if "int8" in outputs:
        keys.append(
            tag(
                "label",
                Markup('<i style="background:#ff5b3a"></i>'),
                "int8, joined by a line where it differs",
                for_="s8",
            )
        )
    figures = face_figures(crops, outputs, bundle.spec)
    return _section("What it sees", tag("p", words), *switches, tag("div", *keys, class_="keys"), figures)


def files(manifest: Manifest) -> Markup:
    """Every file with size and hash."""
    rows = [(a.file, title_of(a)[0], size(a.bytes), tag("code", a.sha256)) for a in manifest.artefacts]
    words = "The toolkit reads a file only when its size and hash are these."
    return _section("Files", tag("p", words), table(("file", "what", "size", "sha256"), rows, words=9))


def running(manifest: Manifest, name: str) -> Markup:
    """How to use each of them."""
    steps = [join([tag("h3", headline), tag("pre", command)]) for headline, command in how_to(manifest, name)]
    return _section("How to run it", *steps)
