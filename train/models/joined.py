"""A block with one convolution branch as few passes over memory: its BNs share the moments of what they read.

With z the convolution's output and x the block's input, the sum of the branches is a z + b x + c for each channel; the
kernels in C compute the moments, the sum with its ReLU, and all gradients, on images with channels innermost.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.models.kernels import Norm, Shape, library
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


def norms_fit(norms: list[nn.BatchNorm2d]) -> bool:
    """Whether these are plain BNs in training that keep running statistics."""
    return all(
        norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        for norm in norms
    )  # fmt: skip


def joined_block(joint: Joint, x: Tensor | None, kernel: Tensor, weight: Tensor | None) -> Tensor:
    """The block's output. `kernel` is the convolution's, or z itself where that is given."""
    parameters = [
        value for norm in (joint.conv, joint.scale, joint.skip) if norm is not None for value in (norm.weight, norm.bias)
    ]
    result: Tensor = _Joined.apply(joint, x, kernel, weight, *parameters)  # type: ignore[no-untyped-call]
    return result


def _norm(bn: nn.BatchNorm2d | None) -> Norm | None:
    if bn is None:
        return None
    mean, variance, seen = bn.running_mean, bn.running_var, bn.num_batches_tracked
    assert mean is not None and variance is not None and seen is not None
    return Norm(
        bn.weight.data_ptr(), bn.bias.data_ptr(), mean.data_ptr(), variance.data_ptr(), seen.data_ptr(),
        float(bn.momentum or 0), bn.eps,
    )  # fmt: skip


def _at(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


def _by(norm: Norm | None) -> Any:
    return None if norm is None else ctypes.byref(norm)


def _checked(fine: int) -> None:
    if not fine:
        raise MemoryError("no memory for a block's rows")


class _Joined(torch.autograd.Function):
    """joint, x, kernel or z, scale weight, (gamma, beta) of each norm -> y."""

    @staticmethod
    def forward(ctx: Any, joint: Joint, x: Tensor | None, kernel: Tensor, weight: Tensor | None, *_: Tensor) -> Tensor:
        kernels = library()
        assert kernels is not None
        z = _convolved(joint, x, kernel)
        count, channels, height, width = z.shape
        shape = Shape(count, height, width, channels, joint.stride)
        second = x if joint.reads_x else None
        taps = kernel.contiguous() if joint.kind == "depthwise" else None
        sums = torch.empty(4, channels, dtype=torch.float64)
        _checked(
            kernels.block_moments(shape, z.data_ptr(), _at(x), int(joint.reads_x), _at(taps), sums.data_ptr())
        )
        positions = count * height * width
        if processes() > 1:
            joint_sums = sum_over_processes(torch.cat([sums.flatten(), sums.new_tensor([positions])]))
            sums, positions = joint_sums[:-1].view_as(sums), int(joint_sums[-1])
        moments = sums.div_(positions)
        moments[1::2].addcmul_(moments[::2], moments[::2], value=-1).clamp_min_(0)
        norms = [_norm(joint.conv), _norm(joint.scale), _norm(joint.skip)]
        affine = torch.empty(3, channels)
        scale_weight = None if weight is None else weight.detach().reshape(-1)
        kernels.block_affine(
            channels, positions, moments.data_ptr(), _by(norms[0]), _by(norms[1]), _at(scale_weight), _by(norms[2]),
            affine.data_ptr(),
        )  # fmt: skip
        y = torch.empty_like(z)
        _checked(
            kernels.block_apply(shape, z.data_ptr(), _at(second), affine.data_ptr(), int(joint.relu), y.data_ptr())
        )
        ctx.save_for_backward(x, kernel, weight, y, None if joint.kind == "given" else z, moments, *_)
        ctx.joint, ctx.shape, ctx.positions, ctx.norms = joint, shape, positions, norms
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kernels = library()
        assert kernels is not None
        x, kernel, weight, y, z, moments = ctx.saved_tensors[:6]
        joint, shape, norms = ctx.joint, ctx.shape, ctx.norms
        z = kernel if z is None else z
        second = x if joint.reads_x else None
        channels, relu = z.shape[1], int(joint.relu)
        of_y = gradients[0].contiguous(memory_format=LAST)
        local = torch.zeros(3, channels, dtype=torch.float64)
        _checked(
            kernels.block_gradient_sums(
                shape, of_y.data_ptr(), y.data_ptr(), z.data_ptr(), _at(second), relu, local.data_ptr()
            )
        )
        sums = sum_over_processes(local) if processes() > 1 else local
        slopes, of_parameters = torch.empty(6, channels), torch.empty(7, channels)
        scale_weight = None if weight is None else weight.reshape(-1)
        kernels.block_slopes(
            channels, ctx.positions, moments.data_ptr(), sums.data_ptr(), 1 / processes(), _by(norms[0]),
            _by(norms[1]), _at(scale_weight), _by(norms[2]), of_parameters.data_ptr(), slopes.data_ptr(),
        )  # fmt: skip
        of_x: Tensor | None
        if joint.kind == "depthwise":
            of_x, of_kernel = torch.empty_like(x), torch.empty(kernel.shape)
            _checked(
                kernels.depthwise_backward(
                    shape, of_y.data_ptr(), y.data_ptr(), z.data_ptr(), x.data_ptr(), int(joint.reads_x), relu,
                    slopes.data_ptr(), kernel.contiguous().data_ptr(), of_x.data_ptr(), of_kernel.data_ptr(),
                )
            )  # fmt: skip
        else:
            of_z, of_x = torch.empty_like(z), None if second is None else torch.empty_like(second)
            _checked(
                kernels.block_gradients(
                    shape, of_y.data_ptr(), y.data_ptr(), z.data_ptr(), _at(second), relu, slopes.data_ptr(),
                    of_z.data_ptr(), _at(of_x),
                )
            )  # fmt: skip
            of_kernel = of_z
            if joint.kind == "pointwise":
                of_x, of_kernel = _of_product(x, kernel, of_z, of_x, ctx.needs_input_grad[1])
        rows = of_parameters.unbind(0)
        of_norms = [rows[0], rows[1]]
        of_weight = None
        if joint.scale is not None:
            of_norms += [rows[2], rows[3]]
            of_weight = rows[6].view_as(weight)
        if joint.skip is not None:
            of_norms += [rows[4], rows[5]]
        return None, of_x, of_kernel, of_weight, *of_norms


def _convolved(joint: Joint, x: Tensor | None, kernel: Tensor) -> Tensor:
    """z, or for a depthwise convolution the memory that it goes to."""
    if joint.kind == "given":
        return kernel
    assert x is not None
    if joint.kind == "pointwise":
        count, inputs, height, width = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ kernel.view(len(kernel), inputs).T
        return flat.view(count, height, width, -1).permute(0, 3, 1, 2)
    count, channels, height, width = x.shape
    size = (count, channels, height // joint.stride, width // joint.stride)
    return torch.empty(size, memory_format=LAST)  # filled while its moments are taken


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
