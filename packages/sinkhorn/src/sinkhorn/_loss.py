"""Swapped prediction: the code of one crop from the scores of another (Caron et al. 2020, arXiv:2006.09882, eq. 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def swapped_prediction_loss(
    scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float = 0.1, code_crops: Sequence[int] = (0, 1)
) -> Tensor:
    """Mean over code crops c, crops v != c, and samples, of -sum_k codes_c log softmax(scores_v / temperature).

    scores: V >= 2 crops of (B, K), any float dtype. codes: (B, K), of the crops whose indices are `code_crops`; they
    get no gradient. temperature: in score units, > 0. Returns a float32 scalar, the mean over this rank's samples."""
    shape = scores[0].shape if len(scores) else ()
    if len(scores) < 2 or len(shape) != 2 or any(part.shape != shape for part in (*scores, *codes)):
        raise ValueError(
            f"expected two or more scores and their codes, all of one shape (B, K), got scores "
            f"{[tuple(part.shape) for part in scores]} and codes {[tuple(part.shape) for part in codes]}"
        )
    known = set(range(len(scores)))
    if not len(codes) or len(codes) != len(code_crops) or len(set(code_crops) & known) != len(codes):
        raise ValueError(
            f"code_crops must name the crop of each code, distinct and in [0, {len(scores)}), "
            f"got {list(code_crops)} for {len(codes)} codes"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}: SwAV uses 0.1")
    # Cross-entropy is linear in its target, so one log-softmax serves all codes that a crop predicts; all crops go
    # together, since a launch on a GPU costs more than its arithmetic.
    codes = [code.detach().float() for code in codes]
    all_codes = _sum(codes)
    targets, predicting = [], []
    for v, crop in enumerate(scores):
        others = [code for c, code in zip(code_crops, codes, strict=True) if c != v]
        if others:
            targets.append(_sum(others) if len(others) < len(codes) else all_codes)
            predicting.append(crop.float())
    logits = torch.stack(predicting) / temperature  # (V, B, K)
    total = -(torch.stack(targets) * logits.log_softmax(-1)).sum()
    return total / (shape[0] * len(codes) * (len(scores) - 1))


def _sum(codes: list[Tensor]) -> Tensor:
    return codes[0] if len(codes) == 1 else torch.stack(codes).sum(0)
