"""KNNProbe against a naive float64 loop and scikit-learn."""

import numpy as np
import pytest
import torch
from eval_probes import KNNProbe, nearest_neighbours
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

T = 0.07


def clusters(n: int, d: int, n_classes: int, seed: int, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, d, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, n_classes, (n,), generator=g)
    return centres[y] + noise * torch.randn(n, d, generator=g), y


def naive_scores(x: Tensor, y: Tensor, q: Tensor, k: int, classes: list[int], skip: int = -1) -> list[float]:
    """Sum the votes of the k nearest neighbours of one query in float64, by the definition."""
    sims = []
    for i, row in enumerate(x.double()):
        norms = row.norm().clamp(min=1e-12) * q.double().norm().clamp(min=1e-12)
        if i != skip:
            sims.append((-float(row @ q.double() / norms), i))
    votes = dict.fromkeys(classes, 0.0)
    for negative, i in sorted(sims)[:k]:
        votes[int(y[i])] += np.exp(-negative / T)
    return [votes[c] for c in classes]


def naive_accuracy(scores: list[list[float]], classes: list[int], truth: Tensor, n: int) -> float:
    hits = 0
    for row, label in zip(scores, truth.tolist(), strict=True):
        best = sorted(range(len(classes)), key=lambda c: -row[c])[:n]  # stable: ties go to the smaller class
        hits += label in [classes[c] for c in best]
    return hits / len(truth)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 60),
    m=st.integers(1, 12),
    d=st.integers(2, 12),
    n_classes=st.integers(1, 9),
    ks=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_equal_to_the_naive_loop(n: int, m: int, d: int, n_classes: int, ks: list[int], seed: int) -> None:
    x, y = clusters(n, d, n_classes, seed)
    q, yq = clusters(m, d, n_classes, seed + 1)
    y, yq = y * 7 - 10, yq * 7 - 10  # labels are any integers
    classes = sorted(set(y.tolist()))
    probe = KNNProbe(k=ks).fit(x, y)
    scored = probe.evaluate(q, yq)
    assert set(scored) == {f"k={k}" for k in ks}
    for k in ks:
        scores = [naive_scores(x, y, row, k, classes) for row in q]
        assert probe.predict(q, k=k).tolist() == [classes[int(np.argmax(row))] for row in scores]
        assert scored[f"k={k}"] == {f"top{t}": naive_accuracy(scores, classes, yq, t) for t in (1, 5)}
    assert probe.score(q, yq) == scored[f"k={ks[0]}"]["top1"]


def test_equal_to_scikit_learn_over_many_blocks(small_blocks: None) -> None:
    x, y = clusters(3000, 24, 12, 0)
    q, yq = clusters(400, 24, 12, 1)
    probe = KNNProbe().fit(x, y)
    scored = probe.evaluate(q, yq)
    for k in (10, 20, 100, 200):
        oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / T))
        oracle.fit(x.double().numpy(), y.numpy())
        predicted = oracle.predict(q.double().numpy())
        assert probe.predict(q, k=k).tolist() == predicted.tolist()
        assert scored[f"k={k}"]["top1"] == np.mean(predicted == yq.numpy())
        top5 = np.argsort(-oracle.predict_proba(q.double().numpy()), axis=1, kind="stable")[:, :5]
        assert scored[f"k={k}"]["top5"] == np.mean((top5 == yq.numpy()[:, None]).any(1))


def test_leave_one_out(small_blocks: None) -> None:
    x, y = clusters(90, 6, 7, 3)
    classes = sorted(set(y.tolist()))
    scored = KNNProbe(k=(1, 5, 500)).fit(x, y).evaluate_leave_one_out()
    for k in (1, 5, 500):
        scores = [naive_scores(x, y, row, k, classes, skip=i) for i, row in enumerate(x)]
        assert scored[f"k={k}"] == {f"top{t}": naive_accuracy(scores, classes, y, t) for t in (1, 5)}


def test_leave_one_out_skips_itself_not_its_twin() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert KNNProbe(k=1).fit(x, torch.tensor([0, 0, 1, 1])).evaluate_leave_one_out()["k=1"]["top1"] == 1
    assert KNNProbe(k=1).fit(x, torch.tensor([0, 1, 2, 3])).evaluate_leave_one_out()["k=1"]["top1"] == 0


def test_equal_votes_go_to_the_smaller_class() -> None:
    x = torch.tensor([[1.0, 0.0]] * 4)
    probe = KNNProbe(k=4).fit(x, torch.tensor([9, 3, 9, 3]))
    assert probe.predict(x[:1]).tolist() == [3]


def test_top5_is_a_rank_among_all_classes() -> None:
    x = torch.eye(7)
    probe = KNNProbe(k=7).fit(x, torch.arange(7))
    # query 0 is nearest to class 0; the other six tie, and classes 1 to 4 come before 5 and 6
    scored = probe.evaluate(torch.eye(7)[[0, 0, 0]], torch.tensor([0, 4, 5]))
    assert scored["k=7"] == {"top1": 1 / 3, "top5": 2 / 3}


