"""segment with torchvision: the network, its loss, its sliding windows and mIoU."""

import numpy as np
import pytest
import segment.torchvision_engine as segment_engine
import torch
from segment.torchvision_data import Sizes
from segment.torchvision_model import FCN, fcn_loss, predict, windows
from sobel_resnet import FeatureMaps, ResNet
from torch import Tensor, nn


def test_miou_is_that_of_a_naive_loop() -> None:
    g = torch.Generator().manual_seed(0)
    names = [f"class {k}" for k in range(5)]
    confusion, pixels = torch.zeros(5, 5, dtype=torch.int64), []
    for height, width in ((7, 9), (4, 5)):
        truth = torch.randint(0, 3, (height, width), generator=g)
        truth[torch.rand(height, width, generator=g) < 0.2] = 255
        found = torch.randint(0, 4, (height, width), generator=g)
        confusion += segment_engine.count(found, truth, 5)
        pixels += list(zip(truth.flatten().tolist(), found.flatten().tolist(), strict=True))
    pixels = [(t, f) for t, f in pixels if t != 255]
    ious = {}
    for k, name in enumerate(names):
        either = sum(t == k or f == k for t, f in pixels)
        if either:
            ious[f"IoU of {name}"] = 100 * sum(t == k == f for t, f in pixels) / either
    expected = {"mIoU": sum(ious.values()) / len(ious), "aAcc": 100 * sum(t == f for t, f in pixels) / len(pixels)}
    assert segment_engine.figures(confusion, names) == pytest.approx(expected | ious)
    assert "IoU of class 4" not in ious  # in neither truth nor prediction


def test_windows_are_those_of_the_protocol() -> None:
    assert [(w.start, w.stop) for w in windows(1025, 769, 513)] == [(0, 769), (256, 1025)]
    assert [(w.start, w.stop) for w in windows(2049, 769, 513)] == [(0, 769), (513, 1282), (1026, 1795), (1280, 2049)]
    assert [(w.start, w.stop) for w in windows(500, 769, 513)] == [(0, 500)]
    for length in range(769, 2100, 7):
        assert len(windows(length, 769, 513)) == max(length - 769 + 513 - 1, 0) // 513 + 1


def test_overlapping_windows_share_a_pixel_equally() -> None:
    class Shifted(FCN):
        """Class 0 scores by how bright the window's first pixel is, class 1 a constant."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.align_corners = True

        def forward(self, images: Tensor) -> Tensor:
            first = images[:, :1, :1, :1].expand(-1, 1, 2, 2)
            return torch.cat([first, torch.full_like(first, 1.5)], 1)

    image = torch.arange(6.0).expand(3, 4, 6)  # brightness is the column
    sizes = Sizes(0, 0, 4, window=4, apart=2)  # windows from columns 0 and 2: means 0, 1 and 2
    found = predict(Shifted(), image, (4, 6), sizes)
    assert found.tolist() == [[1, 1, 1, 1, 0, 0]] * 4


def test_the_loss_averages_all_pixels_and_weighs_the_two_heads() -> None:
    g = torch.Generator().manual_seed(0)
    logits, auxiliary = torch.randn(2, 3, 4, 4, generator=g), torch.randn(2, 3, 4, 4, generator=g)
    labels = torch.randint(0, 3, (2, 4, 4), generator=g)
    labels[:, 0] = 255
    expected = 0.0
    for b, y, x in np.ndindex(2, 4, 4):
        if (k := int(labels[b, y, x])) != 255:
            for weight, one in ((1.0, logits), (0.4, auxiliary)):
                expected -= weight * float(one[b, :, y, x].double().log_softmax(0)[k]) / labels.numel()
    assert float(fcn_loss(logits, auxiliary, labels, align_corners=False)) == pytest.approx(expected, rel=1e-5)


def test_the_network_has_the_published_heads() -> None:
    model = FCN(ResNet("resnet18", seed=1), 21, align_corners=False, seed=0)
    kernels = {n: tuple(p.shape) for n, p in model.named_parameters() if p.ndim == 4 and not n.startswith("backbone")}
    assert kernels == {
        "auxiliary.convs.0.0.weight": (64, 256, 3, 3),
        "auxiliary.classify.weight": (21, 64, 1, 1),
        "decode.convs.0.0.weight": (128, 512, 3, 3),
        "decode.convs.1.0.weight": (128, 128, 3, 3),
        "decode.mix.0.weight": (128, 640, 3, 3),
        "decode.classify.weight": (21, 128, 1, 1),
    }
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1, 0.1]
    assert isinstance(model.backbone, FeatureMaps)
    assert model.backbone.strides == (8, 8)
    assert float(model.decode.classify.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert all(p.requires_grad for p in model.parameters())
