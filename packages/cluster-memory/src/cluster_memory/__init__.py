"""k-means and online cluster memories on torch tensors: exact, seeded, no empty clusters.

```python
kmeans = KMeans(k=1000, metric="cosine", seed=0).fit(features)
memory = OnlineClusters(n_samples=len(features), dim=256, k=1000)
memory.initialise(features, kmeans.assignments_)
change_ratio = memory.update(indices, batch_features)
print(cluster_stats(memory.assignments, k=1000).effective_clusters)
```
"""

from importlib.metadata import version

from cluster_memory._balance import balanced_indices
from cluster_memory._bank import EpochBank
from cluster_memory._errors import NotFinite
from cluster_memory._kmeans import KMeans
from cluster_memory._online import OnlineClusters
from cluster_memory._pca import PCAWhitening
from cluster_memory._stats import ClusterStats, cluster_stats

__version__ = version("cluster-memory")

__all__ = [
    "ClusterStats",
    "EpochBank",
    "KMeans",
    "NotFinite",
    "OnlineClusters",
    "PCAWhitening",
    "__version__",
    "balanced_indices",
    "cluster_stats",
]
