"""Linear classification of frozen features, every learning rate of a grid at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ._accuracy import Classes, check_labels, class_index, known_classes, top_hits, train_index
from ._linear_train import STEPLR, LinearProtocol, StackedHeads, epoch_batches
from ._neighbours import check_rows
from ._subsets import subset_indices

Labelled = tuple[Tensor, Tensor | None]  # features (N, D) and labels (N,), such as Features
State = dict[str, Any]
_SCORES = 2**24  # logits that exist at a time in an evaluation: 64 MiB


class LinearProbe:
    """A linear classifier by SGD or LARS on features as they are (not normalised), as the field's tables have it.

    protocol: `STEPLR` (DeepCluster, ODC tables), `COSLR`, `LARS`, `SWAV_EVAL`, or your own. lr: a grid to train side by
    side on one stream of features, instead of the protocol's one rate; each gives what it would give alone.
    classes: their number (labels 0 ... C - 1) or their labels; default: those of y. holdout: fraction of the train set
    (in each class) put aside to choose learning rate and epoch by, in [0, 0.5]. device: where to train (default: where
    x is). float32 throughout; batches are drawn by (seed, epoch). Raises ValueError for values out of range."""

    def __init__(
        self,
        protocol: LinearProtocol = STEPLR,
        *,
        lr: float | Sequence[float] | None = None,
        classes: Classes = None,
        holdout: float = 0.0,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        grid = (protocol.lr,) if lr is None else (lr,) if isinstance(lr, int | float) else tuple(lr)
        if not grid or min(grid) <= 0 or len(set(grid)) < len(grid):
            raise ValueError(f"lr must be one or more different positive numbers, got {lr}")
        if not 0 <= holdout <= 0.5:
            raise ValueError(f"holdout must be a fraction in [0, 0.5] of the train set, got {holdout}")
        self.protocol, self.lr, self.classes, self.holdout = protocol, grid, classes, holdout
        self.seed, self.device = seed, device

    def fit(
        self,
        x: Tensor,
        y: Tensor,
        *,
        test: Labelled | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on features x (N, D) float, a memory map if need be, with labels y (N,) integers.

        test: features and labels looked at after each epoch, for `report`; nothing is chosen by them. after_epoch gets
        all there is to go on with (tensors and plain values: save it at once); given back as `resume`, training
        continues as if it had never stopped. Raises ValueError for rows with NaN, named."""
        check_rows(x, "x")
        check_labels(y, len(x))
        classes = known_classes(self.classes, y)
        train = torch.arange(len(x))
        held: Labelled | None = None
        if self.holdout:
            index = subset_indices(y, self.holdout, self.seed, at_least=0)
            train = train[~torch.isin(train, index)]
            held = (x[index.to(x.device)], y[index.to(y.device)])

        def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
            for places in epoch_batches(len(train), self.protocol.batch, self.seed, epoch):
                rows = train[places]
                yield x[rows.to(x.device)], y[rows.to(y.device)]

        return self._train(batches, classes, test, held, after_epoch, resume)

    def fit_batches(
        self,
        batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
        *,
        test: Labelled | None = None,
        holdout: Labelled | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on fresh features of every epoch, for protocols with augmentation.

        batches: epoch -> (features (B, D), labels (B,)), of the protocol's batch size and in an order of your own.
        holdout: features and labels, none of them in batches, to choose by. The probe must know its classes. The rest
        as in `fit`."""
        if self.holdout:
            raise ValueError(f"holdout={self.holdout} is for fit: here, pass holdout=(features, labels)")
        return self._train(batches, known_classes(self.classes, None), test, holdout, after_epoch, resume)

    def predict(self, x: Tensor, lr: float | None = None) -> Tensor:
        """Labels (M,) int64 for x (M, D), on its device, by the classifier `head(lr)`."""
        weight, bias = self.head(lr)
        check_rows(x, "x")
        scores = [block.to(weight).matmul(weight.T) + bias for block in x.split(max(1, _SCORES // len(bias)))]
        best = torch.cat([s.argmax(1) for s in scores])
        return self.classes_[best.cpu()].to(x.device)

    def head(self, lr: float | None = None) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of a classifier; its rows are the sorted classes, `classes_`.

        lr: the one of this learning rate after the last epoch. Default: the one that was chosen on held-out samples,
        or else that of the grid's first learning rate."""
        heads = self._fitted()
        if lr is None and self.chosen_ is not None:
            return self.chosen_["weight"], self.chosen_["bias"]
        if lr is not None and lr not in self.lr:
            raise ValueError(f"lr must be one of {self.lr}, got {lr}")
        i = 0 if lr is None else self.lr.index(lr)
        return heads.weight[i], heads.bias[i]

    def score(self, x: Tensor, y: Tensor) -> dict[float, dict[str, float]]:
        """Accuracies in [0, 1] of the last epoch, on x (M, D) with labels y (M,): {lr: {"top1": ..., "top5": ...}}.

        A label that the train set lacks is never right, nor is a classifier whose training diverged."""
        self._fitted()
        check_rows(x, "x")
        check_labels(y, len(x))
        return {lr: _named(row) for lr, row in zip(self.lr, self._accuracy(x, y).tolist(), strict=True)}

    def report(self) -> dict[str, Any]:
        """What training with `test` gave, accuracies in [0, 1].

        "last": {lr: {"top1", "top5"}} after the last epoch. "best_on_test": {lr: {"epoch", "top1", "top5"}}, the epoch
        of the highest top-1 on the test set (the first such): the published custom, and optimistic. With held-out
        samples, "chosen": {"lr", "epoch", "holdout_top1", "top1", "top5"}, the learning rate and epoch that were best
        there, and what those give on the test set: the honest number. Epochs count from 1."""
        self._fitted()
        if "test" not in self.history_:
            raise ValueError("there is nothing to report: pass test=(x, y) to fit")
        test = self.history_["test"]
        best = test[..., 0].argmax(0).tolist()
        found: dict[str, Any] = {
            "last": {lr: _named(row) for lr, row in zip(self.lr, test[-1].tolist(), strict=True)},
            "best_on_test": {
                lr: {"epoch": epoch + 1, **_named(test[epoch, i].tolist())}
                for i, (lr, epoch) in enumerate(zip(self.lr, best, strict=True))
            },
        }
        if self.chosen_ is not None:
            epoch, i = self.chosen_["epoch"], self.chosen_["index"]
            top1 = float(self.history_["holdout"][epoch - 1, i, 0])
            found["chosen"] = {"lr": self.lr[i], "epoch": epoch, "holdout_top1": top1}
            found["chosen"] |= _named(test[epoch - 1, i].tolist())
        return found

    def _train(
        self,
        batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
        classes: Tensor,
        test: Labelled | None,
        holdout: Labelled | None,
        after_epoch: Callable[[State], None] | None,
        resume: State | None,
    ) -> Self:
        watched = {name: _checked(s, name) for name, s in (("test", test), ("holdout", holdout)) if s is not None}
        self.classes_ = classes.cpu()
        self.history_ = {name: torch.empty(0, len(self.lr), 2, dtype=torch.float64) for name in watched}
        self.chosen_: dict[str, Any] | None = None
        self._heads: StackedHeads | None = None
        first = 0
        if resume is not None:
            first = self._load(resume)
        for epoch in range(first, self.protocol.epochs):
            factor = self.protocol.lr_factor(epoch)
            for x, y in batches(epoch):
                if self._heads is None:
                    self._heads = self._new_heads(x)
                device = self._heads.weight.device
                self._heads.step(x.to(device), train_index(y, classes).to(device), factor)
            if self._heads is None:
                raise ValueError("batches is empty: nothing to train on")
            for name, (x, y) in watched.items():
                self.history_[name] = torch.cat([self.history_[name], self._accuracy(x, y)[None]])
            if holdout is not None:
                self._keep_best(epoch)
            if after_epoch is not None:
                after_epoch(self._state(epoch + 1))
        return self

    def _new_heads(self, x: Tensor) -> StackedHeads:
        device = x.device if self.device is None else torch.device(self.device)
        return StackedHeads(self.lr, len(self.classes_), x.shape[1], self.protocol, self.seed, device)

    def _keep_best(self, epoch: int) -> None:
        """Keep the classifier that is best on held-out samples; the first one where several are."""
        heads, top1 = self._fitted(), self.history_["holdout"][-1, :, 0]
        i = int(top1.argmax())
        if self.chosen_ is None or top1[i] > self.chosen_["holdout_top1"]:
            kept = {"weight": heads.weight[i].clone(), "bias": heads.bias[i].clone()}
            self.chosen_ = {"epoch": epoch + 1, "index": i, "holdout_top1": float(top1[i]), **kept}

    def _state(self, epoch: int) -> State:
        heads = self._fitted()
        tensors = {"weight": heads.weight, "bias": heads.bias, "momenta": list(heads.momenta)}
        plain = {"epoch": epoch, "lr": list(self.lr), "classes": self.classes_}
        return {**plain, **tensors, "history": dict(self.history_), "chosen": self.chosen_}

    def _load(self, state: State) -> int:
        if tuple(state["lr"]) != self.lr or not torch.equal(state["classes"], self.classes_):
            raise ValueError("resume is of a probe with another lr or other classes: start afresh, or use its settings")
        if state["history"].keys() != self.history_.keys():
            raise ValueError(f"resume has a history of {list(state['history'])}, now {list(self.history_)} are given")
        self._heads = self._new_heads(state["weight"][0])
        for mine, saved in zip(
            (self._heads.weight, self._heads.bias, *self._heads.momenta),
            (state["weight"], state["bias"], *state["momenta"]),
            strict=True,
        ):
            mine.copy_(saved)
        self.history_, self.chosen_ = dict(state["history"]), state["chosen"]
        return int(state["epoch"])

    def _fitted(self) -> StackedHeads:
        heads = getattr(self, "_heads", None)
        if heads is None:
            raise ValueError("this LinearProbe is not trained yet: call fit(x, y) first")
        return heads

    @torch.no_grad()
    def _accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Fractions (G, 2) float64 of top-1 and top-5 hits."""
        heads = self._fitted()
        true, rows = class_index(y, self.classes_), max(1, _SCORES // heads.bias.numel())
        hits = torch.zeros(len(self.lr), 2, dtype=torch.int64)
        for xs, ts in zip(x.split(rows), true.split(rows), strict=True):
            hits += top_hits(heads.logits(xs.to(heads.weight.device)), ts.to(heads.weight.device)).cpu()
        return hits.double() / len(x)


def _checked(samples: Labelled, name: str) -> tuple[Tensor, Tensor]:
    x, y = samples
    check_rows(x, name)
    if y is None:
        raise ValueError(f"{name} has no labels: there is nothing to score by")
    check_labels(y, len(x))
    return x, y


def _named(row: list[float]) -> dict[str, float]:
    return {"top1": row[0], "top5": row[1]}
