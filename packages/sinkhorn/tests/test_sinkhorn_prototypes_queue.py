import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sinkhorn import EmbeddingQueue, Prototypes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_scores_are_cosines_in_float32() -> None:
    prototypes, z = Prototypes(8, 5), normal(6, 8) * 7
    expected = torch.stack([torch.stack([F.cosine_similarity(a, c, dim=0) for c in prototypes.weight]) for a in z])
    torch.testing.assert_close(prototypes(z), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypes(z), prototypes(z.clone()))
        assert prototypes(z).dtype == torch.float32
        torch.testing.assert_close(prototypes(z), expected)
    assert prototypes(z.bfloat16()).dtype == torch.float32
    assert prototypes(torch.zeros(2, 8)).isfinite().all()
    assert prototypes(z[:0]).shape == (0, 5)


def test_unit_rows_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    a, b, other = Prototypes(8, 5, seed=3), Prototypes(8, 5, seed=3), Prototypes(8, 5, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, other.weight)
    torch.testing.assert_close(a.weight.norm(dim=1), torch.ones(5))


def test_several_heads() -> None:
    prototypes = Prototypes(8, [5, 7, 7])
    scores = prototypes(normal(6, 8))
    assert [tuple(part.shape) for part in scores] == [(6, 5), (6, 7), (6, 7)]
    assert not torch.equal(scores[1], scores[2])
    assert list(prototypes.state_dict()) == [f"prototypes{head}.weight" for head in range(3)]
    assert list(Prototypes(8, 5).state_dict()) == ["weight"]
    assert len(Prototypes(8, [5])(normal(6, 8))) == 1


def test_normalise_keeps_the_parameter_and_leaves_no_graph() -> None:
    prototypes = Prototypes(8, 5)
    weight = prototypes.weight
    with torch.no_grad():
        weight.mul_(torch.arange(1, 6)[:, None])
    prototypes.normalise_()
    assert prototypes.weight is weight
    assert weight.is_leaf
    torch.testing.assert_close(weight, Prototypes(8, 5).weight)


@pytest.mark.parametrize("k", [5, [5, 6]])
def test_frozen_steps_change_nothing_even_with_momentum(k: int | list[int]) -> None:
    prototypes = Prototypes(8, k, freeze_steps=3)
    optimizer = torch.optim.SGD(prototypes.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    start = [weight.clone() for weight in prototypes.parameters()]
    for step in range(4):
        scores = prototypes(normal(6, 8, seed=step))
        optimizer.zero_grad()
        sum(part.square().sum() for part in (scores if isinstance(scores, list) else [scores])).backward()
        prototypes.drop_frozen_gradients(step)
        optimizer.step()
        same = [torch.equal(a, b) for a, b in zip(start, prototypes.parameters(), strict=True)]
        assert same == [step < 3] * len(start)


def test_prototypes_name_what_is_wrong() -> None:
    for dim, k, freeze in ((0, 5, 0), (8, 0, 0), (8, [], 0), (8, [5, 0], 0), (8, 5, -1)):
        with pytest.raises(ValueError, match="expected dim, k >= 1"):
            Prototypes(dim, k, freeze_steps=freeze)
    for wrong in (torch.zeros(3, 7), torch.zeros(8), torch.zeros(3, 8, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"z must be a float \(B, 8\)"):
            Prototypes(8, 5)(wrong)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 12), batches=st.lists(st.integers(0, 15), max_size=8))
def test_queue_equals_the_shifts_of_the_authors(length: int, batches: list[int]) -> None:
    queue = EmbeddingQueue(2, length, 3)
    shifted, total = torch.zeros(2, length, 3), 0
    for step, b in enumerate(batches):
        z = normal(2, b, 3, seed=step)
        queue.push(z)
        kept = z[:, :length]
        bs, total = kept.shape[1], total + b
        if bs:
            for i in range(2):  # main_swav.py
                shifted[i, bs:] = shifted[i, :-bs].clone()
                shifted[i, :bs] = kept[i]
        assert torch.equal(queue.embeddings, shifted)
        assert torch.equal(queue.valid(), shifted[:, : min(total, length)])
        assert queue.is_full == (total >= length)
    assert torch.equal(queue.local(), queue.valid())


