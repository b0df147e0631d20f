"""Bytes that each method keeps for N images on each of W ranks: the formulas of docs/scaling.md against what is there.

    python benchmarks/memory_model.py            # about three minutes on two cores; 2.5 GB for N = 1,000,000

Every row is W fresh processes joined by gloo. Each builds the memory as a run does, fills it in place (so that no copy
counts), and does five steps of 256 images. `buffers` are the tensors that a checkpoint holds, `grown` what the
largest process grew by (resident set, after its imports and a small memory of the same kind, so that code and thread
pools do not count), `peak` the same at its highest. The formula of `buffers` is exact; that of `grown` adds the member
lists of `OnlineClusters`, at most 40 bytes a sample, and is a bound.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cluster_memory import EpochBank, OnlineClusters
from sinkhorn import EmbeddingQueue
from torch import Tensor, nn

BATCH, STEPS, SMALL = 256, 5, 5000


@dataclass(frozen=True)
class Case:
    kind: str  # odc, deepcluster_v2 or swav
    n: int
    world: int = 1
    sharded: bool = False
    half: bool = False
    dim: int = 128
    k: int = 1000
    views: int = 2
    length: int = 3840  # of the queue

    def buffers(self) -> int:
        """Bytes of a rank's buffers, in the widest rank."""
        width = 2 if self.half else 4
        n = -(-self.n // self.world) if self.sharded else self.n
        return {
            "odc": width * n * self.dim + 8 * n + 12 * self.k * self.dim + 8 * self.k + 8,
            "deepcluster_v2": width * self.views * n * self.dim + n + 1,
            "swav": 4 * self.views * self.length * self.dim + 8,
        }[self.kind]

    def lists(self) -> int:
        n = -(-self.n // self.world) if self.sharded else self.n
        return 40 * n if self.kind == "odc" else 0

    def text(self) -> str:
        spread = f", {self.world} ranks" + (", sharded" if self.sharded else "") if self.world > 1 else ""
        return f"{self.kind}, N = {self.n:,}, D = {self.dim}{', float16' if self.half else ''}{spread}"


def build(case: Case, group: dist.ProcessGroup | None, seed: int) -> tuple[nn.Module, Callable[[Tensor, Tensor], None]]:
    """The memory, full, and a step of it."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float16 if case.half else torch.float32
    if case.kind == "odc":
        memory = OnlineClusters(case.n, case.dim, case.k, group=group, bank_dtype=dtype, sharded=case.sharded)
        for start in range(0, len(memory.bank), 4096):
            part = memory.bank[start : start + 4096]
            part.copy_(torch.randn(part.shape, generator=generator))
        memory.initialise(memory.bank, torch.tensor(memory.owned) % case.k)

        def step(indices: Tensor, z: Tensor) -> None:
            memory.update(indices, z)
            memory.split_small_clusters()

        return memory, step
    if case.kind == "deepcluster_v2":
        bank = EpochBank(case.n, case.dim, case.views, bank_dtype=dtype, group=group)
        for start in range(0, case.n, 4096):
            bank.bank[:, start : start + 4096] = 1.0  # touched, so that the pages are there
        return bank, lambda indices, z: bank.write(indices, z.expand(case.views, -1, -1))
    queue = EmbeddingQueue(case.views, case.length, case.dim, group=group)
    return queue, lambda indices, z: queue.push(z.expand(case.views, -1, -1))


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def work(rank: int, case: Case, seed: int, folder: str) -> None:
    torch.set_num_threads(1)
    group = None
    if case.world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=case.world)
        group = dist.group.WORLD
    generator = torch.Generator().manual_seed(seed + 1 + rank)

    def filled(n: int) -> nn.Module:
        memory, step = build(Case(**{**case.__dict__, "n": n}), group, seed)
        for _ in range(STEPS):
            indices = torch.randint(n, (BATCH,), generator=generator)
            step(indices, torch.randn(BATCH, case.dim, generator=generator))
        return memory

    filled(SMALL)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    memory = filled(case.n)
    found = {
        "buffers": sum(b.numel() * b.element_size() for name, b in memory.named_buffers() if "_members" not in name),
        "grown": resident("VmRSS") - before,
        "peak": resident("VmHWM") - before,
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    if group is not None:
        dist.destroy_process_group()


def measure(case: Case, seed: int) -> dict[str, int]:
    """The largest of each figure over the ranks."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (case, seed, folder), nprocs=case.world)
        found = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return {name: max(f[name] for f in found) for name in found[0]}


CASES = [
    *(Case("odc", n, dim=256) for n in (10**5, 10**6)),
    Case("odc", 10**6, dim=256, half=True),
    *(Case("odc", n, world=4, sharded=True, dim=256) for n in (10**5, 10**6)),
    Case("odc", 10**6, world=4, sharded=True, half=True, dim=256),
    *(Case("deepcluster_v2", n) for n in (10**5, 10**6)),
    Case("deepcluster_v2", 10**6, half=True),
    Case("deepcluster_v2", 10**5, world=4),
    Case("swav", 10**6),
    Case("swav", 10**6, world=4),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    cpu = platform.processor() or platform.machine()
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs ({cpu}), seed {seed}\n"
    )
    print("MB of the largest rank | buffers, formula | buffers | formula with lists | grown | peak")
    print("--- | ---: | ---: | ---: | ---: | ---:")
    for case in CASES:
        found = measure(case, seed)
        if found["buffers"] != case.buffers():
            raise SystemExit(f"{case.text()}: buffers of {found['buffers']:,} bytes, by the formula {case.buffers():,}")
        numbers = (case.buffers(), found["buffers"], case.buffers() + case.lists(), found["grown"], found["peak"])
        print(f"{case.text()} | " + " | ".join(f"{number / 1e6:,.1f}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
