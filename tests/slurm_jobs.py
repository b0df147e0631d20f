"""A Slurm of two nodes on this machine: runs that are stopped and requeued, against runs that are not.

    python tests/slurm_jobs.py

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. Jobs start ranks by `srun` alone, and by
torchrun under `srun`. Each is told to stop as Slurm tells a job whose time is over, saves, is requeued by its own
script, and must end with the weights, memories and losses of a run that nobody stopped. Prints a line a kind of job;
exit code 1 if one differed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from small_run import ROOT, SMALL, lines, same_weights

STEPS = 80
RUN = ["odc", *SMALL, "--epochs", str(STEPS // 4), "--knn-every", "0", "--neck-dropout", "0", "--quiet"]
RUN += ["--checkpoint-every", "100000"]
TORCHRUN = "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID"
KINDS = {"srun": "", "srun torchrun": f"{TORCHRUN} --rdzv-endpoint 127.0.0.1:29588"}
CONFIG = """
ClusterName=try
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
StateSaveLocation={at}
SlurmdSpoolDir={at}/spool-%n
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/%n.log
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""
JOB = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --requeue --open-mode=append --output={out}.log
srun {python} {torchrun} {app} {run} --out {out}
[ -e {out}/backbone.safetensors ] || {{ [ -e {out}/checkpoint.pt ] && scontrol requeue $SLURM_JOB_ID; }}
"""


@contextmanager
def slurm(at: Path) -> Iterator[None]:
    """The daemons, until the end of the context; commands find them by SLURM_CONF."""
    (at / "slurm.conf").write_text(CONFIG.format(at=at, host=socket.gethostname().split(".")[0]))
    os.environ["SLURM_CONF"] = str(at / "slurm.conf")
    # ranks of both nodes are on this machine, whose name servers know no node1
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    commands = [["slurmctld", "-D"], ["slurmd", "-D", "-N", "node1"], ["slurmd", "-D", "-N", "node2"]]
    if subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode:
        commands.insert(0, ["su", "-s", "/bin/sh", "munge", "-c", "/usr/sbin/munged --foreground"])
    daemons = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(2)
        wait_until(lambda: said("sinfo", "-h", "-o", "%D %t") == "2 idle", "two idle nodes")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def wait_until(true: Callable[[], bool], what: str, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"slurm_jobs: {what}: not within {seconds:.0f} seconds")
        time.sleep(0.2)


def n_steps(out: Path) -> int:
    return lines(out)[-1]["step"] if (out / "metrics.jsonl").exists() and lines(out) else 0


def job(kind: str, out: Path, stops: tuple[int, ...]) -> None:
    """Run to the end, stopped once it has done each of `stops` steps."""
    script = out.with_suffix(".sh")
    app = ROOT / "apps" / "pretrain"
    text = JOB.format(python=sys.executable, torchrun=KINDS[kind], app=app, run=" ".join(RUN), out=out)
    script.write_text(text)
    number = said("sbatch", "--parsable", str(script))
    for step in stops:
        wait_until(lambda step=step: n_steps(out) >= step, f"{kind}: step {step}")
        subprocess.run(["scancel", "--signal=TERM", number], check=True)
        wait_until(lambda: "PENDING" in said("scontrol", "show", "job", number), f"{kind}: requeued")
        subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)  # or in two minutes
    wait_until((out / "backbone.safetensors").exists, f"{kind}: the end")
    wait_until(lambda: "COMPLETED" in said("scontrol", "show", "job", number), f"{kind}: the end of the job")


def main() -> int:
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"slurm_jobs: needs root and Debian's slurmctld, slurmd, slurm-client, munge; missing: {missing}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, slurm(at := Path(folder)):
        for kind in KINDS:
            whole, stopped = at / f"{kind}-whole".replace(" ", "-"), at / f"{kind}-stopped".replace(" ", "-")
            job(kind, whole, ())
            job(kind, stopped, (12, 36))
            try:
                same_weights(whole, stopped)
                a, b = ([line["loss"] for line in lines(out) if "loss" in line] for out in (whole, stopped))
                assert a == b, "losses differ"
                assert len(a) == STEPS, f"{len(a)} steps"
            except AssertionError as error:
                failed += 1
                print(f"{kind}: {error}", flush=True)
            stops = [line for line in stopped.with_suffix(".log").read_text().splitlines() if "rank 0: stopped" in line]
            print(f"{kind}: {len(stops)} stops, {STEPS} steps, {failed} differ so far", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
