"""What the loop trains, out of the settings: backbone, method, optimiser."""

from __future__ import annotations

from typing import Any

import torch
from sobel_resnet import ResNet, load_backbone

from pretrain.config import Settings
from pretrain.errors import BadInput
from pretrain.keys import key
from pretrain.method import Method
from pretrain.methods.deepcluster import DeepCluster
from pretrain.methods.deepcluster_v2 import DeepClusterV2
from pretrain.methods.odc import Odc
from pretrain.methods.swav import Swav
from pretrain.optimizers import LARC, LARS, ClippedLARS
from pretrain.sync_batch_norm import synchronise_batch_norm

METHODS: dict[str, Any] = {"deepcluster": DeepCluster, "odc": Odc, "deepcluster_v2": DeepClusterV2, "swav": Swav}
OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "larc": LARC,
    "lars": LARS,
    "clipped-lars": ClippedLARS,
    "adam": torch.optim.Adam,
}


def build_method(
    settings: Settings, n_images: int, group: Any = None, *, bn_group: Any = None, cuda: bool = False
) -> Method:
    """The method around its backbone, channels last.

    group: of all ranks; None when this process is alone. bn_group: the ranks that share batch statistics, or None."""
    backbone = _backbone(settings)
    method: Method = METHODS[settings.method](backbone, settings, n_images, group)
    if bn_group is not None:
        # module by module: the method keeps its own attributes
        for name, child in list(method.named_children()):
            setattr(method, name, synchronise_batch_norm(child, bn_group, cuda=cuda))
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile == "on":
        backbone.compile()  # in place: the names of its state stay as they are
    return method


def _backbone(settings: Settings) -> ResNet:
    wanted = {name: getattr(settings, name) for name in ("arch", "sobel", "stem", "width")}
    if settings.weights is None:
        return ResNet(**wanted, zero_init_residual=settings.zero_init_residual, seed=key(settings.seed, "backbone"))
    try:
        backbone, _ = load_backbone(settings.weights)
    except (OSError, ValueError) as error:
        raise BadInput(f"--weights: {error}") from None
    found = {"arch": backbone.arch, "sobel": backbone.sobel is not None, "stem": backbone.stem, "width": backbone.width}
    if found != wanted:
        differ = ", ".join(
            f"{name} {found[name]} instead of {wanted[name]}" for name in found if found[name] != wanted[name]
        )
        raise BadInput(f"--weights {settings.weights}: another network than the settings ask for: {differ}")
    return backbone


def build_optimizer(method: Method, settings: Settings, *, cuda: bool = False) -> torch.optim.Optimizer:
    """Over the method's parameter groups; those without `lr_factor` and `frozen_steps` get 1 and 0."""
    groups = [{"lr_factor": 1.0, "frozen_steps": 0} | group for group in method.parameter_groups()]
    more: dict[str, Any] = {} if settings.optimizer == "adam" else {"momentum": settings.momentum}
    if settings.optimizer in ("sgd", "adam") and cuda:
        more["foreach"] = True  # a few launches for all tensors together; the three of ours always do that
    optimizer: torch.optim.Optimizer = OPTIMIZERS[settings.optimizer](
        groups, lr=settings.lr, weight_decay=settings.weight_decay, **more
    )
    return optimizer


def prepare_step(optimizer: torch.optim.Optimizer, step: int, lr: float) -> None:
    """Before an update: the learning rate of each group; parameters that are still frozen lose their gradients."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if step < group["frozen_steps"]:
            for parameter in group["params"]:
                parameter.grad = None
