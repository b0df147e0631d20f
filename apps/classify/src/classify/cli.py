"""Command line: one command a benchmark, `all` for what the data allow, `compare` for several runs side by side."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from classify.errors import BadInput
from classify.protocols import DEFAULT_PRESET, PRESETS, TAPS

COMMANDS = {
    "knn": "nearest neighbours, all k from one pass",
    "linear": "a linear classifier on average-pooled features",
    "mhead": "linear classifiers on Feature1 to Feature5",
    "svm": "linear SVMs, VOC07's protocol",
    "lowshot": "linear SVMs on few images a class",
    "semi": "fine-tuning with 1 %% or 10 %% of the labels",
    "cluster": "k-means against the labels",
    "all": "all of these but semi, from one pass over the images; linear ones on kept features",
}
EXAMPLES = """\
examples:
  uv run apps/classify                                      `all`, newest run, the images it was trained on
  uv run apps/classify knn --weights swav_800ep_pretrain.pth.tar --data imagenet:PATH
  uv run apps/classify svm --weights runs/odc-1 --data voc07:VOCdevkit
  uv run apps/classify compare runs/classify-all-1 runs/classify-all-2

presets (--preset of linear, mhead and svm):
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(arguments)
    except BadInput as error:
        print(f"classify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("classify: stopped; features made so far are kept, and the same command goes on", file=sys.stderr)
        return 130


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("--"):
        arguments = arguments if arguments[:1] == ["--help"] else ["all", *arguments]
    options = parser().parse_args(arguments)
    if options.command == "compare":
        from rich.console import Console

        from classify.results import read, tables

        for table in tables([(Path(run).name or run, read(run)) for run in options.runs]):
            Console().print(table)
        return 0
    from classify.run import run  # torch and the rest take seconds to import; --help need not wait

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    began = time.monotonic()
    run(options, rank, world, began)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; --help explains")


def parser() -> argparse.ArgumentParser:
    presets = "".join(f"  {name:48} {p.what}\n" for name, p in PRESETS.items())
    top = _Parser(
        prog="classify",
        description="Every classification benchmark of a backbone. Figures are in percent.",
        epilog=EXAMPLES + presets,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        _common(sub)
        _own(sub, name)
    compare = commands.add_parser("compare", help="results side by side", allow_abbrev=False)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="folder that classify wrote")
    return top


def _common(sub: argparse.ArgumentParser) -> None:
    data = sub.add_argument_group("what is measured")
    data.add_argument(
        "--weights",
        help="backbone: a run's folder or a file of torchvision, timm, SwAV, MMSelfSup, solo-learn; "
        "the newest run if left out",
    )
    data.add_argument(
        "--random-init", action="store_true", help="the same architecture with random numbers: the zero of the scale"
    )
    data.add_argument(
        "--data",
        help="images with labels, such as imagenet:PATH, voc07:PATH, folder:PATH; those of the run if left out",
    )
    data.add_argument("--test", help="test images, if not the val or test split of --data")
    data.add_argument("--size", type=_positive, help="side of the crop (224; that of the images where they are arrays)")
    data.add_argument("--resize", type=_positive, help="short side before the crop (256 for 224; the crop's below 96)")
    data.add_argument("--download", action="store_true", help="let cifar10, cifar100 and stl10 fetch their files")
    data.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    machine = sub.add_argument_group("machine and bookkeeping")
    machine.add_argument("--out", help="folder of the results; runs/classify-COMMAND-1, -2, ... if left out")
    machine.add_argument(
        "--cache", default="runs/features", help="folder that keeps features (runs/features); '' keeps none"
    )
    machine.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs")
    machine.add_argument("--precision", choices=("32", "bf16"), default="32", help="of the network (32)")
    machine.add_argument("--batch", type=_positive, default=128, help="images at once while features are made (128)")
    machine.add_argument("--workers", type=int, help="processes that decode; by the number of cores if left out")
    machine.add_argument("--quiet", action="store_true", help="print the tables only")


def _own(sub: argparse.ArgumentParser, name: str) -> None:
    own = sub.add_argument_group(name)
    everything = name == "all"
    if name == "knn" or everything:
        own.add_argument(
            "--k", type=_positive, nargs="+", default=[10, 20, 100, 200], help="neighbours (10 20 100 200)"
        )
        own.add_argument("--temperature", type=float, default=0.07, help="of a neighbour's vote (0.07)")
    if name in DEFAULT_PRESET:
        fitting = [preset for preset, p in PRESETS.items() if p.command == name]
        own.add_argument(
            "--preset", choices=fitting, default=DEFAULT_PRESET[name], metavar="NAME", help="; ".join(fitting)
        )
    if name in ("linear", "mhead"):
        own.add_argument(
            "--features",
            choices=("fresh", "cached"),
            default="fresh",
            help="of new random crops each epoch, as published, or of the central crop, once: quick",
        )
    if name in ("linear", "mhead", "semi"):
        own.add_argument("--epochs", type=_positive, help="instead of the protocol's; its steps move along")
    if name in ("linear", "semi"):
        own.add_argument("--lr", type=float, nargs="+", default=[], help="instead of the protocol's; several at once")
    if name == "svm":
        own.add_argument(
            "--costs", choices=("voc07", "vissl"), default="voc07", help="list of 19 costs, or VISSL's of 11"
        )
        own.add_argument(
            "--taps",
            nargs="+",
            default=["feature5"],
            metavar="TAP",
            choices=TAPS,
            help="feature1 ... feature5, avgpool (feature5)",
        )
    if name in ("lowshot", "all"):
        flag = "--k" if name == "lowshot" else "--shots"
        own.add_argument(
            flag,
            dest="shots",
            type=_positive,
            nargs="+",
            default=[1, 2, 4, 8, 16, 32, 64, 96],
            help="images a class (1 2 4 ... 96)",
        )
        own.add_argument("--draws", type=_positive, default=5, help="independent draws (5)")
    if name == "semi":
        own.add_argument("--fraction", type=float, default=0.01, help="of the labels: 0.01 or 0.1")
        own.add_argument("--list", help="file with a line `folder/file label` an image, instead of a drawn subset")
        own.add_argument(
            "--head-multiplier", type=float, nargs="+", default=[], help="of the learning rate, for the head (1 10 100)"
        )
        own.add_argument("--train-batch", type=_positive, help="instead of the protocol's 256")
        own.add_argument("--seeds", type=int, nargs="+", default=[0], help="trainings a cell")
    if name == "cluster":
        own.add_argument("--k", type=_positive, dest="clusters", help="clusters; the number of classes if left out")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got '{text}'")
    return value


def dump(results: object) -> str:
    return json.dumps(results, indent=2) + "\n"
