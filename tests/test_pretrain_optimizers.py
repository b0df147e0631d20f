"""LARC and the two LARS against their definitions, written as a loop over tensors in float64."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from pretrain.optimizers import LARC, LARS, ClippedLARS
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

Rule = type[LARC] | type[LARS] | type[ClippedLARS]
ALL: list[Rule] = [LARC, LARS, ClippedLARS]
SHAPES = [(4, 3, 3, 3), (6, 4), (6,), (1,), (), (5, 2), (3,), (2, 2)]
LRS = [0.3, 0.6, 0.0, 0.15, 0.4]  # 0 as at the start of a warm-up
STEPS = range(len(LRS))
FLAT, ZERO, ZERO_VECTOR, FROZEN = 1, 5, 6, 7  # g = 0 in steps 1 and 3; p = 0 at first, twice; g = None until step 2


class Problem:
    """Parameters, and the gradients of five steps: of lengths for which the local rate is clipped, and is not."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.params = [torch.nn.Parameter(normal(shape)) for shape in SHAPES]
        self.grads: list[list[Tensor | None]] = [
            [normal(shape) * 10.0 ** (i % 3 - 2) for i, shape in enumerate(SHAPES)] for _ in STEPS
        ]
        for i in (ZERO, ZERO_VECTOR):
            torch.nn.init.zeros_(self.params[i])
        for step in (1, 3):
            self.grads[step][FLAT] = torch.zeros(SHAPES[FLAT], dtype=dtype)
        for step in (0, 1):
            self.grads[step][FROZEN] = None

    def run(self, optimizer: Optimizer, steps: Iterable[int] = STEPS, lrs: list[float] = LRS) -> list[Tensor]:
        """The parameters after these steps."""
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = lrs[step]
            for p, g in zip(self.params, self.grads[step], strict=True):
                p.grad = g
            optimizer.step()
        return [p.detach() for p in self.params]


def by_definition(
    rule: Rule, problem: Problem, *, momentum: float, wd: float, trust: float, eps: float = 1e-8, exclude: bool = False
) -> list[Tensor]:
    """The parameters after all steps, one tensor at a time, in float64."""
    result = []
    for parameter, gradients in zip(problem.params, zip(*problem.grads, strict=True), strict=True):
        p, m = parameter.detach().double(), None
        for lr, gradient in zip(LRS, gradients, strict=True):
            if gradient is None:
                continue
            g = gradient.double()
            p_norm, g_norm = float(p.square().sum().sqrt()), float(g.square().sum().sqrt())
            lam = trust * p_norm / (g_norm + wd * p_norm + eps)
            if rule is LARC:
                if p_norm != 0 and g_norm != 0:
                    g = lam * (g + wd * p)
                m = g if m is None else momentum * m + g
                p = p - lr * m
            elif rule is LARS:
                if p_norm == 0 or g_norm == 0 or exclude:
                    lam = 1.0
                u = lr * lam * (g + wd * p)
                m = u if m is None else momentum * m + u
                p = p - m
            else:
                if p_norm != 0 and g_norm != 0 and p.ndim != 1:
                    lam = min(lam / lr, 1.0) if lr else 1.0
                    g = lam * (g + wd * p)
                m = g if m is None else momentum * m + g
                p = p - lr * m
        result.append(p)
    return result


