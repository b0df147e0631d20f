"""The exception that callers may want to catch on its own."""


class NotFinite(ValueError):
    """Scores contain NaN or infinity, usually because the network that produced them diverged.

    All other invalid arguments raise a plain ValueError. The Triton backend (CUDA) never raises this error, because
    checking the values would make the host wait for the GPU. It returns codes that are all NaN instead.
    """
