"""Codes equal the authors' loop in float64, for any dtype, shape, epsilon and size of scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sinkhorn import NotFinite, sinkhorn_knopp
from torch import Tensor


def oracle(scores: Tensor, epsilon: float = 0.05, n_iters: int = 3) -> Tensor:
    """The loop of main_swav.py on logarithms: Q (K, n) is divided by row sums, K, column sums and n in turn."""
    log_q = (scores.double() / epsilon).T
    k, n = log_q.shape
    log_q = log_q - log_q.flatten().logsumexp(0)
    for _ in range(n_iters):
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
        log_q = log_q - torch.tensor(k).double().log()
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - torch.tensor(n).double().log()
    return (log_q + torch.tensor(n).double().log()).exp().T


def cosines(n: int, k: int, seed: int = 0, dim: int = 8) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z, c = torch.randn(n, dim, generator=g), torch.randn(k, dim, generator=g)
    return torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(c).T


def assert_codes(scores: Tensor, epsilon: float, n_iters: int = 3) -> None:
    codes = sinkhorn_knopp(scores, epsilon=epsilon, n_iters=n_iters)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), oracle(scores, epsilon, n_iters), atol=1e-6, rtol=0)
    torch.testing.assert_close(codes.sum(1), torch.ones(len(scores)), atol=1e-6, rtol=0)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@settings(max_examples=250, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    epsilon=st.floats(1e-3, 1),
    n_iters=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
    spread=st.floats(0, 1),
    offsets=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_codes_equal_the_loop(
    shape: tuple[int, int],
    epsilon: float,
    n_iters: int,
    dtype: torch.dtype,
    seed: int,
    spread: float,
    offsets: tuple[float, float],
) -> None:
    """Scores in [-1, 1] with rows and columns of high or low level: the plain and the shifted computation."""
    g = torch.Generator().manual_seed(seed)
    n, k = shape
    uniform = lambda *size: 2 * torch.rand(*size, generator=g) - 1  # noqa: E731
    scores = spread * uniform(n, k) + offsets[0] * uniform(n, 1) + offsets[1] * uniform(k)
    assert_codes(scores.clamp(-1, 1).to(dtype), epsilon, n_iters)


def test_self_check_values() -> None:
    scores = torch.tensor([[0.9, 0.1, 0], [0.8, 0.3, 0.1], [0.7, 0.2, 0.6], [0.1, 0, 0.9]])
    expected = [[0.9901, 0.0099, 0], [0.1992, 0.8008, 0], [0.1902, 0.7645, 0.0453], [0, 0.0008, 0.9992]]
    codes = sinkhorn_knopp(scores)
    torch.testing.assert_close(codes, torch.tensor(expected), atol=6e-5, rtol=0)
    torch.testing.assert_close(codes.sum(0), torch.tensor([1.38, 1.58, 1.04]), atol=6e-3, rtol=0)


@pytest.mark.parametrize("epsilon", [0.001, 0.01, 0.02777, 0.028, 0.05, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "scores",
    [
        torch.zeros(7, 5),  # ties
        torch.ones(7, 5),
        cosines(9, 1),  # one column
        cosines(1, 9),  # one row
        cosines(1, 30).expand(40, 30),  # collapsed: all rows equal
        cosines(40, 30) / 10 + 0.9 * torch.eye(30)[0],  # one prototype takes all
        torch.tensor([1.0, -1.0, -1.0])[:, None] * torch.ones(3, 4),  # rows far below the highest
        torch.where(torch.eye(12) > 0, 1.0, -1.0),
    ],
    ids=["zeros", "ones", "one column", "one row", "collapsed", "dominated", "low rows", "extremes"],
)
def test_limits(scores: Tensor, dtype: torch.dtype, epsilon: float) -> None:
    assert_codes(scores.to(dtype), epsilon)
    assert_codes(scores.to(dtype), epsilon, n_iters=200)


def test_several_blocks() -> None:
    assert_codes(cosines(1300, 70), 0.05)
    assert_codes(cosines(1300, 70), 0.01)
    assert_codes(cosines(300, 2100), 0.05)


@pytest.mark.parametrize("size", [1e3, 1e20, 3e38])
def test_scores_need_not_be_cosines(size: float) -> None:
    scores = (cosines(30, 20).clamp(-1, 1) * size).float()
    codes = sinkhorn_knopp(scores)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(30))
    shifted = cosines(30, 20) + 1024
    torch.testing.assert_close(sinkhorn_knopp(shifted).double(), oracle(shifted), atol=1e-6, rtol=0)


def test_many_iterations_use_prototypes_equally() -> None:
    for epsilon in (0.05, 0.02):
        codes = sinkhorn_knopp(cosines(60, 12), epsilon=epsilon, n_iters=1000)
        torch.testing.assert_close(codes.sum(0), torch.full((12,), 5.0), atol=1e-3, rtol=0)


def test_invariances() -> None:
    scores = cosines(30, 20)
    codes = sinkhorn_knopp(scores)
    rows, columns = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (30, 20))
    torch.testing.assert_close(sinkhorn_knopp(scores[rows][:, columns]), codes[rows][:, columns], atol=1e-6, rtol=0)
    # column normalisation comes first: it cancels a prototype's offset, but not a sample's offset
    torch.testing.assert_close(sinkhorn_knopp(scores + torch.linspace(-0.4, 0.4, 20)), codes, atol=2e-6, rtol=0)
    assert (sinkhorn_knopp(scores + torch.linspace(-0.4, 0.4, 30)[:, None]) - codes).abs().max() > 0.01


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
@pytest.mark.parametrize("n_extra", [0, 1, 700])
def test_extra_scores_count_but_get_no_codes(n_extra: int, epsilon: float) -> None:
    scores, extra = cosines(24, 16), cosines(n_extra, 16, seed=1)
    codes = sinkhorn_knopp(scores, extra=extra, epsilon=epsilon)
    expected = oracle(torch.cat([extra, scores]), epsilon)[-24:]  # queue first, as the authors have it
    torch.testing.assert_close(codes.double(), expected, atol=1e-6, rtol=0)


def test_no_gradient_nothing_changed_and_any_layout() -> None:
    scores = cosines(30, 20).requires_grad_()
    before = scores.detach().clone()
    for epsilon in (0.05, 0.01):
        codes = sinkhorn_knopp(scores, extra=scores, epsilon=epsilon)
        assert not codes.requires_grad
        assert torch.equal(codes, sinkhorn_knopp(before.T.contiguous().T, extra=before, epsilon=epsilon))
    assert torch.equal(scores, before)


def test_float32_inside_autocast() -> None:
    scores = cosines(64, 50)
    with torch.autocast("cpu", torch.bfloat16):
        assert_codes(scores, 0.05)
        assert_codes(scores, 0.01)


def test_errors_name_what_is_wrong() -> None:
    scores = cosines(30, 20)
    scores[3, 4], scores[17, 0] = torch.nan, -torch.inf
    with pytest.raises(NotFinite, match=r"rows \[3, 17\] of scores"):
        sinkhorn_knopp(scores)
    with pytest.raises(NotFinite, match=r"infinity in rows \[3, 17\] of extra"):
        sinkhorn_knopp(cosines(5, 20), extra=scores)
    for wrong in (torch.zeros(3), torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match=r"scores must be a float \(B, K\)"):
            sinkhorn_knopp(wrong)
    with pytest.raises(ValueError, match="empty"):
        sinkhorn_knopp(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="columns and device"):
        sinkhorn_knopp(torch.zeros(3, 4), extra=torch.zeros(3, 5))
    for epsilon in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="epsilon"):
            sinkhorn_knopp(torch.zeros(3, 4), epsilon=epsilon)
    with pytest.raises(ValueError, match="n_iters"):
        sinkhorn_knopp(torch.zeros(3, 4), n_iters=0)


def test_numpy_scores_give_the_same_codes() -> None:
    np = pytest.importorskip("numpy")
    scores, extra = cosines(30, 20), cosines(7, 20, seed=1)
    for dtype in (torch.float16, torch.float32, torch.float64):
        found = sinkhorn_knopp(scores.to(dtype).numpy(), extra=extra.to(dtype).numpy(), epsilon=0.01)
        assert torch.equal(found, sinkhorn_knopp(scores.to(dtype), extra=extra.to(dtype), epsilon=0.01))
    array = scores.numpy().copy()
    array.flags.writeable = False
    assert torch.equal(sinkhorn_knopp(array), sinkhorn_knopp(scores))
    assert torch.equal(sinkhorn_knopp(array[::-1]), sinkhorn_knopp(scores.flip(0)))
    with pytest.raises(ValueError, match=r"scores must be a float \(B, K\)"):
        sinkhorn_knopp(np.ones((3, 4), np.int64))
    with pytest.raises(NotFinite, match=r"rows \[1\] of scores"):
        sinkhorn_knopp(np.array([[0.0, 1.0], [np.nan, 0.0]]))
