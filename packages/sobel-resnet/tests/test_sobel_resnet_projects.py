"""Files with the key names of many projects, through load_backbone: the right network of the file, bit for bit."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sobel_resnet import ResNet, load_backbone, resnet18, resnet50
from torch import Tensor, nn

State = dict[str, Any]


def network(seed: int, make: Callable[..., ResNet] = resnet18, **options: Any) -> State:
    """A small network in which every tensor differs from that of another seed, including counts and statistics."""
    generator = torch.Generator().manual_seed(seed)
    state = make(width=1 / 32, seed=seed, **options).state_dict()
    return {
        key: torch.tensor(seed) if value.dtype == torch.int64 else torch.rand(value.shape, generator=generator)
        for key, value in state.items()
    }


Q, K = network(1), network(2)


def under(prefix: str, state: State, **others: Tensor) -> State:
    return {prefix + key: value for key, value in (state | others).items()}


def head(*names: str) -> State:
    return {name: torch.zeros(3, 2) for name in names}


MLP = {f"fc.{i}.{part}": torch.zeros(2) for i in (0, 1, 3) for part in ("weight", "bias")}
LIGHTNING = {"pytorch-lightning_version": "2.1.0", "epoch": 3, "hyper_parameters": {"lr": 0.1}}


def averaged(state: State) -> State:
    """What torch's AveragedModel adds to the names of a network."""
    return {"n_averaged": torch.tensor(7)} | under("module.", state)


