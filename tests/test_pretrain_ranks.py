"""Several processes under torchrun are one run: the losses of one process, one folder, one memory, one checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from forks import forked_ranks
from pretrain.cli import main
from pretrain.methods.swav import spread_of
from pretrain.micro_batches import check_micro_batches
from pretrain.rendezvous import adopt_slurm_tasks
from small_run import ROOT, SMALL, SMALL_RUNS, lines, weights
from steady_runs import BadInput

STEPS = 20
DAILY = {("odc", 2), ("swav", 2)}  # the others with `-m slow`
EQUAL_RUN = {  # batches that no number of ranks divides; dropout is drawn by rank, so it is off
    method: [
        *(*options, "--batch", "31", "--epochs", "7", "--max-steps", str(STEPS), "--knn-every", "0"),
        # a small step: the networks of these tests double a difference of 1e-7 with every large one (docs/log.md)
        *("--lr", "1e-7"),
        *(["--neck-dropout", "0"] if method == "odc" else []),
        *(["--queue", "62"] if method == "swav" else []),
    ]
    for method, options in SMALL_RUNS.items()
}


def torchrun(n: int, *arguments: str, options: tuple[str, ...] = ("--standalone",)) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", str(n)]
    return [*launch, str(ROOT / "apps" / "pretrain"), *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def ranks(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(torchrun(n, *arguments), env=environment(), capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    ("method", "n", "more"),
    [
        *(
            pytest.param(method, n, [], marks=[] if (method, n) in DAILY else pytest.mark.slow)
            for method in EQUAL_RUN
            for n in (2, 3)
        ),
        *(pytest.param("odc", n, ["--shard-memory"], marks=pytest.mark.slow) for n in (2, 3)),
    ],
)
def test_many_ranks_equal_one_process(method: str, n: int, more: list[str], tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    assert main([method, *EQUAL_RUN[method], "--quiet", "--out", str(one)]) == 0
    done = forked_ranks(n, lambda: main([method, *EQUAL_RUN[method], *more, "--out", str(many)]), tmp_path / "said")
    assert done.codes == [0] * n, done.errors
    assert "backbone " in done.out[0]
    assert not any(done.out[1:])  # only the first rank speaks
    for name in ("loss", "gradient_norm"):
        a, b = (torch.tensor([line[name] for line in lines(out) if "loss" in line]) for out in (one, many))
        assert len(a) == STEPS
        # the gradient jumps where a maximum changes its pixel; a wrong factor between ranks would be one of 2 or 3
        torch.testing.assert_close(b, a, rtol=1e-2 if name == "gradient_norm" else 0, atol=1e-5)
    for name, value in weights(one).items():
        if not value.is_floating_point():  # assignments, labels, counters
            assert torch.equal(weights(many)[name], value), name

    # other numbers of ranks go on from the same state, and write it as they read it
    before = weights(many)
    for others in {1, 2, 3} - {n}:
        done = forked_ranks(others, lambda: main(["resume", str(many)]), tmp_path / "said")
        assert done.codes == [0] * others, done.errors
        for name, value in weights(many).items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_the_spread_of_scores_is_that_of_all_ranks(tmp_path: Path) -> None:
    scores = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)[:, None]

    def work() -> int:
        dist.init_process_group("gloo")
        own = scores.tensor_split(2)[dist.get_rank()]
        print(spread_of(own, dist.group.WORLD).item(), spread_of(own).item())
        dist.destroy_process_group()
        return 0

    done = forked_ranks(2, work, tmp_path / "said")
    assert done.codes == [0, 0], done.errors
    found = [[float(value) for value in out.split()] for out in done.out]
    for together, alone in found:
        assert together == pytest.approx(spread_of(scores).item(), rel=1e-6)
        assert alone != pytest.approx(together, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(SMALL_RUNS))
def test_each_step_equals_that_of_one_process(method: str, tmp_path: Path) -> None:
    """At the method's own learning rate: from each state that one process goes through, two ranks do the next step,
    so that differences of float sums have no time to grow. Loss, weights, memories and assignments are compared."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*EQUAL_RUN[method]]
    del options[options.index("--lr") : options.index("--lr") + 2]
    assert main([method, *options, "--max-steps", "1", "--quiet", "--out", str(one)]) == 0
    for step in range(2, STEPS + 1):
        shutil.copytree(one, two)
        next_step = ["--quiet", "--max-steps", str(step)]
        assert main(["resume", str(one), *next_step]) == 0
        done = forked_ranks(2, lambda do=next_step: main(["resume", str(two), *do]), tmp_path / "said")
        assert done.codes == [0, 0], done.errors
        ours, theirs = ([x["loss"] for x in lines(out) if "loss" in x] for out in (one, two))
        assert len(ours) == len(theirs) == step
        assert abs(ours[-1] - theirs[-1]) < 1e-5, step
        ranks_have = weights(two)
        for name, value in weights(one).items():
            if value.is_floating_point():
                atol = 1e-3 * max(float(value.nan_to_num().abs().max()), 1.0)  # there is no NMI yet in the first epoch
                torch.testing.assert_close(
                    ranks_have[name], value, rtol=0, atol=atol, equal_nan=True, msg=f"{step} {name}"
                )
            else:
                assert torch.equal(ranks_have[name], value), f"{step} {name}"
        shutil.rmtree(two)


