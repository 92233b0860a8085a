"""Planted faults: `verify` must see every one. Their table in docs/verify.md is written from here (UPDATE_DOCS=1)."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from hard import hard_model

from export import fuse as fusing
from export.fuse import Branch, branches_of, fuse
from export.verify_blocks import prove_block
from export.verify_fuse import Proof, prove, random_faces
from runtime.spec import ModelSpec
from train.models.mobileone import FusedBlock, MobileOneBlock

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mutants")]
DOC = Path(__file__).parents[2] / "docs" / "verify.md"
BEGIN, END = "<!-- mutants: written by tests/export/test_verify_mutants.py -->", "<!-- end of mutants -->"
SPEC = ModelSpec("ghostone", 0.125, points=5, input_size=32, branches=2, layout="plain5")
PLAIN = ModelSpec("ghostnet", 0.125, points=5, input_size=32, layout="plain5")


@dataclass(frozen=True)
class Mutant:
    """A fault: in the formula of a branch, in the list of branches, in the fused model, or in the original."""

    name: str
    formula: Callable[[Branch], tuple[Tensor, Tensor]] | None = None
    branches: Callable[[list[Branch]], list[Branch]] | None = None
    fused: Callable[[nn.Module], object] | None = None
    model: Callable[[nn.Module], object] | None = None


def parts(b: Branch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """kernel, gamma, beta, mean, variance, eps of a branch in float64."""
    assert b.norm.running_mean is not None and b.norm.running_var is not None
    values = (b.kernel, b.norm.weight, b.norm.bias, b.norm.running_mean, b.norm.running_var)
    return (*(value.detach().double() for value in values), b.norm.eps)  # type: ignore[return-value]


def formula(
    change: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]],
) -> Callable[[Branch], tuple[Tensor, Tensor]]:
    """A wrong formula: from the branch's parts to its scale and its bias."""

    def folded(b: Branch) -> tuple[Tensor, Tensor]:
        kernel, *_ = parts(b)
        scale, bias = change(*parts(b))
        return kernel * scale.view(-1, 1, 1, 1), bias

    return folded


def sane(gamma: Tensor, variance: Tensor, eps: float) -> Tensor:
    return gamma / torch.sqrt(variance + eps)


