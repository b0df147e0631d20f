"""Probes for frozen features: kNN, linear, SVM, low-shot SVM, clusters, fine-tuning, as the field reports them.

Every probe follows scikit-learn: `fit(x, y)` returns the probe, `predict(x)` returns labels, `score(x, y)` one figure
in [0, 1], and `evaluate(x, y)` all figures as {setting: {metric: value}}. NumPy arrays are accepted wherever tensors
are; results are tensors, on the CPU for NumPy input.

```python
train = extract_features(backbone, train_batches)  # Features(x (N, D) float32, labels (N,) int64)
test = extract_features(backbone, test_batches)
KNNProbe(k=(10, 20)).fit(*train).evaluate(*test)  # {"k=10": {"top1": ..., "top5": ...}, "k=20": ...}
SVMProbe().fit(*train).score(*test)  # VOC07's protocol; labels (N, C) of 1 / 0 / -1, or class ids
LinearProbe(COSLR, lr=(0.1, 0.3, 1.0), holdout=0.1).fit(*train).evaluate(*test)  # all learning rates at once
indices, similarity = nearest_neighbours(test.x, train.x, k=8)
rankme(test.x)  # effective rank; near 1: collapsed
```
"""

import importlib.metadata

from ._average_precision import MeanAP, average_precision, mean_average_precision
from ._bootstrap import bootstrap_interval
from ._cluster import ClusterProbe, cluster_scores
from ._feature_cache import features_key
from ._features import Features, TapFeatures, extract_features
from ._finetune import SEMI_1PERCENT, SEMI_10PERCENT, FineTune, FineTuneCell, FineTuneProtocol
from ._knn import KNNProbe
from ._linear import LinearProbe
from ._linear_train import COSLR, LARS, STEPLR, SWAV_EVAL, LinearProtocol
from ._lowshot import LowShotSVMProbe
from ._multihead import IMAGENET_MHEAD, INAT18, PLACES205, MultiHeadLinearProbe
from ._neighbours import nearest_neighbours
from ._pools import pool_taps
from ._probe import NotFittedError
from ._rankme import rankme
from ._subsets import read_subset_list, subset_indices
from ._svm import VISSL_COSTS, VOC07_COSTS, SVMProbe
from ._uniformity import alignment, uniformity

__all__ = [
    "COSLR",
    "IMAGENET_MHEAD",
    "INAT18",
    "LARS",
    "PLACES205",
    "SEMI_1PERCENT",
    "SEMI_10PERCENT",
    "STEPLR",
    "SWAV_EVAL",
    "VISSL_COSTS",
    "VOC07_COSTS",
    "ClusterProbe",
    "Features",
    "FineTune",
    "FineTuneCell",
    "FineTuneProtocol",
    "KNNProbe",
    "LinearProbe",
    "LinearProtocol",
    "LowShotSVMProbe",
    "MeanAP",
    "MultiHeadLinearProbe",
    "NotFittedError",
    "SVMProbe",
    "TapFeatures",
    "alignment",
    "average_precision",
    "bootstrap_interval",
    "cluster_scores",
    "extract_features",
    "features_key",
    "mean_average_precision",
    "nearest_neighbours",
    "pool_taps",
    "rankme",
    "read_subset_list",
    "subset_indices",
    "uniformity",
]
__version__ = importlib.metadata.version("eval-probes")
