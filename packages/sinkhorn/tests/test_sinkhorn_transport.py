"""optimal_transport equals a loop over the formula, one number at a time, in float64; its options do what they say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sinkhorn import NotFinite, optimal_transport, sinkhorn_knopp
from torch import Tensor

INF = math.inf


def log_sum(terms: list[float]) -> float:
    high = max(terms)
    return high if high == -INF else high + math.log(sum(math.exp(t - high) for t in terms))


def log(value: float) -> float:
    return math.log(value) if value else -INF


def oracle(
    scores: Tensor,
    epsilon: float,
    n_iters: int,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    rho: float = INF,
) -> Tensor:
    """u = (b / (kernel^T v))^(rho / (rho + epsilon)), v = a / (kernel u), on logarithms (Chizat et al. 2018)."""
    log_kernel = (scores.double() / epsilon).tolist()
    n, k = scores.shape
    log_a = [log(float(a)) for a in (torch.ones(n) if rows is None else rows)]
    log_b = [log(float(b)) for b in (torch.ones(k) if columns is None else columns)]
    exponent = 1 if rho == INF else rho / (rho + epsilon)
    log_v = log_a
    log_u: list[float] | None = None
    for _ in range(n_iters):
        if log_u is not None:
            log_v = [log_a[i] - log_sum([log_kernel[i][j] + log_u[j] for j in range(k)]) for i in range(n)]
        masses = [log_sum([log_kernel[i][j] + log_v[i] for i in range(n)]) for j in range(k)]
        log_u = [-INF if b == -INF else exponent * (b - mass) for b, mass in zip(log_b, masses, strict=True)]
    assert log_u is not None
    return (torch.tensor(log_kernel, dtype=torch.float64) + torch.tensor(log_u, dtype=torch.float64)).softmax(1)


def uniform(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def cosines(n: int, k: int, seed: int = 0, dim: int = 8) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z, c = torch.randn(n, dim, generator=g), torch.randn(k, dim, generator=g)
    return torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(c).T


def with_zeros(n: int, seed: int) -> Tensor:
    marginals = uniform(n, seed=seed)
    return torch.where(marginals < 0.3, 0, marginals) if marginals.max() >= 0.3 else marginals


def assert_equal(codes: Tensor, expected: Tensor) -> None:
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), expected, atol=1e-6, rtol=0)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    epsilon=st.sampled_from([1.0, 0.05, 0.028, 0.01, 0.001]),
    n_iters=st.integers(1, 6),
    rho=st.sampled_from([INF, 10.0, 0.1, 0.001]),
    seed=st.integers(0, 10**6),
    given_rows=st.booleans(),
    given_columns=st.booleans(),
)
def test_codes_equal_the_loop(
    shape: tuple[int, int],
    epsilon: float,
    n_iters: int,
    rho: float,
    seed: int,
    given_rows: bool,
    given_columns: bool,
) -> None:
    n, k = shape
    scores = 2 * uniform(n, k, seed=seed) - 1
    rows = with_zeros(n, seed + 1) if given_rows else None
    columns = with_zeros(k, seed + 2).double() if given_columns else None
    found = optimal_transport(
        scores,
        epsilon=epsilon,
        n_iters=n_iters,
        row_marginals=rows,
        column_marginals=columns,
        rho=rho,
    )
    assert_equal(found.codes, oracle(scores, epsilon, n_iters, rows, columns, rho))
    assert found.n_iters == n_iters
    assert found.log_scales.max() == 0


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_defaults_are_sinkhorn_knopp(epsilon: float) -> None:
    scores, extra = cosines(40, 30), cosines(25, 30, seed=1)
    expected = sinkhorn_knopp(scores, epsilon=epsilon, extra=extra)
    assert torch.equal(optimal_transport(scores, epsilon=epsilon, extra=extra).codes, expected)
    equal = optimal_transport(scores, epsilon=epsilon, extra=extra, row_marginals=torch.full((65,), 7))
    torch.testing.assert_close(equal.codes, expected, atol=1e-6, rtol=0)
    equal = optimal_transport(scores, epsilon=epsilon, extra=extra, column_marginals=torch.full((30,), 7))
    torch.testing.assert_close(equal.codes, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_marginals_are_kept_and_only_ratios_count(epsilon: float) -> None:
    scores, rows, columns = cosines(60, 12), uniform(60, seed=1), uniform(12, seed=2)
    columns[3] = 0
    found = optimal_transport(
        scores, epsilon=epsilon, n_iters=3000, row_marginals=rows, column_marginals=columns, tolerance=1e-5
    )
    use = (rows[:, None] * found.codes).sum(0) / rows.sum()
    torch.testing.assert_close(use, columns / columns.sum(), atol=1e-5, rtol=1e-4)
    assert found.codes[:, 3].max() == 0
    scaled = optimal_transport(
        scores, epsilon=epsilon, n_iters=5, row_marginals=rows.double() * 1e40, column_marginals=columns * 1e-9
    )
    plain = optimal_transport(scores, epsilon=epsilon, n_iters=5, row_marginals=rows, column_marginals=columns)
    torch.testing.assert_close(scaled.codes, plain.codes, atol=1e-6, rtol=0)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_row_weights_count_like_repeated_rows(epsilon: float) -> None:
    scores, counts = cosines(12, 6), torch.tensor([1, 2, 0, 3, 1, 0, 1, 1, 2, 1, 0, 1])
    weighed = optimal_transport(scores, epsilon=epsilon, row_marginals=counts)
    repeated = optimal_transport(scores.repeat_interleave(counts, 0), epsilon=epsilon)
    expected = (scores.double() / epsilon + repeated.log_scales).softmax(1)
    torch.testing.assert_close(weighed.codes.double(), expected, atol=1e-6, rtol=0)
    as_extra = optimal_transport(
        scores[:5], extra=scores[5:], epsilon=epsilon, row_marginals=counts, column_marginals=torch.arange(1, 7)
    )
    together = optimal_transport(scores, epsilon=epsilon, row_marginals=counts, column_marginals=torch.arange(1, 7))
    torch.testing.assert_close(as_extra.codes, together.codes[:5], atol=1e-6, rtol=0)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_rho_between_softmax_and_exact_columns(epsilon: float) -> None:
    scores, columns = cosines(30, 8), uniform(8, seed=1) + 0.1
    options = {"epsilon": epsilon, "n_iters": 500, "column_marginals": columns}
    weak = optimal_transport(scores, rho=1e-9, **options)
    torch.testing.assert_close(weak.codes, (scores / epsilon).softmax(1), atol=1e-5, rtol=0)
    strong, exact = optimal_transport(scores, rho=1e6, **options), optimal_transport(scores, **options)
    torch.testing.assert_close(strong.codes, exact.codes, atol=1e-4, rtol=0)
    # the condition for the maximum, independent of the iteration: along a row,
    # scores - epsilon log Q - rho log(use / share) is constant, with use relative to all samples
    rho = 0.1
    codes = optimal_transport(scores, rho=rho, **options).codes.double()
    use = codes.sum(0) / 30
    left = scores.double() - epsilon * codes.log() - rho * (use / columns.double()).log()
    likely = codes > 1e-4  # float32 codes have few digits elsewhere
    spread = torch.where(likely, left, -INF).amax(1) - torch.where(likely, left, INF).amin(1)
    assert spread.max() < 1e-4


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
@pytest.mark.parametrize("rho", [INF, 0.2])
def test_tolerance_ends_at_the_first_codes_within_it(epsilon: float, rho: float) -> None:
    scores, columns = cosines(50, 10), uniform(10, seed=1) + 0.1
    options = {"epsilon": epsilon, "column_marginals": columns, "rho": rho}
    found = optimal_transport(scores, n_iters=2000, tolerance=0.01, **options)
    assert 1 < found.n_iters < 2000
    fixed = optimal_transport(scores, n_iters=found.n_iters, **options)
    assert torch.equal(found.codes, fixed.codes)
    if rho == INF:
        over = [
            (optimal_transport(scores, n_iters=n, **options).codes.sum(0) / columns).log()
            for n in (found.n_iters - 1, found.n_iters)
        ]
        assert over[0].max() - over[0].min() > 0.01
        assert over[1].max() - over[1].min() <= 0.01
        torch.testing.assert_close(found.codes.sum(0) / 50, columns / columns.sum(), rtol=0.01, atol=0)
    limited = optimal_transport(scores, n_iters=2, tolerance=1e-12, **options)
    assert limited.n_iters == 2
    assert torch.equal(limited.codes, optimal_transport(scores, n_iters=2, **options).codes)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
@pytest.mark.parametrize("rho", [INF, 0.2])
def test_log_scales_give_the_codes_again(epsilon: float, rho: float) -> None:
    scores, columns = cosines(50, 10), uniform(10, seed=1)
    columns[4] = 0
    found = optimal_transport(scores, epsilon=epsilon, column_marginals=columns, rho=rho, n_iters=20)
    again = (scores.double() / epsilon + found.log_scales).softmax(1)
    torch.testing.assert_close(found.codes.double(), again, atol=1e-6, rtol=0)


def test_numpy_marginals_are_accepted() -> None:
    np = pytest.importorskip("numpy")
    scores, rows, columns = cosines(12, 6), uniform(18, seed=1), uniform(6, seed=2)
    expected = optimal_transport(scores, extra=scores[:6], row_marginals=rows, column_marginals=columns)
    found = optimal_transport(
        scores.numpy(), extra=scores[:6].numpy(), row_marginals=rows.numpy(), column_marginals=columns.numpy()
    )
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.log_scales, expected.log_scales)
    counts = np.arange(1, 7)
    by_counts = optimal_transport(scores, column_marginals=counts).codes
    assert torch.equal(by_counts, optimal_transport(scores, column_marginals=torch.arange(1, 7)).codes)


def test_errors_name_what_is_wrong() -> None:
    scores = cosines(6, 4)
    for wrong in (-1.0, math.nan, INF):
        with pytest.raises(ValueError, match=r"row_marginals must be .* rows \[2\] of this rank"):
            optimal_transport(scores, row_marginals=torch.tensor([1, 1, wrong, 1, 1, 1]))
        with pytest.raises(ValueError, match=r"column_marginals must be .* columns \[3\]"):
            optimal_transport(scores, column_marginals=torch.tensor([1, 1, 1, wrong]))
    with pytest.raises(ValueError, match=r"row_marginals .* got all 0"):
        optimal_transport(scores, row_marginals=torch.zeros(6))
    with pytest.raises(ValueError, match=r"column_marginals .* got all 0"):
        optimal_transport(scores, column_marginals=torch.zeros(4))
    with pytest.raises(ValueError, match=r"row_marginals must be real \(8,\)"):
        optimal_transport(scores, extra=scores[:2], row_marginals=torch.ones(6))
    with pytest.raises(ValueError, match=r"column_marginals must be real \(4,\)"):
        optimal_transport(scores, column_marginals=torch.ones(6))
    for rho in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="rho"):
            optimal_transport(scores, rho=rho)
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            optimal_transport(scores, tolerance=tolerance)
    with pytest.raises(ValueError, match="n_iters"):
        optimal_transport(scores, n_iters=0)
    scores[1, 1] = math.nan
    with pytest.raises(NotFinite, match=r"rows \[1\] of scores"):
        optimal_transport(scores)
