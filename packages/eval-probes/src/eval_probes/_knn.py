"""Weighted nearest-neighbour classification, the protocol of DINO and MMSelfSup (Wu et al. 2018, arXiv:1805.01978)."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from ._accuracy import as_labels
from ._arrays import Array
from ._neighbours import as_rows, stream_topk
from ._probe import NotFittedError, Probe, Scores, setting

_VOTE_ROWS = 1024  # queries whose (rows, C) class scores exist at a time


class KNNProbe(Probe):
    """k-nearest-neighbour classifier by cosine similarity; each neighbour votes with weight exp(cosine / temperature).

    The protocol of DINO and MMSelfSup, after Wu et al. 2018 (arXiv:1805.01978). One exact search serves every k. Votes
    are summed in float64. Ties between classes go to the smaller label, ties between neighbours to the smaller
    training index.

    Args:
        k: Number of neighbours, or several. A k above the number of training rows uses all of them.
        temperature: Temperature of the votes, positive.

    Attributes:
        x_: Training features (N, D); refers to the argument of `fit`, without a copy.
        classes_: Sorted labels (C,) int64.
        y_: Index (N,) of each training label in `classes_`.

    Example:
        ```python
        probe = KNNProbe(k=(10, 20)).fit(x_train, y_train)
        probe.score(x_test, y_test)  # top-1 accuracy with k = 10
        probe.evaluate(x_test, y_test)  # {"k=10": {"top1": 0.71, "top5": 0.93}, "k=20": {...}}
        ```
    """

    def __init__(self, k: int | Sequence[int] = (10, 20, 100, 200), *, temperature: float = 0.07) -> None:
        self.k = k
        self.temperature = temperature

    def fit(self, x: Array, y: Array) -> Self:
        """Keep the training set.

        Args:
            x: Features (N, D), any float dtype; may be a memory map.
            y: Labels (N,), any integers.

        Returns:
            The probe itself.

        Raises:
            ValueError: If a shape or argument is invalid, or a row contains NaN or infinity.
        """
        self._k = (self.k,) if isinstance(self.k, int) else tuple(self.k)
        if not self._k or min(self._k) < 1:
            raise ValueError(f"k must be one or more integers >= 1, got {self.k}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        x = as_rows(x, "x")
        y = as_labels(y, len(x))
        self.x_ = x
        self.classes_, self.y_ = y.long().unique(return_inverse=True)
        return self

    def predict(self, x: Array, *, k: int | None = None) -> Tensor:
        """Predict the label of each query.

        Args:
            x: Queries (M, D), any float dtype.
            k: Number of neighbours; default: the first k of the probe.

        Returns:
            Labels (M,) int64 on the device of x.
        """
        bank = self._fitted()
        k = self._k[0] if k is None else k
        x = as_rows(x, "x")
        indices, similarity = stream_topk(x, bank, k)
        classes = self.classes_.to(x.device)
        best = [scores.argmax(1) for _, _, scores in self._votes(indices, similarity, (k,))]
        return classes[torch.cat(best)]

    def score(self, x: Array, y: Array) -> float:
        """Return the top-1 accuracy, a fraction in [0, 1], with the first k of the probe.

        Args:
            x: Queries (M, D), any float dtype.
            y: Their labels (M,), any integers. A label that the training set lacks counts as wrong.
        """
        self._fitted()
        ((_, scores),) = _accuracies(self._right(x, y, self._k[:1])).items()
        return scores["top1"]

    def evaluate(self, x: Array, y: Array) -> Scores:
        """Return top-1 and top-5 accuracy for every k.

        Top-5 counts a query as right if its class is among the five with the highest scores. A class without a vote
        has score 0.

        Args:
            x: Queries (M, D), any float dtype.
            y: Their labels (M,), any integers. A label that the training set lacks counts as wrong.

        Returns:
            {"k=10": {"top1": ..., "top5": ...}, ...}, fractions in [0, 1].
        """
        return _accuracies(self.hits(x, y))

    def hits(self, x: Array, y: Array) -> dict[str, Tensor]:
        """Return which queries are right, for confidence intervals or for sums over processes.

        Args:
            x: Queries (M, D), any float dtype.
            y: Their labels (M,), any integers.

        Returns:
            {"k=10": (M, 2) bool, ...}: right in top 1 and in top 5. `evaluate` returns the means.
        """
        self._fitted()
        return self._right(x, y, self._k)

    def evaluate_leave_one_out(self) -> Scores:
        """Classify each training row by all others, and return accuracies as `evaluate` does.

        Raises:
            ValueError: If there is only one training row.
        """
        bank = self._fitted()
        if len(bank) < 2:
            raise ValueError("leave-one-out needs at least 2 train samples, got 1")
        neighbours = stream_topk(bank, bank, max(self._k), skip_self=True)
        return _accuracies(self._hits(*neighbours, self.classes_[self.y_], self._k))

    def _fitted(self) -> Tensor:
        if not hasattr(self, "x_"):
            raise NotFittedError("this KNNProbe has no train features yet: call fit(x, y) first")
        return self.x_

    def _right(self, x: Array, y: Array, ks: Sequence[int]) -> dict[str, Tensor]:
        x = as_rows(x, "x")
        y = as_labels(y, len(x))
        return self._hits(*stream_topk(x, self.x_, max(ks)), y, ks)

    def _hits(self, indices: Tensor, similarity: Tensor, y: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
        y = y.to(indices.device)
        classes = self.classes_.to(indices.device)
        true = torch.searchsorted(classes, y).clamp(max=len(classes) - 1)  # (M,) index into classes, where known
        known = classes[true] == y
        right = {k: torch.zeros(len(y), 2, dtype=torch.bool, device=y.device) for k in ks}
        for rows, k, scores in self._votes(indices, similarity, ks):
            t = true[rows, None]
            own = scores.gather(1, t)
            earlier = torch.arange(len(classes), device=t.device) < t
            rank = ((scores > own) | ((scores == own) & earlier)).sum(1)  # classes ranked before the true one
            right[k][rows, 0] = (rank < 1) & known[rows]
            right[k][rows, 1] = (rank < 5) & known[rows]
        return {setting("k", k): hits for k, hits in right.items()}

    def _votes(self, indices: Tensor, similarity: Tensor, ks: Sequence[int]) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield class scores (rows, C) float64 for slices of the queries and each k, smallest first.

        All results share one buffer: read it before the next step.
        """
        labels = self.y_.to(indices.device)
        for start in range(0, len(indices), _VOTE_ROWS):
            rows = slice(start, start + _VOTE_ROWS)
            s = similarity[rows].double()
            # Subtracting the largest similarity avoids overflow and keeps the order of the classes.
            weights = ((s - s[:, :1]) / self.temperature).exp()
            votes = labels[indices[rows]]
            scores = s.new_zeros(len(s), len(self.classes_))
            n_counted = 0
            for k in sorted(set(ks)):
                scores.scatter_add_(1, votes[:, n_counted:k], weights[:, n_counted:k])
                n_counted = k
                yield rows, k, scores


def _accuracies(hits: dict[str, Tensor]) -> Scores:
    return {
        name: {top: int(h[:, i].sum()) / len(h) for i, top in enumerate(("top1", "top5"))} for name, h in hits.items()
    }
