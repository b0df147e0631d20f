"""Two processes with a GPU each, over gloo: the losses of one process on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forks import forked, forked_ranks
from pretend_cuda import ranks
from pretend_cuda.device import Device, pretended
from pretrain.cli import main
from torch import nn

for _name in ("pretrain.train", "multicrop_aug._cpu", "multicrop_aug._triton"):
    import_module(_name)  # before the processes part: each would take seconds
FORKS = True
N_STEPS = 2
COMMON = [
    *("--data", "shapes:n=48,n_val=16", "--arch", "resnet18", "--stem", "cifar", "--width", "0.0625", "--k", "6"),
    *("--batch", "16", "--epochs", "2", "--max-steps", str(N_STEPS), "--log-every", "1", "--workers", "0", "--quiet"),
    # a small step: these networks double a difference of 1e-7 with every large one
    *("--precision", "32", "--lr", "1e-7", "--knn-images", "32", "--seed", "1", "--no-report"),
]
CROPS = ("--crops", "2x16@0.3-1", "2x12@0.1-0.4", "--hidden", "16", "--dim", "8")
METHODS: dict[str, list[str]] = {
    "deepcluster": ["--crops", "1x16@0.3-1", "--pca-dim", "8"],
    "odc": ["--crops", "1x16@0.3-1", "--neck-hidden", "16", "--neck-dim", "8", "--neck-dropout", "0"],
    "deepcluster_v2": [*CROPS],
    "swav": [*CROPS, "--queue", "16", "--queue-from-epoch", "0"],
}


def on_each(work: Callable[[Device], Any], folder: Path) -> None:
    """`work` in two processes that pretend; it raises AssertionError with what they said if one of them failed."""

    def pretending() -> int:
        with pretended() as cuda, ranks.pretended():
            code = work(cuda)
            if dist.is_initialized():
                dist.destroy_process_group()
        return code or 0

    done = forked_ranks(2, pretending, folder, timeout=120)
    assert done.codes == [0, 0], "\n".join(done.errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_synchronised_batch_norm_is_that_of_the_whole_batch(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(1))

    def passes(norm: nn.Module, part: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
        part = part.detach().requires_grad_()
        y = norm(part)
        (y * weights).sum().backward()
        return [y.detach(), part.grad]  # type: ignore[list-item]

    def work(cuda: Device) -> None:
        dist.init_process_group("nccl")
        rank = dist.get_rank()
        torch.cuda.set_device(rank)
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(3).cuda())
        mine = slice(0, 5) if rank == 0 else slice(5, 9)
        found = cuda.peek(passes(norm, x[mine].cuda(), weights[mine].cuda()))
        gradients = [p.grad.clone() for p in norm.parameters()]
        for gradient in gradients:
            dist.all_reduce(gradient)
        whole = nn.BatchNorm1d(3)
        expected = passes(whole, x, weights)
        within = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
        for got, one in zip(found, expected, strict=True):
            torch.testing.assert_close(got, one[mine], **within)
        for got, one in zip(gradients, whole.parameters(), strict=True):
            torch.testing.assert_close(cuda.peek(got), one.grad, **within)
        for name, buffer in whole.named_buffers():
            torch.testing.assert_close(cuda.peek(norm.get_buffer(name)), buffer, rtol=1e-5, atol=1e-6)

    on_each(work, tmp_path)


def test_nccl_takes_no_tensor_of_the_host(tmp_path: Path) -> None:
    def work(cuda: Device) -> None:
        dist.init_process_group("nccl")
        assert dist.get_backend() == "nccl"
        with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
            dist.all_reduce(torch.ones(1))
        objects: list[Any] = [None, None]
        dist.all_gather_object(objects, dist.get_rank())
        assert objects == [0, 1]

    on_each(work, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_two_gpus_are_one_process(method: str, tmp_path: Path) -> None:
    command = [method, *COMMON, *METHODS[method]]
    two = [*command, "--device", "cuda", "--out", str(tmp_path / "two")]
    on_each(lambda cuda: main(two), tmp_path / "said")
    one = [*command, "--device", "cpu", "--out", str(tmp_path / "one")]
    assert forked(lambda: main(one), tmp_path / "errors") == 0, (tmp_path / "errors").read_text()
    same_losses(tmp_path / "two", tmp_path / "one")


def test_parts_of_a_batch_on_two_gpus_equal_two_processes(tmp_path: Path) -> None:
    """Each part takes statistics of its own, over the ranks, so one process has others."""
    command = ["swav", *COMMON, *METHODS["swav"], "--micro-batch", "4"]
    gpus = [*command, "--device", "cuda", "--out", str(tmp_path / "gpus")]
    on_each(lambda cuda: main(gpus), tmp_path / "said")
    cpus = [*command, "--device", "cpu", "--out", str(tmp_path / "cpus")]
    done = forked_ranks(2, lambda: main(cpus), tmp_path / "said")
    assert done.codes == [0, 0], done.errors
    same_losses(tmp_path / "gpus", tmp_path / "cpus")


def same_losses(a: Path, b: Path) -> None:
    of_a, of_b = ([line["loss"] for line in lines(out) if "loss" in line] for out in (a, b))
    assert len(of_a) == N_STEPS
    assert of_a == pytest.approx(of_b, abs=1e-4)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
