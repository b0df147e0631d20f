"""Linear SVMs on frozen features, the VOC07 protocol (Goyal et al. 2019, arXiv:1905.01235) of VISSL and MMSelfSup."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ._arrays import Array, as_tensor
from ._average_precision import check_labels, mean_average_precision, stepwise
from ._bootstrap import bootstrap_interval
from ._neighbours import as_rows
from ._probe import NotFittedError, Probe, Scores
from ._svm_solver import Rotated, rotate, solve

VOC07_COSTS = (1.0, 10.0, 100.0, *(0.5**i for i in range(4, 20)))
VISSL_COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)

_BLOCK_FLOATS = 2**25  # problems x rows solved at a time; about eight such float32 buffers exist at once: 1 GiB


class SVMProbe(Probe):
    """One linear SVM per class with a cross-validated cost: the VOC07 benchmark (Goyal et al. 2019, arXiv:1905.01235).

    The problem is that of scikit-learn's LinearSVC: squared hinge loss, and a regularised bias (a constant feature 1).
    Rows are divided by (norm + 1e-5). The SVMs of all classes, costs and folds are solved together, each to within
    0.1 % of its weights (1e-6 of its objective). Folds are stratified and not shuffled, as scikit-learn's. Each class
    takes the cost with the best mean average precision over the folds, the first one on a tie; the test set never
    chooses it. Nothing is random except the bootstrap of `evaluate`.

    Memory: the (D, D) or (N, N) Gram matrix in float64, whichever is smaller, and about 1 GiB.

    Args:
        costs: Costs to try for each class.
        positive_weight: Factor of the cost for positive samples.
        n_folds: Number of cross-validation folds.

    Attributes:
        classes_: Sorted class ids (C,); None if y was (N, C).
        coef_: Weights (C, D) float64, for normalised rows.
        intercept_: Biases (C,) float64.
        costs_: Chosen cost (C,) float64 of each class.
        cv_ap_: Average precision (C, n_costs) float64, mean over the folds, by scikit-learn's definition. Folds without
            a positive to train or to test on are left out; NaN if no fold remains.

    Example:
        ```python
        probe = SVMProbe().fit(x_train, y_train)  # y: (N, C) of 1 / 0 / -1 as in VOC07, or class ids (N,)
        probe.score(x_test, y_test)  # mean AP for (N, C), top-1 accuracy for class ids
        probe.evaluate(x_test, y_test)  # {"cv": {"mean_ap", "mean_ap_low", "mean_ap_high", ...}}
        probe.average_precision(x_test, y_test)  # (C,)
        ```
    """

    def __init__(self, costs: Sequence[float] = VOC07_COSTS, *, positive_weight: float = 2.0, n_folds: int = 3) -> None:
        self.costs = costs
        self.positive_weight = positive_weight
        self.n_folds = n_folds

    @torch.no_grad()
    def fit(self, x: Array, y: Array) -> Self:
        """Choose the costs by cross-validation and train on all rows.

        Args:
            x: Features (N, D), any float dtype.
            y: Labels (N, C) of 1 (present), 0 (absent) or -1 (difficult), or class ids (N,), any integers. Difficult
                samples are trained as negatives, as in the reference codes.

        Returns:
            The probe itself.

        Raises:
            ValueError: If a shape or argument is invalid, a row contains NaN or infinity, there are fewer rows than
                folds, or a class has no positive or no negative.
        """
        costs = check_costs(self.costs, self.positive_weight)
        if self.n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {self.n_folds}")
        x = as_rows(x, "x")
        y = as_tensor(y).to(x.device)
        self.classes_ = None if y.ndim == 2 else y.unique()
        positive = labels_of(len(x), y, self.classes_).T == 1  # (C, N)
        n_classes, n = positive.shape
        if n < self.n_folds:
            raise ValueError(f"x has {n} rows: {self.n_folds} folds need as many at least")
        if alone := (positive.all(1) | ~positive.any(1)).nonzero().flatten().tolist():
            raise ValueError(
                f"classes {alone[:5]} have no positive or no negative in y: leave them out, or add samples"
            )
        rows = rotate(with_constant(x))
        held_out = torch.stack([stratified_folds(row, self.n_folds) for row in positive])
        parts = torch.arange(self.n_folds + 1, device=x.device)[:, None]  # the last part trains on all rows
        kept = (held_out[:, None] != parts).flatten(0, 1)  # (P, N); P = C (n_folds + 1)
        positive = positive.repeat_interleave(self.n_folds + 1, 0)
        learnable = (kept & positive).any(1)

        fold_ap = torch.empty(len(kept), len(costs), dtype=torch.float64, device=x.device)
        final = rows.z.new_empty(n_classes, len(costs), rows.z.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            for block, i, u in solve_path(rows, positive, kept, costs, self.positive_weight):
                ap = stepwise(u @ rows.z.T, positive[block], (~kept[block]).double())
                fold_ap[block, i] = ap.where(learnable[block], torch.nan)
                whole = block % (self.n_folds + 1) == self.n_folds
                final[block[whole] // (self.n_folds + 1), i] = u[whole]
        self.cv_ap_ = fold_ap.unflatten(0, (n_classes, -1))[:, :-1].nanmean(1)
        chosen = self.cv_ap_.nan_to_num(-1).argmax(1)  # the first of the best, in the order of costs
        self.costs_ = torch.tensor(costs, dtype=torch.float64, device=x.device)[chosen]
        weights = final[torch.arange(n_classes, device=x.device), chosen].double() @ rows.basis.T
        self.coef_, self.intercept_ = weights[:, :-1], weights[:, -1]
        return self

    def decision_function(self, x: Array) -> Tensor:
        """Return the decision values (M, C) float64 of features x (M, D), on the device of x."""
        if not hasattr(self, "coef_"):
            raise NotFittedError("this SVMProbe is not trained yet: call fit(x, y) first")
        x = as_rows(x, "x")
        if x.shape[1] != self.coef_.shape[1]:
            raise ValueError(f"x must be (M, {self.coef_.shape[1]}) as in fit, got {tuple(x.shape)}")
        return with_constant(x) @ torch.cat([self.coef_, self.intercept_[:, None]], 1).T.to(x.device)

    def predict(self, x: Array) -> Tensor:
        """Predict labels.

        Args:
            x: Features (M, D), any float dtype.

        Returns:
            On the device of x: class ids (M,) with the largest decision value, or (M, C) int64 of 1 / 0 if `fit` had
                labels (N, C).
        """
        decisions = self.decision_function(x)
        if self.classes_ is None:
            return (decisions > 0).long()
        return self.classes_.to(decisions.device)[decisions.argmax(1)]

    def score(self, x: Array, y: Array) -> float:
        """Return the headline figure, a fraction in [0, 1].

        For labels (N, C) it is the mean average precision of the VOC07 tables, for class ids the top-1 accuracy.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels as in `fit`. Difficult samples are left out. A class id that the training set lacks counts as
                wrong.
        """
        decisions, labels, right = self._tested(x, y)
        return mean_average_precision(decisions, labels).mean_ap if right is None else float(right.double().mean())

    def evaluate(self, x: Array, y: Array, *, seed: int = 0) -> Scores:
        """Return mean average precision and accuracy with 95 % bootstrap intervals over the test samples.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels as in `score`.
            seed: Seed of the bootstrap.

        Returns:
            One setting, "cv", with the costs chosen by cross-validation: {"cv": {"mean_ap", "mean_ap_low",
                "mean_ap_high"}}; for class ids also "top1", "top1_low", "top1_high". Fractions in [0, 1]. mean_ap is
                the mean over the classes that occur in y.
        """
        decisions, labels, right = self._tested(x, y)
        low, high = bootstrap_interval(decisions, labels, seed=seed)
        found = {
            "mean_ap": mean_average_precision(decisions, labels).mean_ap,
            "mean_ap_low": low,
            "mean_ap_high": high,
        }
        if right is not None:
            low, high = bootstrap_interval(right, seed=seed)
            found |= {"top1": float(right.double().mean()), "top1_low": low, "top1_high": high}
        return {"cv": found}

    def average_precision(self, x: Array, y: Array) -> Tensor:
        """Return the average precision (C,) float64 of each class, NaN for a class that does not occur in y.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels as in `score`.
        """
        decisions, labels, _ = self._tested(x, y)
        return mean_average_precision(decisions, labels).ap

    def _tested(self, x: Array, y: Array) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return decision values and labels, (M, C) both, and for class ids which predictions are right, (M,)."""
        decisions = self.decision_function(x)
        y = as_tensor(y).to(decisions.device)
        labels = labels_of(len(decisions), y, self.classes_)
        if labels.shape != decisions.shape:
            raise ValueError(f"y must have {decisions.shape[1]} columns as in fit, got {tuple(y.shape)}")
        if self.classes_ is None:
            return decisions, labels, None
        return decisions, labels, self.classes_.to(decisions.device)[decisions.argmax(1)] == y


