"""The command line that every benchmark here shares."""

from __future__ import annotations

import argparse
from typing import NoReturn

from steady_runs._errors import BadInput
from steady_runs._job import App


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; --help explains")


def parser(app: App) -> argparse.ArgumentParser:
    top = Parser(
        prog=app.name,
        description=app.description,
        epilog=app.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for protocol in app.protocols:
        sub = commands.add_parser(protocol.name, help=protocol.title, description=protocol.title, allow_abbrev=False)
        _common(sub)
        app.options(sub, protocol.name)
    resume = commands.add_parser("resume", help="go on with a run that was cut off", allow_abbrev=False)
    resume.add_argument("run", metavar="RUN", help="folder that the run printed")
    resume.add_argument("--gpus", type=positive, default=1, help="processes, one a GPU (1)")
    compare = commands.add_parser("compare", help="results of several runs side by side", allow_abbrev=False)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    commands.add_parser("doctor", help="whether this machine has what the toolbox needs", allow_abbrev=False)
    return top


def _common(sub: argparse.ArgumentParser) -> None:
    what = sub.add_argument_group("what is measured")
    what.add_argument(
        "--weights",
        help="backbone: a run's folder or a file of torchvision, SwAV, MMSelfSup, solo-learn, ...; "
        "the newest run under runs/ if left out",
    )
    what.add_argument("--random-init", action="store_true", help="the same architecture with random numbers")
    what.add_argument("--data", default="shapes", help="folder in the benchmark's layout; drawn images if left out")
    what.add_argument(
        "--check-data", action="store_true", help="say what is in --data and what is missing; no training"
    )
    change = sub.add_argument_group("changes to the protocol (said in the results)")
    change.add_argument("--iterations", type=positive, help="instead of the protocol's; its steps move along")
    change.add_argument("--batch", type=positive, help="images a step over all GPUs, instead of the protocol's")
    change.add_argument(
        "--lr-rule", choices=("linear", "none"), default="linear", help="lr x batch / protocol's batch (linear), or not"
    )
    change.add_argument("--scale", type=_share, help="all image sizes times this (1; less for drawn images)")
    change.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    machine = sub.add_argument_group("machine and bookkeeping")
    machine.add_argument("--gpus", type=positive, default=1, help="processes, one a GPU, through torchrun (1)")
    machine.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs")
    machine.add_argument("--workers", type=int, help="processes that load images, a GPU (2; 0 for drawn images)")
    machine.add_argument("--out", help="folder of the run; runs/APP-COMMAND-1, -2, ... if left out")
    machine.add_argument("--checkpoint-every", type=positive, help="iterations (as often as the protocol evaluates)")
    machine.add_argument(
        "--score-untrained",
        action="store_true",
        help="also score the network before training (always for drawn images)",
    )
    machine.add_argument("--quiet", action="store_true", help="print the result only")


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got '{text}'")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 4:
        raise argparse.ArgumentTypeError(f"expected a number from 0.05 to 4, got '{text}'")
    return value
