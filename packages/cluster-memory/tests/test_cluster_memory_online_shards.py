"""A memory divided among two and three gloo ranks gives the same bits as one process that holds all samples."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cluster_memory import OnlineClusters

N, K, BATCH = 401, 12, 96
STEPS = {torch.float32: 12, torch.float16: 8}  # before a checkpoint, and half as many after it


def built(group: dist.ProcessGroup | None, dtype: torch.dtype, n: int = N, k: int = K) -> OnlineClusters:
    return OnlineClusters(n, 6, k, min_cluster=10, seed=3, group=group, bank_dtype=dtype, sharded=group is not None)


def start(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=g), torch.randint(0, max(1, k - 2), (n,), generator=g)  # two start empty


def batch(step: int, n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(step)
    centre = 2 * torch.randn(
        6, generator=torch.Generator().manual_seed(step // 5)
    )  # close together, so that other clusters become small
    indices = torch.randint(0, n, (BATCH,), generator=g)
    indices[-9:] = indices[:9].clone()  # some twice, on different ranks
    return indices, torch.randn(BATCH, 6, generator=g) + centre


def one_step(memory: OnlineClusters, step: int, mine: slice) -> int:
    indices, features = batch(step, memory.n_samples)
    memory.update(indices[mine], features[mine])
    if step % 10 == 9:
        memory.update_centroids()
    return memory.split_small_clusters()


def compare(
    sharded: OnlineClusters, alone: OnlineClusters, steps: range, mine: slice, bits: bool = True
) -> tuple[int, int]:
    """Runs steps on both memories and compares all floats in each. Returns splits, and samples in another cluster."""
    n_split = n_wrong = 0
    own = slice(sharded.owned.start, sharded.owned.stop)
    near = {"atol": 0, "rtol": 0} if bits else {}
    for step in steps:
        split = one_step(sharded, step, mine)
        assert split == one_step(alone, step, slice(None))
        n_split += split
        n_wrong += int((sharded.assignments != alone.assignments[own]).sum())
        torch.testing.assert_close(sharded.bank, alone.bank[own], **near)
        assert torch.equal(sharded.counts, alone.counts)
        for name in ("centroids", "sums"):
            torch.testing.assert_close(getattr(sharded, name), getattr(alone, name), **near)
    return n_split, n_wrong


def worker(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{size}", rank=rank, world_size=size)
    group = dist.group.WORLD
    bounds = {2: [0, 40, BATCH], 3: [0, 0, 31, BATCH]}[size]  # the first of three ranks has an empty batch
    mine = slice(bounds[rank], bounds[rank + 1])
    for dtype in (torch.float32, torch.float16)[: size - 1]:
        sharded, alone = built(group, dtype), built(None, dtype)
        each = -(-N // size)
        assert sharded.owned == range(rank * each, min(N, (rank + 1) * each))
        assert len(sharded.bank) == len(sharded.assignments) == len(sharded.owned)
        x, labels = start(N, K)
        own = slice(sharded.owned.start, sharded.owned.stop)
        sharded.initialise(x[own], labels[own])
        alone.initialise(x, labels)
        # each rank sums its own rows first, so the float64 sums are added in another order
        n_split, n_wrong = compare(sharded, alone, range(STEPS[dtype]), mine, bits=False)
        assert n_split > 2
        assert n_wrong == 0

        for memory in (sharded, alone):
            memory._settle()
        for here, there in zip(*(m._members_of(torch.arange(K)) for m in (sharded, alone)), strict=True):
            torch.testing.assert_close(here, there)
        asked = torch.arange(rank, N, 7)[: 20 - rank]  # other samples, and another number of them, on each rank
        assert torch.equal(sharded.assignments_of(asked), alone.assignments[asked])
        with pytest.raises(ValueError, match="positions in the data set"):
            sharded.update(torch.tensor([N]), torch.ones(1, 6))

        saved = sharded.state_dict()
        if rank == 0:
            assert torch.equal(saved["assignments"], alone.assignments)
            torch.save(saved, f"{folder}/{size}-{dtype}.pt")
        else:
            assert len(saved["bank"]) == len(saved["assignments"]) == 0
            with pytest.raises(RuntimeError, match="size mismatch for bank"):
                built(group, dtype).load_state_dict(saved)
        dist.barrier()
        # Resumes from a file, also from one that another number of ranks wrote. From here on all bits are equal.
        for writers in {size, 2 if dtype == torch.float32 else size}:
            state = torch.load(f"{folder}/{writers}-{dtype}.pt")
            sharded, alone = built(group, dtype), built(None, dtype)
            sharded.load_state_dict(state)
            alone.load_state_dict(state)
            n_split, n_wrong = compare(sharded, alone, range(STEPS[dtype], STEPS[dtype] * 3 // 2), mine)
            assert n_split > 0
            assert n_wrong == 0
        converted = built(group, torch.float16)
        converted.load_state_dict(state)
        alone = built(None, torch.float16)
        alone.load_state_dict(state)
        compare(converted, alone, range(3), mine, bits=dtype == torch.float16)
    # four samples: with three ranks the last one holds none
    sharded, alone = built(group, torch.float32, 4, 2), built(None, torch.float32, 4, 2)
    assert len(sharded.owned) == {2: 2, 3: [2, 2, 0][rank]}[size]
    x, labels = start(4, 2)
    sharded.initialise(x[sharded.owned], labels[sharded.owned])
    alone.initialise(x, labels)
    assert compare(sharded, alone, range(5), mine, bits=False)[1] == 0
    copy = built(group, torch.float32, 4, 2)
    saved = [sharded.state_dict()]
    dist.broadcast_object_list(saved, 0)
    copy.load_state_dict(saved[0])
    assert torch.equal(copy.bank, sharded.bank)
    dist.destroy_process_group()


def test_shards_equal_one_process(tmp_path: Path) -> None:
    for size in (2, 3):
        mp.start_processes(worker, args=(size, str(tmp_path)), nprocs=size, start_method="fork")
    # this process alone resumes from what three ranks wrote
    state = torch.load(tmp_path / f"3-{torch.float32}.pt")
    memory = OnlineClusters(N, 6, K, min_cluster=10, seed=3, sharded=True)  # one rank: holds all
    memory.load_state_dict(state)
    assert memory.owned == range(N)
    assert torch.equal(memory.assignments_of(torch.tensor([5, 400])), state["assignments"][[5, 400]])
    for step in range(10):
        one_step(memory, step, slice(None))
    sums = torch.zeros_like(memory.sums).index_add_(0, memory.assignments, memory.bank.double())
    torch.testing.assert_close(memory.sums, sums, atol=1e-10, rtol=0)
