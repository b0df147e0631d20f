"""Linear SVMs on frozen features, the VOC07 protocol (Goyal et al. 2019, arXiv:1905.01235) of VISSL and MMSelfSup."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ._average_precision import check_labels, mean_average_precision, stepwise
from ._bootstrap import bootstrap_interval
from ._neighbours import check_rows
from ._svm_solver import Rotated, rotate, solve

VOC07_COSTS = (1.0, 10.0, 100.0, *(0.5**i for i in range(4, 20)))
VISSL_COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)

_BLOCK_FLOATS = 2**25  # problems x rows solved at a time; about eight such float32 buffers exist at once: 1 GiB


@dataclass(frozen=True)
class SVMScore:
    """What `SVMProbe.score` found; average precisions in [0, 1], multiply by 100 for the tables of the field."""

    mean_ap: float  # over the classes that occur in the test labels
    ap: Tensor  # (C,) float64, nan for a class that does not occur
    n_absent: int  # classes left out of the mean
    interval: tuple[float, float]  # 95 % bootstrap over test samples, of mean_ap
    costs: Tensor  # (C,) the cost chosen for each class, without the test set
    cv_ap: Tensor  # (C, n_costs) cross-validated AP on the train set (scikit-learn's definition), nan where undefined
    accuracy: float | None  # top-1, if labels are class ids
    accuracy_interval: tuple[float, float] | None


class SVMProbe:
    """One linear SVM a class, its cost chosen by cross-validation on the train set; LinearSVC's problem, all at once.

    costs: tried for each class; the first of the best by mean AP over the folds wins. positive_weight: times the cost
    for a positive. n_folds: stratified, unshuffled, as scikit-learn's. Rows are divided by (norm + 1e-5); the bias is a
    constant feature 1 and regularised, the loss the squared hinge. Every problem is solved to a proven 0.1 % of
    its weights, 1e-6 of its objective, where LIBLINEAR may end at the reference's 2,000 iterations. Nothing is random.
    Memory: the (D, D) or (N, N) Gram matrix, whichever is smaller, in float64, and about 1 GiB."""

    def __init__(self, costs: Sequence[float] = VOC07_COSTS, positive_weight: float = 2.0, n_folds: int = 3) -> None:
        self.costs = check_costs(costs, positive_weight)
        if n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {n_folds}")
        self.positive_weight, self.n_folds = positive_weight, n_folds

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Train on features x (N, D) float and labels y: (N, C) of 1 / 0 / -1, or (N,) class ids, any integers.

        -1 (difficult) is trained as negative, as in the reference codes. Sets coef_ (C, D) and intercept_ (C,) float64
        for normalised rows, costs_ (C,), cv_ap_ (C, n_costs), classes_ (the sorted ids; None for (N, C)). A fold
        without a positive to train or to test on is left out of cv_ap_. Raises ValueError for other shapes, rows with
        NaN (named), fewer rows than folds, and a class without a positive or without a negative."""
        check_rows(x, "x")
        y = y.to(x.device)
        self.classes_ = None if y.ndim == 2 else y.unique()
        positive = labels_of(x, y, self.classes_).T == 1  # (C, N)
        n_classes, n = positive.shape
        if n < self.n_folds:
            raise ValueError(f"x has {n} rows: {self.n_folds} folds need as many at least")
        if alone := (positive.all(1) | ~positive.any(1)).nonzero().flatten().tolist():
            raise ValueError(
                f"classes {alone[:5]} have no positive or no negative in y: leave them out, or add samples"
            )
        rows = rotate(with_constant(x))
        held_out = torch.stack([stratified_folds(row, self.n_folds) for row in positive])
        parts = torch.arange(self.n_folds + 1, device=x.device)[:, None]  # the last holds nothing out
        kept = (held_out[:, None] != parts).flatten(0, 1)  # (P, N): class by class, each with n_folds + 1 problems
        positive = positive.repeat_interleave(self.n_folds + 1, 0)
        learnable = (kept & positive).any(1)

        fold_ap = torch.empty(len(kept), len(self.costs), dtype=torch.float64, device=x.device)
        final = rows.z.new_empty(n_classes, len(self.costs), rows.z.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            for block, i, u in solve_path(rows, positive, kept, self.costs, self.positive_weight):
                ap = stepwise(u @ rows.z.T, positive[block], (~kept[block]).double())
                fold_ap[block, i] = ap.where(learnable[block], torch.nan)
                whole = block % (self.n_folds + 1) == self.n_folds
                final[block[whole] // (self.n_folds + 1), i] = u[whole]
        self.cv_ap_ = fold_ap.unflatten(0, (n_classes, -1))[:, :-1].nanmean(1)
        chosen = self.cv_ap_.nan_to_num(-1).argmax(1)  # the first of the best, in the order of costs
        self.costs_ = torch.tensor(self.costs, dtype=torch.float64, device=x.device)[chosen]
        weights = final[torch.arange(n_classes, device=x.device), chosen].double() @ rows.basis.T
        self.coef_, self.intercept_ = weights[:, :-1], weights[:, -1]
        return self

    def decision_function(self, x: Tensor) -> Tensor:
        """Decision values (M, C) float64 for features x (M, D), on their device."""
        if not hasattr(self, "coef_"):
            raise ValueError("this SVMProbe is not trained yet: call fit(x, y) first")
        check_rows(x, "x")
        if x.shape[1] != self.coef_.shape[1]:
            raise ValueError(f"x must be (M, {self.coef_.shape[1]}) as in fit, got {tuple(x.shape)}")
        return with_constant(x) @ torch.cat([self.coef_, self.intercept_[:, None]], 1).T.to(x.device)

    def predict(self, x: Tensor) -> Tensor:
        """Labels for x (M, D): class ids (M,) of the largest decision value, or (M, C) of 1 / 0 where y was (N, C)."""
        decisions = self.decision_function(x)
        if self.classes_ is None:
            return (decisions > 0).long()
        return self.classes_.to(x.device)[decisions.argmax(1)]

    def score(self, x: Tensor, y: Tensor, *, seed: int = 0) -> SVMScore:
        """Test on x (M, D) and y as in `fit`; -1 (difficult) is ignored here. seed: of the bootstrap alone.

        A class id that the train set lacks is never right and belongs to no class's positives."""
        decisions = self.decision_function(x)
        y = y.to(x.device)
        labels = labels_of(x, y, self.classes_)
        if labels.shape != decisions.shape:
            raise ValueError(f"y must have {decisions.shape[1]} columns as in fit, got {tuple(y.shape)}")
        found = mean_average_precision(decisions, labels)
        accuracy = accuracy_interval = None
        if self.classes_ is not None:
            right = self.classes_.to(x.device)[decisions.argmax(1)] == y
            accuracy, accuracy_interval = float(right.double().mean()), bootstrap_interval(right, seed=seed)
        interval = bootstrap_interval(decisions, labels, seed=seed)
        return SVMScore(*found, interval, self.costs_, self.cv_ap_, accuracy, accuracy_interval)


def check_costs(costs: Sequence[float], positive_weight: float) -> tuple[float, ...]:
    """The costs as a tuple; ValueError unless all are positive and finite."""
    if not costs or not all(0 < c < math.inf for c in costs) or not 0 < positive_weight < math.inf:
        raise ValueError(f"costs and positive_weight must be positive, got {tuple(costs)} and {positive_weight}")
    return tuple(float(c) for c in costs)


def labels_of(x: Tensor, y: Tensor, classes: Tensor | None) -> Tensor:
    """Labels (N, C) of 1 / 0 / -1 from y of either form; ValueError for anything else."""
    if y.ndim != (2 if classes is None else 1) or len(y) != len(x) or y.is_floating_point():
        form = "(N, C) of 1 / 0 / -1" if classes is None else "(N,) class ids"
        raise ValueError(f"y must be {form}, integers, one a row of x {tuple(x.shape)}, got {tuple(y.shape)} {y.dtype}")
    if classes is not None:
        return (y[:, None] == classes.to(y.device)).long()
    check_labels(y)
    return y


def with_constant(x: Tensor) -> Tensor:
    """Rows x (N, D) divided by their norm + 1e-5, and a last feature 1: (N, D + 1) float64."""
    x = x.double()
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-5)
    return F.pad(x, (0, 1), value=1.0)


def stratified_folds(y: Tensor, n_folds: int) -> Tensor:
    """The fold (N,) that holds out each sample: scikit-learn's StratifiedKFold without shuffling, for y (N,) bool.

    In the order of samples sorted by class (the first sample's class first), fold i gets as many of each class as
    places i, i + n_folds, ... hold; within a class, fold 0 takes the first samples."""
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
    """Solve problems, (P, N) bool each (positives, rows that train), at every cost: (problems, cost index, u (B, R)).

    Costs rise, each starting from the one before; problems go in blocks, so that memory stays bounded."""
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
