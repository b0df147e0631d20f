"""DeepCluster's fixed front end: the network sees edges, so that clusters cannot form on colour."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNELS = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),  # along x
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),  # along y
)


class SobelFilter(nn.Module):
    """Mean over the channels, then the two Sobel gradients (Caron et al. 2018, arXiv:1807.05520, §4).

    Input: (B, C, H, W) images, normalised, any float dtype; output: (B, 2, H, W), same dtype, x gradient first. Zero
    padding 1, so the border answers even on a constant image, as in every reference. The kernels are a buffer outside
    state_dict: a constant that no initialiser, optimiser or checkpoint touches. Computed in float32 under any
    autocast: a gradient is a difference of near-equal numbers. Raises ValueError if images has no four axes."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.tensor(_KERNELS).unsqueeze(1), persistent=False)  # (2, 1, 3, 3)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError(f"images must be (B, C, H, W), got {tuple(images.shape)}: add the batch axis")
        dtype = torch.promote_types(images.dtype, torch.float32)
        with torch.autocast(images.device.type, enabled=False):
            grey = images.to(dtype).mean(1, keepdim=True)
            return F.conv2d(grey, self.kernels.to(dtype), padding=1).to(images.dtype)
