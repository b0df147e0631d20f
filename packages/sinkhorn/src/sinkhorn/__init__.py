"""SwAV's clustering head: Sinkhorn-Knopp codes, prototypes, an embedding queue and the swapped-prediction loss.

```python
prototypes, queue = Prototypes(dim=128, k=3000), EmbeddingQueue(n_crops=2, length=3840, dim=128)
scores = [prototypes(z) for z in embeddings]  # V crops of (B, 128)
codes = [sinkhorn_knopp(scores[c], extra=prototypes(queue.local()[c])) for c in (0, 1)]
loss = swapped_prediction_loss(scores, codes)
queue.push(torch.stack(embeddings[:2]))
```
"""

from importlib.metadata import version

from sinkhorn._codes import sinkhorn_knopp
from sinkhorn._equipartition import check_equipartition, largest_k
from sinkhorn._errors import NotFinite
from sinkhorn._loss import swapped_prediction_loss
from sinkhorn._prototypes import Prototypes
from sinkhorn._queue import EmbeddingQueue
from sinkhorn._transport import Transport, optimal_transport

__version__ = version("sinkhorn")

__all__ = [
    "EmbeddingQueue",
    "NotFinite",
    "Prototypes",
    "Transport",
    "__version__",
    "check_equipartition",
    "largest_k",
    "optimal_transport",
    "sinkhorn_knopp",
    "swapped_prediction_loss",
]
