"""Both average precisions against their oracles: a float64 loop for VOC07's, scikit-learn for its own."""

import math
import warnings

import numpy as np
import pytest
import torch
from eval_probes import average_precision, mean_average_precision
from eval_probes._average_precision import stepwise
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score


def loop(scores: list[float], labels: list[int]) -> float:
    """Step by step: drop difficult, rank, pad, make precision non-increasing, add up over changes of recall."""
    kept = [(s, y) for s, y in zip(scores, labels, strict=True) if y != -1]
    order = sorted(range(len(kept)), key=lambda i: (kept[i][0], i))[::-1]
    tp, precision, recall = 0, [0.0], [0.0]
    n_positive = sum(y == 1 for _, y in kept)
    for rank, i in enumerate(order):
        tp += kept[i][1] == 1
        precision.append(tp / (rank + 1))
        recall.append(tp / n_positive)
    precision, recall = [*precision, 0.0], [*recall, 1.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)) if recall[i] != recall[i - 1])


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([-1, 0, 1])), min_size=1, max_size=30))
def test_equal_to_the_loop_with_ties_and_difficult(samples: list[tuple[int, int]]) -> None:
    scores, labels = [float(s) for s, _ in samples], [y for _, y in samples]
    if 1 not in labels:
        labels[0] = 1
    ours = average_precision(torch.tensor(scores), torch.tensor(labels))
    assert ours == pytest.approx(loop(scores, labels), abs=1e-12)


def test_known_values() -> None:
    falling = torch.arange(5.0).flip(0)
    assert average_precision(falling[:4], torch.tensor([1, 0, 1, 0])) == pytest.approx(0.8333, abs=1e-4)
    assert average_precision(falling, torch.tensor([0, 1, 1, 0, 1])) == pytest.approx(0.6444, abs=1e-4)


def test_equal_scores_rank_by_falling_index() -> None:
    equal = torch.zeros(4)
    assert average_precision(equal, torch.tensor([0, 0, 0, 1])) == 1
    assert average_precision(equal, torch.tensor([1, 0, 0, 0])) == 1 / 4


def test_mean_leaves_out_absent_classes_and_counts_them() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.1, 0.9, 0.4], [0.5, 0.5, 0.3]])
    labels = torch.tensor([[1, 0, 0], [0, 0, -1], [1, 1, 0]])
    found = mean_average_precision(scores, labels)
    assert found.ap.dtype == torch.float64
    assert found.ap[:2].tolist() == [1.0, 0.5]
    assert math.isnan(found.ap[2])
    assert (found.mean_ap, found.n_absent) == (0.75, 1)
    assert math.isnan(mean_average_precision(scores, torch.zeros(3, 3).long()).mean_ap)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_stepwise_equals_scikit_learn(samples: list[tuple[int, bool, bool]]) -> None:
    scores, positive, kept = (np.array(column) for column in zip(*samples, strict=True))
    positive[0] = kept[0] = True
    ours = stepwise(torch.tensor(scores)[None].float(), torch.tensor(positive)[None], torch.tensor(kept)[None].double())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = average_precision_score(positive[kept], scores[kept].astype(float))
    assert float(ours) == pytest.approx(theirs, abs=1e-12)


def test_errors() -> None:
    with pytest.raises(ValueError, match="one shape"):
        average_precision(torch.zeros(3), torch.zeros(4).long())
    with pytest.raises(ValueError, match=r"labels must be 1 .* got \[0, 2\]"):
        average_precision(torch.zeros(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="NaN"):
        average_precision(torch.tensor([0.0, torch.nan]), torch.tensor([0, 1]))
