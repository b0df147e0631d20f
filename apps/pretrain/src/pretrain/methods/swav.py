"""SwAV (Caron et al. 2020, arXiv:2006.09882): predict the code of one crop from the other crops of the image.

    every step   prototypes c <- unit rows
                 z_v = unit(projector(backbone(crop v))),  scores_v = z_v . c,  for all crops v
                 codes q_s = Sinkhorn-Knopp(scores_s) over batch and queue, for the crops s that give codes
                     (with epsilon_of_spread = r, epsilon is at most r times the spread of scores_s)
                 loss = mean over s, v != s:  cross-entropy(q_s, softmax(scores_v / temperature))
                 queue <- z_s

The prototypes have gradients, but are frozen for the first `freeze_prototypes_steps`. The queue is filled from epoch
`queue_from_epoch` on and enters the codes once it is full.
"""

# B images of this process, V crops of each, D dimension of z, K prototypes

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from sinkhorn import EmbeddingQueue, Prototypes, check_equipartition, sinkhorn_knopp, swapped_prediction_loss
from sobel_resnet import Projector, ResNet
from steady_runs import BadInput
from steady_runs.keys import key
from torch import Tensor
from torch.distributed import ProcessGroup

from pretrain.method import Method, Remedy, n_clusters, scaled, sizes_of
from pretrain.micro_batches import in_micro_batches, mean_over_ranks
from pretrain.run import Run
from pretrain.settings import SwavSettings

MIN_EPSILON = 1e-3  # of `epsilon_of_spread`; codes are as good as hard there


