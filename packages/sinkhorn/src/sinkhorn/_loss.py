"""The swapped-prediction loss (Caron et al. 2020, arXiv:2006.09882, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkhorn._arrays import as_tensor

if TYPE_CHECKING:
    import numpy as np


def swapped_prediction_loss(
    scores: Sequence[Tensor | np.ndarray] | Tensor | np.ndarray,
    codes: Sequence[Tensor | np.ndarray] | Tensor | np.ndarray,
    temperature: float = 0.1,
    code_crops: Sequence[int] = (0, 1),
) -> Tensor:
    """Predict the code of each code crop from the scores of every other crop.

    The loss is the mean over code crops c, crops v != c and samples of -sum_k codes_c log softmax(scores_v /
    temperature).

    Args:
        scores: V >= 2 crops of (B, K), any float dtype.
        codes: (B, K) codes of the crops in `code_crops`. They get no gradient.
        temperature: Softmax temperature in score units, > 0.
        code_crops: For each of `codes`, the index of its crop in `scores`.

    Returns:
        Scalar, float32, the mean over this rank's samples.

    Raises:
        ValueError: Shapes differ, `code_crops` does not match `codes`, or the temperature is not positive.

    Example:
        ```python
        loss = swapped_prediction_loss(scores, [sinkhorn_knopp(scores[c]) for c in (0, 1)])
        ```
    """
    crops, targets = [as_tensor(part) for part in scores], [as_tensor(part) for part in codes]
    shape = crops[0].shape if crops else ()
    if len(crops) < 2 or len(shape) != 2 or any(part.shape != shape for part in (*crops, *targets)):
        raise ValueError(
            f"expected two or more scores and their codes, all of one shape (B, K), got scores "
            f"{[tuple(part.shape) for part in crops]} and codes {[tuple(part.shape) for part in targets]}"
        )
    known = set(range(len(crops)))
    if not targets or len(targets) != len(code_crops) or len(set(code_crops) & known) != len(targets):
        raise ValueError(
            f"code_crops must name the crop of each code, distinct and in [0, {len(crops)}), "
            f"got {list(code_crops)} for {len(targets)} codes"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}: SwAV uses 0.1")
    # Cross-entropy is linear in its target, so a crop that predicts several codes needs one log-softmax, against their
    # sum. All crops are computed together, because launching a GPU kernel costs more than this arithmetic.
    targets = [target.detach().float() for target in targets]
    all_targets = _sum(targets)
    predicted, predicting = [], []
    for v, crop in enumerate(crops):
        others = [target for c, target in zip(code_crops, targets, strict=True) if c != v]
        if others:
            predicted.append(_sum(others) if len(others) < len(targets) else all_targets)
            predicting.append(crop.float())
    logits = torch.stack(predicting) / temperature  # (V, B, K)
    total = -(torch.stack(predicted) * logits.log_softmax(-1)).sum()
    return total / (shape[0] * len(targets) * (len(crops) - 1))


def _sum(codes: list[Tensor]) -> Tensor:
    return codes[0] if len(codes) == 1 else torch.stack(codes).sum(0)
