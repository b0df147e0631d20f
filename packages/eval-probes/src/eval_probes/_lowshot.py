"""Low-shot linear SVMs on frozen features, the VOC07 low-shot protocol (Goyal et al. 2019, arXiv:1905.01235)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ._average_precision import area, ranking
from ._neighbours import check_rows
from ._svm import VOC07_COSTS, check_costs, labels_of, solve_path, with_constant
from ._svm_solver import rotate


@dataclass(frozen=True)
class LowShotChoice:
    """Mean average precision in [0, 1] at one cost, over the draws; std with divisor n_draws."""

    cost: float
    mean: float
    min: float
    max: float
    std: float


@dataclass(frozen=True)
class LowShotScore:
    """One k: the figure of the published tables, and one whose cost never saw the test set."""

    reference: LowShotChoice  # the cost that is best on the test set
    validated: LowShotChoice  # the cost that is best on the train samples outside the draws
    mean_ap: Tensor  # (n_draws, n_costs) float64, on the test set, costs in the probe's order


class LowShotSVMProbe:
    """SVMs of k positives and (C - 1) k negatives a class (VOC07: 19 k), drawn n_draws times for each class and k.

    Trained as `SVMProbe`'s, at every cost, without cross-validation: k = 1 has nothing to hold out. The reference then
    takes for each k the one cost, for all classes and draws, of highest mean AP on the *test* set. `validated` is the
    same rule on the train samples that the draw left out: their labels pick one number a k and train nothing.
    seed: each draw is keyed by (seed, k, draw, class); the reference seeds none, so its draws cannot be had again."""

    def __init__(
        self,
        k: int | Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 96),
        n_draws: int = 5,
        seed: int = 0,
        costs: Sequence[float] = VOC07_COSTS,
        positive_weight: float = 2.0,
    ) -> None:
        self.k = (k,) if isinstance(k, int) else tuple(k)
        if not self.k or min(self.k) < 1 or n_draws < 1:
            raise ValueError(f"k and n_draws must be integers >= 1, got {k} and {n_draws}")
        self.n_draws, self.seed, self.positive_weight = n_draws, seed, positive_weight
        self.costs = check_costs(costs, positive_weight)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Draw from features x (N, D) float and labels y ((N, C) of 1 / 0 / -1, or (N,) class ids) and train.

        Only labels 1 and 0 are drawn. Keeps all weights, n_draws x C x n_costs x min(N, D + 1) float32 a k. Raises
        ValueError as `SVMProbe.fit`, and where a class has fewer than k positives or (C - 1) k negatives (named)."""
        check_rows(x, "x")
        y = y.to(x.device)
        self.classes_ = None if y.ndim == 2 else y.unique()
        labels = labels_of(x, y, self.classes_)
        n_classes = labels.shape[1]
        if n_classes < 2:
            raise ValueError("y must have at least 2 classes: (C - 1) k negatives are drawn for each")
        drawn = {k: self._draw(labels, k) for k in self.k}  # all draws first: a k too large fails before the work
        rows = rotate(with_constant(x))
        positive = (labels.T == 1).repeat(self.n_draws, 1)
        difficult = (labels.T == -1).repeat(self.n_draws, 1)
        self._basis, self._u, self._validation = rows.basis, {}, {}
        with torch.autocast(x.device.type, enabled=False):
            for k, kept in drawn.items():
                u_all = rows.z.new_empty(len(self.costs), len(kept), rows.z.shape[1])
                ap = torch.empty(len(self.costs), len(kept), dtype=torch.float64, device=x.device)
                for block, i, u in solve_path(rows, positive, kept, self.costs, self.positive_weight):
                    u_all[i, block] = u
                    outside = ~(kept[block] | difficult[block])
                    ap[i, block] = _ranked_ap(u @ rows.z.T, positive[block], outside)
                self._u[k], self._validation[k] = u_all, self._per_draw(ap)
        return self

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor) -> dict[int, LowShotScore]:
        """Test on x (M, D) and y as in `fit`, -1 ignored, absent classes left out: a LowShotScore for each k."""
        if not hasattr(self, "_u"):
            raise ValueError("this LowShotSVMProbe is not trained yet: call fit(x, y) first")
        check_rows(x, "x")
        if x.shape[1] != len(self._basis) - 1:
            raise ValueError(f"x must be (M, {len(self._basis) - 1}) as in fit, got {tuple(x.shape)}")
        z = (with_constant(x) @ self._basis.to(x.device)).float()
        labels = labels_of(x, y.to(x.device), self.classes_).T.repeat(self.n_draws, 1)
        if len(labels) != len(next(iter(self._u.values()))[0]):
            raise ValueError(f"y must have as many columns as in fit, got {tuple(y.shape)}")
        results = {}
        for k, u_all in self._u.items():
            with torch.autocast(x.device.type, enabled=False):
                all_scores = [u @ z.T for u in u_all.to(x.device)]
            mean_ap = self._per_draw(torch.stack([_ranked_ap(s, labels == 1, labels >= 0) for s in all_scores]))
            validation = self._validation[k]
            results[k] = LowShotScore(self._choice(mean_ap, mean_ap), self._choice(mean_ap, validation), mean_ap)
        return results

    def _draw(self, labels: Tensor, k: int) -> Tensor:
        """The rows (n_draws * C, N) bool that train each problem, draw by draw."""
        n, n_classes = labels.shape
        kept = torch.zeros(self.n_draws, n_classes, n, dtype=torch.bool, device=labels.device)
        for c, column in enumerate(labels.T):
            positives, negatives = ((column == value).nonzero().flatten().tolist() for value in (1, 0))
            n_negatives = (n_classes - 1) * k
            if len(positives) < k or len(negatives) < n_negatives:
                raise ValueError(
                    f"class {c} has {len(positives)} positives and {len(negatives)} negatives, k = {k} needs {k} and "
                    f"{n_negatives}: pass smaller k"
                )
            for draw in range(self.n_draws):
                keyed = random.Random(f"{self.seed} {k} {draw} {c}")
                kept[draw, c, keyed.sample(positives, k) + keyed.sample(negatives, n_negatives)] = True
        return kept.flatten(0, 1)

    def _per_draw(self, ap: Tensor) -> Tensor:
        """(n_costs, n_draws * C) to the mean over classes, (n_draws, n_costs)."""
        return ap.unflatten(1, (self.n_draws, -1)).nanmean(2).T

    def _choice(self, mean_ap: Tensor, judged_by: Tensor) -> LowShotChoice:
        best = int(judged_by.to(mean_ap.device).nanmean(0).nan_to_num(-1).argmax())
        at = mean_ap[:, best]
        low, high = at.aminmax()
        return LowShotChoice(self.costs[best], float(at.mean()), float(low), float(high), float(at.std(correction=0)))


def _ranked_ap(scores: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Area average precision (P,) of each row's counted samples."""
    order = ranking(scores)
    return area(positive.gather(1, order), counted.gather(1, order).double())
