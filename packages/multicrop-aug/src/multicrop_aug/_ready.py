"""Ready recipes with the constants of the reference codes. Keywords override every field of Recipe.

A keyword holds for all crops, also where a method distorts its crops differently: `byol(blur=Blur(0.5))` blurs both.
"""

from dataclasses import replace
from typing import Any

from ._recipe import Recipe
from ._settings import Blur, CentreSpec, CropSpec, Jitter

BYOL_JITTER = Jitter(0.4, 0.4, 0.2, 0.1, p=0.8)
SWAV_STD = (0.228, 0.224, 0.225)  # the official SwAV and DeepCluster-v2 codes; the usual first value is 0.229


def deepcluster(
    size: int = 224, *, n_crops: int = 1, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any
) -> Recipe:
    """DeepCluster as in OpenSelfSup and MMSelfSup (Caron et al. 2018, arXiv:1807.05520).

    Crop, flip, rotation by +-2 degrees, jitter (.4, .4, 1, .5) always, grey .2.

    Args:
        size: Side of the crops, pixels.
        n_crops: Crops per image.
        scale: (low, high) of the crops' share of the image's area.
        **overrides: Fields of Recipe.
    """
    settings: dict[str, Any] = {"rotation_degrees": 2.0, "jitter": Jitter(0.4, 0.4, 1.0, 0.5), "grey": 0.2}
    return Recipe((CropSpec(size, n_crops, scale),), **(settings | overrides))


def odc(size: int = 224, *, n_crops: int = 1, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any) -> Recipe:
    """ODC (Zhan et al. 2020, arXiv:2006.10645). Its augmentation is DeepCluster's.

    Args:
        size: Side of the crops, pixels.
        n_crops: Crops per image.
        scale: (low, high) of the crops' share of the image's area.
        **overrides: Fields of Recipe.
    """
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
    """SwAV's multi-crop (Caron et al. 2020, arXiv:2006.09882): large and small crops.

    Flip, jitter (.8, .8, .8, .2) with p .8, grey .2, blur .5. For MMSelfSup's variant, pass std=(.229, .224, .225) and
    put the flip last in `order`.

    Args:
        size: Side of the large crops, pixels.
        n_crops: Large crops per image.
        scale: (low, high) of the large crops' share of the image's area.
        small_size: Side of the small crops, pixels.
        n_small: Small crops per image; may be 0.
        small_scale: (low, high) of the small crops' share of the image's area.
        **overrides: Fields of Recipe.
    """
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
    """DeepCluster-v2 (Caron et al. 2020, arXiv:2006.09882): SwAV's distortions.

    The defaults are the two 224-pixel crops of its 400-epoch run.

    Args:
        size: Side of the large crops, pixels.
        n_crops: Large crops per image.
        scale: (low, high) of the large crops' share of the image's area.
        small_size: Side of the small crops, pixels.
        n_small: Small crops per image; may be 0.
        small_scale: (low, high) of the small crops' share of the image's area.
        **overrides: Fields of Recipe.
    """
    small: dict[str, Any] = {"small_size": small_size, "n_small": n_small, "small_scale": small_scale}
    return swav(size, n_crops=n_crops, scale=scale, **small, **overrides)


def simclr(
    size: int = 224,
    *,
    n_crops: int = 2,
    scale: tuple[float, float] = (0.08, 1.0),
    strength: float = 1.0,
    **overrides: Any,
) -> Recipe:
    """SimCLR (Chen et al. 2020, arXiv:2002.05709; google-research/simclr `data_util.py`).

    Bicubic crops, flip, jitter strength x (.8, .8, .8, .2) with p .8, grey .2, blur .5 (sigma .1-2). The paper's recipe
    for CIFAR is `simclr(32, strength=0.5, blur=Blur(p=0.0))`. Its code feeds pixels in [0, 1]: pass
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0) for that. Its blur kernel spans a tenth of the side, which equals ours
    from 160 pixels on and is shorter below.

    Args:
        size: Side of the crops, pixels.
        n_crops: Crops per image.
        scale: (low, high) of the crops' share of the image's area.
        strength: Factor of the jitter.
        **overrides: Fields of Recipe.
    """
    settings: dict[str, Any] = {
        "jitter": Jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8),
        "grey": 0.2,
        "blur": Blur(),
    }
    return Recipe((CropSpec(size, n_crops, scale, interpolation="bicubic"),), **(settings | overrides))


