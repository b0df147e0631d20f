"""Scores to codes: SwAV's Sinkhorn-Knopp assignment, prototypes, queue and swapped prediction, exact in any precision.

prototypes, queue = Prototypes(dim=128, k=3000), EmbeddingQueue(n_crops=2, length=3840, dim=128)
scores = [prototypes(z) for z in embeddings]  # V crops of (B, 128)
codes = [sinkhorn_knopp(scores[c], extra=prototypes(queue.local()[c])) for c in (0, 1)]
loss = swapped_prediction_loss(scores, codes)
queue.push(torch.stack(embeddings[:2]))
"""

from sinkhorn._codes import sinkhorn_knopp
from sinkhorn._equipartition import check_equipartition, largest_k
from sinkhorn._errors import NotFinite
from sinkhorn._loss import swapped_prediction_loss
from sinkhorn._prototypes import Prototypes
from sinkhorn._queue import EmbeddingQueue
from sinkhorn._transport import Transport, optimal_transport

__all__ = [
    "EmbeddingQueue",
    "NotFinite",
    "Prototypes",
    "Transport",
    "check_equipartition",
    "largest_k",
    "optimal_transport",
    "sinkhorn_knopp",
    "swapped_prediction_loss",
]
