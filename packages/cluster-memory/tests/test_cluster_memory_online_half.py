"""Banks in float16. test_cluster_memory_online.py also compares one with its float64 loop."""

import pytest
import torch
from cluster_memory import EpochBank, KMeans, OnlineClusters


def filled(dtype: torch.dtype, seed: int = 0) -> OnlineClusters:
    g = torch.Generator().manual_seed(seed)
    memory = OnlineClusters(300, 16, 10, seed=1, bank_dtype=dtype)
    memory.initialise(torch.randn(300, 16, generator=g), torch.randint(0, 10, (300,), generator=g))
    return run(memory, g)


def run(memory: OnlineClusters, g: torch.Generator, steps: int = 30) -> OnlineClusters:
    for step in range(steps):
        memory.update(torch.randint(0, 300, (20,), generator=g), torch.randn(20, 16, generator=g))
        if step % 10 == 9:
            memory.update_centroids()
        memory.split_small_clusters()
    return memory


def sums_of_the_bank(memory: OnlineClusters) -> torch.Tensor:
    return torch.zeros_like(memory.sums).index_add_(0, memory.assignments, memory.bank.double())


def test_half_the_bytes_and_all_arithmetic_in_float32() -> None:
    memory = filled(torch.float16)
    assert memory.bank.dtype == torch.float16
    assert memory.bank.nbytes * 2 == filled(torch.float32).bank.nbytes
    assert memory.centroids.dtype == memory.loss_weights().dtype == torch.float32
    assert memory.sums.dtype == torch.float64
    assert ((memory.bank.double().norm(dim=1) - 1).abs() < 2**-11).all()
    # the rows subtracted from a sum are the rounded rows that were added, so no rounding error stays
    torch.testing.assert_close(memory.sums, sums_of_the_bank(memory), atol=1e-12, rtol=0)


@pytest.mark.parametrize("source", [torch.float16, torch.float32])
@pytest.mark.parametrize("target", [torch.float16, torch.float32])
def test_a_checkpoint_fits_any_bank(source: torch.dtype, target: torch.dtype) -> None:
    memory, copy = filled(source), OnlineClusters(300, 16, 10, seed=1, bank_dtype=target)
    saved = {name: value.clone() for name, value in memory.state_dict().items()}
    assert saved["bank"].dtype == source
    copy.load_state_dict(saved)
    assert copy.bank.dtype == target
    assert torch.equal(copy.bank, saved["bank"].to(target))
    assert torch.equal(copy.assignments, saved["assignments"])
    assert torch.equal(copy.centroids, saved["centroids"])
    torch.testing.assert_close(copy.sums, sums_of_the_bank(copy), atol=1e-12, rtol=0)
    again = run(copy, torch.Generator().manual_seed(9)).state_dict()
    if source == target:
        for name, value in run(memory, torch.Generator().manual_seed(9)).state_dict().items():
            assert torch.equal(value, again[name]), name
    torch.testing.assert_close(copy.sums, sums_of_the_bank(copy), atol=1e-12, rtol=0)


def test_an_epoch_bank_in_float16_clusters_its_rounded_rows() -> None:
    z = torch.nn.functional.normalize(torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    half, whole = EpochBank(60, 8, 2, bank_dtype=torch.float16), EpochBank(60, 8, 2)
    for bank in (half, whole):
        bank.write(torch.arange(60), z)
    assert half.bank.nbytes * 2 == whole.bank.nbytes
    assert torch.equal(half.bank, z.half())
    start = z[:1, :4]
    found, centroids = half.cluster(4, 1, seed=0, epoch=0, warm_start=start)
    expected = KMeans(4, "cosine", 10, init=start[0], empty="keep").fit(z[0].half())
    assert torch.equal(found[0], expected.assignments_)
    assert torch.equal(centroids[0], expected.centroids_)
    whole.load_state_dict(half.state_dict())
    assert whole.bank.dtype == torch.float32
    assert torch.equal(whole.bank, half.bank.float())


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float16, got torch\.bfloat16"):
        OnlineClusters(5, 2, 2, bank_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.float16, got torch\.int8"):
        EpochBank(5, 2, 2, bank_dtype=torch.int8)
