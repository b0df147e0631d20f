"""Assemble what is trained from the settings: backbone, method, optimiser."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from sobel_resnet import ResNet, load_backbone
from steady_runs import BadInput
from steady_runs.keys import key

from pretrain.launch import Machine
from pretrain.method import Method
from pretrain.optimizers import LARC, LARS, ClippedLARS
from pretrain.settings import METHODS, RunSettings
from pretrain.sync_batch_norm import batch_norm_group, synchronise_batch_norm

OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "larc": LARC,
    "lars": LARS,
    "clipped-lars": ClippedLARS,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class Trained:
    """What a step updates.

    Attributes:
        method: The method, with its memories.
        network: The method as Fabric has wrapped it for DDP; its `loss` is what a step calls.
        optimizer: Over the method's parameter groups.
    """

    method: Method
    network: Any
    optimizer: torch.optim.Optimizer


def assemble(settings: RunSettings, n_images: int, machine: Machine) -> Trained:
    """Build method, network and optimiser on the machine's device. Collective."""
    bn_group = batch_norm_group(settings, machine.group)
    method = assemble_method(settings, n_images, machine.group, bn_group=bn_group, cuda=machine.is_cuda)
    optimizer = assemble_optimizer(method, settings, cuda=machine.is_cuda)
    network, optimizer = machine.fabric.setup(method, optimizer)
    network.mark_forward_method("loss")
    return Trained(method, network, optimizer)


def method_class(name: str) -> type[Method]:
    """The class that the method's settings name."""
    module, attribute = METHODS[name].implementation.split(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def assemble_method(
    settings: RunSettings, n_images: int, group: Any = None, *, bn_group: Any = None, cuda: bool = False
) -> Method:
    """The method around its backbone, in channels-last memory format.

    Args:
        settings: Of the run.
        n_images: Images of the data set.
        group: Process group of all ranks; None when this process is alone.
        bn_group: The ranks that share batch statistics; None if each has its own.
        cuda: Whether batch norm runs on a GPU.
    """
    backbone = _assemble_backbone(settings)
    make: Any = method_class(settings.method)  # each takes its own settings class
    method: Method = make(backbone, settings, n_images, group)
    if bn_group is not None:
        # child by child, as converting the method itself would replace the object
        for name, child in list(method.named_children()):
            setattr(method, name, synchronise_batch_norm(child, bn_group, cuda=cuda))
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile == "on":
        backbone.compile()  # in place, so that the names in the state dict stay
    return method


def _assemble_backbone(settings: RunSettings) -> ResNet:
    wanted = {name: getattr(settings, name) for name in ("arch", "sobel", "stem", "width")}
    if settings.weights is None:
        seed = key(settings.seed, "backbone")
        try:
            return ResNet(**wanted, zero_init_residual=settings.zero_init_residual, seed=seed)
        except ValueError as error:  # a width that leaves no channels
            raise BadInput(f"--width {settings.width}: {error}") from None
    try:
        backbone, _ = load_backbone(settings.weights)
    except (OSError, ValueError) as error:
        raise BadInput(f"--weights {error}") from None
    found = {"arch": backbone.arch, "sobel": backbone.sobel is not None, "stem": backbone.stem, "width": backbone.width}
    if found != wanted:
        differ = ", ".join(
            f"{name} {found[name]} instead of {wanted[name]}" for name in found if found[name] != wanted[name]
        )
        raise BadInput(f"--weights {settings.weights}: another network than the settings ask for: {differ}")
    return backbone


def assemble_optimizer(method: Method, settings: RunSettings, *, cuda: bool = False) -> torch.optim.Optimizer:
    """The optimiser over the method's parameter groups; `lr_factor` and `frozen_steps` default to 1 and 0."""
    groups = _groups(method)
    more: dict[str, Any] = {} if settings.optimizer == "adam" else {"momentum": settings.momentum}
    if settings.optimizer in ("sgd", "adam") and cuda:
        more["foreach"] = True  # a few kernel launches for all tensors together; our own three always do that
    optimizer: torch.optim.Optimizer = OPTIMIZERS[settings.optimizer](
        groups, lr=settings.lr, weight_decay=settings.weight_decay, **more
    )
    return optimizer


def renew_group_options(trained: Trained) -> None:
    """Set what the optimiser's groups have from the settings to what the method's settings say now."""
    for group, wanted in zip(trained.optimizer.param_groups, _groups(trained.method), strict=True):
        group.update({name: wanted[name] for name in ("lr_factor", "frozen_steps")})


def _groups(method: Method) -> list[dict[str, Any]]:
    return [{"lr_factor": 1.0, "frozen_steps": 0} | group for group in method.parameter_groups()]
