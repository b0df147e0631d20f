"""kNN score of the current backbone (`eval_probes.KNNProbe`: k = 20, cosine, temperature 0.07)."""

from __future__ import annotations

from dataclasses import dataclass

from eval_probes import KNNProbe
from steady_runs.keys import permutation
from torch import Tensor, nn

from pretrain.loader import Loader
from pretrain.run import Run

K = 20


@dataclass
class KnnScore:
    """Scores queries against a bank of training images; without queries, each image of the bank against the others.

    Attributes:
        bank: (n,) int64, indices of training images.
        bank_labels: (n,) int64.
        queries: Held-out images, or None.
        query_labels: (number of queries,) int64, or None.
    """

    bank: Tensor
    bank_labels: Tensor
    queries: Loader | None = None
    query_labels: Tensor | None = None

    @classmethod
    def prepare(
        cls, labels: Tensor, n_images: int, seed: int, queries: Loader | None, query_labels: Tensor | None
    ) -> KnnScore:
        """Choose a bank of at most `n_images` training images, by seed."""
        bank = permutation(len(labels), seed, "knn bank")[:n_images].sort().values
        return cls(bank, labels[bank], queries, query_labels)

    def top1(self, run: Run, network: nn.Module) -> float:
        """Top-1 accuracy in percent. Collective."""
        bank = run.extract(network, indices=self.bank, what="kNN bank")
        probe = KNNProbe(k=(K,)).fit(bank, self.bank_labels.to(bank.device))
        if self.queries is None or self.query_labels is None:
            return 100 * probe.leave_one_out_score()[K]["top1"]
        queries = run.extract(network, loader=self.queries, what="kNN queries")
        return 100 * probe.score(queries, self.query_labels.to(queries.device))[K]["top1"]
