"""A small part of JSON Schema: enough to hold our own files to their description, with errors that name the place."""

from __future__ import annotations

import difflib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from runtime.errors import InputError

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    "$schema", "$defs", "$ref", "title", "type", "properties", "required", "additionalProperties",
    "items", "pattern", "enum", "minimum", "anyOf",
}  # fmt: skip


@cache
def schema(name: str) -> dict[str, Any]:
    """Load one of the schemas that lie beside this module."""
    text = (Path(__file__).parent / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def validate(value: Any, name: str, where: str) -> None:
    """Refuse a value that does not fit the schema called `name`; the message names the first place that does not."""
    root = schema(name)
    problem = _problem(value, root, root, "")
    if problem:
        raise InputError(f"{where}: {problem}")


def _problem(value: Any, rule: dict[str, Any], root: dict[str, Any], place: str) -> str | None:
    if "$ref" in rule:
        rule = root["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    unknown = set(rule) - _KNOWN
    if unknown:
        raise NotImplementedError(f"schema keyword {sorted(unknown)[0]!r}")
    here = place or "the top level"
    if "anyOf" in rule:
        problems = [_problem(value, option, root, place) for option in rule["anyOf"]]
        return None if None in problems else problems[0]
    if "enum" in rule and not any(value == v and type(value) is type(v) for v in rule["enum"]):
        return f"{here}: found {_short(value)}, expected {' or '.join(map(repr, rule['enum']))}"
    kind = rule.get("type")
    if kind is not None and not _is(value, kind):
        return f"{here}: expected {kind}, found {_short(value)}"
    # Python's $ also matches before a final line end, JSON Schema's does not.
    if "pattern" in rule and not re.search(rule["pattern"].replace("$", r"\Z"), value):
        return f"{here}: {_short(value)} does not match {rule['pattern']}"
    if "minimum" in rule and value < rule["minimum"]:
        return f"{here}: {value} is below {rule['minimum']}"
    if isinstance(value, dict):
        return _problem_in_object(value, rule, root, place)
    if isinstance(value, list) and "items" in rule:
        for index, item in enumerate(value):
            problem = _problem(item, rule["items"], root, f"{place}[{index}]")
            if problem:
                return problem
    return None


def _problem_in_object(value: dict[str, Any], rule: dict[str, Any], root: dict[str, Any], place: str) -> str | None:
    here = place or "the top level"
    properties = rule.get("properties", {})
    for key in rule.get("required", ()):
        if key not in value:
            return f"{here}: {key!r} is missing"
    if rule.get("additionalProperties") is False:
        for key in value:
            if key not in properties:
                near = difflib.get_close_matches(str(key), properties, 1)
                return f"{here}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    for key, inner in properties.items():
        if key in value:
            problem = _problem(value[key], inner, root, f"{place}.{key}" if place else key)
            if problem:
                return problem
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind]) and not (isinstance(value, float) and not math.isfinite(value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
