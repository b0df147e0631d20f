"""ResNet backbones with a Sobel front end, stage taps, projection heads, and readers and writers of weights files.

Example:
    ```python
    import torch
    from sobel_resnet import Projector, load_backbone, resnet18, save_backbone

    backbone = resnet18(sobel=True, stem="cifar", width=0.5)
    features = backbone([torch.randn(4, 3, 32, 32), torch.randn(4, 3, 16, 16)])  # (8, 256)
    embeddings = Projector(backbone.num_features, 512, 128)(features)  # (8, 128), rows of norm 1
    save_backbone(backbone, "backbone.safetensors", {"method": "swav"})
    backbone, report = load_backbone("backbone.safetensors")
    ```
"""

from importlib.metadata import version as _version

from ._checkpoint import LoadReport, load_backbone, save_backbone
from ._export import export
from ._heads import OdcNeck, Projector
from ._maps import FeatureMaps, LastStage
from ._resnet import ResNet, Stem, architecture_of, resnet18, resnet34, resnet50, resnet101
from ._sobel import SobelFilter

__version__ = _version("sobel-resnet")

__all__ = [
    "FeatureMaps",
    "LastStage",
    "LoadReport",
    "OdcNeck",
    "Projector",
    "ResNet",
    "SobelFilter",
    "Stem",
    "__version__",
    "architecture_of",
    "export",
    "load_backbone",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "save_backbone",
]
