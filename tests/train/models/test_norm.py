"""Two processes with half a batch each are one process with the whole batch: outputs, gradients, running statistics."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]

WORKER = textwrap.dedent(
    """
    import sys
    import torch, torch.distributed as dist
    from train.models.blocks import conv_block
    from train.models.mobileone import MobileOneBlock, branch_form

    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if rank >= 0:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        MobileOneBlock(3, 8, 3, stride=2, branches=2),
        MobileOneBlock(8, 8, 3, groups=8, branches=2),
        conv_block(8, 6, 1),
        MobileOneBlock(6, 8, 1, branches=2, linear=True),
    ).double().train()
    x = torch.randn(6, 3, 12, 12, dtype=torch.float64)
    way = torch.randn(6, 8, 6, 6, dtype=torch.float64)
    rows = slice(None) if rank < 0 else (slice(0, 2), slice(2, 6))[rank]
    result = {}
    for form in ("folded", "loop"):
        model.zero_grad()
        with branch_form(form):
            y = model(x[rows])
            (y * way[rows]).sum().backward()
        if rank >= 0:
            for p in model.parameters():
                dist.all_reduce(p.grad)
        kept = [*(p.grad for p in model.parameters()), *model.buffers()]
        result[form] = [y.detach(), *(value.clone() for value in kept)]
    torch.save(result, f"{folder}/{rank}.pt")
    """
)


def test_two_processes_with_unequal_shares_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    started = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path)], cwd=ROOT, env=_path())
        for rank in (-1, 0, 1)
    ]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    whole, first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (-1, 0, 1))
    for form in ("folded", "loop"):
        joined = torch.cat([first[form][0], second[form][0]])
        assert torch.allclose(joined, whole[form][0], rtol=1e-9, atol=1e-11)
        for part in (first, second):
            for i, (found, wanted) in enumerate(zip(part[form][1:], whole[form][1:], strict=True)):
                assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-9), (form, i)


def _path() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_halves_alone_would_differ(rank: int) -> None:
    """The comparison above can fail: statistics of a share are not those of the batch."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 12, 12)
    share = x[slice(0, 2) if rank == 0 else slice(2, 6)]
    norm = torch.nn.BatchNorm2d(3).train()
    assert not torch.allclose(norm(x)[:2], norm(share)[:2], atol=1e-3)