def rounded(b: Branch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    kernel, gamma, beta, mean, variance, eps = parts(b)
    scale = sane(gamma, variance, eps)
    return (kernel * scale.view(-1, 1, 1, 1)).to(dtype).double(), (beta - mean * scale).to(dtype).double()


def with_kernel(b: Branch, change: Callable[[Tensor], Tensor]) -> Branch:
    return Branch(b.name, change(b.kernel), b.norm, b.bias)


def only(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[list[Branch]], list[Branch]]:
    """Change the kernel of the branches of that name where the kernel is larger than 1x1."""
    return lambda found: [
        with_kernel(b, change) if b.name.startswith(name) and b.kernel.shape[-1] > 1 else b for b in found
    ]


def without(name: str) -> Callable[[list[Branch]], list[Branch]]:
    return lambda found: [b for b in found if b.name != name]


def shifted(kernel: Tensor) -> Tensor:
    return torch.roll(kernel, (1, 1), (-2, -1))


def next_norm(found: list[Branch]) -> list[Branch]:
    norms = [b.norm for b in found]
    return [Branch(b.name, b.kernel, norm) for b, norm in zip(found, norms[1:] + norms[:1], strict=True)]


def layer(model: nn.Module, name: str) -> nn.Conv2d:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


def flip(name: str, bit: int, what: str = "weight") -> Callable[[nn.Module], None]:
    """Flip a bit of the largest value of a tensor."""

    def change(model: nn.Module) -> None:
        values = getattr(model.get_submodule(name), what).data.view(-1)
        index = int(values.abs().argmax())
        bits = values.view(torch.int32)
        bits[index] = bits[index] ^ (1 << bit if bit < 31 else -(1 << 31))

    return change


DEEP = "conv4_2.ghost_conv.2.primary_conv.reparam_conv"
DEPTHWISE = "conv5_3.ghost_conv.0.cheap_operation.reparam_conv"


def swap_channels(model: nn.Module) -> None:
    conv = layer(model, DEEP)
    order = torch.arange(len(conv.weight))
    order[:2] = torch.tensor([1, 0])
    conv.weight.data, conv.bias.data = conv.weight.data[order], conv.bias.data[order]  # type: ignore[union-attr]


def swap_blocks(model: nn.Module) -> None:
    one, two = (layer(model, f"conv5_{i}.ghost_conv.2.primary_conv.reparam_conv") for i in (2, 3))
    one.weight.data, two.weight.data = two.weight.data, one.weight.data


def lose_relu(model: nn.Module) -> None:
    block = model.get_submodule("conv3_1.ghost_conv.0.primary_conv")
    assert isinstance(block, FusedBlock)
    block.activation = nn.Identity().eval()


def leave_norm(model: nn.Module) -> None:
    block = model.get_submodule("conv2")
    assert isinstance(block, FusedBlock)
    block.activation = nn.Sequential(nn.BatchNorm2d(len(block.reparam_conv.weight)), nn.ReLU()).eval()


def wrong_stride(model: nn.Module) -> None:
    layer(model, "conv3_1.ghost_conv.1.reparam_conv").stride = (1, 1)


def half_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()


def not_a_number(model: nn.Module) -> None:
    layer(model, DEEP).weight.data[0, 0] = float("nan")


def train_on(model: nn.Module) -> None:
    """The running statistics move on after fusing."""
    model.train()
    with torch.no_grad():
        model(torch.from_numpy(random_faces(SPEC, 4, 9)))
    model.eval()


def stuck_in_training(model: nn.Module) -> None:
    norm = model.get_submodule("conv2.rbr_conv.0.bn").train()
    norm.train = lambda mode=True: norm  # type: ignore[method-assign, assignment]


def batch_statistics(model: nn.Module) -> None:
    """What a fuse in train mode would have used: the statistics of one batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    train_on(model)


MUTANTS = [
    Mutant(
        "eps ten times too large", formula(lambda k, g, b, m, v, e: (sane(g, v, 10 * e), b - m * sane(g, v, 10 * e)))
    ),
    Mutant(
        "eps outside the square root",
        formula(lambda k, g, b, m, v, e: (g / (v.sqrt() + e), b - m * g / (v.sqrt() + e))),
    ),
    Mutant("square root omitted", formula(lambda k, g, b, m, v, e: (g / (v + e), b - m * g / (v + e)))),
    Mutant("gamma omitted", formula(lambda k, g, b, m, v, e: (sane(g * 0 + 1, v, e), b - m * sane(g * 0 + 1, v, e)))),
    Mutant("sign of gamma lost", formula(lambda k, g, b, m, v, e: (sane(g.abs(), v, e), b - m * sane(g.abs(), v, e)))),
    Mutant("beta omitted", formula(lambda k, g, b, m, v, e: (sane(g, v, e), -m * sane(g, v, e)))),
    Mutant("running mean omitted", formula(lambda k, g, b, m, v, e: (sane(g, v, e), b))),
    Mutant("running mean not scaled", formula(lambda k, g, b, m, v, e: (sane(g, v, e), b - m))),
    Mutant("sign of the bias wrong", formula(lambda k, g, b, m, v, e: (sane(g, v, e), b + m * sane(g, v, e)))),
    Mutant("variance 1 % off", formula(lambda k, g, b, m, v, e: (sane(g, 1.01 * v, e), b - m * sane(g, 1.01 * v, e)))),
    Mutant("branches folded in float16", lambda b: rounded(b, torch.float16)),
    Mutant("branches rounded to float32 before the sum", lambda b: rounded(b, torch.float32)),
    Mutant("one convolution branch dropped", branches=without("rbr_conv.1")),
    Mutant("scale branch dropped", branches=without("rbr_scale")),
    Mutant("skip branch dropped", branches=without("rbr_skip")),
    Mutant("one branch counted twice", branches=lambda found: [*found, found[0]]),
    Mutant("padding of the 1x1 kernel shifted", branches=only("rbr_scale", shifted)),
    Mutant("identity kernel off centre", branches=only("rbr_skip", shifted)),
    Mutant("identity kernel all ones", branches=only("rbr_skip", torch.ones_like)),
    Mutant("BN of the neighbouring branch", branches=next_norm),
    Mutant("kernels transposed", branches=only("rbr_conv", lambda k: k.transpose(-1, -2))),
    Mutant("kernels flipped", branches=only("rbr_conv", lambda k: k.flip(-1, -2))),
    Mutant("BN statistics of one batch, not the running ones", model=batch_statistics),
    Mutant("running statistics moved on after fusing", model=train_on),
    Mutant("one BN stuck in train mode", model=stuck_in_training),
    Mutant("sign bit of one weight flipped", fused=flip(DEEP, 31)),
    Mutant("exponent bit of one weight flipped", fused=flip(DEEP, 23)),
    Mutant("mantissa bit 12 of one weight flipped", fused=flip(DEEP, 12)),
    Mutant("mantissa bit 4 of one depthwise weight flipped", fused=flip(DEPTHWISE, 4)),
    Mutant("lowest mantissa bit of one weight flipped", fused=flip(DEEP, 0)),
    Mutant("lowest mantissa bit of one bias flipped", fused=flip(DEPTHWISE, 0, "bias")),
    Mutant("lowest bit of one output-layer weight flipped", fused=flip("fc", 0)),
    Mutant("all weights rounded to float16", fused=half_weights),
    Mutant("a weight that is NaN", fused=not_a_number),
    Mutant("two output channels swapped", fused=swap_channels),
    Mutant("weights of two blocks swapped", fused=swap_blocks),
    Mutant("ReLU lost", fused=lose_relu),
    Mutant("stride 1 instead of 2", fused=wrong_stride),
    Mutant("BN left behind the fused convolution", fused=leave_norm),
    Mutant("weights left frozen", fused=lambda model: model.requires_grad_(False)),
]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return hard_model(SPEC)


@pytest.fixture(scope="module")
def found(model: nn.Module) -> dict[str, Proof]:
    return {mutant.name: proof_of(mutant, model, SPEC) for mutant in MUTANTS}


def proof_of(mutant: Mutant, model: nn.Module, spec: ModelSpec) -> Proof:
    """Fuse with the fault planted, then verify."""
    if mutant.model is not None:
        model = copy.deepcopy(model)
    with pytest.MonkeyPatch.context() as patch:
        if mutant.formula is not None:
            patch.setattr(Branch, "folded", mutant.formula)
        if mutant.branches is not None:
            change = mutant.branches
            patch.setattr(fusing, "branches_of", lambda block: change(branches_of(block)))
        fused = fuse(model, spec)
        if mutant.fused is not None:
            mutant.fused(fused)
        if mutant.model is not None:
            mutant.model(model)
        return prove(model, fused, spec, random_faces(spec, 2, 3), seed=3)


def test_the_fault_free_model_passes(model: nn.Module) -> None:
    proof = proof_of(Mutant("none"), model, SPEC)
    assert proof.passed, proof.problems[:3]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_fault_is_caught(mutant: Mutant, found: dict[str, Proof]) -> None:
    assert not found[mutant.name].passed


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.formula is not None], ids=lambda m: m.name)
def test_faults_of_the_formula_are_caught_behind_plain_convolutions(mutant: Mutant) -> None:
    if "before the sum" in mutant.name:
        pytest.skip("one branch has no sum")
    assert not proof_of(mutant, hard_model(PLAIN), PLAIN).passed


def fused_alone(block: MobileOneBlock) -> FusedBlock:
    """A block by itself, fused."""
    fused = fusing.fuse_module(nn.ModuleDict({"block": block}))
    assert isinstance(fused, nn.ModuleDict)
    result = fused["block"]
    assert isinstance(result, FusedBlock)
    return result


@pytest.mark.parametrize("groups, inputs", [(2, 8), (1, 6), (8, 8)])
def test_a_wrong_group_index_is_caught(groups: int, inputs: int) -> None:
    torch.manual_seed(1)
    block = MobileOneBlock(inputs, inputs, 3, groups=groups, branches=2).train()
    block(torch.randn(4, inputs, 9, 9))
    block.eval()
    x, generator = torch.randn(2, inputs, 9, 9), torch.Generator()
    right, wide = fused_alone(block), copy.deepcopy(block).double()
    wrong = fused_alone(block)
    with torch.no_grad():
        assert prove_block("block", block, wide, right, x, generator).problem() is None
        if groups == inputs:
            return
        skip = branches_of(block)[-1].folded()[0].float()
        wrong.reparam_conv.weight += skip.roll(1, 1) - skip
        problem = prove_block("block", block, wide, wrong, x, generator).problem()
    assert problem is not None and problem[0] == "weights"


def test_the_table_in_the_docs_is_what_was_found(found: dict[str, Proof]) -> None:
    table = "\n".join(
        [
            "| planted fault | first check that fails | also seen in the outputs | what it says |",
            "|---|---|---|---|",
            *(row(mutant.name, found[mutant.name]) for mutant in MUTANTS),
        ]
    )
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    wanted = f"{before}{BEGIN}\n{table}\n{END}{after}"
    if os.environ.get("UPDATE_DOCS"):
        DOC.write_text(wanted, encoding="utf-8")
    assert text == wanted or os.environ.get("UPDATE_DOCS"), "run the test with UPDATE_DOCS=1 and look at the change"


def row(name: str, proof: Proof) -> str:
    """One line of the table; measured numbers stay out, for they depend on the machine."""
    first = proof.problems[0]
    outputs = {"float64", "float32 faces", "float32 random", "whole float32"}
    seen = any(
        gap is not None and not gap.share <= 1 for block in proof.blocks for gap in (block.faces, block.noise)
    ) or any(problem.check in outputs for problem in proof.problems)
    says = first.what.split("; ", 1)[-1] if first.check == "weights" else first.what
    if first.check == "structure" and says.startswith("geometry"):
        says = "geometry differs"
    outputs_say = "not run" if first.check in ("mode", "structure") else "yes" if seen else "no"
    return f"| {name} | {first.check} | {outputs_say} | {says} |"


def test_a_transposed_square_map_is_not_mistaken_for_a_right_one() -> None:
    """The impulse response must tell (output, input) from (input, output)."""
    torch.manual_seed(2)
    block = MobileOneBlock(6, 6, 1, branches=2).train()
    block(torch.randn(4, 6, 5, 5))
    block.eval()
    wrong = fused_alone(block)
    with torch.no_grad():
        wrong.reparam_conv.weight.copy_(wrong.reparam_conv.weight.transpose(0, 1).clone())
        wide = copy.deepcopy(block).double()
        problem = prove_block("block", block, wide, wrong, torch.randn(2, 6, 5, 5), torch.Generator()).problem()
    assert problem is not None and problem[0] == "weights"