def check_costs(costs: Sequence[float], positive_weight: float) -> tuple[float, ...]:
    """Return the costs as a tuple; raise ValueError unless all are positive and finite."""
    if not costs or not all(0 < c < math.inf for c in costs) or not 0 < positive_weight < math.inf:
        raise ValueError(f"costs and positive_weight must be positive, got {tuple(costs)} and {positive_weight}")
    return tuple(float(c) for c in costs)


def labels_of(n: int, y: Tensor, classes: Tensor | None) -> Tensor:
    """Convert y, class ids (N,) or labels (N, C), to labels (N, C) of 1 / 0 / -1; raise ValueError for other input."""
    if y.ndim != (2 if classes is None else 1) or len(y) != n or y.is_floating_point():
        form = "(N, C) of 1 / 0 / -1" if classes is None else "(N,) class ids"
        raise ValueError(f"y must be {form}, integers, for {n} rows of x, got {tuple(y.shape)} {y.dtype}")
    if classes is not None:
        return (y[:, None] == classes.to(y.device)).long()
    check_labels(y)
    return y


def with_constant(x: Tensor) -> Tensor:
    """Divide rows x (N, D) by (norm + 1e-5) and append a constant feature 1: (N, D + 1) float64."""
    x = x.double()
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-5)
    return F.pad(x, (0, 1), value=1.0)


