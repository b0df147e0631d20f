"""The one error that a caller may want to tell from all others."""


class NotFinite(ValueError):
    """Scores, embeddings or scales hold NaN or infinity: the network that made them diverged.

    Any other bad argument is a plain ValueError. Where Triton runs (CUDA) no value is looked at, since that would make
    the host wait: codes are NaN there instead, and this is not raised."""
