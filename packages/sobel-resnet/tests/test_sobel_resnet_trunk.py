"""Trunks and the Sobel filter, against torchvision and plain formulas."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import sobel_resnet
import torch
import torchvision
from sobel_resnet import FeatureMaps, LastStage, OdcNeck, Projector, ResNet, SobelFilter, resnet18, resnet50
from torch import Tensor, nn
from torch.nn import functional as F

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101")


def images(n: int = 2, size: int = 64, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("arch", [*ARCHS[:-1], pytest.param(ARCHS[-1], marks=pytest.mark.slow)])
def test_keys_and_outputs_are_torchvisions(arch: str) -> None:
    ours = getattr(sobel_resnet, arch)(seed=1)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, arch)()
    theirs.fc = nn.Identity()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({key: value.clone() for key, value in ours.state_dict().items()}, assign=True)
    for train in (True, False):
        ours.train(train), theirs.train(train)
        torch.testing.assert_close(ours(images()), theirs(images()))
    for key, value in theirs.state_dict().items():  # the running statistics, too
        torch.testing.assert_close(ours.state_dict()[key], value)


def test_stages_are_the_goyal_taps() -> None:
    model = resnet50().eval()
    with torch.no_grad():
        maps = model.stages(images(1, 224))
        assert [tuple(m.shape[1:]) for m in maps.values()] == [
            (64, 112, 112),
            (256, 56, 56),
            (512, 28, 28),
            (1024, 14, 14),
            (2048, 7, 7),
        ]
        assert list(maps) == [f"feature{i}" for i in range(1, 6)]
        torch.testing.assert_close(maps["feature5"].mean((2, 3)), model(images(1, 224)))
        torch.testing.assert_close(maps["feature1"], F.relu(model.bn1(model.conv1(images(1, 224)))))


def test_cifar_stem_keeps_resolution() -> None:
    model = resnet18(stem="cifar", width=0.25).eval()
    maps = model.stages(images(1, 32))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (16, 32, 32),
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
    ]
    assert model.num_features == 128


@pytest.mark.parametrize(("width", "dim"), [(0.25, 512), (0.5, 1024), (2, 4096)])
def test_width(width: float, dim: int) -> None:
    model = resnet50(width=width).eval()
    assert model(images(1, 32)).shape == (1, dim)
    assert model.num_features == dim


THIN = """
import torch
from sobel_resnet import resnet18
torch.set_num_threads(4)
net = resnet18(width=0.125).to(memory_format=torch.channels_last)
wide = resnet18(width=0.125).double()
images = torch.randn(30, 3, 64, 64, generator=torch.Generator().manual_seed(0))
for _ in range(10):
    net.zero_grad()
    net(images.contiguous(memory_format=torch.channels_last)).square().sum().backward()
