"""A training step of GhostOne in the form that training chooses, against the plain loop over branches.

Several branches are folded into one convolution; a single one is computed in joint passes. Forward, loss, backward,
interleaved in one process on one core. The fused network, which has no branches, is the bound that no form of the
branches can pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from runtime.spec import ModelSpec
from tests.bench.measure import Samples, arguments, interleave, pinned, save
from train.models.mobileone import BranchForm, branch_form
from train.models.zoo import build

BATCHES = {1.0: 16, 0.25: 32}
"""Faces in a step, by width."""
ROUNDS = 5
TARGET = 1.5
CASES = (
    (6, 1.0, "contiguous"),
    (6, 1.0, "channels_last"),
    (6, 0.25, "contiguous"),
    (6, 0.25, "channels_last"),
    (1, 1.0, "channels_last"),
    (1, 0.25, "channels_last"),
)
"""Conv branches (upstream has six), width, memory layout."""


def step(model: nn.Module, images: Tensor, targets: Tensor, form: BranchForm) -> Callable[[], None]:
    """One forward and backward pass in the given form."""

    def run() -> None:
        with branch_form(form):
            model.zero_grad(set_to_none=True)
            nn.functional.smooth_l1_loss(model(images), targets).backward()

    return run


def measure(branches: int, width: float, layout: str, batch: int, rounds: int) -> Samples:
    """Time loop, quick form and fused network in turn."""
    torch.manual_seed(0)
    spec = ModelSpec("ghostone", width, branches=branches)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = build(spec).train().to(memory_format=form)
    plain = build(spec, fused=True).train().to(memory_format=form)
    images = torch.randn(batch, 3, spec.input_size, spec.input_size).contiguous(memory_format=form)
    targets = torch.rand(batch, 2 * spec.points)
    contenders = {
        "loop": step(model, images, targets, "loop"),
        "quick": step(model, images, targets, "joined" if branches == 1 else "folded"),
        "fused": step(plain, images, targets, "loop"),
    }
    return interleave(contenders, rounds, warmup=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the ratios, keep every sample."""
    options = arguments(argv, __doc__ or "")
    rounds = 2 if options.quick else ROUNDS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: dict[str, object] = {
        "batch by width": {str(width): count for width, count in BATCHES.items()},
        "target ratio": TARGET,
    }
    samples: dict[str, Samples] = {}
    head = f"{'loop':>9s} {'quick':>9s} {'fused':>9s} {'loop/quick':>12s}   (target >= {TARGET:g})"
    print(f"{'GhostOne':36s} {head}")
    try:
        with pinned():
            for branches, width, layout in CASES:
                name = f"branches {branches}, width {width:g}, {layout}"
                batch = 4 if options.quick else BATCHES[width]
                samples[name] = found = measure(branches, width, layout, batch, rounds)
                ratio = found.ratio("loop", "quick")
                seconds = {which: found.median(which) for which in ("loop", "quick", "fused")}
                rows[name] = {"ratio": ratio, **{f"{which} s": value for which, value in seconds.items()}}
                times = " ".join(f"{1000 * value:6.0f} ms" for value in seconds.values())
                print(f"{name:36s} {times} {ratio:11.2f}x", flush=True)
    finally:
        torch.set_num_threads(threads)
    print(f"raw samples: {save(options.out, 'wide_branch', rows, samples)}")


if __name__ == "__main__":
    main()
