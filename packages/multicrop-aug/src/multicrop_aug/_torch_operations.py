"""The operations on a batch of crops (N, 3, S, S) float32 in [0, 1], with parameters per crop, in plain torch.

Colour operations equal torchvision.transforms.v2.functional on float images to float32 rounding. Constants are numbers
or results of arithmetic on the device: a tensor made from a list would be copied to the GPU, and the copy would wait.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ._geometry import separable, turns
from ._operations import CropGroup
from ._plan import CropPlan

LUMA = (0.2989, 0.587, 0.114)  # torchvision's; they sum to 0.9999
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
TRUNCATE = 4.0  # a kernel reaches this many sigmas, rounded to a pixel (scipy's default); 6e-5 of the mass lies outside


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre, nearest pixel, zeros outside, as RandomRotation does by default.

    cos_sin: (N, 2), cosine and sine of the angles.
    """
    cos, sin = cos_sin.unbind(-1)
    zero = torch.zeros_like(cos)
    inverse = torch.stack((cos, -sin, zero, sin, cos, zero), -1).view(-1, 2, 3)  # of target to source coordinates
    grid = F.affine_grid(inverse, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Apply brightness, contrast, saturation and hue, each crop in its own order.

    factors: (N, 4) float32, neutral (1, 1, 1, 0). order: (N, 4), a permutation of 0..3 per crop.
    """
    hue_drawn = factors[:, HUE] != 0
    for operation in order.long().unbind(1):
        factor = factors.gather(1, operation[:, None])[:, 0]
        hue_now = operation == HUE
        x = blend(x, torch.where(hue_now, 1.0, factor), operation)
        # shift the hue of all crops and select afterwards, because selecting first would wait for the GPU
        x = torch.where((hue_now & hue_drawn)[:, None, None, None], shift_hue(x, factor), x)
    return x


def blend(x: Tensor, factor: Tensor, operation: Tensor) -> Tensor:
    """Compute clamp(f x + (1 - f) y), with y = 0 (brightness), the mean luma (contrast) or the luma (saturation).

    All three are an affine map of colours: a 3x3 matrix and a shift per crop. factor: (N,), 1 where another operation
    is due. operation: (N,).
    """
    rest = 1 - factor
    to_grey = rest * (operation == SATURATION)
    luma = torch.stack([to_grey * weight for weight in LUMA], -1)  # (N, 3)
    matrix = factor[:, None, None] * torch.eye(3, device=x.device) + luma[:, None]
    pixels = x.flatten(2)  # (N, 3, H W), a view
    shift = rest * (operation == CONTRAST) * _luma(pixels.mean(-1))
    return torch.baddbmm(shift[:, None, None], matrix, pixels).clamp_(0, 1).view_as(x)


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue by `turns` (N,) in [-0.5, 0.5]; grey pixels do not change.

    This is the usual way through HSV without its case distinctions. With channels scaled to [0, 1] per pixel,
    r' = (r - min) / (max - min), the hue is 1 - r' + g' + b' sixths of a turn away from red, towards green if g > b,
    else towards blue. The way back: a channel whose pure hue is c gets min + (max - min) clamp(2 - |h - c|, 0, 1),
    where h - c is taken round the circle.
    """
    red, green, blue = x.unbind(1)  # (N, H, W)
    low = torch.minimum(torch.minimum(red, green), blue)
    spread = torch.maximum(torch.maximum(red, green), blue) - low
    from_red = (green - red).add_(blue - low).div_(spread.clamp(min=torch.finfo(x.dtype).tiny)).add_(1)
    hue = from_red.copysign_(green - blue).add_(6 * turns[:, None, None])  # sixths of a turn, in [-6, 6]
    hue.sub_((hue / 6).round_().mul_(6))  # in [-3, 3]
    centres = ((2.0 * torch.arange(3, device=x.device) + 2) % 6 - 2)[:, None, None]  # 0, 2, -2
    # for a in [0, 5], 3 - |a - 3| is the distance round the circle, so 2 - |h - c| becomes | |h - c| - 3 | - 1
    purity = (hue[:, None] - centres).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    return torch.addcmul(low[:, None], purity, spread[:, None])


def grey_(x: Tensor, chosen: Tensor) -> Tensor:
    """Set all channels of the chosen (N,) crops to the luma, in place."""
    return x.copy_(torch.where(chosen[:, None, None, None], _luma(x)[:, None], x))


def _luma(x: Tensor) -> Tensor:
    """Return the luma (N, ...) of x (N, 3, ...)."""
    red, green, blue = x.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def solarise_(x: Tensor, chosen: Tensor, threshold: float) -> Tensor:
    """Invert pixels at or above the threshold in the chosen (N,) crops, in place."""
    return x.copy_(torch.where(chosen[:, None, None, None] & (x >= threshold), 1 - x, x))


def blur_(x: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """Apply a Gaussian blur to the chosen crops, in place; borders repeat the edge pixel, as in PIL.

    x: (N, C, S, S) float32. sigma: (N,) pixels. chosen: (N,) bool. The result of a crop depends on its own sigma only.
    """
    matrices = blur_matrix(sigma, x.shape[-1])
    return x.copy_(torch.where(chosen[:, None, None, None], separable(x, matrices, matrices), x))


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Return the blur of one axis as (N, size, size) float32 matrices with rows that sum to 1.

    A kernel reaches 4 * size pixels at most.
    """
    taps = torch.arange(4 * size + 1, device=sigma.device, dtype=torch.float32)  # one side of the kernel
    reach = (TRUNCATE * sigma + 0.5).floor()[:, None]
    kernel = (-0.5 * (taps / sigma[:, None]).square()).exp() * (taps <= reach)  # (N, 4 size + 1)
    kernel /= 2 * kernel.sum(-1, keepdim=True) - kernel[:, :1]
    places = torch.arange(size, device=sigma.device)
    matrix = kernel[:, (places[:, None] - places).abs()]
    beyond = kernel[:, 1:].flip(-1).cumsum(-1).flip(-1)[:, :size]  # [:, i]: taps that reach more than i pixels away
    matrix[..., 0] += beyond
    matrix[..., -1] += beyond.flip(-1)
    return matrix


def _rotated(x: Tensor, block: CropGroup, plan: CropPlan) -> Tensor:
    turned = rotate(x, turns(block.angle, block.flip, plan.order))
    return torch.where((block.angle != 0)[:, None, None, None], turned, x)


def _jittered(x: Tensor, block: CropGroup, plan: CropPlan) -> Tensor:
    neutral = (torch.arange(4, device=x.device) != HUE).float()
    return jitter(x, torch.where(block.jitter[:, None], block.factors, neutral), block.jitter_order)


# Each takes crops, their part of the plan, and the plan, and returns crops. It may write to the crops that it is given.
# The flip is done with the cut.
APPLY: dict[str, Callable[[Tensor, CropGroup, CropPlan], Tensor]] = {
    "rotation": _rotated,
    "jitter": _jittered,
    "grey": lambda x, block, plan: grey_(x, block.grey),
    "blur": lambda x, block, plan: blur_(x, block.sigma, block.blur),
    "solarise": lambda x, block, plan: solarise_(x, block.solarise, plan.solarise_threshold),
}
