"""Cutting and resizing as matrices, and rotation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_matrix(
    start: Tensor,
    length: Tensor,
    resized: Tensor,
    offset: Tensor,
    flip: Tensor,
    *,
    size_in: int,
    size_out: int,
    interpolation: str = "bilinear",
) -> Tensor:
    """The cut, antialiased resize, window and flip of one axis as one matrix per crop.

    start, length, resized, offset: (N,) integers as in CropGroup, one axis of it. flip: (N,) bool.
    Returns (N, size_out, size_in) float32, rows sum to 1: PIL's filter, a triangle or Keys' cubic with a = -0.5,
    widened by the scale when shrinking, cut off at the box and renormalised (torch's interpolate with antialias=True).
    """
    start, length, resized, offset = (t.float()[:, None] for t in (start, length, resized, offset))
    scale = length / resized  # (N, 1), source pixels per target pixel
    target = torch.arange(size_out, device=start.device) + 0.5
    target = offset + torch.where(flip[:, None], size_out - target, target)  # (N, size_out)
    source = torch.arange(size_in, device=start.device) + 0.5 - start  # (N, size_in), relative to the box
    width = scale.clamp(min=1)
    # a source pixel outside the box is moved out of reach of every filter
    source = torch.where((source > 0) & (source < length), source, torch.inf)
    # subtracted before it is divided: the difference is exact, and small
    away = ((target * scale)[:, :, None] - source[:, None, :]).div_(width[:, :, None]).abs_()
    weights = _cubic(away) if interpolation == "bicubic" else away.neg_().add_(1).clamp_(min=0)
    return weights.div_(weights.sum(-1, keepdim=True))


def _cubic(away: Tensor) -> Tensor:
    away = away.clamp(max=2)  # where it is 0
    near = ((1.5 * away - 2.5) * away * away).add_(1)
    far = (((2.5 - 0.5 * away) * away - 4) * away).add_(2)
    return torch.where(away < 1, near, far)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns^T for every channel: x (N, C, H, W), rows (N, H_out, H), columns (N, W_out, W)."""
    n, channels, height, width = x.shape
    across = torch.bmm(x.reshape(n, channels * height, width), columns.mT).view(n, channels, height, -1)
    return torch.matmul(rows[:, None], across)


def turns(degrees: Tensor, flip: Tensor, order: tuple[str, ...]) -> Tensor:
    """(N, 2) float32 cosine and sine of the rotations of crops that were flipped with their cut.

    degrees: (N,), as drawn. A crop that ought to be flipped after its rotation must turn the other way.
    """
    if "flip" in order[order.index("rotation") :]:
        degrees = torch.where(flip, -degrees, degrees)
    return _cos_sin(degrees)


def _cos_sin(degrees: Tensor) -> Tensor:
    radians = degrees.double().deg2rad()
    return torch.stack((radians.cos(), radians.sin()), -1).float()


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned counter-clockwise about its centre, nearest pixel, zeros outside: RandomRotation's defaults.

    x: (N, C, S, S) float32. degrees: (N,).
    """
    return turn(x, _cos_sin(degrees))


def turn(x: Tensor, cos_sin: Tensor) -> Tensor:
    """As `rotate`, by cosines and sines (N, 2)."""
    cos, sin = cos_sin.unbind(-1)
    zero = torch.zeros_like(cos)
    inverse = torch.stack((cos, -sin, zero, sin, cos, zero), -1).view(-1, 2, 3)  # of target to source coordinates
    grid = F.affine_grid(inverse, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
