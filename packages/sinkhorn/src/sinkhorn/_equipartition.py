"""What batch, queue and number of prototypes allow, said before training starts."""


def check_equipartition(batch: int, queue: int, k: int) -> str | None:
    """Raise ValueError where samples are too few for prototypes: codes need batch + queue >= k.

    batch: samples of one step, all ranks. queue: its full length, 0 for none. k: prototypes of one head. Below k each
    prototype's equal share is less than a sample: codes cannot be sharp and use all, and the loss stays near ln k.
    Returns a remark where only the full queue makes up for it (as in SwAV's recipe for batches of 256), else None."""
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
    """Most prototypes, at least 1, such that each has samples_per_prototype of the batch + queue samples of a step."""
    _at_least("batch", batch, 1)
    _at_least("queue", queue, 0)
    _at_least("samples_per_prototype", samples_per_prototype, 1)
    return max(1, (batch + queue) // samples_per_prototype)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
