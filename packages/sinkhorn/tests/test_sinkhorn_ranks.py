"""Two gloo ranks with different numbers of samples get the results of one process with all samples."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sinkhorn import EmbeddingQueue, NotFinite, Prototypes, Transport, optimal_transport, sinkhorn_knopp
from torch import Tensor

EPSILONS = (0.05, 0.01)  # the plain and the shifted computation
SPLIT = (slice(0, 5), slice(5, 16))


def embeddings() -> Tensor:
    """(steps, crops, B, D); the second rank's are far from the first's, so that local marginals would differ."""
    z = torch.randn(6, 2, 16, 8, generator=torch.Generator().manual_seed(0))
    z[:, :, SPLIT[1], 0] += 2
    return z


def train(group: dist.ProcessGroup | None, mine: slice) -> dict[str, Tensor]:
    """Codes of each step, with a queue, as a method computes them."""
    prototypes, queue = Prototypes(8, 12), EmbeddingQueue(2, 50, 8, group=group)
    codes, alone = [], []
    with torch.no_grad():
        for z in embeddings()[:, :, mine]:
            for crop in range(2):
                scores, queued = prototypes(z[crop]), prototypes(queue.local()[crop])
                for epsilon in EPSILONS:
                    codes.append(sinkhorn_knopp(scores, epsilon=epsilon, extra=queued, group=group))
                    alone.append(sinkhorn_knopp(scores, epsilon=epsilon, group=group))
            queue.push(z)
    return {"codes": torch.stack(codes), "alone": torch.stack(alone), **queue.state_dict()}


def transported(group: dist.ProcessGroup | None, mine: slice) -> list[Transport]:
    """Weights whose sums and maxima differ between ranks, and a tolerance that ends the iterations early."""
    scores = Prototypes(8, 12)(embeddings()[0, 0]).detach()[mine]
    rows, columns = torch.arange(16)[mine], torch.arange(12)
    options = {"row_marginals": rows, "column_marginals": columns, "group": group}
    return [
        optimal_transport(scores, epsilon=epsilon, rho=rho, n_iters=500, tolerance=0.01, **options)
        for epsilon in EPSILONS
        for rho in (0.1, float("inf"))
    ]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = dist.group.WORLD
    found = train(group, SPLIT[rank])
    scores = Prototypes(8, 12)(embeddings()[0, 0]).detach()
    # ranks whose own scores would choose different computations; a rank without samples; a rank with NaN
    found["mixed"] = sinkhorn_knopp((scores * torch.linspace(0.1, 4, 16)[:, None])[SPLIT[rank]], group=group)
    found["uneven"] = sinkhorn_knopp(scores if rank else scores[:0], group=group)
    moved = transported(group, SPLIT[rank])
    found["transport"] = torch.stack([part.codes for part in moved])
    found["log_scales"] = torch.stack([part.log_scales for part in moved])
    found["n_iters"] = torch.tensor([part.n_iters for part in moved])
    torch.save(found, f"{folder}/{rank}.pt")
    poisoned = scores.clone()
    poisoned[2] = torch.nan
    with pytest.raises(NotFinite, match=("rows of another rank", r"rows \[2\] of scores")[rank]):
        sinkhorn_knopp(poisoned if rank else scores, group=group)
    weights = torch.ones(16).index_fill_(0, torch.tensor([3]), -1.0 if rank else 1.0)
    with pytest.raises(ValueError, match=(r"rows \[\] of this rank", r"rows \[3\] of this rank")[rank]):
        optimal_transport(scores, row_marginals=weights, group=group)
    with pytest.raises(ValueError, match="empty on every rank"):
        sinkhorn_knopp(scores[:0], group=group)
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    one = train(None, slice(None))
    scores = Prototypes(8, 12)(embeddings()[0, 0]).detach()
    one["mixed"] = sinkhorn_knopp(scores * torch.linspace(0.1, 4, 16)[:, None])
    one["uneven"] = sinkhorn_knopp(scores)
    moved = transported(None, slice(None))
    one["transport"] = torch.stack([part.codes for part in moved])
    for name in ("codes", "alone", "mixed", "uneven", "transport"):
        torch.testing.assert_close(torch.cat([first[name], second[name]], -2), one[name], atol=1e-6, rtol=0)
    assert torch.equal(first["log_scales"], second["log_scales"])
    torch.testing.assert_close(first["log_scales"], torch.stack([part.log_scales for part in moved]))
    assert [part.n_iters for part in moved] == first["n_iters"].tolist() == second["n_iters"].tolist()
    assert 1 < first["n_iters"].min() <= first["n_iters"].max() < 500
    for name in ("embeddings", "n_valid"):
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], one[name])
