"""Linear classification of frozen features, every learning rate of a grid at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ._accuracy import Classes, as_labels, class_index, known_classes, top_hits, train_index
from ._arrays import Array, as_tensor
from ._linear_train import STEPLR, LinearProtocol, StackedHeads, epoch_batches, stacked_logits
from ._neighbours import as_rows
from ._probe import NotFittedError, Probe, Scores, setting
from ._subsets import subset_indices

Labelled = tuple[Array, Array | None]  # features (N, D) and labels (N,), such as Features
State = dict[str, Any]
_SCORES = 2**24  # logits that exist at a time in an evaluation: 64 MiB


class LinearProbe(Probe):
    """Linear classifier trained by SGD or LARS on frozen features, with all learning rates of a grid trained at once.

    Features are used as they are, without normalisation, as in the published tables. All computations are in float32.
    Batches are drawn by (seed, epoch). The classifiers of a grid see the same batches, and each one ends where it
    would end alone.

    `predict` and `score` use one classifier: with `holdout`, the learning rate and epoch that are best on the held-out
    samples; without, the first learning rate after the last epoch. The test set never chooses it.

    Args:
        protocol: Training protocol: `STEPLR` (tables of DeepCluster and ODC), `COSLR`, `LARS`, `SWAV_EVAL`, or another
            `LinearProtocol`.
        lr: Learning rate, or several, in place of the protocol's.
        classes: Number of classes (labels 0 ... C - 1) or their labels; default: the labels in y.
        holdout: Fraction of each class, in [0, 0.5], that `fit` holds out to choose learning rate and epoch.
        seed: Seed of the initial weights, the batches and the held-out samples.
        device: Device to train on; default: the device of x.

    Attributes:
        classes_: Sorted labels (C,) int64.
        lr_: Learning rates of the grid, a tuple of length G.
        coef_: Weights (C, D) float32 of the classifier that `predict` uses.
        intercept_: Its biases (C,) float32.
        history_: {"test", "holdout": (epochs, G, 2) float64}, top-1 and top-5 accuracy after each epoch, of the sets
            that were given.
        last_: Accuracy on `test` after the last epoch, {"lr=0.3": {"top1", "top5"}}.
        best_on_test_: Accuracy on `test` in the epoch with the highest top-1 there, {"lr=0.3": {"epoch", "top1",
            "top5"}}. Published tables often report this figure; it is optimistic. Epochs count from 1.
        chosen_: The choice on held-out samples, {"lr", "epoch", "holdout_top1"}, and its "top1" and "top5" on `test`.
            This is the honest figure. None without held-out samples.

    Example:
        ```python
        probe = LinearProbe(COSLR, lr=(0.1, 0.3, 1.0), holdout=0.1).fit(x_train, y_train)
        probe.score(x_test, y_test)  # top-1 accuracy of the chosen learning rate and epoch
        probe.evaluate(x_test, y_test)  # {"lr=0.1": {"top1", "top5"}, ..., "chosen": {...}}
        ```
    """

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
        self.protocol = protocol
        self.lr = lr
        self.classes = classes
        self.holdout = holdout
        self.seed = seed
        self.device = device

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        test: Labelled | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on cached features.

        Args:
            x: Features (N, D), any float dtype; may be a memory map.
            y: Labels (N,), any integers.
            test: Features (M, D) and labels (M,) to evaluate after each epoch, for `last_`, `best_on_test_` and
                `chosen_`. They choose nothing that `predict` uses.
            after_epoch: Called after each epoch with a state of tensors and plain values. Save it before returning:
                training changes its tensors in place.
            resume: Such a state. Training continues from it with the same result as without the interruption.

        Returns:
            The probe itself.

        Raises:
            ValueError: If a shape or argument is invalid, or a row contains NaN or infinity.
        """
        self._check_holdout()
        x = as_rows(x, "x")
        y = as_labels(y, len(x))
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
        batches: Callable[[int], Iterable[tuple[Array, Array]]],
        *,
        test: Labelled | None = None,
        holdout: Labelled | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on new features in every epoch, for protocols with augmentation. The probe needs `classes`.

        Args:
            batches: Function of the epoch (from 0) that yields features (B, D) and labels (B,). It sets order and
                batch size; use `protocol.batch`.
            test: As in `fit`.
            holdout: Features and labels, none of them in `batches`, that choose learning rate and epoch.
            after_epoch: As in `fit`.
            resume: As in `fit`.

        Returns:
            The probe itself.

        Raises:
            ValueError: As in `fit`, and if `classes` or all batches are missing.
        """
        self._check_holdout()
        if self.holdout:
            raise ValueError(f"holdout={self.holdout} is for fit: here, pass holdout=(features, labels)")
        return self._train(batches, known_classes(self.classes, None), test, holdout, after_epoch, resume)

    def predict(self, x: Array, *, lr: float | None = None) -> Tensor:
        """Predict labels.

        Args:
            x: Features (M, D), any float dtype.
            lr: Use the classifier of this learning rate after the last epoch. Default: the classifier chosen on
                held-out samples, or else the first learning rate.

        Returns:
            Labels (M,) int64 on the device of x.
        """
        weight, bias = self._head(lr)
        x = as_rows(x, "x")
        scores = [block.to(weight).matmul(weight.T) + bias for block in x.split(max(1, _SCORES // len(bias)))]
        best = torch.cat([s.argmax(1) for s in scores])
        return self.classes_[best.cpu()].to(x.device)

    @property
    def coef_(self) -> Tensor:
        """Weights (C, D) float32 of the classifier that `predict` uses."""
        return self._head(None)[0]

    @property
    def intercept_(self) -> Tensor:
        """Biases (C,) float32 of the classifier that `predict` uses."""
        return self._head(None)[1]

    def score(self, x: Array, y: Array) -> float:
        """Return the top-1 accuracy, a fraction in [0, 1], of the classifier that `predict` uses.

        That is the one chosen on held-out samples, or else the first learning rate after the last epoch.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels (M,). A label that the training set lacks counts as wrong, as do all logits that are not finite.
        """
        weight, bias = self._head(None)
        x, y = _checked((x, y), "x")
        return float(self._accuracy(x, y, weight[None], bias[None])[0, 0])

    def evaluate(self, x: Array, y: Array) -> Scores:
        """Return top-1 and top-5 accuracy for every learning rate after the last epoch, and for the chosen classifier.

        Args:
            x: Features (M, D), any float dtype.
            y: Labels (M,). A label that the training set lacks counts as wrong, as do all logits that are not finite.

        Returns:
            {"lr=0.3": {"top1": ..., "top5": ...}, ...}, fractions in [0, 1]; with held-out samples also "chosen".
        """
        heads = self._fitted()
        x, y = _checked((x, y), "x")
        found = self._by_lr(self._accuracy(x, y, heads.weight, heads.bias))
        if self._chosen is not None:
            weight, bias = self._head(None)
            found["chosen"] = _named(self._accuracy(x, y, weight[None], bias[None])[0].tolist())
        return found

    @property
    def last_(self) -> Scores:
        """Accuracy on `test` after the last epoch, by learning rate."""
        return self._by_lr(self._test_history()[-1])

    @property
    def best_on_test_(self) -> Scores:
        """Accuracy on `test` in the epoch that is best there, by learning rate; optimistic."""
        test = self._test_history()
        best = test[..., 0].argmax(0).tolist()
        return {
            setting("lr", lr): {"epoch": epoch + 1, **_named(test[epoch, i].tolist())}
            for i, (lr, epoch) in enumerate(zip(self.lr_, best, strict=True))
        }

    @property
    def chosen_(self) -> dict[str, float] | None:
        """Learning rate and epoch chosen on held-out samples, and their accuracy there and on `test`."""
        self._fitted()
        if self._chosen is None:
            return None
        epoch, i = self._chosen["epoch"], self._chosen["index"]
        found = {
            "lr": self.lr_[i],
            "epoch": epoch,
            "holdout_top1": float(self.history_["holdout"][epoch - 1, i, 0]),
        }
        return found | (_named(self.history_["test"][epoch - 1, i].tolist()) if "test" in self.history_ else {})

    def _check_holdout(self) -> None:
        if not 0 <= self.holdout <= 0.5:
            raise ValueError(f"holdout must be a fraction in [0, 0.5] of the train set, got {self.holdout}")

    def _test_history(self) -> Tensor:
        self._fitted()
        if "test" not in self.history_:
            raise NotFittedError("no test set was evaluated in training: pass test=(x, y) to fit")
        return self.history_["test"]

    def _by_lr(self, accuracy: Tensor) -> Scores:
        """Name the rows of accuracies (G, 2) by learning rate."""
        return {setting("lr", lr): _named(row) for lr, row in zip(self.lr_, accuracy.tolist(), strict=True)}

    def _head(self, lr: float | None) -> tuple[Tensor, Tensor]:
        """Return weight (C, D) and bias (C,) of the classifier that `predict(x, lr=lr)` uses."""
        heads = self._fitted()
        if lr is None and self._chosen is not None:
            return self._chosen["weight"], self._chosen["bias"]
        if lr is not None and lr not in self.lr_:
            raise ValueError(f"lr must be one of {self.lr_}, got {lr}")
        i = 0 if lr is None else self.lr_.index(lr)
        return heads.weight[i], heads.bias[i]

    def _train(
        self,
        batches: Callable[[int], Iterable[tuple[Array, Array]]],
        classes: Tensor,
        test: Labelled | None,
        holdout: Labelled | None,
        after_epoch: Callable[[State], None] | None,
        resume: State | None,
    ) -> Self:
        grid = self.protocol.lr if self.lr is None else self.lr
        self.lr_ = (grid,) if isinstance(grid, int | float) else tuple(grid)
        if not self.lr_ or min(self.lr_) <= 0 or len(set(self.lr_)) < len(self.lr_):
            raise ValueError(f"lr must be one or more different positive numbers, got {self.lr}")
        watched = {name: _checked(s, name) for name, s in (("test", test), ("holdout", holdout)) if s is not None}
        self.classes_ = classes.cpu()
        self.history_ = {name: torch.empty(0, len(self.lr_), 2, dtype=torch.float64) for name in watched}
        self._chosen: dict[str, Any] | None = None
        self._heads: StackedHeads | None = None
        first = 0
        if resume is not None:
            first = self._load(resume)
        for epoch in range(first, self.protocol.epochs):
            factor = self.protocol.lr_factor(epoch)
            for features, labels in batches(epoch):
                x, y = as_tensor(features), as_tensor(labels)
                if self._heads is None:
                    self._heads = self._new_heads(x)
                device = self._heads.weight.device
                self._heads.step(x.to(device), train_index(y, classes).to(device), factor)
            if self._heads is None:
                raise ValueError("batches is empty: nothing to train on")
            for name, (x, y) in watched.items():
                accuracy = self._accuracy(x, y, self._heads.weight, self._heads.bias)
                self.history_[name] = torch.cat([self.history_[name], accuracy[None]])
            if holdout is not None:
                self._keep_best(epoch)
            if after_epoch is not None:
                after_epoch(self._state(epoch + 1))
        return self

    def _new_heads(self, x: Tensor) -> StackedHeads:
        device = x.device if self.device is None else torch.device(self.device)
        return StackedHeads(self.lr_, len(self.classes_), x.shape[1], self.protocol, self.seed, device)

    def _keep_best(self, epoch: int) -> None:
        """Keep a copy of the classifier that is best on held-out samples so far; the earliest one on a tie."""
        heads, top1 = self._fitted(), self.history_["holdout"][-1, :, 0]
        i = int(top1.argmax())
        if self._chosen is None or top1[i] > self._chosen["holdout_top1"]:
            kept = {"weight": heads.weight[i].clone(), "bias": heads.bias[i].clone()}
            self._chosen = {"epoch": epoch + 1, "index": i, "holdout_top1": float(top1[i]), **kept}

    def _state(self, epoch: int) -> State:
        heads = self._fitted()
        tensors = {"weight": heads.weight, "bias": heads.bias, "momenta": list(heads.momenta)}
        plain = {"epoch": epoch, "lr": list(self.lr_), "classes": self.classes_}
        return {**plain, **tensors, "history": dict(self.history_), "chosen": self._chosen}

    def _load(self, state: State) -> int:
        if tuple(state["lr"]) != self.lr_ or not torch.equal(state["classes"], self.classes_):
            raise ValueError(
                "resume belongs to a probe with another lr or other classes: leave it out, or use the same settings"
            )
        if state["history"].keys() != self.history_.keys():
            raise ValueError(
                f"resume has a history of {list(state['history'])}, but this call evaluates {list(self.history_)}"
            )
        self._heads = self._new_heads(state["weight"][0])
        for mine, saved in zip(
            (self._heads.weight, self._heads.bias, *self._heads.momenta),
            (state["weight"], state["bias"], *state["momenta"]),
            strict=True,
        ):
            mine.copy_(saved)
        self.history_, self._chosen = dict(state["history"]), state["chosen"]
        return int(state["epoch"])

    def _fitted(self) -> StackedHeads:
        heads = getattr(self, "_heads", None)
        if heads is None:
            raise NotFittedError("this LinearProbe is not trained yet: call fit(x, y) first")
        return heads

    @torch.no_grad()
    def _accuracy(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Top-1 and top-5 accuracy (G, 2) float64 of classifiers with weight (G, C, D) and bias (G, C)."""
        true, rows = class_index(y, self.classes_), max(1, _SCORES // bias.numel())
        hits = torch.zeros(len(bias), 2, dtype=torch.int64)
        for xs, ts in zip(x.split(rows), true.split(rows), strict=True):
            hits += top_hits(stacked_logits(xs.to(weight.device), weight, bias), ts.to(weight.device)).cpu()
        return hits.double() / len(x)


def _checked(samples: Labelled, name: str) -> tuple[Tensor, Tensor]:
    """Return features and labels as tensors; raise ValueError for invalid ones."""
    x = as_rows(samples[0], name)
    if samples[1] is None:
        raise ValueError(f"{name} has no labels: pass (features, labels)")
    return x, as_labels(samples[1], len(x))


def _named(row: list[float]) -> dict[str, float]:
    return {"top1": row[0], "top5": row[1]}
