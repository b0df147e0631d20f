"""A CUDA that is pretended: CPU tensors that say they are on cuda:0, under CUDA's rules, every wait of the host logged.

with pretended() as device:
    x = torch.randn(100, 8, device="cuda")
    with device.watched() as log:
        KMeans(4).fit(x)
    assert log.waits == {}, log.waits_by_line()

Only in a process that `uv run tests/pretend_cuda` started. What is pretended and what is not: CONTRIBUTING.md.
"""