# ---- equal to the definition ----


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize("trust", [0.001, 0.02, 1.0])
@pytest.mark.parametrize(
    ("momentum", "wd", "eps"), [(0.9, 1e-6, 1e-8), (0.9, 0.1, 0.01), (0.5, 0.0, 0.1), (0.0, 0.1, 1e-8)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_its_definition(
    rule: Rule, trust: float, momentum: float, wd: float, eps: float, dtype: torch.dtype
) -> None:
    problem = Problem(dtype)
    expected = by_definition(rule, problem, momentum=momentum, wd=wd, trust=trust, eps=eps)
    moved = problem.run(rule(problem.params, 9.0, momentum=momentum, weight_decay=wd, trust=trust, eps=eps))
    torch.testing.assert_close(moved, [p.to(dtype) for p in expected])


def test_groups_keep_their_own_options() -> None:
    problem = Problem()
    scaled = by_definition(LARS, problem, momentum=0.9, wd=0.1, trust=0.02)
    excluded = by_definition(LARS, problem, momentum=0.5, wd=0.2, trust=0.02, exclude=True)
    groups: list[dict[str, Any]] = [
        {"params": problem.params[:2]},
        {"params": problem.params[2:], "exclude": True, "momentum": 0.5, "weight_decay": 0.2},
    ]
    moved = problem.run(LARS(groups, 9.0, weight_decay=0.1, trust=0.02))
    torch.testing.assert_close(moved, [p.float() for p in scaled[:2] + excluded[2:]])


def one_step(rule: Rule, p: Tensor, g: Tensor, lr: float, **options: float) -> tuple[Tensor, Tensor]:
    """(p, m) after the first step."""
    parameter = torch.nn.Parameter(p.clone())
    parameter.grad = g
    optimizer = rule([parameter], lr, **options)
    optimizer.step()
    return parameter.detach(), optimizer.state[parameter]["momentum_buffer"]


def test_larc_by_hand() -> None:
    p, g = torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])
    moved, m = one_step(LARC, p, g, lr=1.0, weight_decay=1e-6)
    torch.testing.assert_close(m / (g + 1e-6 * p), torch.full((2,), 0.004999975), rtol=2e-7, atol=0)  # lam
    torch.testing.assert_close(m, torch.tensor([0.003, 0.004]), rtol=2e-7, atol=0)
    torch.testing.assert_close(moved, torch.tensor([2.997, 3.996]))


def test_defaults_are_those_of_the_references() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    common = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "eps": 1e-8}
    assert LARC([parameter], 0.1).defaults == common | {"trust": 0.001}
    assert LARS([parameter], 0.1).defaults == common | {"trust": 0.001, "exclude": False}
    assert ClippedLARS([parameter], 0.1).defaults == common | {"trust": 0.02}


# ---- right at the limits ----


@pytest.mark.parametrize("rule", ALL)
def test_zero_norms(rule: Rule) -> None:
    zero, some = torch.zeros(2, 2), torch.full((2, 2), 0.5)
    options = {"lr": 0.1, "weight_decay": 0.1, "eps": 0.0}
    moved, _ = one_step(rule, zero, some, **options)
    torch.testing.assert_close(moved, -0.1 * some)  # the plain gradient: zero is no trap
    moved, _ = one_step(rule, some, zero, **options)
    torch.testing.assert_close(moved, (0.99 if rule is LARS else 1.0) * some)  # LARS alone decays without a gradient
    moved, m = one_step(rule, zero, zero, **options)  # 0 / 0 in the local rate
    assert torch.equal(moved, zero)
    assert torch.equal(m, zero)


@pytest.mark.parametrize("rule", ALL)
def test_without_gradient_nothing_moves(rule: Rule) -> None:
    problem = Problem()
    optimizer = rule(problem.params, 0.1, weight_decay=0.1)
    before = problem.params[FROZEN].detach().clone()
    problem.run(optimizer, range(2))
    assert torch.equal(problem.params[FROZEN], before)
    assert problem.params[FROZEN] not in optimizer.state
    after = [p.detach().clone() for p in problem.params]
    optimizer.zero_grad()
    optimizer.step()
    assert all(map(torch.equal, problem.params, after))


def test_clipped_lars_of_huge_trust_is_sgd() -> None:
    ours, theirs = Problem(), Problem()
    vectors = [p for p in theirs.params if p.ndim == 1]
    others = [p for p in theirs.params if p.ndim != 1]
    groups: list[dict[str, Any]] = [{"params": vectors}, {"params": others, "weight_decay": 0.1}]
    sgd = SGD(groups, 9.0, momentum=0.9)
    moved = ours.run(ClippedLARS(ours.params, 9.0, weight_decay=0.1, trust=1e9))
    for i, (p, expected) in enumerate(zip(moved, theirs.run(sgd), strict=True)):
        if i != FLAT:  # SGD decays a tensor whose gradient is 0
            torch.testing.assert_close(p, expected)


