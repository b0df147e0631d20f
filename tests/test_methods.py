"""What a method owes the loop: one contract for all four, and what each does beyond a loss.

That a step is the paper's is tested against naive implementations in `test_method_parity_*.py`."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pretrain.assemble import assemble_method, assemble_optimizer
from pretrain.method import Method
from pretrain.methods.swav import default_queue, spread_of
from pretrain.settings import METHODS
from pretrain.step import prepare
from steady_runs import BadInput
from torch import Tensor

N, B, K = 60, 12, 5
SMALL: dict[str, dict[str, Any]] = {
    "deepcluster": {"pca_dim": 8},
    "odc": {"neck_hidden": 16, "neck_dim": 8, "neck_dropout": 0.0, "min_cluster": 3},
    "deepcluster_v2": {"hidden": 16, "dim": 8},
    "swav": {"hidden": 16, "dim": 8, "freeze_prototypes_steps": 0},
}
V = {"deepcluster": 1, "odc": 1, "deepcluster_v2": 3, "swav": 3}


class FakeRun:
    """The part of a run that methods use; images are their own crops."""

    step, n_images, steps_per_epoch, batch, group = 0, N, 5, B, None

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def own_part(self, rows: Tensor) -> Tensor:
        return rows

    gather = own_part

    def extract(self, network: Any, indices: Tensor | None = None, **_: Any) -> Tensor:
        with torch.no_grad():
            return network(self.images if indices is None else self.images[indices])

    def extract_crops(self, network: Any, indices: Tensor, **_: Any) -> Tensor:
        with torch.no_grad():
            return network([self.images[indices]] * 3)


def images() -> Tensor:
    return torch.randn(N, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(name: str, **more: Any) -> Method:
    values = {
        "method": name,
        "crops": ("3x32",),
        "arch": "resnet18",
        "width": 0.125,
        "k": K,
        "batch": B,
        **SMALL[name],
        **more,
    }
    return assemble_method(METHODS[name](**values), N)


def started(name: str, **more: Any) -> tuple[Method, FakeRun]:
    method, run = built(name, **more), FakeRun(images())
    method.eval().start(run)  # type: ignore[arg-type]
    method.begin_epoch(run, 0)  # type: ignore[arg-type]
    return method.train(), run


def crops_of(name: str, indices: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = images()[indices]
    return [batch + 0.1 * torch.randn(batch.shape, generator=generator) for _ in range(V[name])]


def buffers(method: Method) -> dict[str, Tensor]:
    kept = ("running_mean", "running_var", "num_batches_tracked")
    return {name: b.clone() for name, b in method.named_buffers() if not name.endswith(kept)}


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_reaches_the_backbone_and_no_memory(name: str) -> None:
    method, _ = started(name)
    before = buffers(method)
    loss = method.loss(crops_of(name, torch.arange(B)), torch.arange(B))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.ndim == 0
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert method.backbone.conv1.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    for key, value in buffers(method).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_state_is_all_in_the_state_dict(name: str) -> None:
    """A method rebuilt from its state_dict in mid-epoch goes on as if it had never stopped."""
    method, run = started(name)
    indices = torch.arange(B)
    method.loss(crops_of(name, indices), indices)
    method.after_step(run, indices)  # type: ignore[arg-type]
    again = built(name).train()
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    for other in (torch.arange(B, 2 * B), torch.arange(5, 5 + B)):
        losses = [m.loss(crops_of(name, other), other) for m in (method, again)]
        assert torch.equal(*losses)
        for m in (method, again):
            m.after_step(run, other)  # type: ignore[arg-type]
    for key, value in method.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_in_one_group(name: str) -> None:
    method = built(name, head_lr=10.0) if name in ("odc", "deepcluster") else built(name)
    groups = assemble_optimizer(method, method.settings).param_groups  # type: ignore[arg-type]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())
    if name in ("odc", "deepcluster"):
        head = {id(p) for p in method.head.parameters()}  # type: ignore[union-attr]
        assert [{id(p) for p in group["params"]} for group in groups if group["momentum"] == 0.0] == [head]
        assert [group["lr_factor"] for group in groups] == [1.0, 10.0]


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_in_parts_has_the_same_loss_and_gradients(name: str) -> None:
    """Batch norm in evaluation mode, so that its statistics are not those of a part: all else must be equal, the codes
    of SwAV over the whole batch too."""
    losses, gradients = [], []
    for micro_batch in (None, 5):
        method, _ = started(name, micro_batch=micro_batch)
        method.eval()
        loss = method.loss(crops_of(name, torch.arange(B)), torch.arange(B))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None]))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_parts_move_running_statistics_once() -> None:
    method, _ = started("swav", micro_batch=6)
    norm = method.backbone.bn1
    before = norm.running_mean.clone()
    method.loss(crops_of("swav", torch.arange(B)), torch.arange(B)).backward()  # type: ignore[no-untyped-call]
    assert int(norm.num_batches_tracked) == 2  # two parts, three crops of one size each
    moved = norm.running_mean.clone()
    assert not torch.equal(moved, before)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_several_crops(name: str) -> None:
    """Of several sizes; a crop more with the same label or code is one more prediction of it."""
    method, run = started(name)
    batch = images()[:B]
    crops = [batch, batch.flip(-1), torch.nn.functional.interpolate(batch, (16, 16))]
    loss = method.loss(crops, torch.arange(B))
    loss.backward()  # type: ignore[no-untyped-call]
    method.after_step(run, torch.arange(B))  # type: ignore[arg-type]
    assert loss.isfinite()
    assert len(method.embeddings) == 3 * B


# ---- DeepCluster ----


def test_deepcluster_draws_evenly_and_renews_its_head() -> None:
    method, run = started("deepcluster")
    head = method.head.weight.detach().clone()  # type: ignore[union-attr]
    order = method.begin_epoch(run, 1)  # type: ignore[arg-type]
    assert order is not None
    assert len(order) == run.steps_per_epoch * B
    drawn = torch.bincount(method.labels[order], minlength=K)  # type: ignore[index]
    assert int(drawn.max() - drawn.min()) <= 1 + N // K // 4
    assert not torch.equal(method.head.weight, head)  # type: ignore[union-attr]
    assert abs(float(method.head.weight.detach().std()) - 0.01) < 0.001  # type: ignore[union-attr]
    assert 0 <= method.figures()["nmi"] <= 1


def test_deepcluster_reweights_as_the_paper() -> None:
    method, _ = started("deepcluster", reweight_power=0.5)
    method.adopt(torch.arange(K).repeat_interleave(torch.tensor([25, 16, 9, 9, 1])))  # type: ignore[operator]
    weights = method.loss_weights()  # type: ignore[operator]
    torch.testing.assert_close(weights / weights[0], torch.tensor([1, 5 / 4, 5 / 3, 5 / 3, 5.0]))


# ---- ODC ----


def test_odc_draws_with_replacement_and_by_key() -> None:
    method, run = started("odc")
    first, again, next_ = (method.begin_epoch(run, epoch) for epoch in (0, 0, 1))  # type: ignore[arg-type]
    assert first is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, next_)
    assert len(first) == 5 * B
    assert len(first.unique()) < len(first)


# ---- DeepCluster-v2 ----


def test_deepcluster_v2_leaves_out_what_it_has_not_seen() -> None:
    method, run = started("deepcluster_v2")
    seen = torch.arange(2 * B)
    for indices in seen.split(B):
        method.loss(crops_of("deepcluster_v2", indices), indices)
        method.after_step(run, indices)  # type: ignore[arg-type]
    method.begin_epoch(run, 1)  # type: ignore[arg-type]
    assert (method.labels[:, : 2 * B] >= 0).all()  # type: ignore[index]
    assert (method.labels[:, 2 * B :] == -100).all()  # type: ignore[index]
    unseen = torch.arange(N - B, N)
    loss = method.loss(crops_of("deepcluster_v2", unseen), unseen)
    assert float(loss.detach()) == 0.0
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_deepcluster_v2_refuses_more_clusters_than_images() -> None:
    with pytest.raises(
        BadInput, match=f"--k {N - 1} clusters of the {N // 2 + 1} images that --drop-last leaves of {N}"
    ):
        built("deepcluster_v2", batch=N // 2 + 1, k=N - 1, drop_last=True)


def test_deepcluster_v2_never_trains_its_centroids() -> None:
    method, _ = started("deepcluster_v2")
    assert "centroids" in dict(method.named_buffers())
    assert not any("centroids" in name for name, _ in method.named_parameters())
    torch.testing.assert_close(method.centroids.norm(dim=-1), torch.ones(3, K))  # type: ignore[operator]


def test_deepcluster_v2_takes_any_number_of_crops() -> None:
    method, _ = started("deepcluster_v2")
    batch = images()[:B]
    for n_small in (0, 1, 4):
        small = [torch.nn.functional.interpolate(batch, (16, 16))] * n_small
        assert method.loss([batch, batch, *small], torch.arange(B)).isfinite()


# ---- SwAV ----


def test_swav_prototypes_wait_and_then_learn() -> None:
    method, _ = started("swav", freeze_prototypes_steps=2, optimizer="larc", lr=0.1)
    optimizer = assemble_optimizer(method, method.settings)  # type: ignore[arg-type]
    prototypes = [p for name, p in method.named_parameters() if name.startswith("prototypes.")]
    for step, moves in enumerate((False, False, True)):
        before = [torch.nn.functional.normalize(p.detach().clone(), dim=1) for p in prototypes]
        optimizer.zero_grad()
        method.loss(crops_of("swav", torch.arange(B)), torch.arange(B)).backward()  # type: ignore[no-untyped-call]
        prepare(optimizer, step, 0.1)
        optimizer.step()
        assert all(torch.allclose(a, b, atol=1e-6) != moves for a, b in zip(before, prototypes, strict=True))


@pytest.mark.parametrize("ratio", [0.05, 0.3, 10.0])
def test_swav_epsilon_is_bounded_by_the_spread(ratio: float) -> None:
    """Codes are those of the smaller epsilon, with the spread computed by loops in float64."""
    method, _ = started("swav", queue=0)
    bounded, _ = started("swav", queue=0, epsilon_of_spread=ratio)
    scores = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) * 0.1 + torch.arange(5) / 10
    s = scores.double().tolist()
    rows = [sum(row) / 5 for row in s]
    columns = [sum(s[i][j] for i in range(7)) / 7 for j in range(5)]
    mean = sum(rows) / 7
    squares = [(s[i][j] - rows[i] - columns[j] + mean) ** 2 for i in range(7) for j in range(5)]
    spread = math.sqrt(sum(squares) / 35)
    assert spread_of(scores).item() == pytest.approx(spread, rel=1e-6)
    epsilon = max(1e-3, min(0.05, ratio * spread))
    assert (epsilon < 0.05) == (ratio < 1)
    method.settings = method.settings.model_copy(update={"epsilon": epsilon})  # type: ignore[attr-defined]
    torch.testing.assert_close(bounded.codes_of(0, scores), method.codes_of(0, scores))  # type: ignore[operator]


def test_swav_scores_without_any_spread_have_uniform_codes() -> None:
    method, _ = started("swav", queue=0, epsilon_of_spread=0.3)
    codes = method.codes_of(0, torch.ones(4, 5))  # type: ignore[operator]
    torch.testing.assert_close(codes, torch.full((4, 5), 0.2))


def test_swav_queue_enters_when_full_and_not_before() -> None:
    method, run = started("swav", queue=2 * B, queue_from_epoch=1)
    assert method.queue is not None
    codes, filled = [], []
    for epoch in (0, 0, 1, 1, 1):
        run.step = epoch * run.steps_per_epoch
        indices = torch.arange(B)
        method.loss(crops_of("swav", indices), indices)
        codes.append(method.codes[0].clone())  # type: ignore[index]
        filled.append(int(method.queue.n_valid))  # type: ignore[arg-type]
        method.eval()  # the network stands still, so that only the queue can change the codes
        method.after_step(run, indices)  # type: ignore[arg-type]
        method.train()
    assert filled == [0, 0, 0, B, 2 * B]
    assert torch.equal(codes[2], codes[3])
    assert torch.equal(codes[0], codes[3])
    assert not torch.equal(codes[3], codes[4])


@pytest.mark.parametrize(("queue", "length"), [(4 * B, 4 * B), (4 * B + 3, 4 * B), (B - 1, None)])
def test_swav_cuts_the_queue_to_whole_batches_and_says_so(queue: int, length: int | None) -> None:
    method = built("swav", queue=queue, batch=B, k=4)
    assert (None if method.queue is None else method.queue.embeddings.shape[1]) == length  # type: ignore[union-attr]
    assert (queue == length) != (f"--queue {queue} cut to {length or 0}: whole batches" in (method.remark or ""))


def test_swav_reads_checkpoints_with_a_flag_for_the_queue() -> None:
    method = built("swav", queue=2 * B)
    method.load_state_dict(method.state_dict() | {"queue_open": torch.tensor(True)})


@pytest.mark.parametrize("queue", [B + 3, B - 1])
def test_swav_goes_on_with_a_queue_that_was_not_cut(queue: int) -> None:
    method = built("swav", queue=queue, batch=B, k=4)
    dim = method.settings.dim  # type: ignore[union-attr]
    state = {name: value for name, value in method.state_dict().items() if not name.startswith("queue.")}
    state |= {"queue.embeddings": torch.randn(2, queue, dim), "queue.n_valid": torch.tensor(queue)}
    method.load_state_dict(state)
    assert method.queue is not None
    assert method.queue.is_full  # type: ignore[union-attr]
    assert torch.equal(method.queue.embeddings, state["queue.embeddings"])  # type: ignore[union-attr]
    assert method.remark is None


def test_swav_takes_codes_from_three_crops() -> None:
    """Against a loop over code crops and the crops that predict them (Caron et al. 2020, eq. 2 and 7)."""
    method, indices = built("swav", crops=("4x16@0.3-1",), crops_for_codes=3, queue=0, k=4), torch.arange(B)
    crops = [images()[indices] * (1 + 0.3 * crop) for crop in range(4)]
    loss = method.loss(crops, indices)
    logits = (method.prototypes(method.embeddings) / method.settings.temperature).double().log_softmax(1).chunk(4)  # type: ignore[operator,union-attr]
    terms = [-(method.codes[c] * logits[v]).sum(1).mean() for c in range(3) for v in range(4) if v != c]  # type: ignore[index]
    assert len(terms) == 9
    assert loss.item() == pytest.approx(sum(term.item() for term in terms) / 9, abs=1e-6)


def test_swav_says_what_to_change_where_no_balance_is_possible() -> None:
    with pytest.raises(BadInput, match="cannot use 5 prototypes"):
        built("swav", batch=4, queue=0)


@pytest.mark.parametrize(("batch", "k", "queue"), [(4096, 3000, 0), (256, 3000, 3840), (8, 50, 64), (64, 64, 0)])
def test_swav_default_queue(batch: int, k: int, queue: int) -> None:
    assert default_queue(batch, k) == queue


@pytest.mark.parametrize("name", ["odc", "deepcluster_v2"])
def test_memories_can_be_float16(name: str) -> None:
    method, run = started(name, memory_dtype="float16")
    bank = method.get_submodule("memory" if name == "odc" else "bank").bank
    assert bank.dtype == torch.float16
    assert bank.any()
    method.loss(crops_of(name, torch.arange(B)), torch.arange(B)).backward()  # type: ignore[no-untyped-call]
    method.after_step(run, torch.arange(B))  # type: ignore[arg-type]
    assert bank.isfinite().all()
