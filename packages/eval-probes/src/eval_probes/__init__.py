"""Probes for frozen features: kNN and friends, as the field reports them.

>>> train = extract_features(backbone, train_batches)            # Features(x (N, D) float32, labels (N,) int64)
>>> test = extract_features(backbone, test_batches)
>>> KNNProbe(k=(10, 20)).fit(*train).score(*test)                # {10: {"top1": ..., "top5": ...}, 20: ...}
>>> SVMProbe().fit(*train).score(*test).mean_ap                  # VOC07's protocol; labels (N, C) of 1 / 0 / -1 or ids
>>> LinearProbe(COSLR, lr=(0.1, 0.3, 1.0), holdout=0.1).fit(*train, test=test).report()  # all rates at once
>>> indices, similarity = nearest_neighbours(test.x, train.x, k=8)
>>> rankme(test.x)                                               # near 1: collapsed
"""

from ._average_precision import MeanAP as MeanAP
from ._average_precision import average_precision as average_precision
from ._average_precision import mean_average_precision as mean_average_precision
from ._bootstrap import bootstrap_interval as bootstrap_interval
from ._cluster import ClusterProbe as ClusterProbe
from ._cluster import cluster_scores as cluster_scores
from ._feature_cache import features_key as features_key
from ._features import Features as Features
from ._features import TapFeatures as TapFeatures
from ._features import extract_features as extract_features
from ._finetune import SEMI_1PERCENT as SEMI_1PERCENT
from ._finetune import SEMI_10PERCENT as SEMI_10PERCENT
from ._finetune import FineTune as FineTune
from ._finetune import FineTuneCell as FineTuneCell
from ._finetune import FineTuneProtocol as FineTuneProtocol
from ._knn import KNNProbe as KNNProbe
from ._linear import LinearProbe as LinearProbe
from ._linear_train import COSLR as COSLR
from ._linear_train import LARS as LARS
from ._linear_train import STEPLR as STEPLR
from ._linear_train import SWAV_EVAL as SWAV_EVAL
from ._linear_train import LinearProtocol as LinearProtocol
from ._lowshot import LowShotChoice as LowShotChoice
from ._lowshot import LowShotScore as LowShotScore
from ._lowshot import LowShotSVMProbe as LowShotSVMProbe
from ._multihead import IMAGENET_MHEAD as IMAGENET_MHEAD
from ._multihead import INAT18 as INAT18
from ._multihead import PLACES205 as PLACES205
from ._multihead import MultiHeadLinearProbe as MultiHeadLinearProbe
from ._neighbours import nearest_neighbours as nearest_neighbours
from ._pools import pool_taps as pool_taps
from ._rankme import rankme as rankme
from ._subsets import read_subset_list as read_subset_list
from ._subsets import subset_indices as subset_indices
from ._svm import VISSL_COSTS as VISSL_COSTS
from ._svm import VOC07_COSTS as VOC07_COSTS
from ._svm import SVMProbe as SVMProbe
from ._svm import SVMScore as SVMScore
from ._uniformity import alignment as alignment
from ._uniformity import uniformity as uniformity
