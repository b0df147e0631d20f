"""Command line: one command a benchmark, `doctor` for the machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import steady_runs
from steady_runs import App, BadInput, Job, Outcome, Protocol, gpu, mmcv_operators, python, version

from segment import cityscapes, voc

EXAMPLES = """\
examples:
  uv run --group transfer apps/segment voc                            the newest run's backbone on drawn images
  uv run --group transfer apps/segment voc --data VOCdevkit --weights runs/swav-1 --gpus 4
  uv run --group transfer apps/segment cityscapes --data cityscapes --weights swav_800ep_pretrain.pth.tar
  uv run --group transfer apps/segment cityscapes --data cityscapes --check-data
  uv run apps/segment voc --engine torchvision                        without MMSegmentation; not the published protocol
"""


def main(argv: Sequence[str] | None = None) -> int:
    return steady_runs.main(APP, argv)


def _run(job: Job) -> Outcome:
    if job.options.engine == "torchvision":
        from segment.torchvision_engine import run
    else:
        try:
            from segment.toolbox import run
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("mm"):
                raise
            raise BadInput(
                "MMSegmentation is not installed: `uv run --group transfer apps/segment ...` (compiles once, about 12 "
                "minutes on two cores), or --engine torchvision"
            ) from None
    return run(job)


def _options(sub: argparse.ArgumentParser, protocol: str) -> None:
    own = sub.add_argument_group(protocol)
    own.add_argument(
        "--engine", choices=("mmseg", "torchvision"), default="mmseg", help="mmseg, or torchvision's FCN heads"
    )


def _doctor() -> list[steady_runs.Check]:
    def mmseg() -> str:
        import mmseg

        return f"imports as mmseg {mmseg.__version__}"

    return [
        ("python", python),
        ("torch", version("torch", "2.13.0")),
        ("torchvision", version("torchvision")),
        ("GPU", gpu),
        ("onedl-mmengine", version("onedl-mmengine", "0.10.12")),
        ("onedl-mmcv", version("onedl-mmcv", "2.3.6")),
        ("onedl-mmsegmentation", version("onedl-mmsegmentation", "1.4.2")),
        ("MMSegmentation", mmseg),
        ("operators", mmcv_operators),
    ]


APP = App(
    name="segment",
    description="Semantic segmentation with a backbone of yours. Figures are in percent.",
    examples=EXAMPLES,
    protocols=(
        Protocol("voc", voc.TITLE, ("mIoU",), voc.check, _run),
        Protocol("cityscapes", cityscapes.TITLE, ("mIoU",), cityscapes.check, _run),
    ),
    doctor=_doctor,
    options=_options,
)
