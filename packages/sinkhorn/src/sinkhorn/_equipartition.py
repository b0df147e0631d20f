"""Checks, before training, that there are enough samples for the number of prototypes."""


def check_equipartition(batch: int, queue: int, k: int) -> str | None:
    """Check that a step has enough samples to use every prototype equally.

    Codes need batch + queue >= k. With fewer samples, the equal share of each prototype is less than one sample: codes
    cannot be confident and use every prototype at once, and the loss stays near ln k.

    Args:
        batch: Samples of one step, summed over all ranks.
        queue: Full length of the queue, 0 if there is none.
        k: Prototypes of one head.

    Returns:
        None, or a warning to show the user if only the full queue makes up for a batch smaller than k. SwAV's recipe
        for batches of 256 is such a case.

    Raises:
        ValueError: batch + queue < k, or an argument is out of range.

    Example:
        ```python
        check_equipartition(batch=64, queue=128, k=100)
        ```
    """
    _at_least("batch", batch, 1)
    _at_least("queue", queue, 0)
    _at_least("k", k, 1)
    n = batch + queue
    if n < k:
        raise ValueError(
            f"{n} samples (batch {batch} + queue {queue}) cannot use {k} prototypes equally: "
            f"use k <= {n} (better {largest_k(batch, queue)}), a batch >= {k - queue}, or a queue >= {k - batch}"
        )
    if batch < k:
        return (
            f"until the queue is full, codes come from as few as {batch} samples for {k} prototypes, "
            f"{batch / k:.2f} each; the loss may stay near ln k until then"
        )
    return None


def largest_k(batch: int, queue: int = 0, samples_per_prototype: int = 2) -> int:
    """Return the largest number of prototypes that leaves enough samples for each.

    Args:
        batch: Samples of one step, summed over all ranks.
        queue: Full length of the queue, 0 if there is none.
        samples_per_prototype: Samples of the batch and the queue that each prototype should get.

    Returns:
        (batch + queue) // samples_per_prototype, but at least 1.

    Raises:
        ValueError: An argument is out of range.
    """
    _at_least("batch", batch, 1)
    _at_least("queue", queue, 0)
    _at_least("samples_per_prototype", samples_per_prototype, 1)
    return max(1, (batch + queue) // samples_per_prototype)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