def test_label_unknown_to_the_train_set_is_never_right() -> None:
    probe = KNNProbe(k=2).fit(torch.eye(3), torch.tensor([1, 5, 9]))
    assert probe.evaluate(torch.eye(3), torch.tensor([0, 5, 99])) == {"k=2": {"top1": 1 / 3, "top5": 1 / 3}}


@pytest.mark.parametrize("temperature", [1e-4, 1e-2, 10.0])
def test_votes_stay_finite(temperature: float) -> None:
    x, y = clusters(50, 5, 3, 0)
    assert KNNProbe(k=50, temperature=temperature).fit(x, y).predict(x[:3]).tolist()[0] in y.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_and_surrounding_autocast(dtype: torch.dtype) -> None:
    x, y = clusters(200, 16, 5, 0)
    x = x.to(dtype)
    probe = KNNProbe(k=20).fit(x, y)
    expected = KNNProbe(k=20).fit(x.float(), y).predict(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probe.predict(x), expected)


def test_rescaling_rows_changes_nothing() -> None:
    x, y = clusters(100, 8, 4, 0)
    q, _ = clusters(30, 8, 4, 1)
    scale = torch.rand(100, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.equal(KNNProbe(5).fit(x, y).predict(q), KNNProbe(5).fit(x * scale, y).predict(3 * q))


def test_memory_map(tmp_path) -> None:  # type: ignore[no-untyped-def]
    x, y = clusters(500, 8, 4, 0)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(500, 8))
    mapped[:] = x.numpy()
    probe = KNNProbe(5).fit(torch.from_numpy(mapped), y)
    assert torch.equal(probe.predict(x), KNNProbe(5).fit(x, y).predict(x))


def test_errors() -> None:
    x, y = torch.eye(3), torch.arange(3)
    probe = KNNProbe(1).fit(x, y)
    with pytest.raises(ValueError, match="fit"):
        KNNProbe().predict(x)
    with pytest.raises(ValueError, match="no rows"):
        probe.predict(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="D must be equal"):
        probe.predict(torch.eye(4))
    with pytest.raises(ValueError, match="one per row"):
        probe.score(x, y[:2])
    with pytest.raises(ValueError, match="one per row"):
        KNNProbe().fit(x, y.float())
    with pytest.raises(ValueError, match="at least 2"):
        KNNProbe(1).fit(x[:1], y[:1]).evaluate_leave_one_out()
    with pytest.raises(ValueError, match=">= 1"):
        KNNProbe(k=(5, 0)).fit(x, y)
    with pytest.raises(ValueError, match="k must be at least 1"):
        probe.predict(x, k=0)
    with pytest.raises(ValueError, match="temperature"):
        KNNProbe(temperature=0).fit(x, y)
    bad = torch.zeros(9, 3)
    bad[4, 1], bad[7, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"x has 2 rows with NaN or infinity, the first at \[4, 7\]"):
        KNNProbe().fit(bad, torch.zeros(9, dtype=torch.int64))


def test_neighbours_match_a_stable_sort(small_blocks: None) -> None:
    """With duplicated rows and zero rows, equal cosines are ordered by index, for all block sizes."""
    g = torch.Generator().manual_seed(0)
    bank = torch.randint(-1, 2, (700, 3), generator=g).float()  # at most 27 different rows
    queries = torch.randint(-1, 2, (90, 3), generator=g).float()
    unit = torch.nn.functional.normalize
    expected = (unit(queries, dim=1) @ unit(bank, dim=1).T).sort(dim=1, descending=True, stable=True)
    for k in (1, 10, 300, 900):
        indices, similarity = nearest_neighbours(queries, bank, k)
        assert torch.equal(similarity, expected.values[:, :k])
        assert torch.equal(indices, expected.indices[:, :k])


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_neighbours_in_a_sorted_bank(order: str, small_blocks: None) -> None:
    angles = torch.linspace(0, 3, 1000)
    bank = torch.stack([angles.cos(), angles.sin()], 1)
    bank = bank if order == "falling" else bank.flip(0)
    indices, _ = nearest_neighbours(torch.tensor([[1.0, 0.0]]), bank, 5)
    assert indices.tolist() == [[0, 1, 2, 3, 4] if order == "falling" else [999, 998, 997, 996, 995]]


def test_hits_are_what_the_score_is_the_mean_of() -> None:
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(40, 6, generator=g), torch.randint(0, 5, (40,), generator=g)
    q, t = torch.randn(30, 6, generator=g), torch.randint(0, 7, (30,), generator=g)  # classes 5, 6: never right
    probe = KNNProbe((1, 7)).fit(x, y)
    for k, hits in ((k, probe.hits(q, t)[f"k={k}"]) for k in (1, 7)):
        assert torch.equal(hits[:, 0], probe.predict(q, k=k) == t)
        assert not (hits[:, 0] & ~hits[:, 1]).any()
        assert probe.evaluate(q, t)[f"k={k}"] == {
            "top1": int(hits[:, 0].sum()) / 30,
            "top5": int(hits[:, 1].sum()) / 30,
        }
