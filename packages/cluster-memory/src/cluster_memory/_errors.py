"""The one error that a caller may want to tell from all others."""


class NotFinite(ValueError):
    """Rows, features, embeddings or centroids hold NaN or infinity: what made them diverged, or a file is damaged.

    Any other bad argument is a plain ValueError."""