# project: (content of the file, prefix, other prefixes)
PROJECTS: dict[str, tuple[State, str, tuple[str, ...]]] = {
    "moco": (
        {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": under("module.encoder_q.", Q, **MLP)
            | under("module.encoder_k.", K, **MLP)
            | head("module.queue", "module.queue_ptr"),
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
        },
        "module.encoder_q.",
        ("module.encoder_k.",),
    ),
    "moco on one gpu": (
        {"state_dict": under("encoder_q.", Q) | under("encoder_k.", K) | head("queue")},
        "encoder_q.",
        ("encoder_k.",),
    ),
    "the copy first": (
        {"state_dict": under("encoder_k.", K) | under("encoder_q.", Q)},
        "encoder_q.",
        ("encoder_k.",),
    ),
    "moco of openselfsup": (
        {
            "meta": {},
            "state_dict": under("encoder_q.0.", Q) | head("encoder_q.1.mlp.0.weight") | under("encoder_k.0.", K),
        },
        "encoder_q.0.",
        ("encoder_k.0.",),
    ),
    "moco of lightning bolts": (
        LIGHTNING | {"state_dict": under("encoder_q.", Q, **MLP) | under("encoder_k.", K, **MLP)},
        "encoder_q.",
        ("encoder_k.",),
    ),
    "moco v3": (
        {
            "state_dict": under("module.base_encoder.", Q, **MLP)
            | under("module.momentum_encoder.", K, **MLP)
            | head("module.predictor.0.weight")
        },
        "module.base_encoder.",
        ("module.momentum_encoder.",),
    ),
    "simsiam": (
        {"state_dict": under("module.encoder.", Q, **MLP) | head("module.predictor.0.weight")},
        "module.encoder.",
        (),
    ),
    "pixpro": (
        {
            "model": under("module.encoder.", Q)
            | under("module.encoder_k.", K)
            | head("module.projector.linear1.weight")
        },
        "module.encoder.",
        ("module.encoder_k.",),
    ),
    "densecl": ({"state_dict": under("", Q), "author": "densecl"}, "", ()),
    "infomin": (
        {"model": under("module.encoder.", Q, **MLP), "model_ema": under("module.encoder.", K, **MLP)},
        "model.module.encoder.",
        ("model_ema.module.encoder.",),
    ),
    "barlow twins": (
        {
            "epoch": 3,
            "model": under("module.backbone.", Q) | head("module.projector.0.weight", "module.bn.running_mean"),
        },
        "module.backbone.",
        (),
    ),
    "barlow twins, vicreg, simclr converter": (Q, "", ()),
    "vicreg": ({"model": under("module.backbone.", Q) | head("module.projector.0.weight")}, "module.backbone.", ()),
    "simclr converter": ({"state_dict": Q | head("fc.weight", "fc.bias")}, "", ()),
    "dino": (
        {
            "student": under("module.backbone.", Q)
            | head("module.head.mlp.0.weight", "module.head.last_layer.weight_g"),
            "teacher": under("backbone.", K) | head("head.mlp.0.weight"),
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 100,
            "args": Namespace(arch="resnet50", lr=0.3),
            "dino_loss": {"center": torch.zeros(1, 5)},
        },
        "student.module.backbone.",
        ("teacher.backbone.",),
    ),
    "dino, older": (
        {"teacher": under("backbone.", K), "student": under("module.", Q)},
        "student.module.",
        ("teacher.backbone.",),
    ),
    "byol-pytorch": (
        {"state_dict": under("online_encoder.net.", Q) | under("target_encoder.net.", K)},
        "online_encoder.net.",
        ("target_encoder.net.",),
    ),
    "byol-pytorch, the same network twice": (
        under("net.", Q) | under("online_encoder.net.", Q) | under("target_encoder.net.", K),
        "net.",
        ("target_encoder.net.",),
    ),
    "byol of deepmind's port": (
        {"online_backbone": Q, "target_backbone": K},
        "online_backbone.",
        ("target_backbone.",),
    ),
    "byol of mmselfsup": (
        {"meta": {}, "state_dict": under("online_net.0.", Q) | under("target_net.0.", K)},
        "online_net.0.",
        ("target_net.0.",),
    ),
    "byol of mmpretrain": (
        {"meta": {}, "state_dict": under("backbone.", Q) | under("target_net.module.0.", K)},
        "backbone.",
        ("target_net.module.0.",),
    ),
    "solo-learn": (
        LIGHTNING
        | {"state_dict": under("backbone.", Q) | under("momentum_backbone.", K) | head("queue", "classifier.weight")},
        "backbone.",
        ("momentum_backbone.",),
    ),
    "lightly": (
        LIGHTNING
        | {
            "state_dict": under("backbone.", Q)
            | under("backbone_momentum.", K)
            | head("projection_head.layers.0.weight")
        },
        "backbone.",
        ("backbone_momentum.",),
    ),
    "lightly dino": (
        LIGHTNING | {"state_dict": under("teacher_backbone.", K) | under("student_backbone.", Q)},
        "student_backbone.",
        ("teacher_backbone.",),
    ),
    "lightly-train": (
        LIGHTNING
        | {
            "state_dict": under("student_embedding_model.wrapped_model._features.", Q)
            | under("teacher_embedding_model.wrapped_model._features.", K)
            | head("student_projection_head.layers.0.weight"),
            "lightly_train": {"version": "0.6", "models": {"model": nn.Sequential(nn.Linear(2, 2))}},
        },
        "student_embedding_model.wrapped_model._features.",
        ("teacher_embedding_model.wrapped_model._features.",),
    ),
    "lightly-train, one network": (
        {"state_dict": under("embedding_model.wrapped_model._features.", Q)},
        "embedding_model.wrapped_model._features.",
        (),
    ),
    "lightly-train, older": (
        {"state_dict": under("embedding_model.model_wrapper._features.", Q)},
        "embedding_model.model_wrapper._features.",
        (),
    ),
    "lightning": (LIGHTNING | {"state_dict": under("model.", Q)}, "model.", ()),
    "lightning, compiled": (LIGHTNING | {"state_dict": under("model._orig_mod.", Q)}, "model._orig_mod.", ()),
    "compiled ddp": (under("_orig_mod.module.", Q), "_orig_mod.module.", ()),
    "resnet.": (LIGHTNING | {"state_dict": under("resnet.", Q) | head("head.weight")}, "resnet.", ()),
    "net.": (under("net.", Q), "net.", ()),
    "stable-pretraining": (
        LIGHTNING | {"state_dict": under("backbone.model.", Q) | under("callbacks_modules.teacher.model.", K)},
        "backbone.model.",
        ("callbacks_modules.teacher.model.",),
    ),
    "timm under transformers": (under("timm_model.", Q) | head("classifier.weight"), "timm_model.", ()),
    "detr": (
        {"model": under("backbone.0.body.", Q) | head("class_embed.weight"), "args": Namespace(lr=1)},
        "backbone.0.body.",
        (),
    ),
    "torchvision's detectors": (
        under("backbone.body.", Q) | head("backbone.fpn.inner_blocks.0.0.weight"),
        "backbone.body.",
        (),
    ),
    "torchvision's segmentation": (
        under("backbone.", Q) | {"classifier.0.weight": torch.zeros(2, 2, 3, 3)},
        "backbone.",
        (),
    ),
    "mmdetection": (
        {"meta": {}, "state_dict": under("backbone.", Q), "ema_state_dict": under("backbone.", K)},
        "state_dict.backbone.",
        ("ema_state_dict.backbone.",),
    ),
    "timm with ema": ({"arch": "resnet18", "state_dict": Q, "state_dict_ema": K}, "state_dict.", ("state_dict_ema.",)),
    "deit's ema": ({"model": Q, "model_ema": K}, "model.", ("model_ema.",)),
    "yolo's ema": ({"model": Q, "ema": under("module.", K)}, "model.", ("ema.module.",)),
    "torch's swa": ({"swa_model": averaged(K), "model": Q}, "model.", ("swa_model.module.",)),
    "torch's average": ({"a": averaged(K), "b": Q}, "b.", ("a.module.",)),
    "deepspeed": ({"module": Q, "ds_version": "0.14", "optimizer": None, "buffer_names": []}, "", ()),
    "deepspeed of lightning": (
        {"module": under("_forward_module.backbone.", Q), "ds_config": {}},
        "_forward_module.backbone.",
        (),
    ),
    "unbiased teacher": (
        {"model": under("modelTeacher.", K) | under("modelStudent.", Q)},
        "modelStudent.",
        ("modelTeacher.",),
    ),
    "albef": (under("visual_encoder.", Q) | under("visual_encoder_m.", K), "visual_encoder.", ("visual_encoder_m.",)),
    "key and query": (under("key_encoder.", K) | under("query_encoder.", Q), "query_encoder.", ("key_encoder.",)),
    "averaged": ({"averaged_model": K, "model": Q}, "model.", ("averaged_model.",)),
    "best and last": ({"model": Q, "best_model": K}, "model.", ("best_model.",)),
    "a momentum buffer by name": ({"model": Q, "optimizer": {"momentum": K}}, "", ()),
    "any prefix": ({"deep": {"weights": under("my.very.own_name.", Q)}}, "my.very.own_name.", ()),
    "no known container": ({"weights": Q, "epoch": 3, "history": [1, 2]}, "", ()),
}


