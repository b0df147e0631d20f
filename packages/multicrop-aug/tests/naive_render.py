"""`render` as a loop over images and crops of torchvision's functions on float images: the oracle of all backends."""

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from multicrop_aug import CropPlan
from torch import Tensor


def naive(images: list[Tensor], plan: CropPlan) -> list[Tensor]:
    """One (B, 3, S, S) tensor per crop."""
    adjust = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    crops = []
    for v in range(plan.n_crops):
        crop = []
        for b, image in enumerate(images):
            group = plan[v].groups[0].apply(lambda t, b=b: t[0, b])
            top, left, h, w = group.box.tolist()
            (y, x), cubic = group.offset.tolist(), group.interpolation == "bicubic"
            kind = TF.InterpolationMode.BICUBIC if cubic else TF.InterpolationMode.BILINEAR
            pixels = TF.resized_crop(image / 255, top, left, h, w, group.resized.tolist(), kind, antialias=True)
            pixels = pixels.clamp(0, 1)[:, y : y + group.size, x : x + group.size]
            for operation in plan.order:
                if operation == "flip" and group.flip:
                    pixels = TF.hflip(pixels)
                elif operation == "rotation":
                    pixels = TF.rotate(pixels, group.angle.item(), fill=[0.0])
                elif operation == "jitter" and group.jitter:
                    for k in group.jitter_order.tolist():
                        pixels = adjust[k](pixels, group.factors[k].item())
                elif operation == "grey" and group.grey:
                    pixels = TF.rgb_to_grayscale(pixels, 3)
                elif operation == "blur" and group.blur:
                    radius = int(4 * group.sigma + 0.5)
                    padded = F.pad(pixels, (radius,) * 4, mode="replicate")
                    padded = TF.gaussian_blur(F.pad(padded, (1,) * 4), [2 * radius + 1] * 2, [group.sigma.item()] * 2)
                    pixels = padded[:, radius + 1 :, radius + 1 :][:, : group.size, : group.size]
                elif operation == "solarise" and group.solarise:
                    pixels = TF.solarize(pixels, plan.solarise_threshold)
            crop.append(TF.normalize(pixels, list(plan.mean), list(plan.std)))
        crops.append(torch.stack(crop))
    return crops
