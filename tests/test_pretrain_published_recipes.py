"""Every published recipe holds the published values, and takes a step at its true shapes.

The tables were written from the papers and the authors' scripts, not from the recipes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive import fabric_of
from pretrain.assemble import assemble_method, assemble_optimizer
from pretrain.data import train_recipe
from pretrain.recipe_files import check_settings, read_recipe
from pretrain.schedule import lr_at
from pretrain.settings import RunSettings, parse_crops
from pretrain.step import update

DEEPCLUSTER: dict[str, Any] = {
    "method": "deepcluster", "arch": "resnet50", "precision": "32", "sync_bn": False, "k": 10_000,
    "pca_dim": 256, "kmeans_iters": 20,
    "balanced": True, "reweight_power": 0.0, "head_lr": 1.0, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9,
    "weight_decay": 1e-5, "schedule": "step", "lr_steps": (400,), "warmup_epochs": 0, "epochs": 200, "batch": 512,
    "drop_last": False, "crops": ("1x224@0.08-1",), "flip": 0.5, "rotation": 2.0, "jitter": (0.4, 0.4, 1.0, 0.5),
    "jitter_p": 1.0, "grey": 0.2, "blur": 0.0, "solarise": 0.0, "std": (0.229, 0.224, 0.225), "eval_size": 224,
    "eval_resize": 256,
}  # fmt: skip
ODC: dict[str, Any] = {
    "method": "odc", "arch": "resnet50", "precision": "32", "sobel": False, "sync_bn": True, "k": 10_000,
    "memory_momentum": 0.5,
    "centroid_every": 10, "min_cluster": 20, "reweight_power": 0.5, "neck_hidden": 512, "neck_dim": 256,
    "neck_dropout": 0.5, "head_lr": 1.0, "optimizer": "sgd", "lr": 0.06, "momentum": 0.9, "weight_decay": 1e-5,
    "schedule": "step", "lr_steps": (400,), "lr_gamma": 0.4, "warmup_epochs": 0, "epochs": 440, "batch": 512,
    "drop_last": False, "crops": ("1x224@0.08-1",), "flip": 0.5, "rotation": 2.0, "jitter": (0.4, 0.4, 1.0, 0.5),
    "jitter_p": 1.0, "grey": 0.2, "blur": 0.0, "solarise": 0.0, "std": (0.229, 0.224, 0.225), "eval_size": 224,
    "eval_resize": 256,
}  # fmt: skip
DISTORTIONS: dict[str, Any] = {
    "flip": 0.5, "rotation": 0.0, "jitter": (0.8, 0.8, 0.8, 0.2), "jitter_p": 0.8, "grey": 0.2, "blur": 0.5,
    "solarise": 0.0,
}  # fmt: skip
LARGE_BATCH: dict[str, Any] = {
    "batch": 4096, "lr": 4.8, "final_lr": 0.0048, "warmup_epochs": 10, "warmup_lr": 0.3, "schedule": "cosine",
    "cosine_by_epoch": False, "optimizer": "larc", "momentum": 0.9, "weight_decay": 1e-6, "drop_last": True,
    "sync_bn_group": 8,
}  # fmt: skip
HEAD: dict[str, Any] = {"k": 3000, "dim": 128, "hidden": 2048, "temperature": 0.1, "crops_for_codes": 2}
SWAV: dict[str, Any] = {
    "method": "swav", "arch": "resnet50", "sobel": False, "sync_bn": True, "zero_init_residual": False,
    "epsilon": 0.05, "sinkhorn_iters": 3, "freeze_prototypes_steps": 313, "queue": 0, "eval_size": 224,
    "eval_resize": 256, "std": (0.228, 0.224, 0.225), "precision": "bf16", **DISTORTIONS, **LARGE_BATCH, **HEAD,
}  # fmt: skip
SMALL_BATCH: dict[str, Any] = {
    "batch": 256, "lr": 0.6, "final_lr": 0.0006, "warmup_epochs": 0, "warmup_lr": 0.0,
    "freeze_prototypes_steps": 5005, "queue": 3840, "queue_from_epoch": 15,
    "sync_bn_group": None,
}  # fmt: skip
DCV2: dict[str, Any] = {
    "method": "deepcluster_v2", "arch": "resnet50", "sync_bn": True, "zero_init_residual": False, "n_heads": 3,
    "kmeans_iters": 10, "warm_start": False, "precision": "32", "eval_size": 224, "eval_resize": 256,
    "std": (0.228, 0.224, 0.225), **DISTORTIONS, **LARGE_BATCH, **HEAD,
}  # fmt: skip
SOLO: dict[str, Any] = {
    "data": "cifar10", "arch": "resnet18", "stem": "cifar", "epochs": 1000, "batch": 256, "drop_last": True,
    "optimizer": "clipped-lars", "lr": 0.6, "weight_decay": 1e-6, "schedule": "cosine", "crops": ("2x32@0.08-1",),
    **DISTORTIONS, **HEAD,
}  # fmt: skip
MULTI = ("2x224@0.14-1", "6x96@0.05-0.14")

IMAGENET = {
    "deepcluster-sobel_resnet50_8xb64-steplr-200e_in1k": DEEPCLUSTER | {"sobel": True},
    "deepcluster_resnet50_8xb64-steplr-200e_in1k": DEEPCLUSTER | {"sobel": False},
    "odc_resnet50_8xb64-steplr-440e_in1k": ODC,
    "swav_100ep_pretrain": SWAV | {"epochs": 100, "crops": MULTI},
    "swav_200ep_pretrain": SWAV | {"epochs": 200, "crops": MULTI},
    "swav_400ep_pretrain": SWAV | {"epochs": 400, "crops": MULTI},
    "swav_800ep_pretrain": SWAV | {"epochs": 800, "crops": MULTI},
    "swav_400ep_2x224_pretrain": SWAV | {"epochs": 400, "crops": ("2x224@0.08-1",)},
    "swav_200ep_bs256_pretrain": SWAV | SMALL_BATCH | {"epochs": 200, "crops": MULTI},
    "swav_400ep_bs256_pretrain": SWAV | SMALL_BATCH | {"epochs": 400, "crops": MULTI},
    "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96": SWAV
    | SMALL_BATCH
    | {
        "epochs": 200, "crops": MULTI, "optimizer": "lars", "zero_init_residual": True, "cosine_by_epoch": True,
        "std": (0.229, 0.224, 0.225), "precision": "32",
    },
    "rn50_in1k_deepclusterv2_400ep_2x160_4x96": DCV2
    | {"epochs": 400, "crops": ("2x160@0.08-1", "4x96@0.05-0.14")},
    "rn50_in1k_deepclusterv2_400ep_2x224": DCV2 | {"epochs": 400, "crops": ("2x224@0.08-1",)},
    "rn50_in1k_deepclusterv2_800ep_2x224_6x96": DCV2 | {"epochs": 800, "crops": MULTI},
}  # fmt: skip
CIFAR = {
    "solo_cifar10_swav": SOLO
    | {
        "method": "swav", "queue": 3840, "queue_from_epoch": 50, "freeze_prototypes_steps": 2 * (50_000 // 256),
        "epsilon": 0.05, "sinkhorn_iters": 3,
    },
    "solo_cifar10_deepclusterv2": SOLO
    | {"method": "deepcluster_v2", "n_heads": 3, "kmeans_iters": 10, "warmup_epochs": 11, "final_lr": 6e-4},
    "lightly_cifar10_swav": {
        "method": "swav", "optimizer": "adam", "batch": 512, "lr": 4e-3, "weight_decay": 1e-6, "k": 512,
        "hidden": 512, "dim": 128, "crops": ("2x32@0.14-1",), "jitter": (0.4, 0.4, 0.4, 0.1), "blur": 0.0, "queue": 0,
        "epochs": 200, "precision": "32",
    },
}  # fmt: skip


def recipe(name: str) -> RunSettings:
    return check_settings(read_recipe(name)[0], name)


@pytest.mark.parametrize("name", IMAGENET | CIFAR)
def test_a_recipe_holds_the_published_values(name: str) -> None:
    settings, published = recipe(name), (IMAGENET | CIFAR)[name]
    assert {field: getattr(settings, field) for field in published} == published
    drawn = train_recipe(settings)
    assert drawn.std == settings.std
    assert (drawn.blur.p, drawn.blur.sigma) == (settings.blur, (0.1, 2.0))
    assert {spec.ratio for spec in drawn.specs} == {(3 / 4, 4 / 3)}


DAILY = {  # the others with `-m slow`: they differ from these in a number or two
    "deepcluster-sobel_resnet50_8xb64-steplr-200e_in1k",
    "odc_resnet50_8xb64-steplr-440e_in1k",
    "swav_400ep_bs256_pretrain",
    "rn50_in1k_deepclusterv2_800ep_2x224_6x96",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DAILY else pytest.mark.slow) for name in IMAGENET]
)
def test_one_step_at_true_shapes(name: str) -> None:
    """ResNet-50, K and crops of the recipe, two images; labels and centroids are random, as clustering them is not
    what is tested."""
    settings = recipe(name)
    method = assemble_method(settings, 20_000).train()
    generator = torch.Generator().manual_seed(0)
    for buffer in ("labels", "memory.assignments", "centroids"):
        state = method.state_dict()
        if buffer in state and state[buffer].is_floating_point():
            state[buffer].copy_(
                torch.nn.functional.normalize(torch.randn(state[buffer].shape, generator=generator), dim=-1)
            )
        elif buffer in state:
            state[buffer].copy_(torch.randint(settings.k or 0, state[buffer].shape, generator=generator))
    crops = [
        torch.randn(2, 3, spec.size, spec.size, generator=generator)
        for spec in map(parse_crops, settings.crops)
        for _ in range(spec.n_crops)
    ]
    optimizer = assemble_optimizer(method, settings)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    fabric = fabric_of("bf16-mixed" if settings.precision == "bf16" else "32-true")
    lr = lr_at(0, 312, settings)
    loss = update(fabric, method, optimizer, crops, torch.tensor([0, 19_999]), step=0, lr=lr)
    assert loss.isfinite()
    moved = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert "backbone.conv1.weight" in moved
    assert all(parameter.isfinite().all() for parameter in method.parameters())
    # prototypes are frozen at first; centroids are never trained
    assert not {key for key in moved if key.startswith(("centroids", "backbone.sobel"))}
