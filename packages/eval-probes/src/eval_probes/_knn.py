"""Weighted nearest-neighbour classification, the protocol of DINO and MMSelfSup (Wu et al. 2018, arXiv:1805.01978)."""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from ._neighbours import check_rows, stream_topk

_VOTE_ROWS = 1024  # queries whose (rows, C) class scores exist at a time


class KNNProbe:
    """k nearest neighbours by cosine, each voting exp(cosine / temperature) for its class; every k from one pass.

    k: one or several neighbour counts; a k above the number of neighbours there are uses them all and is still
    reported under its own name. Votes are added in float64; equal scores go to the smaller class, equal neighbours to
    the smaller train index. Raises ValueError if a k or the temperature is not positive."""

    def __init__(self, k: int | Sequence[int] = (10, 20, 100, 200), temperature: float = 0.07) -> None:
        self.k = (k,) if isinstance(k, int) else tuple(k)
        if not self.k or min(self.k) < 1:
            raise ValueError(f"k must be one or more integers >= 1, got {k}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Keep the train features x (N, D) float and labels y (N,), any integers; x is referred to, not copied."""
        check_rows(x, "x")
        _check_labels(y, x)
        self.x_ = x
        self.classes_, self.y_ = y.long().unique(return_inverse=True)  # y_ is the index into the sorted classes_
        return self

    def predict(self, x: Tensor, k: int | None = None) -> Tensor:
        """Labels (M,) int64 for queries x (M, D), on their device, by k neighbours (default: the probe's first k)."""
        k = self.k[0] if k is None else k
        bank = self._fitted()
        check_rows(x, "x")
        indices, similarity = stream_topk(x, bank, k)
        classes = self.classes_.to(x.device)
        best = [scores.argmax(1) for _, _, scores in self._votes(indices, similarity, (k,))]
        return classes[torch.cat(best)]

    def score(self, x: Tensor, y: Tensor) -> dict[int, dict[str, float]]:
        """Accuracies in [0, 1] on queries x (M, D) with labels y (M,): {k: {"top1": ..., "top5": ...}}.

        top5: the true class is among the five highest scores; classes without a vote score 0. A label that the train
        set lacks is never right."""
        return _accuracies(self.hits(x, y))

    def hits(self, x: Tensor, y: Tensor) -> dict[int, Tensor]:
        """What `score` is the mean of: {k: (M, 2) bool}, right in top 1 and in top 5, for each query."""
        bank = self._fitted()
        check_rows(x, "x")
        _check_labels(y, x)
        return self._hits(*stream_topk(x, bank, max(self.k)), y)

    def leave_one_out_score(self) -> dict[int, dict[str, float]]:
        """As `score`, each train sample against all the others; ValueError if there are none."""
        bank = self._fitted()
        if len(bank) < 2:
            raise ValueError("leave-one-out needs at least 2 train samples, got 1")
        neighbours = stream_topk(bank, bank, max(self.k), skip_self=True)
        return _accuracies(self._hits(*neighbours, self.classes_[self.y_]))

    def _fitted(self) -> Tensor:
        if not hasattr(self, "x_"):
            raise ValueError("this KNNProbe has no train features yet: call fit(x, y) first")
        return self.x_

    def _hits(self, indices: Tensor, similarity: Tensor, y: Tensor) -> dict[int, Tensor]:
        y = y.to(indices.device)
        classes = self.classes_.to(indices.device)
        true = torch.searchsorted(classes, y).clamp(max=len(classes) - 1)  # (M,) index into classes, where known
        known = classes[true] == y
        right = {k: torch.zeros(len(y), 2, dtype=torch.bool, device=y.device) for k in self.k}
        for rows, k, scores in self._votes(indices, similarity, self.k):
            t = true[rows, None]
            own = scores.gather(1, t)
            earlier = torch.arange(len(classes), device=t.device) < t
            rank = ((scores > own) | ((scores == own) & earlier)).sum(1)  # classes placed before the true one
            right[k][rows, 0] = (rank < 1) & known[rows]
            right[k][rows, 1] = (rank < 5) & known[rows]
        return right

    def _votes(self, indices: Tensor, similarity: Tensor, ks: Sequence[int]) -> Iterator[tuple[slice, int, Tensor]]:
        """Class scores (rows, C) float64 for slices of the queries and each k in rising order; one buffer, reused."""
        labels = self.y_.to(indices.device)
        for start in range(0, len(indices), _VOTE_ROWS):
            rows = slice(start, start + _VOTE_ROWS)
            s = similarity[rows].double()
            weights = ((s - s[:, :1]) / self.temperature).exp()  # over the largest: no overflow, same order of classes
            votes = labels[indices[rows]]
            scores = s.new_zeros(len(s), len(self.classes_))
            n_counted = 0
            for k in sorted(set(ks)):
                scores.scatter_add_(1, votes[:, n_counted:k], weights[:, n_counted:k])
                n_counted = k
                yield rows, k, scores


def _accuracies(hits: dict[int, Tensor]) -> dict[int, dict[str, float]]:
    return {k: {name: int(h[:, i].sum()) / len(h) for i, name in enumerate(("top1", "top5"))} for k, h in hits.items()}


def _check_labels(y: Tensor, x: Tensor) -> None:
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise ValueError(f"y must be ({len(x)},) integers, one a row of x, got {tuple(y.shape)} {y.dtype}")
