"""kNN of 10k queries against 50k train features of 512 dimensions: ours, scikit-learn's brute force, the bare products.

    pytest benchmarks/bench_eval_probes.py --benchmark-columns=min,median,rounds

scikit-learn gets a tenth of the queries (QUERIES_SKLEARN): its cost is linear in them, so multiply its time by ten.
BENCH_DIM=2048 in the environment gives ResNet-50's width."""

import os

import numpy as np
import pytest
import torch
from eval_probes import KNNProbe
from sklearn.neighbors import KNeighborsClassifier

N_TRAIN, N_CLASSES, K, T = 50_000, 100, 200, 0.07
DIM = int(os.environ.get("BENCH_DIM", "512"))
QUERIES, QUERIES_SKLEARN = 10_000, 1_000


def clustered(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(N_CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, N_CLASSES, (n,), generator=g)
    return centres[y] + 4 * torch.randn(n, DIM, generator=g), y


@pytest.fixture(scope="module")
def train() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = clustered(N_TRAIN, 1)
    order = y.argsort(stable=True)  # by class, as an image folder lists it
    return x[order], y[order]


@pytest.fixture(scope="module")
def queries() -> tuple[torch.Tensor, torch.Tensor]:
    return clustered(QUERIES, 2)


def test_bench_ours(benchmark, train, queries) -> None:  # type: ignore[no-untyped-def]
    probe = KNNProbe(k=(10, 20, 100, K), temperature=T).fit(*train)
    benchmark.pedantic(probe.evaluate, queries, rounds=3, warmup_rounds=1)


def test_bench_bare_products(benchmark, train, queries) -> None:  # type: ignore[no-untyped-def]
    """The machine's own rate: the products alone, in one thousand queries a time, results thrown away."""

    def products() -> None:
        scores = torch.empty(1000, N_TRAIN)
        for part in queries[0].split(1000):
            torch.mm(part, train[0].T, out=scores)

    benchmark.pedantic(products, rounds=3, warmup_rounds=1)


def test_bench_sklearn_on_a_tenth_of_the_queries(benchmark, train, queries) -> None:  # type: ignore[no-untyped-def]
    oracle = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / T))
    oracle.fit(train[0].numpy(), train[1].numpy())
    x = queries[0][:QUERIES_SKLEARN].numpy()
    predicted = benchmark.pedantic(oracle.predict, (x,), rounds=3)
    ours = KNNProbe(k=K, temperature=T).fit(*train).predict(queries[0][:QUERIES_SKLEARN])
    assert np.mean(predicted == ours.numpy()) > 0.999  # both float32: a tie of two classes may fall either way
