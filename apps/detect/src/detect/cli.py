"""Command line: one command a benchmark, `doctor` for the machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import steady_runs
from steady_runs import App, BadInput, Job, Outcome, Protocol, gpu, mmcv_operators, python, version

from detect import coco, voc

BOXES_AND_MASKS = ("box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75")
EXAMPLES = """\
examples:
  uv run --group transfer apps/detect coco                          the newest run's backbone on drawn images
  uv run --group transfer apps/detect voc --data VOCdevkit --weights runs/swav-1
  uv run --group transfer apps/detect coco --data coco --model c4 --schedule 2x --gpus 8
  uv run --group transfer apps/detect voc --data VOCdevkit --check-data
  uv run apps/detect coco --engine torchvision                      without MMDetection; not the published protocol
"""


def main(argv: Sequence[str] | None = None) -> int:
    return steady_runs.main(APP, argv)


def _run(job: Job) -> Outcome:
    if job.options.engine == "torchvision":
        from detect.torchvision_engine import run
    else:
        try:
            from detect.toolbox import run
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("mm"):
                raise
            raise BadInput(
                "MMDetection is not installed: `uv run --group transfer apps/detect ...` (compiles once, about 12 "
                "minutes on two cores), or --engine torchvision for the coco command"
            ) from None
    return run(job)


def _options(sub: argparse.ArgumentParser, protocol: str) -> None:
    own = sub.add_argument_group(protocol)
    if protocol == "coco":
        own.add_argument("--model", choices=("fpn", "c4"), default="fpn", help="Mask R-CNN on a pyramid (fpn) or on C4")
        own.add_argument("--schedule", choices=("1x", "2x"), default="1x", help="12 (1x) or 24 epochs")
        own.add_argument(
            "--engine", choices=("mmdet", "torchvision"), default="mmdet", help="mmdet, or torchvision's Mask R-CNN FPN"
        )
    else:
        own.set_defaults(model="c4", engine="mmdet")


def _doctor() -> list[steady_runs.Check]:
    def mmdet() -> str:
        import mmdet

        return f"imports as mmdet {mmdet.__version__}"

    return [
        ("python", python),
        ("torch", version("torch", "2.13.0")),
        ("torchvision", version("torchvision")),
        ("GPU", gpu),
        ("onedl-mmengine", version("onedl-mmengine", "0.10.12")),
        ("onedl-mmcv", version("onedl-mmcv", "2.3.6")),
        ("onedl-mmdetection", version("onedl-mmdetection", "3.5.1")),
        ("MMDetection", mmdet),
        ("operators", mmcv_operators),
        ("pycocotools", version("pycocotools")),
    ]


APP = App(
    name="detect",
    description="Detection and instance segmentation with a backbone of yours. Figures are in percent.",
    examples=EXAMPLES,
    protocols=(
        Protocol("voc", "VOC07+12, Faster R-CNN R50-C4, 24k iterations", ("AP50",), voc.check, _run),
        Protocol("coco", coco.title("fpn", "1x"), BOXES_AND_MASKS, coco.check, _run),
    ),
    doctor=_doctor,
    options=_options,
)
