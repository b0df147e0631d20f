"""Low-shot linear SVMs on frozen features, the VOC07 low-shot protocol (Goyal et al. 2019, arXiv:1905.01235)."""

import random
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ._arrays import Array, as_tensor
from ._average_precision import area, ranking
from ._neighbours import as_rows
from ._probe import NotFittedError, Probe, Scores, setting
from ._svm import VOC07_COSTS, check_costs, labels_of, solve_path, with_constant
from ._svm_solver import rotate


class LowShotSVMProbe(Probe):
    """Linear SVMs on k positives and (C - 1) k negatives per class, over several random draws: VOC07 low-shot.

    The protocol of Goyal et al. 2019 (arXiv:1905.01235). Each SVM is trained as in `SVMProbe`, at every cost. There is
    no cross-validation, since k = 1 leaves nothing to hold out. For each k, one cost serves all classes and draws. The
    reference takes the cost with the highest mean average precision on the *test* set. The honest choice takes the one
    with the highest mean average precision on the training samples outside each draw; their labels choose one number
    per k and train nothing. `score` and `predict` use the honest choice, `evaluate` returns both.

    Each draw is keyed by (seed, k, draw, class). The reference sets no seed, so its draws cannot be reproduced.

    Args:
        k: Number of positives per class, or several.
        n_draws: Number of draws for each k.
        seed: Seed of the draws.
        costs: Costs to try.
        positive_weight: Factor of the cost for positive samples.

    Attributes:
        classes_: Sorted class ids (C,); None if y was (N, C).
        costs_: {k: cost}, the honest choice.
        validation_ap_: {k: (n_draws, n_costs) float64}, mean average precision on the training samples outside the
            draw; costs in the order of `costs`.

    Example:
        ```python
        probe = LowShotSVMProbe(k=(1, 4, 16)).fit(x_train, y_train)
        probe.score(x_test, y_test)  # mean AP with k = 1
        probe.evaluate(x_test, y_test)  # {"k=1": {"mean_ap", ...}, "k=1, best on test": {...}, "k=4": ...}
        ```
    """

    def __init__(
        self,
        k: int | Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 96),
        *,
        n_draws: int = 5,
        seed: int = 0,
        costs: Sequence[float] = VOC07_COSTS,
        positive_weight: float = 2.0,
    ) -> None:
        self.k = k
        self.n_draws = n_draws
        self.seed = seed
        self.costs = costs
        self.positive_weight = positive_weight

    @torch.no_grad()
    def fit(self, x: Array, y: Array) -> Self:
        """Draw the training sets and train all SVMs.

        All weights are kept: n_draws x C x n_costs x min(N, D + 1) float32 for each k.

        Args:
            x: Features (N, D), any float dtype.
            y: Labels (N, C) of 1 (present), 0 (absent) or -1 (difficult), or class ids (N,), any integers. Difficult
                samples are never drawn.

        Returns:
            The probe itself.

        Raises:
            ValueError: If a shape or argument is invalid, a row contains NaN or infinity, or a class has fewer than k
                positives or (C - 1) k negatives.
        """
        ks = (self.k,) if isinstance(self.k, int) else tuple(self.k)
        if not ks or min(ks) < 1 or self.n_draws < 1:
            raise ValueError(f"k and n_draws must be integers >= 1, got {self.k} and {self.n_draws}")
        self._costs = check_costs(self.costs, self.positive_weight)
        x = as_rows(x, "x")
        y = as_tensor(y).to(x.device)
        self.classes_ = None if y.ndim == 2 else y.unique()
        labels = labels_of(len(x), y, self.classes_)
        n_classes = labels.shape[1]
        if n_classes < 2:
            raise ValueError("y must have at least 2 classes: (C - 1) k negatives are drawn for each")
        drawn = {k: self._draw(labels, k) for k in ks}  # all draws first: a k too large fails before the work
        rows = rotate(with_constant(x))
        positive = (labels.T == 1).repeat(self.n_draws, 1)
        difficult = (labels.T == -1).repeat(self.n_draws, 1)
        self._basis = rows.basis
        self._u: dict[int, Tensor] = {}
        self.validation_ap_: dict[int, Tensor] = {}
        with torch.autocast(x.device.type, enabled=False):
            for k, kept in drawn.items():
                u_all = rows.z.new_empty(len(self._costs), len(kept), rows.z.shape[1])
                ap = torch.empty(len(self._costs), len(kept), dtype=torch.float64, device=x.device)
                for block, i, u in solve_path(rows, positive, kept, self._costs, self.positive_weight):
                    u_all[i, block] = u
                    outside = ~(kept[block] | difficult[block])
                    ap[i, block] = _ranked_ap(u @ rows.z.T, positive[block], outside)
                self._u[k], self.validation_ap_[k] = u_all, self._per_draw(ap)
        self.costs_ = {k: self._costs[_best(ap)] for k, ap in self.validation_ap_.items()}
        return self

    def decision_function(self, x: Array, *, k: int | None = None, draw: int = 0) -> Tensor:
        """Return the decision values (M, C) float32 of one draw's SVMs at the honestly chosen cost.

        Args:
            x: Features (M, D), any float dtype.
            k: One of the probe's k; default: the first.
            draw: Index of the draw.
        """
        z = self._rotated(x)
        k = self._first_k() if k is None else k
        if k not in self._u or not 0 <= draw < self.n_draws:
            raise ValueError(f"k must be one of {list(self._u)} and draw below {self.n_draws}, got {k} and {draw}")
        u = self._u[k][self._costs.index(self.costs_[k])].unflatten(0, (self.n_draws, -1))[draw]
        with torch.autocast(z.device.type, enabled=False):
            return z @ u.to(z.device).T

    def predict(self, x: Array, *, k: int | None = None, draw: int = 0) -> Tensor:
        """Predict labels by one draw's SVMs at the honestly chosen cost.

        Args:
            x: Features (M, D), any float dtype.
            k: One of the probe's k; default: the first.
            draw: Index of the draw.

        Returns:
            On the device of x: class ids (M,) with the largest decision value, or (M, C) int64 of 1 / 0 if `fit` had
                labels (N, C).
        """
        decisions = self.decision_function(x, k=k, draw=draw)
        if self.classes_ is None:
            return (decisions > 0).long()
        return self.classes_.to(decisions.device)[decisions.argmax(1)]

    def score(self, x: Array, y: Array) -> float:
        """Return the mean average precision, a fraction in [0, 1], for the first k at the honestly chosen cost.

        It is the mean over draws and over the classes that occur in y, also if labels are class ids.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels as in `fit`. Difficult samples are left out.
        """
        self._fitted()
        k = self._first_k()
        mean_ap = self._mean_ap(x, y, (k,))[k]
        return self._summary(mean_ap, self._costs.index(self.costs_[k]))["mean_ap"]

    def evaluate(self, x: Array, y: Array) -> Scores:
        """Return the mean average precision for every k, at the honestly chosen cost and at the reference's.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels as in `fit`. Difficult samples are left out.

        Returns:
            {"k=1": {...}, "k=1, best on test": {...}, ...}. The second setting uses the cost that is best on this test
                set, as the published tables do. Each has "cost" and, as fractions in [0, 1], the mean over the draws
                "mean_ap", their extremes "mean_ap_min" and "mean_ap_max", and "mean_ap_sd" (divisor n_draws).
        """
        found: Scores = {}
        for k, mean_ap in self._mean_ap(x, y, tuple(self._fitted())).items():
            found[setting("k", k)] = self._summary(mean_ap, self._costs.index(self.costs_[k]))
            found[f"{setting('k', k)}, best on test"] = self._summary(mean_ap, _best(mean_ap))
        return found

    def _fitted(self) -> dict[int, Tensor]:
        if not hasattr(self, "_u"):
            raise NotFittedError("this LowShotSVMProbe is not trained yet: call fit(x, y) first")
        return self._u

    def _first_k(self) -> int:
        return next(iter(self._fitted()))

    def _rotated(self, x: Array) -> Tensor:
        """Return x in the basis of the solutions, (M, R) float32."""
        self._fitted()
        x = as_rows(x, "x")
        if x.shape[1] != len(self._basis) - 1:
            raise ValueError(f"x must be (M, {len(self._basis) - 1}) as in fit, got {tuple(x.shape)}")
        return (with_constant(x) @ self._basis.to(x.device)).float()

    @torch.no_grad()
    def _mean_ap(self, x: Array, y: Array, ks: Sequence[int]) -> dict[int, Tensor]:
        """Return the mean average precision {k: (n_draws, n_costs)} on a test set."""
        z = self._rotated(x)
        y = as_tensor(y)
        labels = labels_of(len(z), y.to(z.device), self.classes_).T.repeat(self.n_draws, 1)
        if len(labels) != len(self._u[ks[0]][0]):
            raise ValueError(f"y must have as many columns as in fit, got {tuple(y.shape)}")
        results = {}
        for k in ks:
            with torch.autocast(z.device.type, enabled=False):
                all_scores = [u @ z.T for u in self._u[k].to(z.device)]
            results[k] = self._per_draw(torch.stack([_ranked_ap(s, labels == 1, labels >= 0) for s in all_scores]))
        return results

    def _draw(self, labels: Tensor, k: int) -> Tensor:
        """Draw the training rows (n_draws * C, N) bool of each problem, ordered by draw, then class."""
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
        """Average (n_costs, n_draws * C) over the classes: (n_draws, n_costs)."""
        return ap.unflatten(1, (self.n_draws, -1)).nanmean(2).T

    def _summary(self, mean_ap: Tensor, i: int) -> dict[str, float]:
        """Summarise cost i of (n_draws, n_costs) over the draws."""
        at = mean_ap[:, i]
        low, high = at.aminmax()
        return {
            "cost": self._costs[i],
            "mean_ap": float(at.mean()),
            "mean_ap_min": float(low),
            "mean_ap_max": float(high),
            "mean_ap_sd": float(at.std(correction=0)),
        }


def _best(mean_ap: Tensor) -> int:
    """Index of the cost with the highest mean over the draws of (n_draws, n_costs), the first one on a tie."""
    return int(mean_ap.nanmean(0).nan_to_num(-1).argmax())


def _ranked_ap(scores: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Average precision (P,) of the counted samples in each row of scores (P, M)."""
    order = ranking(scores)
    return area(positive.gather(1, order), counted.gather(1, order).double())
