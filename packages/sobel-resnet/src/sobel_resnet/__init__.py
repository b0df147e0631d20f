"""ResNet trunks with Sobel front ends, stage taps and heads for clustering-based representation learning.

>>> backbone = resnet18(sobel=True, stem="cifar", width=0.5)
>>> features = backbone([torch.randn(4, 3, 32, 32), torch.randn(4, 3, 16, 16)])      # (8, 256)
>>> embeddings = Projector(backbone.num_features, 512, 128)(features)                # (8, 128), unit rows
>>> save_backbone(backbone, "backbone.safetensors", {"method": "swav"})
>>> backbone, report = load_backbone("backbone.safetensors")
"""

from ._checkpoint import LoadReport as LoadReport
from ._checkpoint import load_backbone as load_backbone
from ._checkpoint import save_backbone as save_backbone
from ._export import export as export
from ._heads import OdcNeck as OdcNeck
from ._heads import Projector as Projector
from ._init import init_linear_ as init_linear_
from ._maps import FeatureMaps as FeatureMaps
from ._maps import LastStage as LastStage
from ._resnet import ResNet as ResNet
from ._resnet import Stem as Stem
from ._resnet import architecture_of as architecture_of
from ._resnet import resnet18 as resnet18
from ._resnet import resnet34 as resnet34
from ._resnet import resnet50 as resnet50
from ._resnet import resnet101 as resnet101
from ._sobel import SobelFilter as SobelFilter
