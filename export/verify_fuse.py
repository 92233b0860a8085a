"""The proof that a fused network is the multi-branch one: block by block, and as a whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.fuse import fusable, fuse
from export.shift import Shift, landmark_shift
from export.ulp import ulps_apart
from export.verify_blocks import WEIGHT_LIMIT, BlockProof, prove_block
from runtime.bundle import Check
from runtime.errors import CheckFailedError, InputError
from runtime.spec import ModelSpec
from train.models.mobileone import branch_form

WHOLE_LIMIT = 1e-12
"""Of the output scale: whole-net difference in float64."""
EXACT_FACES = 4
WHOLE_SLACK = 16.0
"""How much more than the multi-branch form the fused one may lose to float32 over the whole net: errors multiply."""
LEAST_ULP = 128.0
RANDOM_FACES = 4


@dataclass(frozen=True)
class WholeProof:
    """Landmarks of the whole network."""

    exact: float
    """Float64 difference over the largest output, of the fuse that this program makes."""
    exact_limit: float
    """`WHOLE_LIMIT`, or more where the network multiplies rounding errors: measured on its float32 form."""
    ulp: float
    ulp_limit: float
    shift: Shift


@dataclass(frozen=True)
class Problem:
    """A check that failed."""

    check: str
    where: str
    what: str


@dataclass(frozen=True)
class Proof:
    """Everything that was measured."""

    spec: ModelSpec
    probes: str
    seed: int
    blocks: list[BlockProof]
    whole: WholeProof | None
    copied: int
    """Values of layers without BN that fusing should only have copied, and that differ."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def worst(self) -> BlockProof:
        """The block that comes nearest to its limits."""
        return max(self.blocks, key=_nearest)

    def require(self) -> None:
        """Raise on the first limit exceeded, naming block and likely causes."""
        for problem in self.problems:
            raise CheckFailedError(f"{problem.where}: {problem.check}: {problem.what}")


def _nearest(block: BlockProof) -> float:
    """The largest share of any limit of a block."""
    shares = [g.share for g in (block.exact, block.faces, block.noise) if g is not None]
    weights = block.weights.ulp / WEIGHT_LIMIT if block.weights is not None else 0.0
    return max([math.inf if block.structure else 0.0, *shares, weights if weights > 1 else 0.0])