wide(images.double()).square().sum().backward()
ours, exact = (n.layer2[0].downsample[0].weight.grad for n in (net, wide))
torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-3 * exact.abs().max().item())
"""


@pytest.mark.slow
def test_thin_trunks_keep_clear_of_a_crash_in_onednn() -> None:
    """In a process of its own, because without `_ThinProjection` it crashes on CPUs with AVX-512."""
    subprocess.run([sys.executable, "-c", THIN], check=True)


def test_half_precision_gradients_of_one_pixel() -> None:
    """Crops of 16 pixels reach layer4 as one pixel; without `_StridedConv`, its gradient is read out of bounds."""
    model, exact = resnet18(width=0.25), resnet18(width=0.25).double()
    crops = images(60, 16)
    exact(crops.double()).square().sum().backward()
    gradient = exact.layer4[0].conv1.weight.grad
    for trial in range(5):
        model.zero_grad()
        junk = [torch.full((1000 + 10 * trial,), 3e38) for _ in range(30)]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            model(crops).float().square().sum().backward()
        difference = (model.layer4[0].conv1.weight.grad - gradient).norm() / gradient.norm()
        assert difference < 0.5  # bfloat16 has two digits and batch norm takes differences; the bug gave 1e20


def test_list_of_crops_runs_once_per_consecutive_resolution() -> None:
    model = resnet18(width=0.25)
    calls: list[tuple[int, ...]] = []
    model.conv1.register_forward_hook(lambda _m, args, _o: calls.append(tuple(args[0].shape)))
    crops = [images(3, 64, seed=0), images(3, 64, seed=1), images(3, 32, seed=2), images(3, 32, seed=3)]
    z = model(crops)
    assert calls == [(6, 3, 64, 64), (6, 3, 32, 32)]
    assert z.shape == (12, model.num_features)
    model.eval()
    torch.testing.assert_close(model(crops), torch.cat([model(crop) for crop in crops]))
    with pytest.raises(ValueError, match="empty"):
        model([])


def test_construction_is_seeded_and_keeps_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    a, b, c = resnet18(seed=3), resnet18(seed=3), resnet18(seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.conv1.weight, c.conv1.weight)


def test_weights_start_kaiming_fan_out_and_none_is_left_unset() -> None:
    model = resnet50(zero_init_residual=True)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            std = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(module.weight.mean().item()) < 0.05 * std, name
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == (0 if name.endswith("bn3") else 1)), name
            assert torch.all(module.bias == 0), name
            assert torch.all(module.running_var == 1), name
    assert resnet18().layer1[0].bn2.weight.min() == 1


def test_construction_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert resnet18().conv1.weight.is_meta


def test_sync_batchnorm_conversion() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(resnet18(sobel=True))
    kinds = {type(module) for module in model.modules()}
    assert nn.SyncBatchNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert list(model.state_dict()) == list(resnet18(sobel=True).state_dict())


def test_numpy_arrays_count_as_cpu_tensors() -> None:
    model = resnet18(sobel=True, width=0.25).eval()
    features, maps = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), model.stages(images())
    array = images().numpy()
    array.flags.writeable = False  # as a memory map opened for reading
    assert torch.equal(model(array), model(images()))
    assert torch.equal(model([array, array]), model([images(), images()]))
    for found, wanted in (
        (model.stages(array), maps),
        (dict(enumerate(FeatureMaps(model)(array))), dict(enumerate(list(maps.values())[1:]))),
        ({0: LastStage(model)(maps["feature4"].detach().numpy())}, {0: maps["feature5"]}),
        ({0: SobelFilter()(array)}, {0: SobelFilter()(images())}),
        *(({0: head(features.numpy())}, {0: head(features)}) for head in (Projector(6, 5, 4), OdcNeck(6, 5, 4).eval())),
    ):
        assert all(isinstance(value, Tensor) and torch.equal(value, wanted[key]) for key, value in found.items())
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got \(3, 8, 8\)"):
        model(np.zeros((3, 8, 8), np.float32))


def test_the_package_lists_its_public_names() -> None:
    assert all(hasattr(sobel_resnet, name) for name in sobel_resnet.__all__)
    assert sobel_resnet.__version__ == version("sobel-resnet")


def sobel_oracle(x: Tensor) -> Tensor:
    """The two frozen convolutions of the reference, in float64."""
    k = torch.tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64)
    grey = F.conv2d(x.double(), torch.full((1, 3, 1, 1), 1 / 3, dtype=torch.float64))
    return F.conv2d(grey, torch.stack([k, k.T])[:, None], padding=1)


def test_sobel_equals_the_reference_formula() -> None:
    x = images(2, 17)
    torch.testing.assert_close(SobelFilter()(x), sobel_oracle(x).float())
    with torch.autocast("cpu", torch.bfloat16):
        assert SobelFilter()(x).dtype == torch.float32
        torch.testing.assert_close(SobelFilter()(x), sobel_oracle(x).float())
    torch.testing.assert_close(SobelFilter().half()(x.half()), sobel_oracle(x.half()).half())


def test_sobel_on_ramps_and_constants() -> None:
    ramp = torch.arange(7.0).expand(1, 3, 7, 7)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    filtered = SobelFilter()
    along_x, along_y = filtered(ramp)[inside], filtered(ramp.transpose(2, 3))[inside]
    assert torch.allclose(along_x[:, 0], torch.tensor(-8.0))
    assert torch.allclose(along_x[:, 1], torch.tensor(0.0))
    assert torch.allclose(along_y[:, 0], torch.tensor(0.0))
    assert torch.allclose(along_y[:, 1], torch.tensor(-8.0))
    constant = filtered(torch.ones(1, 3, 7, 7))
    assert torch.all(constant[inside] == 0)
    assert constant[0, 0, 3, 0] != 0  # zero padding: the border responds, as in the references


def test_sobel_is_safe_from_initialisers_and_optimisers() -> None:
    model = resnet18(sobel=True)
    x = images(1, 16)
    before = model.sobel(x)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.load_state_dict(resnet18(sobel=True, seed=9).state_dict())
    torch.testing.assert_close(model.sobel(x), before, rtol=0, atol=0)
    assert model.conv1.weight.shape == (64, 2, 7, 7)
    assert not any("sobel" in name for name, _ in model.named_parameters())


def test_sobel_trunk_is_sobel_then_a_two_channel_trunk() -> None:
    whole = resnet18(sobel=True).eval()
    plain = resnet18(in_channels=2).eval()
    plain.load_state_dict(whole.state_dict())
    torch.testing.assert_close(whole(images()), plain(SobelFilter()(images())))


def test_errors() -> None:
    with pytest.raises(ValueError, match="arch"):
        ResNet("resnet152")
    with pytest.raises(ValueError, match="stem"):
        resnet18(stem="small")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width"):
        resnet18(width=0.001)
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got \(2, 1, 64, 64\)"):
        resnet18(sobel=True)(images(channels=1))
    with pytest.raises(ValueError, match="batch axis"):
        SobelFilter()(torch.zeros(3, 8, 8))
