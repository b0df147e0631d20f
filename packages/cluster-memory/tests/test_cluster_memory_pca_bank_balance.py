import numpy as np
import pytest
import torch
from cluster_memory import EpochBank, KMeans, PCAWhitening, balanced_indices
from sklearn.decomposition import PCA


def features(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g) @ torch.randn(dim, dim, generator=g) + 5


def test_whitening_equals_scikit_learn_up_to_signs() -> None:
    x = features(300, 12)
    ours = PCAWhitening(5).fit(x).transform(x)
    theirs = PCA(5, whiten=True, svd_solver="full").fit_transform(x.double().numpy())
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(ours.numpy()), np.abs(theirs), atol=1e-5)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(PCAWhitening(5).fit(x.numpy()).transform(x.double()), ours)
    assert torch.equal(PCAWhitening(5).fit_transform(x.numpy()), ours)


def test_whitened_before_the_norm_has_unit_covariance() -> None:
    x = features(500, 6)
    pca = PCAWhitening(6).fit(x)
    white = ((x - pca.mean_) @ pca.components_).double()
    torch.testing.assert_close(white.T @ white / 500, torch.eye(6, dtype=torch.float64), atol=1e-4, rtol=0)


def test_whitening_names_what_is_wrong() -> None:
    flat = features(50, 3) @ torch.ones(3, 8)
    with pytest.raises(ValueError, match="use dim <= 1"):
        PCAWhitening(2).fit(flat.double().round())
    with pytest.raises(ValueError, match="use dim <= 4"):
        PCAWhitening(5).fit(features(5, 8))
    with pytest.raises(RuntimeError, match="call fit"):
        PCAWhitening(2).transform(flat)
    assert not PCAWhitening(2).fit(x := features(9, 3)).transform(x.mean(0, keepdim=True)).isnan().any()


def test_at_most_takes_what_directions_there_are() -> None:
    x = features(5, 8)  # five rows vary along four directions
    torch.testing.assert_close(PCAWhitening(6, at_most=True).fit(x).transform(x), PCAWhitening(4).fit(x).transform(x))
    assert PCAWhitening(3, at_most=True).fit(x).transform(x).shape == (5, 3)
    with pytest.raises(ValueError, match="all rows of x are the same"):
        PCAWhitening(2, at_most=True).fit(torch.ones(5, 3))


def test_balanced_draws_are_balanced() -> None:
    assignments = torch.tensor([0] * 1000 + [3] * 10 + [7] + [-100] * 50)
    drawn = balanced_indices(assignments, 300, seed=1)
    assert drawn.shape == (300,)
    sizes = torch.bincount(assignments[drawn], minlength=8)
    assert sizes.nonzero().flatten().tolist() == [0, 3, 7]
    assert sizes[[0, 3, 7]].min() >= 97  # 101 draws each, of which the last three are dropped
    from_first = drawn[assignments[drawn] == 0]
    assert len(from_first.unique()) == len(from_first)  # large clusters: without replacement
    assert len(drawn[assignments[drawn] == 3].unique()) > 5
    assert torch.equal(drawn, balanced_indices(assignments, 300, seed=1))
    assert torch.equal(drawn, balanced_indices(assignments.numpy(), 300, seed=1))
    assert not torch.equal(drawn, balanced_indices(assignments, 300, seed=2))


def test_balanced_draws_a_class_as_in_the_reference() -> None:
    """The reference draws 129 a class for 1,281,167 samples in 10,000 classes; this is a hundredth of that."""
    assignments = torch.arange(12_811) % 100
    drawn = balanced_indices(assignments, 12_811, seed=0)
    assert torch.bincount(assignments[drawn]).max() <= 129
    every = balanced_indices(torch.zeros(5, dtype=torch.int64), 5, seed=0)
    assert every.shape == (5,)
    with pytest.raises(ValueError, match="cluster first"):
        balanced_indices(torch.full((5,), -100), 5, seed=0)


def test_bank_clusters_what_this_epoch_wrote() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(2, 100, 6, generator=g), dim=2)
    bank = EpochBank(120, 6, 2)
    bank.write(torch.arange(60), z[:, :60])
    bank.write(torch.arange(60, 100), z[:, 60:])
    assignments, centroids = bank.cluster(8, 3, seed=1, epoch=0)
    assert assignments.shape == (3, 120)
    assert centroids.shape == (3, 8, 6)
    assert (assignments[:, 100:] == -100).all()
    for head, crop in ((0, 0), (1, 1), (2, 0)):
        nearest = (z[crop] @ centroids[head].T).argmax(1)
        assert torch.equal(nearest, assignments[head, :100])
    assert not torch.equal(assignments[0], assignments[2])  # the same crop, other draws
    again, _ = bank.cluster(8, 3, seed=1, epoch=0)
    assert torch.equal(again, assignments)
    assert not torch.equal(bank.cluster(8, 3, seed=1, epoch=1)[0], assignments)

    copy = EpochBank(120, 6, 2)
    copy.load_state_dict(bank.state_dict())
    for memory in (bank, copy):
        memory.write(torch.tensor([5, 110, 5, *range(20, 40)]), torch.cat([z[:, :3], z[:, 20:40]], 1))
        torch.testing.assert_close(memory.bank[:, 5], z[:, 2])
        found, _ = memory.cluster(4, 1, seed=1, epoch=2, warm_start=centroids[:1, :4])
        assert (found >= 0).sum() == 22  # only the new epoch's samples
        expected = KMeans(4, "cosine", 10, init=centroids[0, :4], empty="keep").fit(memory.bank[0, memory.written])
        assert torch.equal(found[0, memory.written], expected.assignments_)


def test_bank_takes_arrays() -> None:
    z = torch.nn.functional.normalize(torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    one, other = EpochBank(30, 4, n_crops=2), EpochBank(30, 4, n_crops=2)
    one.write(torch.arange(30), z)
    other.write(np.arange(30), z.numpy())
    start = z[:, :5]
    found = (
        one.cluster(5, 2, seed=0, epoch=0, warm_start=start),
        other.cluster(5, 2, seed=0, epoch=0, warm_start=start.numpy()),
    )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert repr(one) == "EpochBank(n_samples=30, dim=4, n_crops=2, bank_dtype=torch.float32, ranks=1)"
    with pytest.raises(TypeError, match="positional"):
        EpochBank(30, 4, 2, None)  # type: ignore[misc]


def test_bank_names_what_is_wrong() -> None:
    bank = EpochBank(10, 3, 2)
    with pytest.raises(ValueError, match="got 0"):
        bank.cluster(2, 1, seed=0, epoch=0)
    with pytest.raises(ValueError, match="expected indices"):
        bank.write(torch.arange(2), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"in \[0, 10\)"):
        bank.write(torch.tensor([10]), torch.zeros(2, 1, 3))