def stratified_folds(y: Tensor, n_folds: int) -> Tensor:
    """Return the fold (N,) that holds out each sample of y (N,) bool: StratifiedKFold of scikit-learn, unshuffled.

    Samples are sorted by class, the class of the first sample first. Fold i takes as many samples of a class as there
    are places i, i + n_folds, i + 2 n_folds, ... among them; fold 0 takes the first samples of the class.
    """
    folds = torch.empty(len(y), dtype=torch.int64, device=y.device)
    place = 0
    for members in (y == y[0], y != y[0]):
        n = int(members.sum())
        share = torch.bincount(torch.arange(place, place + n, device=y.device) % n_folds, minlength=n_folds)
        folds[members] = torch.arange(n_folds, device=y.device).repeat_interleave(share)
        place += n
    return folds


def solve_path(
    rows: Rotated, positive: Tensor, kept: Tensor, costs: Sequence[float], positive_weight: float
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Solve P problems, given by their positives (P, N) bool and training rows (P, N) bool, at every cost.

    Yields (indices of B problems, index of the cost, solutions u (B, R)). Costs rise, and each solution starts from
    that of the cost before. Problems are solved in blocks to bound the memory.
    """
    n_problems, n = positive.shape
    n_unproven = 0
    for block in torch.arange(n_problems, device=positive.device).split(max(1, _BLOCK_FLOATS // n)):
        signs = positive[block].float() * 2 - 1
        weights = kept[block] * torch.where(signs > 0, positive_weight, 1.0)
        u = rows.z.new_zeros(len(block), rows.z.shape[1])
        for i in sorted(range(len(costs)), key=costs.__getitem__):
            u, _, _, proven = solve(rows, signs, costs[i] * weights, u)
            n_unproven += int((~proven).sum())
            yield block, i, u
    if n_unproven:
        warnings.warn(
            f"{n_unproven} SVMs are not solved to 0.1 % of their weights: lower the largest cost", stacklevel=3
        )
