"""Cutting and resizing as matrices, and the angles of rotation."""

import torch
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
    """Return the cut, antialiased resize, window and flip of one axis as one matrix per crop.

    The filter is that of PIL and of torch's interpolate(antialias=True): a triangle or Keys' cubic with a = -0.5,
    widened by the scale when shrinking, cut off at the box and renormalised.

    start, length, resized, offset: (N,) integers, one axis of the tensors of CropGroup. flip: (N,) bool.
    Returns (N, size_out, size_in) float32, rows sum to 1.
    """
    start, length, resized, offset = (t.float()[:, None] for t in (start, length, resized, offset))
    scale = length / resized  # (N, 1), source pixels per target pixel
    target = torch.arange(size_out, device=start.device) + 0.5
    target = offset + torch.where(flip[:, None], size_out - target, target)  # (N, size_out)
    source = torch.arange(size_in, device=start.device) + 0.5 - start  # (N, size_in), relative to the box
    width = scale.clamp(min=1)
    # moves source pixels outside the box out of reach of every filter
    source = torch.where((source > 0) & (source < length), source, torch.inf)
    # subtract before dividing: the difference is exact and small
    away = ((target * scale)[:, :, None] - source[:, None, :]).div_(width[:, :, None]).abs_()
    weights = _cubic(away) if interpolation == "bicubic" else away.neg_().add_(1).clamp_(min=0)
    return weights.div_(weights.sum(-1, keepdim=True))


def _cubic(away: Tensor) -> Tensor:
    away = away.clamp(max=2)  # the filter is 0 from there on
    near = ((1.5 * away - 2.5) * away * away).add_(1)
    far = (((2.5 - 0.5 * away) * away - 4) * away).add_(2)
    return torch.where(away < 1, near, far)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute rows @ x @ columns^T for every channel: x (N, C, H, W), rows (N, H_out, H), columns (N, W_out, W)."""
    n, channels, height, width = x.shape
    across = torch.bmm(x.reshape(n, channels * height, width), columns.mT).view(n, channels, height, -1)
    return torch.matmul(rows[:, None], across)


def turns(degrees: Tensor, flip: Tensor, order: tuple[str, ...]) -> Tensor:
    """Return (N, 2) float32 cosine and sine of the rotations, for crops that were flipped with the cut.

    If the flip should come after the rotation, the crop turns the other way instead. degrees: (N,), as drawn.
    """
    if "flip" in order[order.index("rotation") :]:
        degrees = torch.where(flip, -degrees, degrees)
    radians = degrees.double().deg2rad()
    return torch.stack((radians.cos(), radians.sin()), -1).float()
