"""Multi-crop augmentation as data: draw a plan from keys, then render it anywhere.

recipe = swav(n_small=6)                                   # 2 x 224 + 6 x 96
plan = recipe.draw(indices, epoch, sizes, seed=0)          # a pure function of (seed, epoch, index, crop)
crops = render(images, plan)                               # 8 tensors (B, 3, S, S)

transform = MultiCrop(odc(size=224))                       # the same for one PIL image at a time
crops = transform(image, index=7, epoch=3)
"""

from ._plan import CropGroup as CropGroup
from ._plan import CropPlan as CropPlan
from ._ready import deepcluster as deepcluster
from ._ready import deepcluster_v2 as deepcluster_v2
from ._ready import evaluation as evaluation
from ._ready import odc as odc
from ._ready import swav as swav
from ._recipe import Blur as Blur
from ._recipe import Jitter as Jitter
from ._recipe import Recipe as Recipe
from ._render import render as render
from ._specs import CentreSpec as CentreSpec
from ._specs import CropSpec as CropSpec
from ._transform import MultiCrop as MultiCrop
from ._transform import collate as collate
