"""Linear classification by depth: one branch per tap, all trained in one pass (Goyal et al. 2019, arXiv:1905.01235)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ._accuracy import Classes, as_labels, class_index, known_classes, top_hits, train_index
from ._arrays import Array, as_tensor
from ._linear_train import LinearProtocol, epoch_batches
from ._neighbours import as_rows
from ._pools import SIDES
from ._probe import NotFittedError, Probe, Scores

# From MMSelfSup 0.x. IMAGENET_MHEAD's milestone at epoch 90 lies after its last epoch and has no effect.
IMAGENET_MHEAD = LinearProtocol(epochs=90, lr=0.01, weight_decay=1e-4, nesterov=True, milestones=(30, 60, 90))
PLACES205 = LinearProtocol(epochs=28, lr=0.01, weight_decay=1e-4, nesterov=True, milestones=(7, 14, 21))
INAT18 = LinearProtocol(epochs=84, lr=0.01, weight_decay=1e-4, nesterov=True, milestones=(24, 48, 72))

Taps = Mapping[str, Array]  # {tap: (N, D of the tap)}
LabelledTaps = tuple[Taps, Array | None]  # such as TapFeatures
State = dict[str, Any]
_ROWS = 4096


class MultiHeadLinearProbe(Probe):
    """One linear classifier for each of several taps of a network, behind batch normalisation of the tap's channels.

    A branch is BatchNorm (momentum 0.1, not affine) over the channels of the pooled map, then Linear with weights from
    N(0, 0.01) and biases 0. Branches share no parameters; their losses are added. Batch statistics are those of the
    batch in this process. Published figures are those of the last epoch.

    x is a dictionary of features by tap, as `extract_features(taps=...)` returns it. `predict` and `score` use one
    tap: by default the last one of the x given to `fit`, usually the deepest. The test set never chooses it.

    Args:
        protocol: Training protocol with SGD: `IMAGENET_MHEAD`, `PLACES205`, `INAT18`, or another `LinearProtocol`.
        classes: Number of classes (labels 0 ... C - 1) or their labels; default: the labels in y.
        seed: Seed of the initial weights and the batches.
        device: Device to train on; default: the device of x.

    Attributes:
        classes_: Sorted labels (C,) int64.
        taps_: Names of the taps, a tuple in the order of x in `fit`.
        history_: {tap: (epochs, 2) float64}, top-1 and top-5 accuracy on `test` after each epoch; empty without `test`.
        last_: Accuracy on `test` after the last epoch, {tap: {"top1", "top5"}}; the figure of published tables.
        best_on_test_: Accuracy on `test` in the epoch with the highest top-1 there, {tap: {"epoch", "top1", "top5"}};
            optimistic. Epochs count from 1.

    Example:
        ```python
        train = extract_features(model, train_batches, taps=("feature4", "feature5"))
        test = extract_features(model, test_batches, taps=("feature4", "feature5"))
        probe = MultiHeadLinearProbe().fit(train.x, train.labels)
        probe.score(test.x, test.labels)  # top-1 accuracy on feature5
        probe.evaluate(test.x, test.labels)  # {"feature4": {"top1", "top5"}, "feature5": {...}}
        ```
    """

    def __init__(
        self,
        protocol: LinearProtocol = IMAGENET_MHEAD,
        *,
        classes: Classes = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.protocol = protocol
        self.classes = classes
        self.seed = seed
        self.device = device

    def fit(
        self,
        x: Taps,
        y: Array,
        *,
        test: LabelledTaps | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on cached features.

        Args:
            x: Features {tap: (N, D)} pooled by `pool_taps` or `extract_features`, any float dtype.
            y: Labels (N,), any integers.
            test: Features {tap: (M, D)} and labels (M,) to evaluate after each epoch, for `last_` and `best_on_test_`.
            after_epoch: Called after each epoch with a state of tensors and plain values. Save it before returning:
                training changes its tensors in place.
            resume: Such a state. Training continues from it with the same result as without the interruption.

        Returns:
            The probe itself.

        Raises:
            ValueError: If a shape, tap or argument is invalid, or a row contains NaN or infinity.
        """
        features, labels = _checked(x, y)

        def batches(epoch: int) -> Iterable[tuple[Taps, Tensor]]:
            for rows in epoch_batches(len(labels), self.protocol.batch, self.seed, epoch):
                yield {tap: a[rows.to(a.device)] for tap, a in features.items()}, labels[rows.to(labels.device)]

        return self._train(batches, known_classes(self.classes, labels), test, after_epoch, resume)

    def fit_batches(
        self,
        batches: Callable[[int], Iterable[tuple[Taps, Array]]],
        *,
        test: LabelledTaps | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on new features in every epoch, for protocols with augmentation. The probe needs `classes`.

        Args:
            batches: Function of the epoch (from 0) that yields features {tap: (B, D)} as `pool_taps` returns them, and
                labels (B,). It sets order and batch size; use `protocol.batch`.
            test: As in `fit`.
            after_epoch: As in `fit`.
            resume: As in `fit`.

        Returns:
            The probe itself.

        Raises:
            ValueError: As in `fit`, and if `classes` or all batches are missing.
        """
        return self._train(batches, known_classes(self.classes, None), test, after_epoch, resume)

    @torch.no_grad()
    def predict(self, x: Taps, *, tap: str | None = None) -> Tensor:
        """Predict labels from one tap.

        Args:
            x: Features {tap: (M, D)}; only the tap in use is read.
            tap: Which branch to use; default: the last of `taps_`.

        Returns:
            Labels (M,) int64 on the device of x.
        """
        tap = self._tap(tap)
        a = self._of_taps(x, (tap,))[tap]
        best = [logits[tap].argmax(1).cpu() for _, logits in self._logits({tap: a})]
        return self.classes_[torch.cat(best)].to(a.device)

    def score(self, x: Taps, y: Array) -> float:
        """Return the top-1 accuracy, a fraction in [0, 1], of the last of `taps_`.

        Args:
            x: Features {tap: (M, D)}; only the last tap is read.
            y: Labels (M,). A label that the training set lacks counts as wrong.
        """
        tap = self._tap(None)
        features, labels = _checked(self._of_taps(x, (tap,)), y)
        return float(self._accuracy(features, labels)[tap][0])

    def evaluate(self, x: Taps, y: Array) -> Scores:
        """Return top-1 and top-5 accuracy for every tap.

        Args:
            x: Features {tap: (M, D)} with all taps of `fit`.
            y: Labels (M,). A label that the training set lacks counts as wrong.

        Returns:
            {tap: {"top1": ..., "top5": ...}}, fractions in [0, 1], in the order of `taps_`.
        """
        features, labels = _checked(self._of_taps(x, self.taps_), y)
        return {
            tap: {"top1": float(row[0]), "top5": float(row[1])} for tap, row in self._accuracy(features, labels).items()
        }

    @property
    def taps_(self) -> tuple[str, ...]:
        """Names of the taps, in the order of x in `fit`."""
        return tuple(self._fitted())

    @property
    def last_(self) -> Scores:
        """Accuracy on `test` after the last epoch, by tap."""
        return {
            tap: {"top1": float(rows[-1, 0]), "top5": float(rows[-1, 1])} for tap, rows in self._test_history().items()
        }

    @property
    def best_on_test_(self) -> Scores:
        """Accuracy on `test` in the epoch that is best there, by tap; optimistic."""
        found = {}
        for tap, rows in self._test_history().items():
            best = int(rows[:, 0].argmax())
            found[tap] = {"epoch": best + 1, "top1": float(rows[best, 0]), "top5": float(rows[best, 1])}
        return found

    def _test_history(self) -> dict[str, Tensor]:
        self._fitted()
        if not self.history_:
            raise NotFittedError("no test set was evaluated in training: pass test=(x, y) to fit")
        return self.history_

    def _tap(self, tap: str | None) -> str:
        """Return the tap that `predict(x, tap=tap)` uses."""
        if tap is not None and tap not in self.taps_:
            raise ValueError(f"tap must be one of {', '.join(self.taps_)}, got {tap!r}")
        return self.taps_[-1] if tap is None else tap

    def _of_taps(self, x: Taps, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the features of some taps as tensors."""
        if lacking := [tap for tap in taps if tap not in x]:
            raise ValueError(f"x must have the taps {', '.join(self.taps_)}; it lacks {', '.join(lacking)}")
        return {tap: as_tensor(x[tap]) for tap in taps}

    def _train(
        self,
        batches: Callable[[int], Iterable[tuple[Taps, Array]]],
        classes: Tensor,
        test: LabelledTaps | None,
        after_epoch: Callable[[State], None] | None,
        resume: State | None,
    ) -> Self:
        if self.protocol.optimizer != "sgd":
            raise ValueError(f"MultiHeadLinearProbe trains by sgd, got a protocol with {self.protocol.optimizer}")
        watched: tuple[dict[str, Tensor], Tensor] | None = None
        if test is not None:
            if test[1] is None:
                raise ValueError("test has no labels: pass (features, labels)")
            watched = _checked(test[0], test[1], "test ")
        self.classes_ = classes.cpu()
        self.history_: dict[str, Tensor] = {}
        self._heads: nn.ModuleDict | None = None
        optimizer: torch.optim.SGD | None = None
        first = 0
        if resume is not None:
            weights = {tap: state["3.weight"] for tap, state in resume["heads"].items()}
            optimizer = self._start(
                {tap: w.shape[1] for tap, w in weights.items()}, next(iter(weights.values())).device
            )
            self._restore(optimizer, resume)
            first = resume["epoch"]
        for epoch in range(first, self.protocol.epochs):
            for features, labels in batches(epoch):
                x, y = {tap: as_tensor(a) for tap, a in features.items()}, as_tensor(labels)
                if optimizer is None:
                    optimizer = self._start({tap: a.shape[1] for tap, a in x.items()}, next(iter(x.values())).device)
                for group in optimizer.param_groups:
                    group["lr"] = self.protocol.lr * self.protocol.lr_factor(epoch)
                self._step(optimizer, x, train_index(y, classes))
            if optimizer is None:
                raise ValueError("batches is empty: nothing to train on")
            if watched is not None:
                for tap, row in self._accuracy(*watched).items():
                    earlier = self.history_.get(tap, torch.empty(0, 2, dtype=torch.float64))
                    self.history_[tap] = torch.cat([earlier, row[None]])
            if after_epoch is not None:
                heads = {tap: head.state_dict() for tap, head in self._fitted().items()}
                state = {"epoch": epoch + 1, "classes": self.classes_, "heads": heads, "history": dict(self.history_)}
                after_epoch({**state, "optimizer": optimizer.state_dict()})
        return self

    def _start(self, dims: Mapping[str, int], device: torch.device) -> torch.optim.SGD:
        """Create the branches and their optimiser."""
        device = device if self.device is None else torch.device(self.device)
        heads = {tap: _branch(tap, dim, len(self.classes_), self.seed) for tap, dim in dims.items()}
        self._heads = nn.ModuleDict(heads).to(device)
        p = self.protocol
        return torch.optim.SGD(
            self._heads.parameters(), p.lr, p.momentum, weight_decay=p.weight_decay, nesterov=p.nesterov
        )

    def _step(self, optimizer: torch.optim.SGD, x: Mapping[str, Tensor], true: Tensor) -> None:
        heads = self._fitted().train()
        loss = torch.zeros((), device=next(heads.parameters()).device)
        with torch.autocast(loss.device.type, enabled=False):
            for tap, head in heads.items():
                loss = loss + F.cross_entropy(head(x[tap].to(loss.device, torch.float32)), true.to(loss.device))
            optimizer.zero_grad()
            loss.backward()  # inside the block: autocast would lower the products of the backward pass too
            optimizer.step()

    def _restore(self, optimizer: torch.optim.SGD, state: State) -> None:
        if not torch.equal(state["classes"], self.classes_):
            raise ValueError("resume belongs to a probe with other classes: leave it out, or use the same classes")
        for tap, head in self._fitted().items():
            head.load_state_dict(state["heads"][tap])
        optimizer.load_state_dict(state["optimizer"])
        self.history_ = dict(state["history"])

    def _fitted(self) -> nn.ModuleDict:
        heads = getattr(self, "_heads", None)
        if heads is None:
            raise NotFittedError("this MultiHeadLinearProbe is not trained yet: call fit(x, y) first")
        return heads

    @torch.no_grad()
    def _logits(self, x: Mapping[str, Tensor]) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Yield logits {tap: (rows, C)} of the taps in x for slices of the rows, in eval mode."""
        heads = self._fitted().eval()
        if unknown := x.keys() - heads.keys():
            raise ValueError(f"test must have the taps {', '.join(heads)}, got {', '.join(sorted(unknown))}")
        device = next(heads.parameters()).device
        for start in range(0, len(next(iter(x.values()))), _ROWS):
            rows = slice(start, start + _ROWS)
            with torch.autocast(device.type, enabled=False):
                logits = {tap: heads[tap](a[rows].to(device, torch.float32)) for tap, a in x.items()}
            yield rows, logits

    def _accuracy(self, x: Mapping[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        """Top-1 and top-5 accuracy {tap: (2,) float64}."""
        true = class_index(y, self.classes_)
        hits = {tap: torch.zeros(2, dtype=torch.int64) for tap in x}
        for rows, logits in self._logits(x):
            for tap, z in logits.items():
                hits[tap] += top_hits(z, true[rows].to(z.device)).cpu()
        return {tap: n.double() / len(y) for tap, n in hits.items()}


def _branch(tap: str, dim: int, n_classes: int, seed: int) -> nn.Sequential:
    """Create batch normalisation over channels and a linear layer, whose start depends on the seed alone."""
    if tap not in SIDES:
        raise ValueError(f"unknown tap {tap!r}; known: {', '.join(SIDES)}")
    area = SIDES[tap] ** 2
    if dim % area:
        raise ValueError(f"{tap} has {dim} dimensions, not a multiple of {area}: pool it by pool_taps")
    linear = skip_init(nn.Linear, dim, n_classes)  # the usual initialisation would read the global generator
    nn.init.normal_(linear.weight, 0, 0.01, torch.Generator().manual_seed(seed))
    nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(dim // area, momentum=0.1, affine=False)
    return nn.Sequential(nn.Unflatten(1, (dim // area, area)), norm, nn.Flatten(), linear)


def _checked(x: Taps, y: Array, what: str = "") -> tuple[dict[str, Tensor], Tensor]:
    """Return features and labels as tensors; raise ValueError for invalid ones."""
    if not x:
        raise ValueError("x has no taps: pass {tap: features}")
    features = {tap: as_rows(a, what + tap) for tap, a in x.items()}
    for a in features.values():
        labels = as_labels(y, len(a))
    return features, labels
