"""detect and segment with torchvision: learning rates, published settings and the order of images."""

import detect.torchvision_engine as detect_engine
import pytest
import segment.torchvision_engine as segment_engine
from segment.torchvision_data import Sizes
from steady_runs import BadInput
from steady_runs.benchmark import BenchmarkSettings, Job
from steady_runs.benchmark.plain import Order, Part, Plan, make_plan

PUBLISHED = segment_engine.PUBLISHED


def plan_of(
    *, iterations: int, batch: int, lr: float, asked: int | None = None, of: int | None = None, world: int = 1
) -> Plan:
    options = BenchmarkSettings(command="voc", iterations=asked, batch=of)
    job = Job(options, None, None, None, world=world)  # type: ignore[arg-type]  # looks at options and ranks only
    return make_plan(job, iterations=iterations, batch=batch, lr=lr, every=2000)


def test_the_learning_rate_of_coco() -> None:
    epoch = 7330
    falls = (8 * epoch, 11 * epoch)
    at = detect_engine.learning_rate(plan_of(iterations=12 * epoch, batch=16, lr=0.02), falls)
    assert at(0) == pytest.approx(0.02 * 0.001)
    assert at(500) == pytest.approx(0.02 * (0.001 + 0.999 * 0.5))
    assert at(1000) == at(8 * epoch - 1) == pytest.approx(0.02)
    assert at(8 * epoch) == at(11 * epoch - 1) == pytest.approx(0.002)
    assert at(11 * epoch) == at(12 * epoch - 1) == pytest.approx(0.0002)

    assert plan_of(iterations=12 * epoch, batch=16, lr=0.02).changes == ()
    plan = plan_of(iterations=12 * epoch, batch=16, lr=0.02, asked=1200, of=4)
    at = detect_engine.learning_rate(plan, falls)
    assert (plan.iterations, plan.batch, plan.every) == (1200, 4, 1200)
    assert at(120) == at(799) == pytest.approx(0.005)
    assert at(800) == at(1099) == pytest.approx(0.0005)
    assert at(1100) == pytest.approx(0.00005)
    assert len(plan.changes) == 3


def test_the_learning_rate_of_segmentation() -> None:
    at = segment_engine.learning_rate(plan_of(iterations=20_000, batch=16, lr=0.01))
    for step in (0, 1, 9_999, 19_999):
        assert at(step) == pytest.approx((0.01 - 1e-4) * (1 - step / 20_000) ** 0.9 + 1e-4, rel=1e-12)
    assert at(0) == pytest.approx(0.01)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(BadInput, match="--batch 3 cannot be shared by 2 processes"):
        plan_of(iterations=10, batch=16, lr=0.1, of=3, world=2)


def test_the_published_numbers() -> None:
    engine = detect_engine
    assert (engine.BATCH, engine.LR, engine.MOMENTUM, engine.WEIGHT_DECAY) == (16, 0.02, 0.9, 1e-4)
    assert engine.EPOCHS == {"1x": (12, (8, 11)), "2x": (24, (16, 22))}
    voc, city = PUBLISHED["voc"], PUBLISHED["cityscapes"]
    assert (voc.iterations, voc.batch, voc.every, voc.align_corners) == (20_000, 16, 2_000, False)
    assert (city.iterations, city.batch, city.every, city.align_corners) == (40_000, 8, 4_000, True)
    assert voc.sizes == Sizes(2048, 512, 512)
    assert city.sizes == Sizes(2049, 1025, 769, 769, 513)
    assert segment_engine.scale_sizes(city.sizes, 0.5) == Sizes(1024, 512, 385, 385, 257)


def job_of(rank: int = 0, world: int = 1) -> Job[BenchmarkSettings]:
    return Job(BenchmarkSettings(command="voc", seed=3), None, None, None, rank=rank, world=world)  # type: ignore[arg-type]


def test_every_pass_holds_every_image_once_and_goes_on_anywhere() -> None:
    steps = list(Order(5, 4, job_of(), first=0, last=10))
    stream = [key for step in steps for key in step]
    assert [place for place, _ in stream] == list(range(40))
    passes = [[index for _, index in stream[start : start + 5]] for start in range(0, 40, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert passes[0] != passes[1]
    assert list(Order(5, 4, job_of(), first=7, last=10)) == steps[7:]


def test_ranks_share_each_batch_and_each_score() -> None:
    whole = list(Order(5, 4, job_of(), first=2, last=6))
    parts = [list(Order(5, 4, job_of(rank, 2), first=2, last=6)) for rank in (0, 1)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole
    assert sorted([*Part(7, job_of(0, 2)), *Part(7, job_of(1, 2))]) == list(Part(7, job_of()))
