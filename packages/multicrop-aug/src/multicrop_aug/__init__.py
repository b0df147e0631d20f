"""Multi-crop augmentation as data: draw a plan from keys, then render it on any device.

```python
recipe = swav(n_small=6)  # 2 x 224 + 6 x 96
plan = recipe.draw(indices, epoch, sizes, seed=0)  # a pure function of (seed, epoch, index, crop)
crops = render(images, plan)  # 8 tensors (B, 3, S, S)

transform = MultiCrop(odc(size=224))  # for one image at a time
crops = transform(image, index=7, epoch=3)
```
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ._operations import CropGroup
from ._packed import PackedImages
from ._plan import CropPlan
from ._preview import draw_preview
from ._ready import byol, deepcluster, deepcluster_v2, dino, evaluation, moco_v3, odc, simclr, swav
from ._recipe import Recipe
from ._render import render
from ._settings import Blur, CentreSpec, CropSpec, Jitter
from ._transform import MultiCrop, collate

if TYPE_CHECKING:
    from ._v2 import MultiCropV2 as MultiCropV2

__version__ = version("multicrop-aug")

# MultiCropV2 is left out, so that `from multicrop_aug import *` works without torchvision.
__all__ = [
    "Blur",
    "CentreSpec",
    "CropGroup",
    "CropPlan",
    "CropSpec",
    "Jitter",
    "MultiCrop",
    "PackedImages",
    "Recipe",
    "__version__",
    "byol",
    "collate",
    "deepcluster",
    "deepcluster_v2",
    "dino",
    "draw_preview",
    "evaluation",
    "moco_v3",
    "odc",
    "render",
    "simclr",
    "swav",
]


def __getattr__(name: str) -> Any:
    if name == "MultiCropV2":  # imported on demand, because only it needs torchvision
        from ._v2 import MultiCropV2

        return MultiCropV2
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
