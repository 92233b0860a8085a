"""`toolkit inspect`: what is this file?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.errors import ExitCode, UsageError
from toolkit.cli import console

Facts = dict[str, Any]
_SHORT_HASH = 16


def run(
    path: Annotated[
        Path | None, typer.Argument(help="A checkpoint, an ONNX model, a probe file or a bundle directory.")
    ] = None,
    models: bool = typer.Option(False, "--models", help="Instead: the table of architectures and what each costs."),
    width: float = typer.Option(1.0, "--width", help="With --models: the width factor.", min=0.01, max=8),
    input_size: int = typer.Option(
        112, "--input-size", help="With --models: the input side in pixels.", min=16, max=1024
    ),
    points: int = typer.Option(98, "--points", help="With --models: how many landmarks.", min=1, max=2000),
    layers: bool = typer.Option(False, "--layers", help="Also every layer with its precision and cost (ONNX)."),
    contract: bool = typer.Option(
        False, "--contract", help="Also say in words what TensorRT would refuse; exit code 1 if anything (ONNX)."
    ),
    target: str = typer.Option(
        "11", "--target", help="With --contract: the TensorRT version, such as 8.6, 10.3 or 11."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
) -> None:
    """Tell what a file is: inputs, model spec, operators, precision, cost, size, hash and where it came from.

    Files of this toolkit and foreign ONNX models are both understood; nothing in them is run.

    [bold]Examples[/bold]

      toolkit inspect model.onnx --layers

      toolkit inspect someones_int8.onnx --contract --target 10.3

      toolkit inspect my_bundle --json

      toolkit inspect --models --width 0.5
    """
    if models == (path is not None):
        raise UsageError("give a file to inspect, or --models, and not both")
    if models and (layers or contract):
        raise UsageError("--layers and --contract need a file, they say nothing about --models")
    facts = _zoo(width, input_size, points) if path is None else _facts(path, contract, target)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False, default=str))
    elif path is None:
        _show_zoo(facts)
    else:
        _show(facts, layers)
    if any(f["level"] == "refused" for f in facts.get("contract", ())):
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _facts(path: Path, contract: bool, target: str) -> Facts:
    from export.inspection import inspect_path

    facts = inspect_path(path)
    if contract:
        if "operators" not in facts:
            raise UsageError(f"{path}: --contract is about ONNX models, this is a {facts['what']}")
        from dataclasses import asdict

        from export.contract import check_contract
        from export.onnx_file import read_onnx

        facts["target"] = target
        facts["contract"] = [asdict(f) for f in check_contract(read_onnx(path), target)]
    return facts


def _zoo(width: float, input_size: int, points: int) -> Facts:
    from dataclasses import asdict

    from train.models.zoo import zoo_rows

    rows = [asdict(row) for row in zoo_rows(width, input_size, points)]
    return {"width": width, "input_size": input_size, "points": points, "models": rows}


def _show_zoo(facts: Facts) -> None:
    title = f"Models at width {facts['width']:g}, input {facts['input_size']} x {facts['input_size']}"
    rows = [
        (
            row["name"],
            _millions(row["train"]["params"]),
            _millions(row["fused"]["params"]),
            _millions(row["train"]["macs"]),
            _millions(row["fused"]["macs"]),
            row["what"],
        )
        for row in facts["models"]
    ]
    columns = ["model", "params M, training", "params M, fused", "MACs M, training", "MACs M, fused", "what"]
    console.show(console.table(f"{title}, {facts['points']} points", columns, rows))


def _millions(value: int) -> str:
    return f"{value / 1e6:.3f}"


def _show(facts: Facts, layers: bool) -> None:
    console.show(console.table(facts["what"], ["", ""], list(_rows(facts)), numeric_from=2))
    if "chain" in facts:
        console.show(_chain_table(facts))
    if layers and "layers" in facts:
        rows = [
            (layer["name"], layer["op"], layer["precision"], layer["params"], _count(layer["macs"]))
            for layer in facts["layers"]
        ]
        console.show(console.table("Layers", ["layer", "op", "precision", "params", "MACs"], rows, numeric_from=3))
    if "contract" in facts:
        _show_contract(facts)


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "path", facts["path"]
    yield "size", f"{facts['bytes']:,} bytes"
    for key in ("sha256", "parent", "producer", "checker", "toolkit"):
        if facts.get(key):
            yield key, str(facts[key])
    if facts.get("spec"):
        from export.inspection import spec_line

        yield "spec", spec_line(facts["spec"])
    if "opset" in facts:
        domains = f", domains {', '.join(facts['domains'])}" if facts["domains"] else ""
        yield "opset", f"{facts['opset']} (IR {facts['ir_version']}){domains}"
    for key in ("inputs", "outputs"):
        for port in facts.get(key, ()):
            yield key[:-1], f"{port['name']}: {port['type']} {' x '.join(map(str, port['shape']))}"
    if "params" in facts:
        yield "cost", f"{facts['params']:,} parameters, {_count(facts['macs'])} multiply-adds per image"
    if "precisions" in facts:
        yield "layers", ", ".join(f"{count} {name}" for name, count in facts["precisions"].items()) or "none"
        yield "operators", ", ".join(f"{count} {name}" for name, count in facts["operators"].items())
    if "averaged" in facts:
        yield (
            "weights",
            f"{facts['tensors']} tensors, {', '.join(facts['precision'])}"
            + (", with averaged copy" if facts["averaged"] else ""),
        )
        yield "resumable", "yes" if facts["resumable"] else "no"
        if facts["int8 steps"]:
            yield "int8", f"steps of {facts['int8 steps']} tensors, learned in training; export --int8 qat takes them"
    for key, value in facts.get("progress", {}).items():
        yield key, str(value)
    for name, array in facts.get("arrays", {}).items():
        yield name, f"{array['type']} {' x '.join(map(str, array['shape']))}"
    for key, value in facts.get("c", {}).items():
        yield key, " ".join(map(str, value)) if isinstance(value, list) else str(value)
    if "files" in facts:
        yield "files", ", ".join(facts["files"])
    for check in facts.get("checks", ()):
        yield check["name"], f"{check['value']:.4g} of at most {check['limit']:.4g} {check['metric']}"
    if facts.get("source"):
        yield "made from", f"{facts['source']['kind']} checkpoint {facts['source']['sha256'][:_SHORT_HASH]}"
    if facts.get("lineage"):
        yield "made from", " <- ".join(facts["lineage"])
    if facts.get("strays"):
        yield "not listed", ", ".join(facts["strays"])


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _chain_table(facts: Facts) -> object:
    rows = []
    for link in facts["chain"]:
        checks = link["checks"] or [None]
        for index, check in enumerate(checks):
            who = (link["name"], link["from"] or "-", link["file"], f"{link['bytes']:,}", link["sha256"][:_SHORT_HASH])
            head = who if index == 0 else ("",) * len(who)
            measured = (
                ("-", "", "", "")
                if check is None
                else (
                    check["name"],
                    f"{check['value']:.4g}",
                    f"{check['limit']:.4g}",
                    check["metric"] + ("" if check["passed"] else "  FAILED"),
                )
            )
            rows.append((*head, *measured))
    columns = ["artefact", "made from", "file", "bytes", "sha256", "check", "value", "limit", "metric"]
    return console.table("Chain", columns, rows, numeric_from=3)


def _show_contract(facts: Facts) -> None:
    findings = facts["contract"]
    rows = [(f["level"], f["rule"], f["node"], f["message"]) for f in findings]
    refused = sum(f["level"] == "refused" for f in findings)
    verdict = f"refused for {refused} reason{'s' * (refused > 1)}" if refused else "accepted"
    title = f"TensorRT {facts['target']}: {verdict}, warnings: {len(findings) - refused}"
    if not rows:
        print(title)
        return
    console.show(console.table(title, ["level", "rule", "where", "what"], rows, numeric_from=9))
