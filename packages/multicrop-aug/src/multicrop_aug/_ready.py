"""Ready recipes with the constants of the reference codes; every field of Recipe can be overridden by keyword."""

from typing import Any

from ._recipe import Blur, Jitter, Recipe
from ._specs import CentreSpec, CropSpec

SWAV_STD = (0.228, 0.224, 0.225)  # the official SwAV and DeepCluster-v2 codes; the usual first value is 0.229


def deepcluster(
    size: int = 224, *, n_crops: int = 1, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any
) -> Recipe:
    """DeepCluster as in OpenSelfSup and MMSelfSup (Caron et al. 2018, arXiv:1807.05520): crop, flip, +-2 degrees,
    jitter (.4, .4, 1, .5) always, grey .2."""
    settings: dict[str, Any] = {"rotation_degrees": 2.0, "jitter": Jitter(0.4, 0.4, 1.0, 0.5), "grey": 0.2}
    return Recipe((CropSpec(size, n_crops, scale),), **(settings | overrides))


def odc(size: int = 224, *, n_crops: int = 1, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any) -> Recipe:
    """ODC (Zhan et al. 2020, arXiv:2006.10645), whose augmentation is DeepCluster's."""
    return deepcluster(size, n_crops=n_crops, scale=scale, **overrides)


def swav(
    size: int = 224,
    *,
    n_crops: int = 2,
    scale: tuple[float, float] = (0.14, 1.0),
    small_size: int = 96,
    n_small: int = 6,
    small_scale: tuple[float, float] = (0.05, 0.14),
    **overrides: Any,
) -> Recipe:
    """SwAV's multi-crop (Caron et al. 2020, arXiv:2006.09882): large and small crops, flip, jitter (.8, .8, .8, .2)
    with p .8, grey .2, blur .5. MMSelfSup's variant is std=(.229, .224, .225) and flip last in order; n_small=0: no
    small crops."""
    small = (CropSpec(small_size, n_small, small_scale),) if n_small else ()
    settings: dict[str, Any] = {
        "jitter": Jitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        "grey": 0.2,
        "blur": Blur(),
        "std": SWAV_STD,
    }
    return Recipe((CropSpec(size, n_crops, scale), *small), **(settings | overrides))


def deepcluster_v2(
    size: int = 224,
    *,
    n_crops: int = 2,
    scale: tuple[float, float] = (0.08, 1.0),
    small_size: int = 96,
    n_small: int = 0,
    small_scale: tuple[float, float] = (0.05, 0.14),
    **overrides: Any,
) -> Recipe:
    """DeepCluster-v2 (same paper): SwAV's distortions, by default the two 224-pixel crops of its 400-epoch run."""
    small: dict[str, Any] = {"small_size": small_size, "n_small": n_small, "small_scale": small_scale}
    return swav(size, n_crops=n_crops, scale=scale, **small, **overrides)


def evaluation(size: int = 224, resize: int | None = None, **overrides: Any) -> Recipe:
    """Short side to `resize` (default round(size * 256 / 224)), centre crop, normalise; `evaluation(32, resize=32)`
    leaves 32-pixel images as they are."""
    resize = round(size * 256 / 224) if resize is None else resize
    return Recipe((CentreSpec(size, resize),), **({"flip": 0.0} | overrides))
