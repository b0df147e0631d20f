"""Linear classification by depth: a branch a tap, all trained in one pass (Goyal et al. 2019, arXiv:1905.01235)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ._accuracy import Classes, check_labels, class_index, known_classes, top_hits, train_index
from ._linear_train import LinearProtocol, epoch_batches
from ._neighbours import check_rows
from ._pools import SIDES

# MMSelfSup 0.x; its step at 90 of ImageNet's 90 epochs never comes
IMAGENET_MHEAD = LinearProtocol(epochs=90, lr=0.01, weight_decay=1e-4, nesterov=True, milestones=(30, 60, 90))
PLACES205 = LinearProtocol(epochs=28, lr=0.01, weight_decay=1e-4, nesterov=True, milestones=(7, 14, 21))
INAT18 = LinearProtocol(epochs=84, lr=0.01, weight_decay=1e-4, nesterov=True, milestones=(24, 48, 72))

Taps = Mapping[str, Tensor]  # {tap: (N, D of the tap)}
LabelledTaps = tuple[Taps, Tensor | None]  # such as TapFeatures
State = dict[str, Any]
_ROWS = 4096


class MultiHeadLinearProbe:
    """One linear classifier for each of several taps, behind batch normalisation of the tap's channels.

    A branch is BatchNorm (momentum 0.1, not affine, with the statistics of its batches in training) over the channels
    of the pooled map, and Linear with weights from N(0, 0.01), biases 0. The losses are added; branches share nothing.
    protocol: `IMAGENET_MHEAD`, `PLACES205`, `INAT18` (SGD), or your own. classes, seed, device as in `LinearProbe`.
    Published values are those of the last epoch. Statistics are of the batch of this process."""

    def __init__(
        self,
        protocol: LinearProtocol = IMAGENET_MHEAD,
        *,
        classes: Classes = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if protocol.optimizer != "sgd":
            raise ValueError(f"MultiHeadLinearProbe trains by sgd, got a protocol with {protocol.optimizer}")
        self.protocol, self.classes, self.seed, self.device = protocol, classes, seed, device

    def fit(
        self,
        x: Taps,
        y: Tensor,
        *,
        test: LabelledTaps | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on x {tap: (N, D)} as `extract_features(taps=...)` gives it, with labels y (N,) integers.

        test, after_epoch, resume as in `LinearProbe.fit`. Raises ValueError for rows with NaN, named."""
        _check(x, y)

        def batches(epoch: int) -> Iterable[tuple[Taps, Tensor]]:
            for rows in epoch_batches(len(y), self.protocol.batch, self.seed, epoch):
                yield {tap: a[rows.to(a.device)] for tap, a in x.items()}, y[rows.to(y.device)]

        return self._train(batches, known_classes(self.classes, y), test, after_epoch, resume)

    def fit_batches(
        self,
        batches: Callable[[int], Iterable[tuple[Taps, Tensor]]],
        *,
        test: LabelledTaps | None = None,
        after_epoch: Callable[[State], None] | None = None,
        resume: State | None = None,
    ) -> Self:
        """Train on fresh features of every epoch: epoch -> ({tap: (B, D)} as of `pool_taps`, labels (B,)).

        The probe must know its classes. The rest as in `LinearProbe.fit_batches`."""
        return self._train(batches, known_classes(self.classes, None), test, after_epoch, resume)

    @torch.no_grad()
    def predict(self, x: Taps) -> dict[str, Tensor]:
        """Labels {tap: (M,) int64} by each branch, for x {tap: (M, D)}."""
        parts = [{t: z.argmax(1).cpu() for t, z in logits.items()} for _, logits in self._logits(x)]
        return {tap: self.classes_[torch.cat([part[tap] for part in parts])].to(x[tap].device) for tap in parts[0]}

    def score(self, x: Taps, y: Tensor) -> dict[str, dict[str, float]]:
        """Accuracies in [0, 1] of each branch: {tap: {"top1": ..., "top5": ...}}."""
        self._fitted()
        _check(x, y)
        return {tap: {"top1": float(row[0]), "top5": float(row[1])} for tap, row in self._accuracy(x, y).items()}

    def report(self) -> dict[str, dict[str, dict[str, float]]]:
        """What training with `test` gave: "last" {tap: {"top1", "top5"}}, the published custom, and "best_on_test"
        {tap: {"epoch" (from 1), "top1", "top5"}}, chosen on the test set and so optimistic. Accuracies in [0, 1]."""
        self._fitted()
        if not self.history_:
            raise ValueError("there is nothing to report: pass test=(x, y) to fit")
        found: dict[str, dict[str, dict[str, float]]] = {"last": {}, "best_on_test": {}}
        for tap, rows in self.history_.items():
            best = int(rows[:, 0].argmax())
            found["last"][tap] = {"top1": float(rows[-1, 0]), "top5": float(rows[-1, 1])}
            found["best_on_test"][tap] = {"epoch": best + 1, "top1": float(rows[best, 0]), "top5": float(rows[best, 1])}
        return found

    def _train(
        self,
        batches: Callable[[int], Iterable[tuple[Taps, Tensor]]],
        classes: Tensor,
        test: LabelledTaps | None,
        after_epoch: Callable[[State], None] | None,
        resume: State | None,
    ) -> Self:
        if test is not None:
            if test[1] is None:
                raise ValueError("test has no labels: there is nothing to score by")
            _check(test[0], test[1], "test ")
        self.classes_ = classes.cpu()
        self.history_: dict[str, Tensor] = {}  # {tap: (epochs, 2)} top-1 and top-5 on test
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
            for x, y in batches(epoch):
                if optimizer is None:
                    optimizer = self._start({tap: a.shape[1] for tap, a in x.items()}, next(iter(x.values())).device)
                for group in optimizer.param_groups:
                    group["lr"] = self.protocol.lr * self.protocol.lr_factor(epoch)
                self._step(optimizer, x, train_index(y, classes))
            if optimizer is None:
                raise ValueError("batches is empty: nothing to train on")
            if test is not None and test[1] is not None:
                for tap, row in self._accuracy(test[0], test[1]).items():
                    earlier = self.history_.get(tap, torch.empty(0, 2, dtype=torch.float64))
                    self.history_[tap] = torch.cat([earlier, row[None]])
            if after_epoch is not None:
                heads = {tap: head.state_dict() for tap, head in self._fitted().items()}
                state = {"epoch": epoch + 1, "classes": self.classes_, "heads": heads, "history": dict(self.history_)}
                after_epoch({**state, "optimizer": optimizer.state_dict()})
        return self

    def _start(self, dims: Mapping[str, int], device: torch.device) -> torch.optim.SGD:
        """New branches, and their optimiser."""
        device = device if self.device is None else torch.device(self.device)
        heads = {tap: _branch(tap, dim, len(self.classes_), self.seed) for tap, dim in dims.items()}
        self._heads = nn.ModuleDict(heads).to(device)
        p = self.protocol
        return torch.optim.SGD(
            self._heads.parameters(), p.lr, p.momentum, weight_decay=p.weight_decay, nesterov=p.nesterov
        )

    def _step(self, optimizer: torch.optim.SGD, x: Taps, true: Tensor) -> None:
        heads = self._fitted().train()
        loss = torch.zeros((), device=next(heads.parameters()).device)
        with torch.autocast(loss.device.type, enabled=False):
            for tap, head in heads.items():
                loss = loss + F.cross_entropy(head(x[tap].to(loss.device, torch.float32)), true.to(loss.device))
            optimizer.zero_grad()
            loss.backward()  # its products would be cast too
            optimizer.step()

    def _restore(self, optimizer: torch.optim.SGD, state: State) -> None:
        if not torch.equal(state["classes"], self.classes_):
            raise ValueError("resume is of a probe with other classes: start afresh, or use its classes")
        for tap, head in self._fitted().items():
            head.load_state_dict(state["heads"][tap])
        optimizer.load_state_dict(state["optimizer"])
        self.history_ = dict(state["history"])

    def _fitted(self) -> nn.ModuleDict:
        heads = getattr(self, "_heads", None)
        if heads is None:
            raise ValueError("this MultiHeadLinearProbe is not trained yet: call fit(x, y) first")
        return heads

    @torch.no_grad()
    def _logits(self, x: Taps) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Logits {tap: (rows, C)} for slices of the rows, in eval mode."""
        heads = self._fitted().eval()
        if x.keys() != heads.keys():
            raise ValueError(f"x must have the taps {list(heads)}, got {list(x)}")
        device = next(heads.parameters()).device
        for start in range(0, len(next(iter(x.values()))), _ROWS):
            rows = slice(start, start + _ROWS)
            with torch.autocast(device.type, enabled=False):
                logits = {tap: head(x[tap][rows].to(device, torch.float32)) for tap, head in heads.items()}
            yield rows, logits

    def _accuracy(self, x: Taps, y: Tensor) -> dict[str, Tensor]:
        """Fractions {tap: (2,) float64} of top-1 and top-5 hits."""
        true = class_index(y, self.classes_)
        hits = {tap: torch.zeros(2, dtype=torch.int64) for tap in x}
        for rows, logits in self._logits(x):
            for tap, z in logits.items():
                hits[tap] += top_hits(z, true[rows].to(z.device)).cpu()
        return {tap: n.double() / len(y) for tap, n in hits.items()}


def _branch(tap: str, dim: int, n_classes: int, seed: int) -> nn.Sequential:
    """Batch normalisation over channels, then a linear layer; its start does not depend on other branches."""
    if tap not in SIDES:
        raise ValueError(f"unknown tap {tap!r}; known: {', '.join(SIDES)}")
    area = SIDES[tap] ** 2
    if dim % area:
        raise ValueError(f"{tap} has {dim} dimensions, not a multiple of {area}: pool it by pool_taps")
    linear = skip_init(nn.Linear, dim, n_classes)  # its own initialisation would read the global generator
    nn.init.normal_(linear.weight, 0, 0.01, torch.Generator().manual_seed(seed))
    nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(dim // area, momentum=0.1, affine=False)
    return nn.Sequential(nn.Unflatten(1, (dim // area, area)), norm, nn.Flatten(), linear)


def _check(x: Taps, y: Tensor, what: str = "") -> None:
    if not x:
        raise ValueError("x has no taps: pass {tap: features}")
    for tap, a in x.items():
        check_rows(a, what + tap)
        check_labels(y, len(a))
