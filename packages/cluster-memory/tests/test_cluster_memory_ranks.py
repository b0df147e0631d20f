"""k-means and ODC's memories on several gloo ranks give the result of one process on all data."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cluster_memory import KMeans, NotFinite, OnlineClusters


def data() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(401, 6, generator=g) + 3 * torch.randint(-1, 2, (401, 6), generator=g)
    x[:30] = x[0].clone()  # duplicates, so that random rows coincide and clusters start empty
    return x


CASES = [("euclidean", "random"), ("cosine", "random"), ("euclidean", "k-means++"), ("cosine", "k-means++")]


def fit(x: torch.Tensor, group: dist.ProcessGroup | None) -> list[dict[str, object]]:
    results = [KMeans(60, metric, n_iters=6, init=init, seed=2, group=group).fit(x) for metric, init in CASES]
    start = x.new_ones(12, 6)
    results.append(KMeans(12, n_iters=3, init=start, group=group).fit(x))  # all but one cluster empty
    results.append(KMeans(12, n_iters=0, init=start, group=group).fit(x))
    return [{name: value for name, value in vars(result).items() if name.endswith("_")} for result in results]


def online(group: dist.ProcessGroup | None, rank: int | None) -> dict[str, torch.Tensor]:
    x = data()
    memory = OnlineClusters(401, 6, 10, min_cluster=10, group=group)
    memory.initialise(x, torch.arange(401) % 10)
    g = torch.Generator().manual_seed(1)
    for step in range(60):
        indices, features = torch.randint(0, 401, (24,), generator=g), torch.randn(24, 6, generator=g) + x[step]
        mine = slice(None) if rank is None else (slice(0, 10), slice(10, 24))[rank]
        memory.update(indices[mine], features[mine])
        if step % 10 == 9:
            memory.update_centroids()
        memory.split_small_clusters()
    return memory.state_dict()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = dist.group.WORLD
    part = (slice(0, 170), slice(170, 401))[rank]
    x = data()
    torch.save({"kmeans": fit(x[part], group), "online": online(group, rank)}, f"{folder}/{rank}.pt")
    x[200, 2] = torch.nan
    with pytest.raises(NotFinite, match=r"\[200\]"):
        KMeans(5, group=group).fit(x[part])
    with pytest.raises(ValueError, match="use k <= 401"):
        KMeans(500, group=group).fit(data()[part])
    dist.destroy_process_group()


PARTS = [slice(0, 170), slice(170, 170), slice(170, 401)]  # one rank of three has no row at all


def kmeans_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    torch.save(fit(data()[PARTS[rank]], dist.group.WORLD), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_three_uneven_ranks_equal_one(tmp_path: Path) -> None:
    mp.start_processes(kmeans_worker, args=(str(tmp_path),), nprocs=3, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for one, *parts in zip(fit(data(), None), *ranks, strict=True):
        assert [len(part["assignments_"]) for part in parts] == [170, 0, 231]
        assert torch.equal(torch.cat([part["assignments_"] for part in parts]), one["assignments_"])
        for part in parts:
            assert torch.equal(part["centroids_"], parts[0]["centroids_"])
            torch.testing.assert_close(part["centroids_"], one["centroids_"])
            torch.testing.assert_close(part["counts_"], one["counts_"])
            assert part["inertia_"] == pytest.approx(one["inertia_"], rel=1e-6)
            assert (part["n_iters_"], part["n_repaired_"]) == (one["n_iters_"], one["n_repaired_"])


@pytest.mark.slow  # three ranks are tested daily
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for one, first, second in zip(fit(data(), None), ranks[0]["kmeans"], ranks[1]["kmeans"], strict=True):
        together = torch.cat([first["assignments_"], second["assignments_"]])
        assert torch.equal(together, one["assignments_"])
        assert torch.equal(first["centroids_"], second["centroids_"])
        torch.testing.assert_close(first["centroids_"], one["centroids_"])
        torch.testing.assert_close(first["counts_"], one["counts_"])
        assert first["inertia_"] == pytest.approx(one["inertia_"], rel=1e-6)
        assert first["n_repaired_"] == one["n_repaired_"]
    for name, value in online(None, None).items():
        assert torch.equal(ranks[0]["online"][name], ranks[1]["online"][name]), name
        torch.testing.assert_close(ranks[0]["online"][name], value)