@pytest.mark.slow
def test_batch_statistics_of_groups_of_ranks(tmp_path: Path) -> None:
    """Groups of one rank are no synchronisation, groups of all are the default, and what does not divide is refused."""
    losses = {}
    for name, more in {
        "of one": ["--sync-bn-group", "1"],
        "none": ["--no-sync-bn"],
        "of all": ["--sync-bn-group", "8"],
        "default": [],
    }.items():
        arguments = ["odc", *SMALL, "--max-steps", "3", "--knn-every", "0", *more, "--out", str(tmp_path / name)]
        done = forked_ranks(2, lambda do=arguments: main(do), tmp_path / "said")
        assert done.codes == [0, 0], done.errors
        losses[name] = [line["loss"] for line in lines(tmp_path / name) if "loss" in line]
    assert losses["of one"] == pytest.approx(losses["none"], rel=1e-5)  # by our batch norm and by torch's
    assert losses["of one"] != pytest.approx(losses["default"], rel=1e-3)
    assert losses["of all"] == losses["default"]
    arguments = ["odc", *SMALL, "--sync-bn-group", "2", "--out", str(tmp_path / "refused")]
    done = forked_ranks(3, lambda: main(arguments), tmp_path / "said")
    assert done.codes == [2, 2, 2]
    assert "--sync-bn-group 2 does not divide 3 processes" in done.errors[0]


@pytest.mark.parametrize(("world", "batch", "micro"), [(2, 129, 64), (3, 1000, 111), (8, 1281, 40)])
def test_ranks_have_as_many_parts(world: int, batch: int, micro: int) -> None:
    """Else synchronised batch norm waits for ever for the rank with fewer."""
    with pytest.raises(
        BadInput, match=rf"--batch {batch} over {world} processes .* take a --batch that {world} divides"
    ):
        check_micro_batches(batch, world, micro)
    check_micro_batches(batch - batch % world, world, micro)


def test_a_rank_needs_two_images(tmp_path: Path) -> None:
    done = forked_ranks(2, lambda: main(["odc", *SMALL, "--batch", "3", "--out", str(tmp_path / "run")]), tmp_path)
    assert done.codes == [2, 2]
    assert "--batch 3 is less than 2 images for each of 2 processes" in done.errors[0]
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_clusters(tmp_path: Path) -> None:
    arguments = ["odc", *SMALL, "--k", "2", "--max-steps", "2", "--knn-every", "0", "--out", str(tmp_path / "run")]
    done = forked_ranks(3, lambda: main(arguments), tmp_path)
    assert done.codes == [0, 0, 0], done.errors


def child_of(process: subprocess.Popen[str], rank: int) -> int:
    """The process id of a rank of torchrun's."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or not any(line.get("step", 0) >= step for line in lines(out)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks' processes in /proc")
def test_a_killed_rank_ends_the_job_with_its_name(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["odc", *SMALL, "--epochs", "1000", "--knn-every", "0", "--rank-timeout", "60", "--out", str(out)]
    process = subprocess.Popen(torchrun(2, *arguments), env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(out, 3, process)
    killed_at = time.monotonic()
    os.kill(child_of(process, 1), signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert time.monotonic() - killed_at < 60
    assert process.returncode != 0
    # ours says that it lost another one, and that nothing else is lost; torchrun's summary says which one, and of what
    assert error.count("pretrain: rank 0: another process is gone or silent") == 1
    assert error.count("the last checkpoint is whole") == 1
    cause = error.split("Root Cause")[1]
    assert "rank      : 1 " in cause
    assert "(SIGKILL)" in cause
    assert main(["resume", str(out), "--quiet", "--max-steps", "20"]) == 0


def test_an_attempt_meets_nobody_of_the_one_before(tmp_path: Path) -> None:
    """Rank 1 is late, so that rank 0 finds what the first attempt left in torchrun's store: the address of the dead."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in range(2):
        out = str(tmp_path / f"run{attempt}")

        def work(late: int = 5 * attempt, out: str = out) -> int:
            time.sleep(late * int(os.environ["RANK"]))
            return main(["odc", *SMALL, "--max-steps", "1", "--knn-every", "0", "--out", out])

        done = forked_ranks(2, work, tmp_path, store, timeout=90)
        assert done.codes == [0, 0], done.errors


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks' processes in /proc")
@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(tmp_path: Path) -> None:
    arguments = [
        *("odc", *SMALL, "--epochs", "8", "--knn-every", "0", "--checkpoint-every", "2"),
        *("--neck-dropout", "0", "--out", str(tmp_path / "run")),
    ]
    command = torchrun(2, *arguments, options=("--standalone", "--max-restarts", "2"))
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path / "run", 5, process)
    os.kill(child_of(process, 1), signal.SIGKILL)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    once = tmp_path / "once"
    assert ranks(2, *arguments[:-1], str(once)).returncode == 0
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == list(range(1, 33))
    losses = [[line["loss"] for line in lines(out) if "loss" in line] for out in (tmp_path / "run", once)]
    assert losses[0] == losses[1]


