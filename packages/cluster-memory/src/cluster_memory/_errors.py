"""The error that callers may want to handle differently from other bad input."""


class NotFinite(ValueError):
    """Rows, features, embeddings or centroids hold NaN or infinity.

    Usually the training that produced them diverged, or a file is damaged. All other bad arguments raise a plain
    ValueError or TypeError.
    """