def test_empty_slots_are_never_given_out() -> None:
    queue = EmbeddingQueue(2, 10, 3)
    assert queue.valid().shape == (2, 0, 3)
    queue.push(normal(2, 4, 3))
    assert queue.valid().shape == (2, 4, 3)
    assert queue.valid().abs().sum(2).min() > 0


def test_queue_resumes_and_keeps_float32_without_gradient() -> None:
    queue = EmbeddingQueue(2, 10, 3)
    queue.push(normal(2, 4, 3).requires_grad_() * 2)
    assert not queue.embeddings.requires_grad
    other = EmbeddingQueue(2, 10, 3)
    other.load_state_dict(queue.state_dict())
    for made in (queue, other):
        made.push(normal(2, 7, 3, seed=1).bfloat16())
    assert other.is_full
    assert other.embeddings.dtype == torch.float32
    assert torch.equal(queue.embeddings, other.embeddings)


def test_the_fill_count_is_known_on_the_host() -> None:
    """Reading it from a GPU would wait, so it is read again only after other code wrote it."""
    queue, read = EmbeddingQueue(2, 10, 3), Counter()

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            read[func.__name__] += 1
            return func(*args, **(kwargs or {}))

    def step() -> bool:
        queue.push(normal(2, 4, 3))
        return queue.local().shape[1] == queue.valid().shape[1] == int(queue.n_valid)

    step()
    with Reads():
        queue.push(normal(2, 4, 3))
        assert not queue.is_full
        assert queue.local().shape == queue.valid().shape == (2, 8, 3)
    assert read["_local_scalar_dense.default"] == 0
    assert read["cat.default"] == 1  # checks that operations are counted
    assert list(queue.state_dict()) == ["embeddings", "n_valid"]
    empty = EmbeddingQueue(2, 10, 3).state_dict()
    for written in (
        lambda: queue.load_state_dict(empty),
        lambda: queue.n_valid.fill_(0),
        lambda: queue.register_buffer("n_valid", torch.zeros((), dtype=torch.int64)),
    ):
        assert step()
        written()
        assert queue.valid().shape == (2, 0, 3)
    assert copy.deepcopy(queue).valid().shape == (2, 0, 3)
    assert step()


def test_queue_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="n_crops, length, dim >= 1"):
        EmbeddingQueue(2, 0, 3)
    for wrong in (torch.zeros(1, 4, 3), torch.zeros(2, 4, 5), torch.zeros(4, 3), torch.zeros(2, 4, 3).long()):
        with pytest.raises(ValueError, match=r"z must be a float \(2, B, 3\)"):
            EmbeddingQueue(2, 10, 3).push(wrong)


def test_numpy_embeddings_are_accepted() -> None:
    pytest.importorskip("numpy")
    prototypes, queue, other = Prototypes(3, 5), EmbeddingQueue(2, 10, 3), EmbeddingQueue(2, 10, 3)
    z = normal(2, 4, 3)
    assert torch.equal(prototypes(z[0].numpy()), prototypes(z[0]))
    queue.push(z)
    other.push(z.double().numpy())
    assert torch.equal(queue.embeddings, other.embeddings)


def test_repr_shows_the_arguments() -> None:
    assert repr(Prototypes(3, 5)) == "Prototypes(dim=3, k=5, freeze_steps=0)"
    assert "dim=3, k=[5, 6], freeze_steps=2" in repr(Prototypes(3, (5, 6), freeze_steps=2))
    assert repr(EmbeddingQueue(2, 10, 3)) == "EmbeddingQueue(n_crops=2, length=10, dim=3)"


def test_the_group_is_keyword_only() -> None:
    with pytest.raises(TypeError):
        EmbeddingQueue(2, 10, 3, None)  # type: ignore[misc]
