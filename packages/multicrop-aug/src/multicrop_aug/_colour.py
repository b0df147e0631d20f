"""Colour operations on a batch, with parameters per image; x is (N, 3, H, W) float32 in [0, 1].

Each equals torchvision.transforms.v2.functional on float images to float32 rounding. Constants come as numbers or from
arithmetic on the device: a tensor made from a list would be copied to a GPU, and the copy waits for it.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's; they sum to 0.9999
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    factors: (N, 4) float32, neutral (1, 1, 1, 0). order: (N, 4), a permutation of 0..3 per image.
    """
    hue_drawn = factors[:, HUE] != 0
    for operation in order.long().unbind(1):
        factor = factors.gather(1, operation[:, None])[:, 0]
        hue_now = operation == HUE
        x = blend(x, torch.where(hue_now, 1.0, factor), operation)
        # every image's hue is shifted every time, where it is due is chosen after: to ask first would make a GPU wait
        x = torch.where((hue_now & hue_drawn)[:, None, None, None], shift_hue(x, factor), x)
    return x


def blend(x: Tensor, factor: Tensor, operation: Tensor) -> Tensor:
    """clamp(f x + (1 - f) y), where y is 0 (brightness), the mean of the grey image (contrast) or it (saturation).

    factor: (N,), 1 where another operation is due. operation: (N,).

    All three are one affine map of colours: a 3x3 matrix and a shift per image.
    """
    rest = 1 - factor
    to_grey = rest * (operation == SATURATION)
    luma = torch.stack([to_grey * weight for weight in LUMA], -1)  # (N, 3)
    matrix = factor[:, None, None] * torch.eye(3, device=x.device) + luma[:, None]
    pixels = x.flatten(2)  # (N, 3, H W), a view
    shift = rest * (operation == CONTRAST) * _luma(pixels.mean(-1))
    return torch.baddbmm(shift[:, None, None], matrix, pixels).clamp_(0, 1).view_as(x)


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Hue moved by `turns` (N,) in [-0.5, 0.5]; grey pixels stay as they are.

    HSV without its case distinctions, which a processor's branch predictor cannot follow. With channels scaled to
    [0, 1] per pixel, r' = (r - min) / (max - min), the hue lies 1 - r' + g' + b' sixths of a turn from red, towards
    green if g > b, else towards blue. Back again, the channel whose pure hue is c is
    min + (max - min) clamp(2 - |h - c|, 0, 1), the difference taken round the circle.
    """
    red, green, blue = x.unbind(1)  # (N, H, W)
    low = torch.minimum(torch.minimum(red, green), blue)
    spread = torch.maximum(torch.maximum(red, green), blue) - low
    from_red = (green - red).add_(blue - low).div_(spread.clamp(min=torch.finfo(x.dtype).tiny)).add_(1)
    hue = from_red.copysign_(green - blue).add_(6 * turns[:, None, None])  # sixths of a turn, in [-6, 6]
    hue.sub_((hue / 6).round_().mul_(6))  # in [-3, 3]
    centres = ((2.0 * torch.arange(3, device=x.device) + 2) % 6 - 2)[:, None, None]  # 0, 2, -2
    # for a in [0, 5], 3 - |a - 3| is the way round the circle: it turns 2 - |h - c| into | |h - c| - 3 | - 1
    purity = (hue[:, None] - centres).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    return torch.addcmul(low[:, None], purity, spread[:, None])


def grey_(x: Tensor, chosen: Tensor) -> Tensor:
    """The chosen (N,) images in grey, three equal channels; in place."""
    return x.copy_(torch.where(chosen[:, None, None, None], _luma(x)[:, None], x))


def _luma(x: Tensor) -> Tensor:
    """The grey values of (N, 3, ...): (N, ...)."""
    red, green, blue = x.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def solarise_(x: Tensor, chosen: Tensor, threshold: float) -> Tensor:
    """Pixels at or above the threshold inverted in the chosen (N,) images; in place."""
    return x.copy_(torch.where(chosen[:, None, None, None] & (x >= threshold), 1 - x, x))