def byol(
    size: int = 224,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    interpolation: str = "bicubic",
    **overrides: Any,
) -> Recipe:
    """BYOL (Grill et al. 2020, arXiv:2006.07733, table 6).

    Flip, jitter (.4, .4, .2, .1) with p .8, grey .2. The first crop is always blurred. The second one is blurred with
    p .1 and solarised with p .2. Its code (jax) adds to the brightness and scales saturation in HSV; here both are
    torchvision's, as in MoCo v3.

    Args:
        size: Side of the crops, pixels.
        scale: (low, high) of the crops' share of the image's area.
        interpolation: "bilinear" or "bicubic".
        **overrides: Fields of Recipe.
    """
    crop = CropSpec(size, 1, scale, interpolation=interpolation)
    specs = (replace(crop, blur=Blur(1.0)), replace(crop, blur=Blur(0.1), solarise=0.2))
    return _asymmetric(specs, overrides)


def moco_v3(
    size: int = 224,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    interpolation: str = "bilinear",
    **overrides: Any,
) -> Recipe:
    """MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057; `main_moco.py`): BYOL's distortions on bilinear crops.

    The scale is that of its ResNet-50 runs; its ViTs used (0.08, 1.0).

    Args:
        size: Side of the crops, pixels.
        scale: (low, high) of the crops' share of the image's area.
        interpolation: "bilinear" or "bicubic".
        **overrides: Fields of Recipe.
    """
    return byol(size, scale=scale, interpolation=interpolation, **overrides)


def dino(
    size: int = 224,
    *,
    scale: tuple[float, float] = (0.4, 1.0),
    small_size: int = 96,
    n_small: int = 8,
    small_scale: tuple[float, float] = (0.05, 0.4),
    interpolation: str = "bicubic",
    **overrides: Any,
) -> Recipe:
    """DINO (Caron et al. 2021, arXiv:2104.14294; `main_dino.py`): two global and n_small local crops.

    Flip, jitter (.4, .4, .2, .1) with p .8, grey .2. Blur 1.0, .1 and .5 on global crop 1, global crop 2 and local
    crops; solarise .2 on global crop 2. Without local crops (n_small=0) its code recommends a scale of (0.14, 1.0).

    Args:
        size: Side of the global crops, pixels.
        scale: (low, high) of the global crops' share of the image's area.
        small_size: Side of the local crops, pixels.
        n_small: Local crops per image; may be 0.
        small_scale: (low, high) of the local crops' share of the image's area.
        interpolation: "bilinear" or "bicubic".
        **overrides: Fields of Recipe.
    """
    crop = CropSpec(size, 1, scale, interpolation=interpolation)
    small = CropSpec(small_size, max(n_small, 1), small_scale, interpolation=interpolation, blur=Blur(0.5))
    specs = (replace(crop, blur=Blur(1.0)), replace(crop, blur=Blur(0.1), solarise=0.2), small)
    return _asymmetric(specs if n_small else specs[:2], overrides)


def _asymmetric(specs: tuple[CropSpec, ...], overrides: dict[str, Any]) -> Recipe:
    """Return a recipe of BYOL's family. A keyword replaces the settings of single crops."""
    # PIL inverts from 128 on. Pixels here are not rounded, so the threshold lies half a step below 128.
    settings: dict[str, Any] = {"jitter": BYOL_JITTER, "grey": 0.2, "solarise_threshold": 0.5}
    given: dict[str, Any] = {name: None for name in ("blur", "solarise") if name in overrides}
    return Recipe(tuple(replace(spec, **given) for spec in specs), **(settings | overrides))


def evaluation(
    size: int = 224, resize: int | None = None, *, interpolation: str = "bilinear", **overrides: Any
) -> Recipe:
    """Resize the short side, crop the centre, normalise.

    `evaluation(32, resize=32)` leaves 32-pixel images as they are. DINO evaluates with interpolation="bicubic".

    Args:
        size: Side of the crop, pixels.
        resize: Short side of the resized image; None is round(size * 256 / 224).
        interpolation: "bilinear" or "bicubic".
        **overrides: Fields of Recipe.
    """
    resize = round(size * 256 / 224) if resize is None else resize
    return Recipe((CentreSpec(size, resize, interpolation=interpolation),), **({"flip": 0.0} | overrides))