def _can_have_networks() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", "cluster-ssl-try"], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", "cluster-ssl-try"], capture_output=True).returncode == 0


class Host(NamedTuple):
    inside: list[str]  # what a command is put behind to run there
    address: str
    interface: str


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two network namespaces joined by a virtual cable, two machines to a socket; or else two loopback addresses."""
    if not _can_have_networks():
        yield [Host([], f"127.0.0.{n}", "lo") for n in (1, 2)]
        return
    names = [f"left{os.getpid()}", f"right{os.getpid()}"]
    both = [Host(["ip", "netns", "exec", name], f"10.77.0.{n}", "cable0") for n, name in enumerate(names, 1)]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        cable = ["add", "cable0", "netns", names[0], "type", "veth", "peer", "name", "cable0", "netns", names[1]]
        subprocess.run(["ip", "link", *cable], check=True)
        for name, host in zip(names, both, strict=True):
            for change in (
                ["addr", "add", f"{host.address}/24", "dev", "cable0"],
                ["link", "set", "cable0", "up"],
                ["link", "set", "lo", "up"],
            ):
                subprocess.run(["ip", "-n", name, *change], check=True)
        yield both
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces, or loopback addresses by the dozen")
def test_two_hosts(hosts: list[Host], tmp_path: Path) -> None:
    processes = []
    for node, host in enumerate(hosts):
        options = ("--nnodes=2", f"--node-rank={node}", f"--master-addr={hosts[0].address}", "--master-port=29577")
        # --local-addr, RES_OPTIONS: no name server answers here, and waiting for one takes longer than the run
        options = (*options, f"--local-addr={host.address}")
        command = torchrun(1, "swav", *EQUAL_RUN["swav"], "--out", str(tmp_path / "run"), options=options)
        processes.append(
            subprocess.Popen(
                [*host.inside, *command],
                env=environment(GLOO_SOCKET_IFNAME=host.interface, RES_OPTIONS="timeout:1 attempts:1"),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert main(["swav", *EQUAL_RUN["swav"], "--quiet", "--out", str(tmp_path / "one")]) == 0
    losses = [torch.tensor([x["loss"] for x in lines(tmp_path / o) if "loss" in x]) for o in ("run", "one")]
    assert len(losses[0]) == STEPS
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


TASK = {  # what `srun --nodes 2 --ntasks-per-node 3` tells its fifth task (Slurm 22.05)
    **{"SLURM_JOB_ID": "41", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"},
    **{"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NODEID": "1", "SLURM_PROCID": "4", "SLURM_LOCALID": "1"},
}
TOLD = {
    **{"RANK": "4", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"},
    **{"MASTER_ADDR": "gpu07", "MASTER_PORT": "20289"},
}


@pytest.mark.parametrize(
    ("slurm", "told"),
    [
        (TASK, TOLD),
        (
            TASK | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4"},
            TOLD | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4"},
        ),
        (TASK | {"WORLD_SIZE": "16", "RANK": "9"}, {"WORLD_SIZE": "16", "RANK": "9"}),  # torchrun, started by srun
        (TASK | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}, {}),
        ({"SLURM_JOB_ID": "41", "SLURM_NTASKS": "6", "SLURM_PROCID": "0"}, {}),  # the batch script
    ],
)
def test_tasks_of_srun_are_ranks(slurm: dict[str, str], told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment = dict(slurm)
    monkeypatch.setattr("pretrain.rendezvous.os.environ", environment)
    adopt_slurm_tasks()
    assert {name: value for name, value in environment.items() if not name.startswith("SLURM")} == told


def test_srun_with_other_numbers_of_tasks_on_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.rendezvous.os.environ", TASK | {"SLURM_STEP_TASKS_PER_NODE": "4,2"})
    with pytest.raises(BadInput, match="4,2 tasks on the nodes; take as many on each"):
        adopt_slurm_tasks()