def random_faces(spec: ModelSpec, count: int, seed: int) -> NDArray[np.float32]:
    """Smooth random pictures: what there is to probe with where no faces are at hand."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (spec.input_size,) * 2, mode="bicubic")
    return np.asarray((smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(-1, 1).numpy())


def prove(
    model: nn.Module,
    fused: nn.Module,
    spec: ModelSpec,
    probes: NDArray[np.float32] | None = None,
    *,
    name: str = "",
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Proof:
    """Prove `fused` against the multi-branch `model` on probe inputs (N, 3, S, S); `tick` comes after each block."""
    inputs = random_faces(spec, RANDOM_FACES, seed) if probes is None else probes
    x = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
    with _evaluating(model):
        blocks = dict(fusable(model))
        problems = [*_modes(model, fused), *_forms(model, fused, blocks)]
        if problems:
            return Proof(spec, name or "random pictures", seed, [], None, 0, problems)
        wide = copy.deepcopy(model).double()
        with torch.inference_mode():
            proofs, plain = _watch(model, wide, fused, blocks, x, seed, tick)
            copied = _copied(model, fused, blocks)
            runs = not any(block.structure for block in proofs)
            whole = _whole(plain, wide, fused, spec, x) if runs else None
    failed = [(block.name, problem) for block in proofs if (problem := block.problem()) is not None]
    problems = [Problem(check, f"block {block}", what) for block, (check, what) in failed]
    problems += _whole_problems(whole, copied) if whole is not None else []
    return Proof(spec, name or "random pictures", seed, proofs, whole, copied, problems)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _modes(before: nn.Module, after: nn.Module) -> list[Problem]:
    """Nothing may be left in train mode."""
    for side, model in (("multi-branch", before), ("fused", after)):
        for name, module in model.named_modules():
            if module.training:
                what = f"the {side} model is in train mode here; call eval() before comparing or exporting"
                return [Problem("mode", f"block {name or 'whole net'}", what)]
    return []


def _forms(before: nn.Module, after: nn.Module, blocks: dict[str, nn.Module]) -> list[Problem]:
    """The fused model must have a part for every block, and no BN anywhere."""
    parts = dict(after.named_modules())
    for name in blocks:
        if name not in parts:
            return [Problem("structure", f"block {name}", "the fused model has no such part")]
    for name, module in after.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            return [Problem("structure", f"block {name}", "a BN is left over in the fused model")]
    outside = {key for key, _ in before.named_parameters() if not any(key.startswith(f"{n}.") for n in blocks)}
    wanted = outside | {key for key, _ in after.named_parameters() if any(key.startswith(f"{n}.") for n in blocks)}
    odd = sorted(wanted.symmetric_difference(dict(after.named_parameters()))) + sorted(dict(after.named_buffers()))
    if odd:
        return [Problem("structure", "whole net", f"left over or missing: {', '.join(odd[:3])}")]
    return []


def _watch(
    before: nn.Module,
    wide: nn.Module,
    after: nn.Module,
    blocks: dict[str, nn.Module],
    x: Tensor,
    seed: int,
    tick: Callable[[], object],
) -> tuple[list[BlockProof], Tensor]:
    """Run the multi-branch model and prove each block on the very input that reaches it; one input in memory."""
    proofs: list[BlockProof] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            generator = torch.Generator().manual_seed(seed + len(proofs))
            exact, fused = wide.get_submodule(name), after.get_submodule(name)
            proofs.append(prove_block(name, block, exact, fused, inputs[0], generator))
            tick()

        return look

    hooks = [block.register_forward_pre_hook(watch(name)) for name, block in blocks.items()]
    try:
        with branch_form("loop"):
            return proofs, before(x)
    finally:
        for hook in hooks:
            hook.remove()


def _copied(before: nn.Module, after: nn.Module, blocks: dict[str, nn.Module]) -> int:
    """How many values outside the blocks differ in any bit."""
    there = dict(after.named_parameters())
    return sum(
        int((value.view(torch.int32) != there[key].view(torch.int32)).sum())
        if value.dtype == there[key].dtype == torch.float32 and value.shape == there[key].shape
        else max(value.numel(), 1)
        for key, value in before.named_parameters()
        if not any(key.startswith(f"{name}.") for name in blocks)
    )


def _whole(plain: Tensor, wide: nn.Module, after: nn.Module, spec: ModelSpec, x: Tensor) -> WholeProof:
    with branch_form("loop"):
        exact = wide(x[:EXACT_FACES].double())
    ours = fuse(wide, spec, known_good=True)(x[:EXACT_FACES].double())
    found = after(x)
    scale = max(float(exact.abs().max()), torch.finfo(torch.float64).tiny)
    few = slice(0, EXACT_FACES)
    lost = _largest(plain[few] - exact) / scale * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return WholeProof(
        exact=_largest(ours - exact) / scale,
        exact_limit=max(WHOLE_LIMIT, WHOLE_SLACK * lost) if math.isfinite(lost) else WHOLE_LIMIT,
        ulp=ulps_apart(found.numpy(), plain.numpy()),
        ulp_limit=max(LEAST_ULP, WHOLE_SLACK * ulps_apart(plain[few].numpy(), exact.numpy())),
        shift=landmark_shift(found.numpy(), plain.numpy(), spec),
    )


def _largest(difference: Tensor) -> float:
    return float(torch.nan_to_num(difference.abs(), nan=math.inf).max())


def _whole_problems(whole: WholeProof, copied: int) -> list[Problem]:
    found = []
    if copied:
        found.append(Problem("copied", "whole net", f"{copied} values of layers without BN are not the same bits"))
    if not whole.exact <= whole.exact_limit:
        what = f"float64 difference {whole.exact:.3g} of the output scale, limit {whole.exact_limit:.3g}"
        found.append(Problem("whole float64", "whole net", what))
    if not whole.ulp <= whole.ulp_limit:
        pixels = f"{whole.shift.max_pixels:.3g} px, {whole.shift.worst_percent:.3g} % of {whole.shift.normaliser}"
        what = f"landmarks move by {pixels}: {whole.ulp:.3g} ULP, limit {whole.ulp_limit:.3g}"
        found.append(Problem("whole float32", "whole net", what))
    return found


def fuse_checks(
    model: nn.Module, fused: nn.Module, spec: ModelSpec, probes: NDArray[np.float32] | None = None, *, seed: int = 0
) -> list[Check]:
    """The proof as the numbers that a bundle's manifest carries; a model in a wrong form has none and raises."""
    proof = prove(model, fused, spec, probes, seed=seed)
    if proof.whole is None:
        proof.require()
        raise InputError("nothing to prove")
    forms = sum(bool(block.structure) for block in proof.blocks)
    measured = [block for block in proof.blocks if block.weights is not None]
    check = partial(Check, seed=seed)

    def most(values: list[float]) -> float:
        return max(values, default=0.0)

    return [
        check("fuse-form", "fused blocks that are not plain convolutions", float(forms), 0.0),
        check("fuse-copied", "values outside the blocks that changed", float(proof.copied), 0.0),
        check(
            "fuse-weights",
            "ULP from the impulse response in float64, worst block",
            most([b.weights.ulp for b in measured if b.weights]),
            WEIGHT_LIMIT + 1e-6,
        ),
        check(
            "fuse-float64",
            "share of the rounding limit, float64, worst block",
            most([b.exact.share for b in measured if b.exact]),
            1.0,
        ),
        check(
            "fuse-float32",
            "share of the rounding limit, float32, worst block",
            most([g.share for b in measured for g in (b.faces, b.noise) if g]),
            1.0,
        ),
        check("fuse-whole-float64", "difference over the output scale", proof.whole.exact, proof.whole.exact_limit),
        check("fuse-whole-float32", "ULP of the landmarks", proof.whole.ulp, proof.whole.ulp_limit),
    ]
