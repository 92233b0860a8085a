"""Which plans may be given to TensorRT: each that may not is refused in its own words."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from engines import GPU, card_of, here, plan_bytes, write_engine

from runtime.engine import EngineCard, EngineOptions, Here, judge, load_plan, read_card, sidecar_of
from runtime.errors import InputError, MissingBackendError
from runtime.gpu import Gpu, platform_name


def test_a_good_plan_is_admitted(tmp_path: Path) -> None:
    plan = write_engine(tmp_path)
    assert all(v.passed for v in judge(plan, here()))
    data, card = load_plan(plan, here())
    assert data == plan.read_bytes() and card == card_of(data)


def test_a_card_survives_the_disk() -> None:
    card = card_of(plan_bytes())
    assert EngineCard.from_bytes(card.to_bytes(), "card") == card


def mutated(plan: Path) -> Here:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(bytes(data))
    return here()


def truncated(plan: Path) -> Here:
    plan.write_bytes(plan.read_bytes()[:-7])
    return here()


def lengthened(plan: Path) -> Here:
    plan.write_bytes(plan.read_bytes() + b"more")
    return here()


def no_sidecar(plan: Path) -> Here:
    sidecar_of(plan).unlink()
    return here()


def changed_sidecar(plan: Path) -> Here:
    card = sidecar_of(plan)
    card.write_bytes(card.read_bytes().replace(b'"8.7"', b'"8.6"'))
    return here()


def broken_sidecar(plan: Path) -> Here:
    sidecar_of(plan).write_text("not json")
    return here()


def unknown_key(plan: Path) -> Here:
    values = json.loads(sidecar_of(plan).read_bytes())
    sidecar_of(plan).write_text(json.dumps({**values, "extra": 1}))
    return here()


def other_gpu(plan: Path) -> Here:
    return here(gpu=Gpu("NVIDIA GeForce RTX 4090", "8.9", "12.6", ""))


def other_version(plan: Path) -> Here:
    return here("11")


def other_package(plan: Path) -> Here:
    return here(module="tensorrt_rtx")


def other_platform(plan: Path) -> Here:
    return replace(here(), platform="linux-aarch64" if "x86" in platform_name() else "linux-x86_64")


def no_gpu(plan: Path) -> Here:
    return here(gpu=None)


@pytest.mark.parametrize(
    ("harm", "error", "told"),
    [
        (mutated, InputError, "not the file that was built: sha256 .* never loaded"),
        (truncated, InputError, r"cut short, \d+ of \d+ bytes"),
        (lengthened, InputError, "not the file that was built"),
        (no_sidecar, InputError, "has no sidecar face.plan.json"),
        (changed_sidecar, InputError, "was changed after it was written"),
        (broken_sidecar, InputError, "not valid JSON, so not a plan's sidecar"),
        (unknown_key, InputError, "unknown key 'extra'"),
        (other_gpu, MissingBackendError, r"built for Fake GPU \(SM 8.7\), here is NVIDIA GeForce RTX 4090 \(SM 8.9\)"),
        (other_version, MissingBackendError, "built by TensorRT 10.3.0, here is 11.4.0.106"),
        (other_package, MissingBackendError, "needs the package tensorrt 10.3.0, which is not here"),
        (other_platform, MissingBackendError, "plans do not cross it"),
        (no_gpu, MissingBackendError, "no GPU can be used"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_each_wrong_plan_has_its_own_sentence(tmp_path: Path, harm: Any, error: type[Exception], told: str) -> None:
    plan = write_engine(tmp_path)
    where = harm(plan)
    with pytest.raises(error, match=told) as found:
        load_plan(plan, where)
    assert str(plan) in str(found.value) and "\n" not in str(found.value)


def test_judging_tells_file_and_place_apart(tmp_path: Path) -> None:
    plan = write_engine(tmp_path)
    mutated(plan)
    failed = {v.question: v.about for v in judge(plan, other_gpu(plan)) if not v.passed}
    assert failed == {"the file we built": "file", "this GPU": "place"}


@pytest.mark.parametrize(
    ("built", "found", "compatible", "loads"),
    [
        ("10.3.0", "10.3.0", False, True),
        ("10.3.0.26", "10.3.0", False, True),
        ("10.3.0", "10.7.0", False, False),
        ("10.3.0", "10.7.0", True, True),
        ("8.6.2", "10.3.0", True, True),
        ("10.3.0", "11.4.0", True, True),
        ("8.6.2", "11.4.0", True, False),
        ("11.4.0", "10.3.0", True, False),
    ],
)
def test_versions(tmp_path: Path, built: str, found: str, compatible: bool, loads: bool) -> None:
    card = card_of(plan_bytes())
    options = EngineOptions("strong", 3, 256, compatible)
    plan = write_engine(tmp_path, built=replace(card.built, version=built), options=options)
    where = Here({"tensorrt": found}, GPU, "", platform_name())
    assert all(v.passed for v in judge(plan, where)) == loads


@pytest.mark.parametrize(
    ("level", "sm", "name", "loads"),
    [
        ("none", "8.7", "Fake GPU", True),
        ("none", "8.7", "Another of its kind", False),
        ("same-sm", "8.7", "Another of its kind", True),
        ("same-sm", "8.9", "Another", False),
        ("ampere-plus", "8.0", "A100", True),
        ("ampere-plus", "12.0", "Newer", True),
        ("ampere-plus", "7.5", "Older", False),
    ],
)
def test_gpus(tmp_path: Path, level: Any, sm: str, name: str, loads: bool) -> None:
    plan = write_engine(tmp_path, options=EngineOptions("strong", 3, 256, False, level))
    assert all(v.passed for v in judge(plan, here(gpu=Gpu(name, sm, "12.6", "")))) == loads


def test_a_card_with_two_inputs_is_refused(tmp_path: Path) -> None:
    card = card_of(plan_bytes())
    plan = write_engine(tmp_path, ports=(*card.ports, card.ports[0]))
    with pytest.raises(InputError, match="3 inputs and outputs, expected one of each"):
        read_card(plan)
