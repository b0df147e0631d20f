"""Multi-crop augmentation as data: draw a plan from keys, then render it anywhere.

recipe = swav(n_small=6)                                   # 2 x 224 + 6 x 96
plan = recipe.draw(indices, epoch, sizes, seed=0)          # a pure function of (seed, epoch, index, crop)
crops = render(images, plan)                               # 8 tensors (B, 3, S, S)

transform = MultiCrop(odc(size=224))                       # the same for one PIL image at a time
crops = transform(image, index=7, epoch=3)
"""

from typing import TYPE_CHECKING, Any

from ._operations import CropGroup as CropGroup
from ._packed import PackedImages as PackedImages
from ._plan import CropPlan as CropPlan
from ._preview import draw_preview as draw_preview
from ._ready import byol as byol
from ._ready import deepcluster as deepcluster
from ._ready import deepcluster_v2 as deepcluster_v2
from ._ready import dino as dino
from ._ready import evaluation as evaluation
from ._ready import moco_v3 as moco_v3
from ._ready import odc as odc
from ._ready import simclr as simclr
from ._ready import swav as swav
from ._recipe import Recipe as Recipe
from ._render import render as render
from ._settings import Blur as Blur
from ._settings import CentreSpec as CentreSpec
from ._settings import CropSpec as CropSpec
from ._settings import Jitter as Jitter
from ._transform import MultiCrop as MultiCrop
from ._transform import collate as collate

if TYPE_CHECKING:
    from ._v2 import MultiCropV2 as MultiCropV2


def __getattr__(name: str) -> Any:
    if name == "MultiCropV2":  # not before it is asked for: it needs torchvision, the rest does not
        from ._v2 import MultiCropV2

        return MultiCropV2
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
