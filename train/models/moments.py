"""Mean and covariance of a convolution's input patches, from which the batch statistics of any kernel follow exactly.

A convolution output is w . p over patches p, so over a batch it has mean w . mu and variance w S w^T, with mu and S the
patches' mean and covariance. They are computed on centred inputs, so that a large mean does not eat the variance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from train.models.norm import processes, sum_over_processes


def output_length(length: int, kernel: int, stride: int) -> int:
    """Outputs along one axis with padding kernel // 2."""
    return (length + 2 * (kernel // 2) - kernel) // stride + 1


def patch_moments(x: Tensor, kernel: int, stride: int, groups: int) -> tuple[Tensor, Tensor, int]:
    """Mean (G, D), covariance (G, D, D) and count of the patches that a convolution sees; over all processes.

    Padding is kernel // 2 with zeros. `groups` is 1 or the number of channels.
    """
    positions = x.shape[0] * output_length(x.shape[2], kernel, stride) * output_length(x.shape[3], kernel, stride)
    if groups == 1:
        mean, covariance = _DenseMoments.apply(x, kernel, stride)  # type: ignore[no-untyped-call]
        mean, covariance = mean[None], covariance[None]
    else:
        mean, covariance = _depthwise_moments(x, kernel, stride)
    if processes() > 1:
        return _over_processes(mean, covariance, positions)
    return mean, covariance, positions


def _over_processes(mean: Tensor, covariance: Tensor, positions: int) -> tuple[Tensor, Tensor, int]:
    """Join the moments of all processes' patches."""
    local = torch.cat([mean.flatten() * positions, mean.new_tensor([positions])])
    total = sum_over_processes(local)
    count = int(total[-1])
    joint = (total[:-1] / total[-1].detach()).view_as(mean)
    apart = mean - joint
    outer = apart[..., :, None] * apart[..., None, :]
    return joint, sum_over_processes((covariance + outer) * (positions / count)), count


def _patches(x: Tensor, kernel: int, stride: int) -> Tensor:
    """(positions, C * kernel * kernel), in the order of a flattened weight."""
    if kernel == 1:
        sampled = x[..., ::stride, ::stride] if stride > 1 else x
        return sampled.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    taps = [tap.permute(0, 2, 3, 1) for tap in _taps(F.pad(x, (kernel // 2,) * 4), kernel, stride)]
    return torch.stack(taps, -1).reshape(-1, x.shape[1] * kernel * kernel)


def _taps(padded: Tensor, kernel: int, stride: int) -> list[Tensor]:
    """For each place in the kernel, the pixels that it meets (views)."""
    height = (padded.shape[2] - kernel) // stride + 1
    width = (padded.shape[3] - kernel) // stride + 1
    return [
        padded[:, :, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]


class _DenseMoments(torch.autograd.Function):
    """Patches over all channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
        patches = _patches(x, kernel, stride)
        mean = patches.mean(0)
        centred = patches - mean
        ctx.save_for_backward(x, mean)
        ctx.kernel, ctx.stride = kernel, stride
        return mean, centred.T @ centred / len(patches)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, mean = ctx.saved_tensors
        kernel, stride = ctx.kernel, ctx.stride
        patches = _patches(x, kernel, stride)
        both = (gradients[1] + gradients[1].T) / len(patches)
        flat = torch.addmm(gradients[0] / len(patches) - mean @ both, patches, both)
        height, width = (output_length(n, kernel, stride) for n in x.shape[2:])
        if kernel == 1 and stride == 1:
            return flat.view(len(x), height, width, -1).permute(0, 3, 1, 2), None, None
        taps = flat.view(len(x), height, width, x.shape[1], kernel * kernel).permute(4, 0, 3, 1, 2)
        return _gather_taps(taps, x, kernel, stride), None, None


def _gather_taps(taps: Tensor | list[Tensor], x: Tensor, kernel: int, stride: int) -> Tensor:
    """Add what belongs to each tap back to the pixels it met; the adjoint of `_taps`."""
    pad = kernel // 2
    padded = F.pad(torch.zeros_like(x), (pad,) * 4)
    for place, tap in zip(_taps(padded, kernel, stride), taps, strict=True):
        place += tap
    return padded[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]


def _depthwise_moments(x: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Patches of each channel by itself: mean (C, k*k), covariance (C, k*k, k*k).

    The covariance is that of the centred pixels, plus what the zero padding does: it is not zero once centred.
    """
    channels, height, width = x.shape[1:]
    inside, joint = _padding_masks(height, width, kernel, stride, x.dtype, x.device)
    positions = len(x) * output_length(height, kernel, stride) * output_length(width, kernel, stride)
    second, image, shift = _CentredSecondMoments.apply(x, kernel, stride)  # type: ignore[no-untyped-call]
    # met[a, b]: sum of the centred pixels under tap a over the positions where tap b lies inside the image
    met = torch.einsum("abh,chw,dew->cadbe", inside[0], image, inside[1]) / positions
    met = met.reshape(channels, kernel * kernel, kernel * kernel)
    mean = met.diagonal(dim1=1, dim2=2)
    share = joint.diagonal()
    covariance = second / positions - mean[:, :, None] * mean[:, None, :]
    cross = (met - mean[:, :, None] * share) * shift[:, None, None]
    border = (joint - share[:, None] * share) * shift.square()[:, None, None]
    return mean + shift[:, None] * share, covariance + cross + cross.transpose(1, 2) + border


@lru_cache(maxsize=64)
def _padding_masks(
    height: int, width: int, kernel: int, stride: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Per axis (a, b, pixel): the pixel lies under tap a while tap b lies inside; and how often two taps do (D, D)."""

    def axis(length: int) -> Tensor:
        start = torch.arange(output_length(length, kernel, stride)) * stride - kernel // 2
        mask = torch.zeros(kernel, kernel, length, dtype=dtype)
        for a in range(kernel):
            for b in range(kernel):
                at, other = start + a, start + b
                both = (at >= 0) & (at < length) & (other >= 0) & (other < length)
                mask[a, b, at[both]] = 1
        return mask

    rows, columns = axis(height), axis(width)
    places = output_length(height, kernel, stride) * output_length(width, kernel, stride)
    joint = torch.einsum("ab,de->adbe", rows.sum(-1), columns.sum(-1)).reshape(kernel**2, kernel**2) / places
    return (rows.to(device), columns.to(device)), joint.to(device)


class _CentredSecondMoments(torch.autograd.Function):
    """Sums of products of the centred pixels under every two taps (C, D, D), their sum over images, and the shift.

    The shift that centres them is a constant: what is derived from the results does not depend on it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        image = _sum_images(x)
        shift = image.mean((1, 2)) / len(x)
        centred = x - shift[:, None, None]
        ctx.mark_non_differentiable(shift)
        ctx.save_for_backward(centred)
        ctx.kernel, ctx.stride = kernel, stride
        ctx.by_lag = kernel == 3 and stride == 1 and min(x.shape[2:]) >= 3
        if ctx.by_lag:
            second = (_lag_features(centred) @ _lag_map(x.dtype, x.device)).view(-1, 9, 9)
        else:
            second = _tap_products(centred, kernel, stride)
        return second, image - len(x) * shift[:, None, None], shift

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (centred,) = ctx.saved_tensors
        of_second, of_image = gradients[:2]
        kernel = ctx.kernel
        if ctx.by_lag:
            gradient = _lag_gradient(centred, of_second.flatten(1) @ _lag_map(centred.dtype, centred.device).T)
        else:
            both = of_second + of_second.transpose(1, 2)
            weights = both.reshape(-1, kernel * kernel, 1, kernel, kernel)
            groups = centred.shape[1]
            taps = [
                F.conv2d(centred, weights[:, a], None, ctx.stride, kernel // 2, 1, groups) for a in range(kernel**2)
            ]
            gradient = _gather_taps(taps, centred, kernel, ctx.stride)
        return gradient.add_(of_image), None, None


def _sum_images(x: Tensor) -> Tensor:
    """Sum over the batch as a matrix product: several times faster than a strided reduction."""
    by_pixel = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    ordered = x.permute(0, 2, 3, 1) if by_pixel else x
    total: Tensor = (x.new_ones(1, len(x)) @ ordered.reshape(len(x), -1)).view(ordered.shape[1:])
    return total.permute(2, 0, 1) if by_pixel else total


def _correlate(left: Tensor, right: Tensor, kernel: int = 3) -> Tensor:
    """For each channel and tap, the sum of `left` times the pixels of `right` under the tap: (C, k*k).

    It is the weight gradient of a depthwise convolution with padding k // 2, for which back ends have fast code.
    """
    weight = right.new_empty(right.shape[1], 1, kernel, kernel)
    pad = [kernel // 2] * 2
    result: Tensor = torch.ops.aten.convolution_backward(
        left, right, weight, None, [1, 1], pad, [1, 1], False, [0, 0], len(weight), [False, True, False]
    )[1]
    return result.reshape(len(weight), kernel * kernel)


def _tap_products(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Sums of products of the pixels under every two taps (C, k*k, k*k), for any stride.

    Pixels are dealt out into stride x stride planes; within one, a tap is a whole number of steps away.
    """
    height, width = (output_length(n, kernel, stride) for n in x.shape[2:])
    taps = [tap.contiguous() for tap in _taps(F.pad(x, (kernel // 2,) * 4), kernel, stride)]
    dealt = F.pad(x, (0, width * stride - x.shape[3], 0, height * stride - x.shape[2]))
    steps = [divmod(tap - kernel // 2, stride) for tap in range(kernel)]
    result = x.new_empty(x.shape[1], kernel * kernel, kernel * kernel)
    for i in range(stride):
        for j in range(stride):
            under = [
                (row * kernel + column, dy + kernel // 2, dx + kernel // 2)
                for row, (dy, rest_y) in enumerate(steps)
                for column, (dx, rest_x) in enumerate(steps)
                if (rest_y, rest_x) == (i, j)
            ]
            plane = dealt[:, :, i::stride, j::stride].contiguous()
            for a, tap in enumerate(taps):
                if all(a > b for b, _, _ in under):
                    continue
                sums = _correlate(tap, plane, kernel).view(-1, kernel, kernel)
                for b, y, x_ in under:
                    result[:, a, b] = result[:, b, a] = sums[:, y, x_]
    return result


def _lag_features(x: Tensor) -> Tensor:
    """Autocorrelation of each channel's plane (25 lags), of its border rows and columns (3 lags), squared corners."""
    channels = x.shape[1]
    wide = F.pad(x, (1, 1, 1, 1))
    left = _correlate(F.pad(x, (0, 2, 0, 2)), wide).view(channels, 3, 3)
    right = _correlate(F.pad(x, (2, 0, 0, 2)), wide).view(channels, 3, 3)
    upper = torch.cat([left, right[:, :, 1:]], 2)
    plane = torch.cat([upper, upper[:, :2].flip(1, 2)], 1)
    lines = [_line_lags(line) for line in _border_lines(x)]
    corners = torch.stack([x[:, :, i, j].square().sum(0) for i in (0, -1) for j in (0, -1)], 1)
    return torch.cat([plane.flatten(1), *lines, corners], 1)


def _border_lines(x: Tensor) -> list[Tensor]:
    """First row, last row, first column, last column (views)."""
    return [x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]]


def _line_lags(line: Tensor) -> Tensor:
    products = [(line[..., : line.shape[-1] - lag] * line[..., lag:]).sum((0, 2)) for lag in range(3)]
    return torch.stack(products, 1)


@lru_cache(maxsize=16)
def _lag_map(dtype: torch.dtype, device: torch.device) -> Tensor:
    """How `_lag_features` add up to the 9 x 9 second moments of 3 x 3 patches, stride 1.

    Two taps a and b meet all pixel pairs of lag b - a, but those of which pixel a lies beyond the window: pairs inside
    the first row when both taps look down a row, and so on; a corner is then taken away twice.
    """
    table = torch.zeros(41, 9, 9, dtype=dtype)
    for a in range(9):
        for b in range(9):
            (ay, ax), (by, bx) = divmod(a, 3), divmod(b, 3)
            dy, dx = by - ay, bx - ax
            table[(dy + 2) * 5 + dx + 2, a, b] = 1
            row = None if dy or ay == 1 else (0 if ay == 2 else 1)
            column = None if dx or ax == 1 else (0 if ax == 2 else 1)
            if row is not None:
                table[25 + 3 * row + abs(dx), a, b] = -1
            if column is not None:
                table[31 + 3 * column + abs(dy), a, b] = -1
            if row is not None and column is not None:
                table[37 + 2 * row + column, a, b] = 1
    return table.view(41, 81).to(device)


def _lag_gradient(x: Tensor, of_features: Tensor) -> Tensor:
    """The gradient of `_lag_features` in x."""
    channels = x.shape[1]
    of_plane = of_features[:, :25].reshape(channels, 1, 5, 5)
    kernel = of_plane + of_plane.flip(2, 3)
    gradient = F.conv2d(x, kernel, None, 1, 2, 1, channels)
    for i, (place, line) in enumerate(zip(_border_lines(gradient), _border_lines(x), strict=True)):
        of_lags = of_features[:, 25 + 3 * i : 28 + 3 * i, None]
        length = line.shape[-1]
        for lag in range(3):
            place[..., : length - lag] += of_lags[:, lag] * line[..., lag:]
            place[..., lag:] += of_lags[:, lag] * line[..., : length - lag]
    for i, (row, column) in enumerate(((0, 0), (0, -1), (-1, 0), (-1, -1))):
        gradient[:, :, row, column] += 2 * of_features[:, 37 + i] * x[:, :, row, column]
    return gradient
