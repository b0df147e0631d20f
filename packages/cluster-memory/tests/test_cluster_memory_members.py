import torch
from cluster_memory._members import Members
from hypothesis import given, settings
from hypothesis import strategies as st


def same(members: Members, assignments: torch.Tensor) -> bool:
    k = len(members.size)
    samples, clusters = members.members(torch.arange(k))
    order = assignments.argsort(stable=True)
    return torch.equal(samples, order) and torch.equal(clusters, assignments[order])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 20), st.booleans(), st.integers(0, 10**6))
def test_follows_any_moves(n: int, k: int, batch: int, one_way: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    assignments = torch.randint(0, k, (n,), generator=g)
    members = Members(n, k)
    members.rebuild(assignments)
    for step in range(30):
        samples = torch.randperm(n, generator=g)[:batch]
        new = torch.randint(0, k, (len(samples),), generator=g)
        if one_way:
            new[:] = step % k  # all join one cluster, again and again, which outgrows its slots
        members.move(samples, assignments[samples], new)
        assignments[samples] = new
        assert same(members, assignments)


def test_a_new_layout_leaves_room_for_all_that_grow() -> None:
    """Regression test: cluster 1 has free slots, cluster 2 has none and forces a new layout."""
    members = Members(40, 3)
    assignments = torch.zeros(40, dtype=torch.int64)
    members.rebuild(assignments)
    everyone = torch.arange(40)
    for new in (
        (everyone < 30).long(),  # cluster 1 gets many slots
        torch.zeros(40, dtype=torch.int64),
        1 + (everyone >= 20).long(),
    ):
        members.slots = members.slots[: members.used + 61].clone()  # the next large growth forces a layout
        moved = assignments != new
        members.move(everyone[moved], assignments[moved], new[moved])
        assignments = new
        assert same(members, assignments)


def test_layouts_are_rare() -> None:
    """There is at most one new layout in about N joins, so that moving B samples costs O(B) on average."""
    n, k = 1000, 10
    g = torch.Generator().manual_seed(0)
    assignments = torch.randint(0, k, (n,), generator=g)
    members = Members(n, k)
    members.rebuild(assignments)
    layouts = 0
    for step in range(500):
        samples = torch.randperm(n, generator=g)[:50]
        new = torch.full((50,), step // 50)
        before = members.slots.data_ptr()
        members.move(samples, assignments[samples], new)
        layouts += members.slots.data_ptr() != before
        assignments[samples] = new
    assert same(members, assignments)
    assert 0 < layouts <= 500 * 50 // n
    assert len(members.slots) <= 6 * n
