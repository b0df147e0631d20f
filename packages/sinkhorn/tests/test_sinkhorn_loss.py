import math

import pytest
import torch
from sinkhorn import check_equipartition, largest_k, sinkhorn_knopp, swapped_prediction_loss
from torch import Tensor


def crops(n_crops: int, n: int = 6, k: int = 5) -> list[Tensor]:
    g = torch.Generator().manual_seed(n_crops)
    return [(2 * torch.rand(n, k, generator=g) - 1) for _ in range(n_crops)]


def oracle(scores: list[Tensor], codes: list[Tensor], temperature: float, code_crops: tuple[int, ...]) -> float:
    loss = 0.0
    for c, code in zip(code_crops, codes, strict=True):
        subloss = 0.0
        for v in range(len(scores)):
            if v == c:
                continue
            for row, q in zip(scores[v].double(), code.double(), strict=True):
                exponentials = [math.exp(float(s) / temperature) for s in row]
                terms = [float(p) * math.log(e / sum(exponentials)) for p, e in zip(q, exponentials, strict=True)]
                subloss -= sum(terms) / len(code)
        loss += subloss / (len(scores) - 1)
    return loss / len(codes)


@pytest.mark.parametrize(
    ("n_crops", "code_crops"), [(2, (0, 1)), (8, (0, 1)), (4, (2,)), (3, (2, 0, 1)), (2, (1,)), (2, (0,))]
)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_equals_the_loop(n_crops: int, code_crops: tuple[int, ...], temperature: float) -> None:
    scores = crops(n_crops)
    codes = [sinkhorn_knopp(scores[c]) for c in code_crops]
    loss = swapped_prediction_loss(scores, codes, temperature, code_crops)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(oracle(scores, codes, temperature, code_crops), rel=1e-5)
    assert swapped_prediction_loss(torch.stack(scores), torch.stack(codes), temperature, code_crops).equal(loss)


def test_uniform_scores_give_ln_k() -> None:
    codes = [sinkhorn_knopp(part) for part in crops(2)]
    assert swapped_prediction_loss([torch.zeros(6, 5)] * 4, codes).item() == pytest.approx(math.log(5), rel=1e-6)


def test_gradient_reaches_scores_and_not_codes() -> None:
    scores = [part.requires_grad_() for part in crops(3)]
    codes = [sinkhorn_knopp(part).requires_grad_() for part in scores[:2]]
    swapped_prediction_loss(scores, codes).backward()
    assert all(code.grad is None for code in codes)
    for part in scores:
        assert part.grad is not None
        assert part.grad.abs().max() > 0
    single = [part.detach().requires_grad_() for part in crops(2)]
    swapped_prediction_loss(single, codes[:1], code_crops=(0,)).backward()
    assert single[0].grad is None  # crop 0 predicts nothing, and its code has no gradient
    assert single[1].grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_scores_give_a_float32_loss(dtype: torch.dtype) -> None:
    scores = [part.to(dtype) for part in crops(3)]
    codes = [sinkhorn_knopp(part) for part in scores[:2]]
    with torch.autocast("cpu", torch.bfloat16):
        loss = swapped_prediction_loss(scores, codes)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(oracle(scores, codes, 0.1, (0, 1)), rel=1e-5)


def test_loss_names_what_is_wrong() -> None:
    scores = crops(3)
    codes = scores[:2]
    for few in ([], scores[:1]):
        with pytest.raises(ValueError, match="two or more scores"):
            swapped_prediction_loss(few, codes)
    with pytest.raises(ValueError, match="all of one shape"):
        swapped_prediction_loss([*scores, scores[0][:3]], codes)
    for wrong in ((0,), (0, 0), (0, 3), (-1, 0), (0, 1, 2)):
        with pytest.raises(ValueError, match=r"distinct and in \[0, 3\)"):
            swapped_prediction_loss(scores, codes, code_crops=wrong)
    with pytest.raises(ValueError, match="code_crops"):
        swapped_prediction_loss(scores, [], code_crops=())
    with pytest.raises(ValueError, match="temperature"):
        swapped_prediction_loss(scores, codes, temperature=0)


def test_equipartition() -> None:
    assert check_equipartition(batch=4096, queue=0, k=3000) is None
    remark = check_equipartition(batch=256, queue=3840, k=3000)  # the authors' recipe for small batches
    assert remark is not None
    assert "256 samples for 3000 prototypes" in remark
    with pytest.raises(ValueError, match=r"k <= 16 \(better 8\), a batch >= 1500, or a queue >= 1484"):
        check_equipartition(batch=16, queue=0, k=1500)
    with pytest.raises(ValueError, match=r"k <= 116 \(better 58\), a batch >= 1400, or a queue >= 1484"):
        check_equipartition(batch=16, queue=100, k=1500)
    for batch, queue, k in ((16, 0, 16), (16, 4, 20), (1, 0, 1)):
        check_equipartition(batch, queue, k)
    assert largest_k(256, 3840) == 2048
    assert largest_k(16, samples_per_prototype=4) == 4
    assert largest_k(1) == 1
    for batch, queue, k, name in ((0, 0, 1, "batch"), (1, -1, 1, "queue"), (1, 0, 0, "k")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            check_equipartition(batch, queue, k)


def test_numpy_crops_give_the_same_loss() -> None:
    pytest.importorskip("numpy")
    scores = crops(3)
    codes = [sinkhorn_knopp(part) for part in scores[:2]]
    expected = swapped_prediction_loss(scores, codes)
    assert torch.equal(swapped_prediction_loss([s.numpy() for s in scores], [c.numpy() for c in codes]), expected)
    assert torch.equal(swapped_prediction_loss(torch.stack(scores).numpy(), torch.stack(codes).numpy()), expected)
