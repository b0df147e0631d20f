"""Command line: one command for each benchmark, `doctor` for the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steady_runs import BadInput
from steady_runs.benchmark import App, Check, Job, Outcome, Protocol, gpu, mmcv_operators, python, run_app, version

from segment import cityscapes, voc
from segment.data import shrink
from segment.settings import Cityscapes, Voc

EXAMPLES = """
examples:
  # the newest run's backbone on drawn images
  uv run --group transfer apps/segment voc
  # VOC12aug with the backbone of one run
  uv run --group transfer apps/segment voc --data VOCdevkit --weights runs/swav-1 --gpus 4
  uv run --group transfer apps/segment cityscapes --data cityscapes --weights swav_800ep_pretrain.pth.tar
  # only check the data folder
  uv run apps/segment cityscapes --data cityscapes --check-data
  # without MMSegmentation; differs from the published protocol
  uv run apps/segment voc --engine torchvision
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (`sys.argv` if None) names; return the exit code."""
    return run_app(APP, argv)


def _run(job: Job[Any]) -> Outcome:
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


def _doctor() -> list[Check]:
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
        Protocol("voc", voc.TITLE, ("mIoU",), Voc, voc.check, _run, shrink),
        Protocol("cityscapes", cityscapes.TITLE, ("mIoU",), Cityscapes, cityscapes.check, _run, shrink),
    ),
    doctor=_doctor,
)
