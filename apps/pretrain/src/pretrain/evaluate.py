"""kNN score of the backbone as it stands (protocol: `eval_probes.KNNProbe`, k = 20, cosine, temperature 0.07)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from eval_probes import KNNProbe
from torch import Tensor

from pretrain.keys import permutation
from pretrain.loader import Loader
from pretrain.run import Run

K = 20


@dataclass
class KnnScore:
    """Scores the images of `queries` against a bank of training images; without queries, the bank against itself."""

    bank: Tensor  # (n,) indices of training images
    bank_labels: Tensor  # (n,)
    queries: Loader | None = None
    query_labels: Tensor | None = None

    @classmethod
    def prepare(cls, labels: Tensor, n_images: int, seed: int) -> KnnScore:
        """At most `n_images` of the training images, chosen by seed."""
        bank = permutation(len(labels), seed, "knn bank")[:n_images].sort().values
        return cls(bank, labels[bank])

    def top1(self, run: Run, network: torch.nn.Module) -> float:
        """Top-1 in percent. Collective."""
        bank = run.extract(network, indices=self.bank, what="kNN bank")
        probe = KNNProbe(K).fit(bank, self.bank_labels.to(bank.device))
        if self.queries is None or self.query_labels is None:
            return 100 * probe.evaluate_leave_one_out()[f"k={K}"]["top1"]
        queries = run.extract(network, loader=self.queries, what="kNN queries")
        return 100 * probe.score(queries, self.query_labels.to(queries.device))
