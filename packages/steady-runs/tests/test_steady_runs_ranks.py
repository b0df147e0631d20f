"""Ranks: who a process is, and rows gathered from two processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from steady_runs import gather_rows, launch, ranks


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks() == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranks() == (1, 4)


def test_launch_becomes_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: seen.append(arguments[1:]))
    launch("demo", ["train", "--gpus", "2"], 2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert seen == [[*torchrun, "-m", "demo", "train", "--gpus", "2"]]


def test_a_process_alone_keeps_its_rows() -> None:
    rows = torch.arange(6).reshape(3, 2)
    assert gather_rows(rows, None) is rows


def test_rows_of_two_ranks_come_in_their_order(
    start_child: Callable[[Callable[[], int | None]], int], tmp_path: Path
) -> None:
    """Also where one rank holds fewer rows, or none, and for rows of any shape and dtype."""
    of_rank = [
        [torch.arange(6.0).reshape(3, 2), torch.zeros(0, 4), torch.tensor([1, 2]), torch.ones(2, 2, 2).bool()],
        [torch.arange(2.0).reshape(1, 2), torch.ones(2, 4), torch.tensor([3, 4]), torch.zeros(1, 2, 2).bool()],
    ]

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=2)
        torch.save([gather_rows(rows, dist.group.WORLD) for rows in of_rank[rank]], tmp_path / f"{rank}.pt")
        dist.destroy_process_group()

    children = [start_child(lambda rank=rank: work(rank)) for rank in range(2)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    for rank in range(2):
        gathered = torch.load(tmp_path / f"{rank}.pt")
        for found, one, other in zip(gathered, *of_rank, strict=True):
            assert torch.equal(found, torch.cat([one, other]))
            assert found.dtype == one.dtype
