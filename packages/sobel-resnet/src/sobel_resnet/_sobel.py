"""DeepCluster's fixed front end: the network sees edges only, so it cannot cluster images by colour."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._tensors import as_tensor

if TYPE_CHECKING:
    import numpy as np

_KERNELS = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),  # gradient along x
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),  # gradient along y
)


class SobelFilter(nn.Module):
    """Average the colour channels, then compute the two Sobel gradients (Caron et al. 2018, arXiv:1807.05520, §4).

    The kernels are a non-persistent buffer: no initialiser, optimiser or checkpoint can change them. Zero padding of
    one pixel keeps the image size, so the border responds even on a constant image, as in all reference codes. The
    filter computes in float32 under any autocast, because a gradient is the difference of two nearly equal numbers.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.tensor(_KERNELS).unsqueeze(1), persistent=False)  # (2, 1, 3, 3)

    def forward(self, images: "Tensor | np.ndarray") -> Tensor:
        """Filter a batch of images.

        Args:
            images: (B, C, H, W), normalised, any float dtype. A NumPy array counts as a CPU tensor.

        Returns:
            The gradients along x and y, (B, 2, H, W), in the dtype and on the device of `images`.

        Raises:
            ValueError: If `images` does not have four axes.
        """
        images = as_tensor(images)
        if images.ndim != 4:
            raise ValueError(f"images must be (B, C, H, W), got {tuple(images.shape)}: add the batch axis")
        dtype = torch.promote_types(images.dtype, torch.float32)
        with torch.autocast(images.device.type, enabled=False):
            grey = images.to(dtype).mean(1, keepdim=True)
            return F.conv2d(grey, self.kernels.to(dtype), padding=1).to(images.dtype)