def test_lars_all_excluded_is_sgd_while_lr_stays() -> None:
    for lrs, same in ([0.1] * 5, True), (LRS, False):
        ours, theirs = Problem(), Problem()
        lars = LARS([{"params": ours.params, "exclude": True}], 9.0, weight_decay=0.1)
        sgd = SGD(theirs.params, 9.0, momentum=0.9, weight_decay=0.1)
        pairs = zip(ours.run(lars, lrs=lrs), theirs.run(sgd, lrs=lrs), strict=True)
        assert all(torch.allclose(p, expected, rtol=1e-5) for p, expected in pairs) == same


def test_lars_is_larc_while_lr_stays_and_no_norm_is_zero() -> None:
    for lrs, same in ([0.1] * 5, True), (LRS, False):
        larc, lars = Problem(), Problem()
        options = {"weight_decay": 0.1, "trust": 0.1}
        by_larc = larc.run(LARC(larc.params, 9.0, **options), lrs=lrs)
        by_lars = lars.run(LARS(lars.params, 9.0, **options), lrs=lrs)
        assert torch.allclose(by_larc[0], by_lars[0], rtol=1e-5) == same


@pytest.mark.parametrize("rule", [LARC, LARS])
def test_first_step_has_the_trusted_length(rule: Rule) -> None:
    p, g = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    for scale in (1e-3, 1.0, 1e3):  # whatever the loss was multiplied by
        moved, _ = one_step(rule, p, scale * g, lr=0.5, trust=0.1, eps=0.0)
        torch.testing.assert_close((moved - p).norm(), torch.tensor(0.5 * 0.1 * 5.0))


@pytest.mark.parametrize("rule", ALL)
def test_values_out_of_range_are_refused(rule: Rule) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    for name, value in ("lr", -1.0), ("momentum", -0.1), ("momentum", 1.0), ("trust", float("nan")), ("eps", -1.0):
        options: dict[str, Any] = {"lr": 0.1, name: value}
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            rule([p], **options)
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        rule([{"params": [p], "weight_decay": -1.0}], 0.1)
    with pytest.raises(ValueError, match="must be float32 or float64, got torch"):
        rule([torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))], 0.1)


# ---- what the loop relies on ----


@pytest.mark.parametrize("rule", ALL)
def test_goes_on_from_a_state_dict(rule: Rule) -> None:
    whole, halves = Problem(), Problem()
    expected = whole.run(rule(whole.params, 9.0, weight_decay=0.1))
    first = rule(halves.params, 9.0, weight_decay=0.1)
    halves.run(first, STEPS[:2])  # the frozen one has no buffer yet
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = rule(halves.params, 5.0)
    second.load_state_dict(torch.load(file, weights_only=True))
    moved = halves.run(second, STEPS[2:])
    assert all(map(torch.equal, moved, expected))


@pytest.mark.parametrize("rule", ALL)
def test_gradients_are_left_as_they_came(rule: Rule) -> None:
    problem = Problem()
    optimizer = rule(problem.params, 9.0, weight_decay=0.1)
    problem.run(optimizer)
    for gradients, untouched in zip(problem.grads, Problem().grads, strict=True):
        torch.testing.assert_close(gradients, untouched, rtol=0, atol=0)


@pytest.mark.parametrize("rule", ALL)
def test_tensors_are_independent_of_others_and_memory_format(rule: Rule) -> None:
    together, alone = Problem(), Problem()
    together.params[0] = torch.nn.Parameter(together.params[0].detach().to(memory_format=torch.channels_last))
    expected = alone.run(rule([{"params": [p]} for p in alone.params], 9.0, weight_decay=0.1))
    moved = together.run(rule(together.params, 9.0, weight_decay=0.1))
    torch.testing.assert_close(moved, expected)
    assert moved[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rule", ALL)
def test_closure_has_gradients_and_its_loss_is_returned(rule: Rule) -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = rule([p], 0.1)

    def closure() -> float:
        loss = p.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert (p < 1).all()


class NoHostSync(TorchDispatchMode):
    """Refuses every operation whose result the host must wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func}: the host waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", ALL)
def test_the_host_never_waits(rule: Rule) -> None:
    with pytest.raises(AssertionError, match="the host waits"), NoHostSync():
        bool(torch.ones(()) > 0)  # the guard guards
    problem = Problem()
    optimizer = rule(problem.params, 9.0, weight_decay=0.1)
    with NoHostSync():
        problem.run(optimizer)
