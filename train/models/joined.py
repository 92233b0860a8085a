"""A block with one convolution branch as few passes over memory: its BNs share the moments of what they read.

With z the convolution's output and x the block's input, the sum of the branches is a z + b x + c for each channel; the
kernels in C compute the moments, the sum with its ReLU, and all gradients, on images with channels innermost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.models.kernels import Norm, Shape, call, library
from train.models.norm import processes, sum_over_processes

LAST = torch.channels_last


@dataclass(frozen=True)
class Joint:
    """What a block hands over: how x becomes z, and its norms."""

    kind: str
    """How z comes about: "depthwise", "pointwise", or "given"."""
    stride: int
    relu: bool
    conv: nn.BatchNorm2d
    scale: nn.BatchNorm2d | None
    skip: nn.BatchNorm2d | None

    @property
    def reads_x(self) -> bool:
        """Whether x has branches of its own beside the convolution."""
        return self.scale is not None or self.skip is not None


def can_join(x: Tensor) -> bool:
    """Whether the kernels take such an input here."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and x.is_contiguous(memory_format=LAST)
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


def norms_fit(norms: Sequence[nn.BatchNorm2d]) -> bool:
    """Whether these are plain BNs in training that keep running statistics."""
    return all(
        norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        for norm in norms
    )  # fmt: skip


def joined_block(joint: Joint, x: Tensor, kernel: Tensor, weight: Tensor | None) -> Tensor:
    """The block's output. `kernel` is the convolution's, or z itself where that is given."""
    parameters = [
        value
        for norm in (joint.conv, joint.scale, joint.skip)
        if norm is not None
        for value in (norm.weight, norm.bias)
    ]
    result: Tensor = _Joined.apply(joint, x, kernel, weight, *parameters)  # type: ignore[no-untyped-call]
    return result


def _by(norm: Norm | None) -> Any:
    return None if norm is None else ctypes.byref(norm)


def _norm(bn: nn.BatchNorm2d | None) -> Norm | None:
    if bn is None:
        return None
    running = (bn.running_mean, bn.running_var, bn.num_batches_tracked)
    parts = [0 if part is None else part.data_ptr() for part in (bn.weight, bn.bias, *running)]
    return Norm(*parts, float(bn.momentum or 0), bn.eps)


class _Joined(torch.autograd.Function):
    """joint, x, kernel or z, scale weight, (gamma, beta) of each norm -> y."""

    @staticmethod
    def forward(ctx: Any, joint: Joint, x: Tensor, kernel: Tensor, weight: Tensor | None, *affine: Tensor) -> Tensor:
        z = _convolved(joint, x, kernel)
        count, channels, height, width = z.shape
        shape, positions = Shape(count, height, width, channels, joint.stride), count * height * width
        taps = kernel.contiguous() if joint.kind == "depthwise" else None
        sums = torch.empty(4, channels, dtype=torch.float64)
        call("block_moments", shape, z, x, int(joint.reads_x), taps, sums)
        if processes() > 1:
            everywhere = sum_over_processes(torch.cat([sums.flatten(), sums.new_tensor([positions])]))
            sums, positions = everywhere[:-1].view_as(sums), int(everywhere[-1])
        moments = sums.div_(positions)
        moments[1::2].addcmul_(moments[::2], moments[::2], value=-1).clamp_min_(0)

        norms = [_norm(joint.conv), _norm(joint.scale), _norm(joint.skip)]
        conv, scale, skip = map(_by, norms)
        factors, y = torch.empty(3, channels), torch.empty_like(z)
        flat_weight = None if weight is None else weight.reshape(-1)
        call("block_affine", channels, positions, moments, conv, scale, flat_weight, skip, factors)
        call("block_apply", shape, z, x if joint.reads_x else None, factors, int(joint.relu), y)
        ctx.save_for_backward(x, kernel, weight, y, None if joint.kind == "given" else z, moments, *affine)
        ctx.joint, ctx.shape, ctx.positions, ctx.norms = joint, shape, positions, norms
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel, weight, y, z, moments = ctx.saved_tensors[:6]
        joint, shape, relu = ctx.joint, ctx.shape, int(ctx.joint.relu)
        z = kernel if z is None else z
        second, channels = x if joint.reads_x else None, z.shape[1]
        of_y = gradients[0].contiguous(memory_format=LAST)
        sums = torch.empty(3, channels, dtype=torch.float64)
        call("block_gradient_sums", shape, of_y, y, z, second, relu, sums)
        if processes() > 1:
            sums = sum_over_processes(sums)

        conv, scale, skip = map(_by, ctx.norms)
        slopes, rows = torch.empty(6, channels), torch.empty(7, channels)
        flat_weight, own = None if weight is None else weight.reshape(-1), 1 / processes()
        call(
            "block_slopes", channels, ctx.positions, moments, sums, own, conv, scale, flat_weight, skip, rows, slopes
        )  # fmt: skip
        of_x: Tensor | None
        if joint.kind == "depthwise":
            of_x, of_kernel = torch.empty_like(x), torch.empty(kernel.shape)
            call(
                "depthwise_backward", shape, of_y, y, z, x, int(joint.reads_x), relu, slopes, kernel.contiguous(),
                of_x, of_kernel,
            )  # fmt: skip
        else:
            of_z, of_x = torch.empty_like(z), None if second is None else torch.empty_like(second)
            call("block_gradients", shape, of_y, y, z, second, relu, slopes, of_z, of_x)
            of_kernel = of_z
            if joint.kind == "pointwise":
                of_x, of_kernel = _of_product(x, kernel, of_z, of_x, ctx.needs_input_grad[1])
        own_rows = rows.unbind(0)
        of_norms = [*own_rows[:2], *(own_rows[2:4] if joint.scale else ()), *(own_rows[4:6] if joint.skip else ())]
        return None, of_x, of_kernel, None if weight is None else own_rows[6].view_as(weight), *of_norms


def _convolved(joint: Joint, x: Tensor, kernel: Tensor) -> Tensor:
    """z, or for a depthwise convolution the memory that it goes to while its moments are taken."""
    if joint.kind == "given":
        return kernel
    count, inputs, height, width = x.shape
    if joint.kind == "pointwise":
        flat = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ kernel.view(len(kernel), inputs).T
        return flat.view(count, height, width, -1).permute(0, 3, 1, 2)
    return torch.empty((count, inputs, height // joint.stride, width // joint.stride), memory_format=LAST)


def _of_product(
    x: Tensor, kernel: Tensor, of_z: Tensor, of_x: Tensor | None, wanted: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of x, added to its direct part, and of a 1x1 kernel."""
    inputs = x.shape[1]
    flat, matrix = of_z.permute(0, 2, 3, 1).reshape(-1, of_z.shape[1]), kernel.view(len(kernel), inputs)
    of_kernel = (flat.T @ x.permute(0, 2, 3, 1).reshape(-1, inputs)).view_as(kernel)
    if not wanted:
        return None, of_kernel
    if of_x is None:
        of_flat = flat @ matrix
        return of_flat.view(len(x), *x.shape[2:], inputs).permute(0, 3, 1, 2), of_kernel
    of_x.permute(0, 2, 3, 1).view(-1, inputs).addmm_(flat, matrix)
    return of_x, of_kernel
