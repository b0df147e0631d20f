"""Projector and OdcNeck."""

import pytest
import torch
from sobel_resnet import OdcNeck, Projector
from torch import nn
from torch.nn import functional as F


def features(n: int = 6, d: int = 12) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_projector_is_swavs() -> None:
    head = Projector(12, 20, 5, seed=1)
    w = head.state_dict()
    assert list(w)[:3] == ["0.weight", "0.bias", "1.weight"]
    assert list(w)[-2:] == ["3.weight", "3.bias"]
    hidden = F.batch_norm(F.linear(features(), w["0.weight"], w["0.bias"]), None, None, training=True).relu()
    torch.testing.assert_close(head(features()), F.normalize(F.linear(hidden, w["3.weight"], w["3.bias"])))


def test_projector_rows_are_unit_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        z = Projector(12, 20, 5)(features())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(("n_layers", "bn", "names"), [(1, True, "L"), (2, False, "LRL"), (3, True, "LBRLBRL")])
def test_projector_layers(n_layers: int, bn: bool, names: str) -> None:
    head = Projector(12, 20, 5, n_layers=n_layers, bn=bn, normalise=False)
    assert "".join({nn.Linear: "L", nn.BatchNorm1d: "B", nn.ReLU: "R"}[type(layer)] for layer in head) == names
    assert head(features()).shape == (6, 5)
    with pytest.raises(ValueError, match="n_layers"):
        Projector(1, 1, 1, n_layers=0)


def test_odc_neck_is_the_papers() -> None:
    neck = OdcNeck(12, 20, 5)
    assert list(neck.state_dict()) == [
        "fc0.weight",
        "fc0.bias",
        "bn0.running_mean",
        "bn0.running_var",
        "bn0.num_batches_tracked",
        "fc1.weight",
        "fc1.bias",
    ]
    assert (neck.bn0.momentum, neck.bn0.eps, neck.bn0.affine, neck.dropout.p) == (0.001, 1e-5, False, 0.5)
    x, fc0, fc1 = features(), neck.fc0, neck.fc1
    hidden = F.batch_norm(fc0(x), None, None, training=True).relu()
    neck.dropout.eval()
    torch.testing.assert_close(neck(x), fc1(hidden).relu())
    running = fc0(x).mean(0) * 0.001
    torch.testing.assert_close(neck.bn0.running_mean, running)
    torch.testing.assert_close(
        neck.eval()(x), fc1(((fc0(x) - running) / (neck.bn0.running_var + 1e-5).sqrt()).relu()).relu()
    )
    assert OdcNeck(2048).fc0.out_features == 512
    assert OdcNeck(2048).fc1.out_features == 256


def test_linear_layers_follow_pytorchs_law_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    neck, again, other = OdcNeck(400, seed=1), OdcNeck(400, seed=1), Projector(400, 512, 64, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(neck.fc0.weight, again.fc0.weight)
    assert not torch.equal(neck.fc0.weight, other[0].weight)
    for linear in (neck.fc0, neck.fc1, other[0]):
        bound = linear.in_features**-0.5
        for parameter in linear.parameters():
            assert parameter.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert linear.bias.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_sync_batchnorm_conversion() -> None:
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(OdcNeck(8)).bn0, nn.SyncBatchNorm)
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(Projector(8, 8, 8))[1], nn.SyncBatchNorm)
