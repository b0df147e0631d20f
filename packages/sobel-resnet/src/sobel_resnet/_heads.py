"""What sits between the backbone and the loss: features (B, in_dim) -> embeddings (B, out_dim)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ._init import cpu_generator, default_linear_, empty_linear


class Projector(nn.Sequential):
    """Linear-BN-ReLU-...-Linear onto the unit sphere (SwAV, arXiv:2006.09882; key names 0, 1, 3 as in its files).

    n_layers counts the Linear layers; 1 means a single Linear(in_dim, out_dim). bn: BatchNorm after each hidden one.
    normalise: divide rows by their L2 norm, in float32 under any autocast; the output is then float32. Linear layers
    start with PyTorch's law from a generator seeded by `seed`. Raises ValueError if n_layers < 1."""

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

    def forward(self, features: Tensor) -> Tensor:
        z = super().forward(features)
        return F.normalize(z.float(), dim=1) if self.normalise else z


class OdcNeck(nn.Module):
    """ODC's neck: Linear, BN without affine, ReLU, dropout, Linear, ReLU (Zhan et al. 2020, arXiv:2006.10645).

    Output (B, out_dim) is non-negative and not normalised. BN momentum is 0.001, so that the memory's features age
    slowly. Key names fc0, bn0, fc1 are those of the published checkpoints. Linear layers start with PyTorch's law
    from a generator seeded by `seed`; dropout in training reads torch's global generator, as torch's own does."""

    def __init__(
        self, in_dim: int, hidden_dim: int = 512, out_dim: int = 256, dropout: float = 0.5, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.fc0 = empty_linear(in_dim, hidden_dim)
        self.bn0 = nn.BatchNorm1d(hidden_dim, eps=1e-5, momentum=0.001, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = empty_linear(hidden_dim, out_dim)
        generator = cpu_generator(seed)
        default_linear_(self.fc0, generator)
        default_linear_(self.fc1, generator)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.bn0(self.fc0(features)), inplace=True)
        return F.relu(self.fc1(self.dropout(hidden)), inplace=True)
