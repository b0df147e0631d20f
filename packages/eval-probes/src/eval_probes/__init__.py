"""Probes for frozen features: kNN and friends, as the field reports them.

>>> train = extract_features(backbone, train_batches)            # Features(x (N, D) float32, labels (N,) int64)
>>> test = extract_features(backbone, test_batches)
>>> KNNProbe(k=(10, 20)).fit(*train).score(*test)                # {10: {"top1": ..., "top5": ...}, 20: ...}
>>> indices, similarity = nearest_neighbours(test.x, train.x, k=8)
>>> rankme(test.x)                                               # near 1: collapsed
"""

from ._features import Features as Features
from ._features import extract_features as extract_features
from ._knn import KNNProbe as KNNProbe
from ._neighbours import nearest_neighbours as nearest_neighbours
from ._rankme import rankme as rankme