class Swav(Method):
    settings: SwavSettings

    def __init__(
        self, backbone: ResNet, settings: SwavSettings, n_images: int, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.settings, self.group = settings, group
        batch = min(settings.batch, n_images)
        self.k = n_clusters(settings, n_images, at_most=3000)
        if settings.k is None and settings.k_of_batch:
            self.k = max(2, min(batch, n_images // 2, 3000))
        self.epoch_steps = n_images // batch  # the prototypes are frozen for so many steps by default
        length = default_queue(batch, self.k) if settings.queue is None else whole_batches(settings.queue, batch)
        try:
            self.remark = check_equipartition(batch, length, self.k)
        except ValueError as error:
            raise BadInput(f"no balanced codes are possible: {error}") from None
        if settings.queue is not None and length != settings.queue:
            cut = f"--queue {settings.queue:,} cut to {length:,}: whole batches of {batch:,}, as in the authors' code"
            self.remark = f"{cut}; {self.remark}" if self.remark else cut
        self.backbone = backbone
        self.projector = Projector(
            backbone.num_features, settings.hidden, settings.dim, seed=key(settings.seed, "projector")
        )
        self.prototypes = Prototypes(settings.dim, self.k, seed=key(settings.seed, "prototypes"))
        self.queue = EmbeddingQueue(settings.crops_for_codes, length, settings.dim, group=group) if length else None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}queue_open", None)  # in checkpoints of versions before 0.2; it follows from the step
        saved = state_dict.get(f"{prefix}queue.embeddings")
        if saved is not None and (self.queue is None or self.queue.embeddings.shape[1] != saved.shape[1]):
            # versions before 0.2 did not cut the queue to whole batches: such a run keeps its queue
            self.queue = EmbeddingQueue(len(saved), saved.shape[1], saved.shape[2], group=self.group)
            self.queue.to(next(self.prototypes.parameters()).device)
            self.remark = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        self.prototypes.normalise_()
        z = in_micro_batches(lambda part: self.projector(self.backbone(part)), crops, self.settings.micro_batch, self)
        self.embeddings = z.detach()  # (V B, D)
        scores = self.prototypes(z).chunk(len(crops))  # V of (B, K) float32
        self.codes = [self.codes_of(crop, scores[crop].detach()) for crop in range(self.settings.crops_for_codes)]
        code_crops = range(self.settings.crops_for_codes)
        mean = swapped_prediction_loss(scores, self.codes, self.settings.temperature, code_crops)
        n = torch.full((), float(len(indices)), device=z.device)
        return mean_over_ranks(mean * n, n, self.group)

    @torch.no_grad()
    def codes_of(self, crop: int, scores: Tensor) -> Tensor:
        """Codes (B, K), balanced over the batches of all ranks and the queue of this crop, once that is full."""
        s = self.settings
        queued = None
        if self.queue is not None and self.queue.is_full:
            queued = self.prototypes(self.queue.local()[crop])
        if s.epsilon_of_spread is not None:
            self.spread = spread_of(scores, self.group)
            # Larger scores make the same codes as a smaller epsilon, which would have to come back from the GPU.
            factor = (s.epsilon / (s.epsilon_of_spread * self.spread)).clamp(1, s.epsilon / MIN_EPSILON)
            scores, queued = scores * factor, queued if queued is None else queued * factor
        return sinkhorn_knopp(scores, epsilon=s.epsilon, n_iters=s.sinkhorn_iters, extra=queued, group=self.group)

    def after_step(self, run: Run, indices: Tensor) -> None:
        if self.queue is not None and run.step // run.steps_per_epoch >= self.settings.queue_from_epoch:
            self.queue.push(self.embeddings.unflatten(0, (-1, len(indices)))[: self.settings.crops_for_codes])

    def assign(self, run: Run) -> Tensor:
        z = run.extract(lambda x: self.projector(self.backbone(x)), what="clusters of all images")
        with torch.no_grad():
            return torch.cat([self.prototypes(rows).argmax(1) for rows in z.split(4096)])

    def figures(self) -> dict[str, Tensor | float]:
        codes = torch.cat(self.codes)
        winners = sizes_of(codes.argmax(1), self.k)
        figures: dict[str, Tensor | float] = {
            "code_entropy": torch.special.entr(codes).sum(1).mean(),  # nats; ln K if codes say nothing
            "effective_clusters": torch.special.entr(winners / winners.sum()).sum().exp(),
        }
        if self.settings.epsilon_of_spread is not None:
            figures["score_spread"] = self.spread
        return figures | ({"queue": self.queue.n_valid} if self.queue is not None else {})

    def remedies(self, step: int, steps_per_epoch: int) -> list[Remedy]:
        s = self.settings
        harder: dict[str, Any] = {"epsilon_of_spread": 0.3}
        if s.epsilon_of_spread is not None:
            harder = {"epsilon_of_spread": scaled(s.epsilon_of_spread, 0.6)}
        elif s.epsilon < 0.05:  # a bound by the spread may be above it
            harder = {"epsilon": max(MIN_EPSILON, scaled(s.epsilon, 0.6))}
        wait = max(self.frozen_steps, step + max(2 * steps_per_epoch, 200))
        return [
            Remedy("harder codes", harder),
            Remedy("prototypes that wait longer", {"freeze_prototypes_steps": wait}),
            Remedy("a lower learning rate", {"lr": scaled(s.lr, 1 / 3)}),
            Remedy(f"fewer prototypes (--k {max(2, self.k // 2)}) or a larger --batch"),
        ]

    @property
    def frozen_steps(self) -> int:
        frozen = self.settings.freeze_prototypes_steps
        return self.epoch_steps if frozen is None else frozen

    def parameter_groups(self) -> list[dict[str, Any]]:
        others = [p for name, p in self.named_parameters() if not name.startswith("prototypes.")]
        return [
            {"params": others},
            {"params": list(self.prototypes.parameters()), "frozen_steps": self.frozen_steps},
        ]


@torch.no_grad()
def spread_of(scores: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Standard deviation of the scores (B, K) of all ranks about the mean of their row and of their column, ().

    Only this part of the scores tells images apart: Sinkhorn-Knopp divides by sums of rows and columns.
    """
    rows = scores - scores.mean(1, keepdim=True)
    sums = torch.cat([rows.sum(0), rows.square().sum()[None], rows.new_full((1,), len(rows))]).double()
    if group is not None:
        dist.all_reduce(sums, group=group)
    column_sums, squares, n = sums[:-2], sums[-2], sums[-1]
    variance = (squares - column_sums.square().sum() / n) / (n * scores.shape[1])
    return variance.clamp(min=0).sqrt().float()


def whole_batches(queue: int, batch: int) -> int:
    """Cut the length of the queue to whole batches, as the authors' code does (main_swav.py)."""
    return queue - queue % batch


def default_queue(batch: int, k: int) -> int:
    """1.28 embeddings per prototype in whole batches, like the paper's 3,840 for 3,000; 0 if a batch has one each."""
    return 0 if batch >= k else batch * -(-128 * k // (100 * batch))
