"""Heads between the backbone and the loss: features (B, in_dim) -> embeddings (B, out_dim)."""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ._init import cpu_generator, default_linear_, empty_linear
from ._tensors import as_tensor

if TYPE_CHECKING:
    import numpy as np


class Projector(nn.Sequential):
    """MLP projector, Linear-BN-ReLU-...-Linear, with L2-normalised output (SwAV, Caron et al. 2020, arXiv:2006.09882).

    The layers are numbered 0, 1, 2, 3 in `state_dict`, as in SwAV's checkpoints.

    Args:
        in_dim: Number of features.
        hidden_dim: Width of the hidden layers.
        out_dim: Number of embedding dimensions.
        n_layers: Number of Linear layers; 1 is a single Linear(in_dim, out_dim).
        bn: Whether BatchNorm follows each hidden Linear layer.
        normalise: Whether the rows of the output are divided by their L2 norm.
        seed: Seed of the weights; they follow the default distribution of `nn.Linear`.

    Raises:
        ValueError: If `n_layers` is below 1.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        n_layers: int = 2,
        bn: bool = True,
        normalise: bool = True,
        *,
        seed: int = 0,
    ) -> None:
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        layers: list[nn.Module] = []
        for _ in range(n_layers - 1):
            layers.append(empty_linear(in_dim, hidden_dim))
            if bn:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.ReLU(inplace=True))
            in_dim = hidden_dim
        layers.append(empty_linear(in_dim, out_dim))
        super().__init__(*layers)
        self.normalise = normalise
        generator = cpu_generator(seed)
        for layer in self:
            if isinstance(layer, nn.Linear):
                default_linear_(layer, generator)

    def forward(self, features: "Tensor | np.ndarray") -> Tensor:
        """Project a batch of features.

        Args:
            features: (B, in_dim). A NumPy array counts as a CPU tensor.

        Returns:
            Embeddings (B, out_dim). With `normalise`, float32 rows of norm 1, computed in float32 under any autocast.
        """
        z = super().forward(as_tensor(features))
        return F.normalize(z.float(), dim=1) if self.normalise else z


class OdcNeck(nn.Module):
    """ODC's neck: Linear, BN without affine, ReLU, dropout, Linear, ReLU (Zhan et al. 2020, arXiv:2006.10645).

    The BatchNorm momentum is 0.001, so that embeddings in ODC's memory stay comparable with newer ones. The key names
    fc0, bn0 and fc1 are those of the published checkpoints.

    Args:
        in_dim: Number of features.
        hidden_dim: Width of the hidden layer.
        out_dim: Number of embedding dimensions.
        dropout: Probability of dropping a hidden unit in training. Dropout draws from torch's global generator.
        output_bn: Whether BatchNorm without affine parameters takes the place of the last ReLU. Embeddings are then
            spread around zero, so that those of an untrained network differ.
        seed: Seed of the weights; they follow the default distribution of `nn.Linear`.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 512,
        out_dim: int = 256,
        dropout: float = 0.5,
        *,
        output_bn: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.fc0 = empty_linear(in_dim, hidden_dim)
        self.bn0 = nn.BatchNorm1d(hidden_dim, eps=1e-5, momentum=0.001, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = empty_linear(hidden_dim, out_dim)
        self.bn1 = nn.BatchNorm1d(out_dim, affine=False) if output_bn else None
        generator = cpu_generator(seed)
        default_linear_(self.fc0, generator)
        default_linear_(self.fc1, generator)

    def forward(self, features: "Tensor | np.ndarray") -> Tensor:
        """Embed a batch of features.

        Args:
            features: (B, in_dim). A NumPy array counts as a CPU tensor.

        Returns:
            Embeddings (B, out_dim), not normalised; non-negative without `output_bn`.
        """
        hidden = F.relu(self.bn0(self.fc0(as_tensor(features))), inplace=True)
        z: Tensor = self.fc1(self.dropout(hidden))
        return F.relu(z, inplace=True) if self.bn1 is None else self.bn1(z)