def assert_loaded(model: ResNet, state: State) -> None:
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("project", PROJECTS)
def test_projects(tmp_path: Path, project: str) -> None:
    content, prefix, others = PROJECTS[project]
    torch.save(content, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, Q)
    assert (report.prefix, report.others, report.is_copy) == (prefix, others, False)
    assert report.matched == len(Q)
    assert (f"from {prefix} and not from {others[0]}" if others else "tensors loaded") in str(report)


@pytest.mark.parametrize("project", ["moco", "dino", "timm with ema", "torch's average"])
def test_the_copy_is_there_for_whoever_asks(tmp_path: Path, project: str) -> None:
    content, prefix, others = PROJECTS[project]
    torch.save(content, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth", prefix=others[0])
    assert_loaded(model, K)
    assert (report.prefix, report.others, report.is_copy) == (others[0], (prefix,), True)
    assert f"from {others[0]} (a momentum or EMA copy) and not from {prefix}" in str(report)


@pytest.mark.parametrize(
    ("content", "prefix"),
    [
        ({"state_dict": under("module.encoder_k.", K)}, "module.encoder_k."),
        ({"state_dict_ema": K}, "state_dict_ema."),
        ({"teacher": under("backbone.", K), "student": {"patch_embed.weight": torch.zeros(2)}}, "teacher.backbone."),
        (averaged(K), "module."),
    ],
    ids=["encoder_k", "state_dict_ema", "teacher of a vit", "swa"],
)
def test_a_copy_alone_is_loaded_and_named(tmp_path: Path, content: State, prefix: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, K)
    assert (report.prefix, report.others, report.is_copy) == (prefix, (), True)
    assert f"from {prefix} (a momentum or EMA copy)" in str(report)


def test_a_network_that_fits_goes_before_one_that_does_not(tmp_path: Path) -> None:
    broken = {key: value for key, value in Q.items() if key != "layer2.0.conv1.weight"}
    torch.save(under("backbone.", broken) | under("encoder.", K), tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, K)
    assert report.prefix == "encoder."
    fault = "tensors do not match the ResNet they look like: 1 missing (layer2.0.conv1.weight)"
    assert report.others == (f"backbone. (not loadable: {fault})",)
    assert "1 missing (layer2.0.conv1.weight)" in str(report)


def test_a_copy_does_not_replace_a_damaged_network(tmp_path: Path) -> None:
    broken = {key: value for key, value in Q.items() if key != "layer2.0.bn1.bias"}
    torch.save(under("encoder_q.", broken) | under("encoder_k.", K), tmp_path / "x.pth")
    fault = r"1 missing \(layer2\.0\.bn1\.bias\); .* under 'encoder_q\.', and prefix='encoder_k\.' loads another of"
    with pytest.raises(ValueError, match=fault):
        load_backbone(tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth", prefix="encoder_k.")
    assert_loaded(model, K)
    assert report.others[0].startswith("encoder_q. (not loadable: ")
    del broken["conv1.weight"]
    torch.save({"state_dict": under("encoder_q.", broken) | under("encoder_k.", K)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"no conv1\.weight; .* prefix='encoder_k\.' loads another"):
        load_backbone(tmp_path / "x.pth")
    assert_loaded(load_backbone(tmp_path / "x.pth", prefix="encoder_k.")[0], K)
    torch.save(under("encoder_k.", K), tmp_path / "x.pth")
    assert_loaded(load_backbone(tmp_path / "x.pth")[0], K)


@pytest.mark.parametrize("main", ["encoder_q.0.", "online_net.0."])
def test_second_names_with_equal_values_are_one(tmp_path: Path, main: str) -> None:
    twin = {key: value.clone() for key, value in Q.items()}
    torch.save(under(main, Q) | under("encoder_k.0.", K) | under("backbone.", twin), tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, Q)
    assert (report.prefix, report.others) == ("backbone.", ("encoder_k.0.",))
    twin["bn1.bias"] += 1
    torch.save(under(main, Q) | under("encoder_k.0.", K) | under("backbone.", twin), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="several ResNets"):
        load_backbone(tmp_path / "x.pth")


def test_a_container_alone_names_its_network(tmp_path: Path) -> None:
    torch.save({"student": under("module.backbone.", Q), "teacher": under("backbone.", K)}, tmp_path / "x.pth")
    assert_loaded(load_backbone(tmp_path / "x.pth", prefix="teacher")[0], K)
    assert_loaded(load_backbone(tmp_path / "x.pth", prefix="module")[0], Q)
    with pytest.raises(ValueError, match="several ResNets under prefix 'backbone'"):
        load_backbone(tmp_path / "x.pth", prefix="backbone")
    with pytest.raises(ValueError, match="no ResNet under prefix 'teach'"):
        load_backbone(tmp_path / "x.pth", prefix="teach")


@pytest.mark.parametrize("content", [{"encB": K}, {"deeper": {"encB": K}}, {"state_dict": K}])
def test_depth_is_no_reason_to_choose(tmp_path: Path, content: State) -> None:
    torch.save({"encA": Q, "wrap": content}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"several ResNets found, under 'encA\.', 'wrap\..*\.'"):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["optimal_model", "optimized", "model_optimum"])
def test_only_optimizers_are_skipped(tmp_path: Path, name: str) -> None:
    torch.save({name: Q}, tmp_path / "x.pth")
    assert_loaded(load_backbone(tmp_path / "x.pth")[0], Q)


@pytest.mark.parametrize(
    "name", ["optimizer", "optimizers", "optimizer_states", "optim", "optimizer_state_dict", "optimizerState"]
)
def test_optimizers_are_skipped(tmp_path: Path, name: str) -> None:
    torch.save({name: K, "odd": Q}, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, Q)
    assert report.others == ()


WRAPPERS = {
    "compile": lambda name: name.replace("layer1.", "layer1._orig_mod."),
    "fsdp": lambda name: "_fsdp_wrapped_module." + name.replace("layer1.0.", "layer1.0._fsdp_wrapped_module."),
    "checkpoint": lambda name: "net." + name.replace("layer4.1.", "layer4.1._checkpoint_wrapped_module."),
    "two": lambda name: name.replace("layer2.0.", "layer2.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
    "deep": lambda name: name.replace("layer2.0.conv1.", "layer2._orig_mod.0.conv1._orig_mod."),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_inside_are_unwrapped(tmp_path: Path, kind: str) -> None:
    torch.save({WRAPPERS[kind](key): value for key, value in Q.items()}, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, Q)
    assert report.dropped == ()


def test_tied_weights_are_not_forged(tmp_path: Path) -> None:
    whole = dict(resnet18(width=1 / 8).state_dict())
    tied = whole | {f"layer4.{name}.weight": whole["layer4.1.conv1.weight"] for name in ("0.conv2", "1.conv2")}
    torch.save(tied, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < sum(value.nbytes for value in tied.values())
    assert_loaded(load_backbone(tmp_path / "x.pth")[0], tied)


def test_counts_of_any_shape_are_ignored(tmp_path: Path) -> None:
    odd = Q | {"bn1.num_batches_tracked": torch.ones(3), "layer1.0.bn1.num_batches_tracked": torch.ones(1, 1)}
    torch.save(odd, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert report.matched == len(Q) - 2
    assert model.bn1.num_batches_tracked == 0
    assert torch.equal(model.bn1.running_var, Q["bn1.running_var"])


def test_the_report_tells_of_a_guessed_filter(tmp_path: Path) -> None:
    torch.save(network(3, sobel=True), tmp_path / "x.pth")
    report = load_backbone(tmp_path / "x.pth")[1]
    assert report.has_guessed_sobel
    assert str(report).startswith("resnet18 with a Sobel filter (it has two input channels) from a torchvision file")
    torch.save(Q, tmp_path / "x.pth")
    assert "Sobel" not in str(load_backbone(tmp_path / "x.pth")[1])


def test_two_of_equal_rank_are_an_error_that_tells_how(tmp_path: Path) -> None:
    torch.save({"state_dict": under("encoder1.", Q) | under("encoder2.", K)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"found, under 'encoder1\.', 'encoder2\.'.* prefix='encoder1\.'"):
        load_backbone(tmp_path / "x.pth")
    for prefix in ("encoder2.", "encoder2", "state_dict.encoder2."):
        assert_loaded(load_backbone(tmp_path / "x.pth", prefix=prefix)[0], K)
    with pytest.raises(ValueError, match=r"no ResNet under prefix 'encoder3': the file has 'encoder1\.', 'encoder2\.'"):
        load_backbone(tmp_path / "x.pth", prefix="encoder3")
    torch.save({"teacher": under("a.net.", K), "momentum": under("b.net.", Q)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"several ResNets found, under 'teacher\.a\.net\.', 'momentum\.b\.net\.'"):
        load_backbone(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="several ResNets under prefix 'net'"):
        load_backbone(tmp_path / "x.pth", prefix="net")


def test_the_top_of_a_file_has_an_empty_prefix(tmp_path: Path) -> None:
    torch.save(Q | under("teacher.", K), tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, Q)
    assert (report.prefix, report.others) == ("", ("teacher.",))
    assert "from the top and not from teacher." in str(report)
    assert_loaded(load_backbone(tmp_path / "x.pth", prefix="")[0], Q)


def to_transformers(name: str) -> str:
    """Our name in the ResNet of transformers, written from its module tree."""
    part, rest = name.rsplit(".", 1)
    stem = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
    if part in stem:
        return f"{stem[part]}.{rest}"
    layer, block, *inner = part.split(".")
    place = f"encoder.stages.{int(layer[5:]) - 1}.layers.{block}"
    if inner[0] == "downsample":
        return f"{place}.shortcut.{'convolution' if inner[1] == '0' else 'normalization'}.{rest}"
    kind = "convolution" if inner[0].startswith("conv") else "normalization"
    return f"{place}.layer.{int(inner[0][-1]) - 1}.{kind}.{rest}"


@pytest.mark.parametrize("prefix", ["", "resnet.", "model.backbone."])
@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_transformers(tmp_path: Path, make: Callable[..., ResNet], prefix: str) -> None:
    state = network(3, make)
    theirs = {prefix + to_transformers(key): value for key, value in state.items()} | head("classifier.1.weight")
    assert f"{prefix}encoder.stages.0.layers.0.layer.0.convolution.weight" in theirs
    save_file(theirs, tmp_path / "model.safetensors")
    model, report = load_backbone(tmp_path / "model.safetensors")
    assert_loaded(model, state)
    assert (report.family, report.prefix, report.dropped) == ("transformers", prefix, ("classifier.1.weight",))


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_blocks_with_shortcuts(tmp_path: Path, make: Callable[..., ResNet]) -> None:
    """Codes for CIFAR, such as SupContrast, call the projection of a block shortcut."""
    state = network(4, make, stem="cifar")
    theirs = {key.replace("downsample", "shortcut"): value for key, value in state.items()}
    torch.save({"model": under("module.encoder.", theirs) | head("module.head.0.weight")}, tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, state)
    assert (model.stem, report.prefix) == ("cifar", "module.encoder.")


def test_a_sequential_below_any_prefix(tmp_path: Path) -> None:
    place = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}

    def numbered(state: State) -> State:
        return {f"{place[(parts := key.partition('.'))[0]]}.{parts[2]}": value for key, value in state.items()}

    torch.save(under("student_net.f.", numbered(Q)) | under("ema_net.f.", numbered(K)), tmp_path / "x.pth")
    model, report = load_backbone(tmp_path / "x.pth")
    assert_loaded(model, Q)
    assert (report.prefix, report.others) == ("student_net.f.", ("ema_net.f.",))
