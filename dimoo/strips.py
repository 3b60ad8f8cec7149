"""Convolutions of a large picture strip by strip: what is computed between two of them never exists as a whole.

Norms keep their statistics over the whole picture, which are gathered strip by strip first, so a picture comes out as it
would in one piece, up to rounding, without seams. Only for inference; a small picture is one strip and takes the direct way.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ELEMENTS = 2**24  # numbers in a strip of one picture: 32 MB in half precision
SUMS = (2, 3, 4)  # what a group's statistics range over: its channels, rows and columns


def convolve(conv: nn.Conv2d, x: Tensor, norm: nn.Module | None = None, enlarge: int = 1) -> Tensor:
    """conv(silu(norm(x))), the norm and its activation left out if None, after enlarging x by repeating its pixels.

    conv: 3 × 3 with a padding of 1; x (B, C, H, W) -> (B, out, H * enlarge, W * enlarge).
    """
    height, width = x.shape[2] * enlarge, x.shape[3] * enlarge
    rows = max(1, ELEMENTS // (max(conv.in_channels, conv.out_channels) * width))
    if rows >= height or torch.is_grad_enabled():
        h = x if norm is None else F.silu(norm(x))
        return conv(h if enlarge == 1 else F.interpolate(h, scale_factor=float(enlarge), mode="nearest"))
    affine = None if norm is None else scale_and_shift(norm, x, rows)
    shape = (x.shape[0], conv.out_channels, height, width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above, below = max(top - 1, 0), min(bottom + 1, height)  # the convolution's input, one row more on each side
        first, last = above // enlarge, -(-below // enlarge)
        strip = x[:, :, first:last]
        if affine is not None:
            strip = F.silu(torch.addcmul(affine[1], strip.float(), affine[0]), inplace=True).to(x.dtype)
        if enlarge > 1:
            strip = F.interpolate(strip, scale_factor=float(enlarge), mode="nearest")
            strip = strip[:, :, above - first * enlarge : below - first * enlarge]
        strip = F.pad(strip, (0, 0, above - top + 1, bottom + 1 - below))  # zeros beyond the picture's own edges
        out[:, :, top:bottom] = F.conv2d(strip, conv.weight, conv.bias, padding=(0, 1))
    return out


def scale_and_shift(norm: nn.Module, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """What a norm multiplies x (B, C, H, W) by and then adds: float32, (B or 1, C, 1, 1).

    A norm without groups is a learned scale and shift. The statistics of groups are put together from those of strips
    (Chan, Golub and LeVeque, 1979), in float32.
    """
    weight, bias = (p.float()[None, :, None, None] for p in (norm.weight, norm.bias))
    if not isinstance(norm, nn.GroupNorm):
        return weight, bias
    parts = []
    for top in range(0, x.shape[2], rows):
        strip = x[:, :, top : top + rows].float().unflatten(1, (norm.num_groups, -1))
        parts.append((strip.shape[3] / x.shape[2], *torch.var_mean(strip, SUMS, correction=0)))
    mean = sum(share * means for share, _, means in parts)
    variance = sum(share * (variances + (means - mean).square()) for share, variances, means in parts)
    scale = (variance + norm.eps).rsqrt()
    scale, mean = (s.repeat_interleave(x.shape[1] // norm.num_groups, 1)[:, :, None, None] for s in (scale, mean))
    return weight * scale, bias - mean * weight * scale
