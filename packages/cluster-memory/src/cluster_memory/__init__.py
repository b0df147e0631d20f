"""k-means and online cluster memories on torch tensors: exact, seeded, no empty clusters.

result = KMeans(k=1000, metric="cosine", seed=0).fit(features)
memory = OnlineClusters(n_samples=len(features), dim=256, k=1000)
memory.initialise(features, result.assignments)
change_ratio = memory.update(indices, batch_features)
print(cluster_stats(memory.assignments, k=1000).effective_clusters)
"""

from cluster_memory._balance import balanced_indices
from cluster_memory._bank import EpochBank
from cluster_memory._errors import NotFinite
from cluster_memory._kmeans import KMeans, KMeansResult
from cluster_memory._online import OnlineClusters
from cluster_memory._pca import PCAWhitening
from cluster_memory._stats import ClusterStats, cluster_stats

__all__ = [
    "ClusterStats",
    "EpochBank",
    "KMeans",
    "KMeansResult",
    "NotFinite",
    "OnlineClusters",
    "PCAWhitening",
    "balanced_indices",
    "cluster_stats",
]
