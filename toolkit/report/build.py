"""Put the page together: the bundle's own facts, and what evaluations and benches add."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.bundle import REPORT, Bundle, read_arrays
from runtime.errors import InputError
from runtime.files import read_json, sha256_bytes, write_text
from runtime.schema import validate
from toolkit.bench.result import BenchResult
from toolkit.report import sections
from toolkit.report.html import Markup, join, tag

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""No scripts and no network, whatever a name in the model says."""


def build_report(
    bundle: Bundle,
    evaluated: Mapping[str, Any] | None = None,
    bench: BenchResult | None = None,
    name: str | None = None,
) -> str:
    """The whole page; equal inputs give equal bytes, whatever the bundle's directory is called."""
    manifest = bundle.manifest
    shown = name or f"{manifest.spec.architecture} x {manifest.spec.width:g}"
    arrays = read_arrays(bundle.read("probe"), "probe.npz") if manifest.has("probe") else {}
    parts = [
        sections.head(bundle, shown, evaluated, bench),
        sections.faces(bundle, arrays) if arrays else Markup(""),
        sections.chain(manifest),
        sections.accuracy(manifest, evaluated),
        sections.speed(bench),
        sections.layers(manifest),
        sections.files(manifest),
        sections.running(manifest, name or "BUNDLE"),
        _footer(bundle),
    ]
    style = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    header = [
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'),
        tag("title", f"{shown}: landmark model"),
        tag("style", style),
    ]
    page = tag("html", tag("head", *header), tag("body", tag("main", join(parts, "\n"))), lang="en")
    return f"<!doctype html>\n{page}\n"


def _footer(bundle: Bundle) -> Markup:
    manifest = bundle.manifest
    tools = ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))
    made = f"Made by landmark-toolkit {manifest.toolkit} with {tools}."
    digest = f"Manifest sha256 {sha256_bytes(manifest.to_bytes())}."
    words = "This page repeats the manifest for people; it is not part of the proof. The proof is toolkit verify."
    return tag("footer", tag("div", made), tag("div", digest), tag("div", words))


def write_report(
    directory: Path | str, evaluation: Path | None = None, bench: Path | None = None, out: Path | None = None
) -> Path:
    """Write the report of a bundle into it, or elsewhere."""
    bundle = Bundle.open(directory)
    evaluated = None if evaluation is None else read_evaluation(evaluation)
    measured = None if bench is None else BenchResult.read(bench)
    if evaluated is not None:
        _refuse_strangers(bundle, evaluated, str(evaluation))
    if measured is not None and measured.model["sha256"] != bundle.manifest.artefact("fp32").sha256:
        raise InputError(
            f"{bench}: was measured on the model {measured.model['sha256'][:12]}..., this bundle's is "
            f"{bundle.manifest.artefact('fp32').sha256[:12]}...; run toolkit bench on this bundle"
        )
    target = out or bundle.directory / REPORT
    write_text(target, build_report(bundle, evaluated, measured))
    return target


def read_evaluation(path: Path) -> dict[str, Any]:
    """A file that `toolkit eval --save` wrote."""
    data: dict[str, Any] = read_json(path)
    validate(data, "evaluation", str(path))
    if not data["artefacts"] or "all" not in data["artefacts"][0]["scores"]:
        raise InputError(f"{path}: holds no scores")
    return data


def _refuse_strangers(bundle: Bundle, evaluated: Mapping[str, Any], where: str) -> None:
    """At least one of the evaluated files must be this bundle's; a table about other models would mislead."""
    ours = {a.sha256 for a in bundle.manifest.artefacts} | {bundle.manifest.source.sha256}
    if not any(one["sha256"] in ours for one in evaluated["artefacts"]):
        raise InputError(f"{where}: none of its artefacts is in this bundle; run toolkit eval on {bundle.directory}")
