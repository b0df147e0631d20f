"""Command line: one command for each benchmark, `doctor` for the machine."""

from __future__ import annotations

from collections.abc import Sequence

from steady_runs import BadInput
from steady_runs.benchmark import App, Check, Job, Outcome, Protocol, gpu, mmcv_operators, python, run_app, version

from detect import coco, voc
from detect.data import shrink
from detect.settings import Coco, Voc

BOXES_AND_MASKS = ("box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75")
EXAMPLES = """
examples:
  # the newest run's backbone on drawn images
  uv run --group transfer apps/detect coco
  # VOC07+12 with the backbone of one run
  uv run --group transfer apps/detect voc --data VOCdevkit --weights runs/swav-1
  uv run --group transfer apps/detect coco --data coco --model c4 --schedule 2x --gpus 8
  # only check the data folder
  uv run apps/detect voc --data VOCdevkit --check-data
  # without MMDetection; differs from the published protocol
  uv run apps/detect coco --engine torchvision
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (`sys.argv` if None) names; return the exit code."""
    return run_app(APP, argv)


def _run_voc(job: Job[Voc]) -> Outcome:
    return _run_mmdet(job)


def _run_coco(job: Job[Coco]) -> Outcome:
    if job.options.engine == "mmdet":
        return _run_mmdet(job)
    from detect.torchvision_engine import run

    return run(job)


def _run_mmdet(job: Job[Voc] | Job[Coco]) -> Outcome:
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


def _doctor() -> list[Check]:
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
        Protocol("voc", "VOC07+12, Faster R-CNN R50-C4, 24k iterations", ("AP50",), Voc, voc.check, _run_voc, shrink),
        Protocol("coco", coco.title("fpn", "1x"), BOXES_AND_MASKS, Coco, coco.check, _run_coco, shrink),
    ),
    doctor=_doctor,
)
