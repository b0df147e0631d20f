"""Each operation of the torch and of the CPU backend against torchvision on float images, and against PIL.

Every image has another parameter.
"""

import colorsys
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from multicrop_aug import _cpu_cut, _cpu_operations, _geometry, _torch_operations
from PIL import Image, ImageFilter

ADJUST = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]


class TorchOps:
    """Operations of the torch backend on (N, 3, S, S)."""

    jitter = staticmethod(_torch_operations.jitter)
    shift_hue = staticmethod(_torch_operations.shift_hue)
    grey = staticmethod(_torch_operations.grey_)
    solarise = staticmethod(_torch_operations.solarise_)
    blur = staticmethod(_torch_operations.blur_)

    @staticmethod
    def rotate(x, degrees):
        never = torch.zeros(len(x), dtype=torch.bool)
        return _torch_operations.rotate(x, _geometry.turns(degrees, never, ("rotation",)))

    @staticmethod
    def resize(x, start, length, flip, size, interpolation):
        target, zero = torch.full((len(x),), size), torch.zeros(len(x))
        axis = {"size_out": size, "interpolation": interpolation}
        rows = _geometry.resize_matrix(start[:, 0], length[:, 0], target, zero, zero.bool(), size_in=x.shape[2], **axis)
        columns = _geometry.resize_matrix(start[:, 1], length[:, 1], target, zero, flip, size_in=x.shape[3], **axis)
        result = _geometry.separable(x, rows, columns)
        return result.clamp(0, 1) if interpolation == "bicubic" else result


class CpuOps:
    """Kernels of the CPU backend, image by image."""

    @staticmethod
    def each(kernel, x, *parameters, chosen=None):
        result = x.clone().contiguous()
        for i in range(len(x)):
            if chosen is None or chosen[i]:
                kernel(result[i].numpy(), *(np.float32(p[i]) if p.ndim == 1 else p[i].numpy() for p in parameters))
        return result

    @classmethod
    def flat(cls, kernel, x, *parameters, chosen=None):
        return cls.each(kernel, x.flatten(2), *parameters, chosen=chosen).view_as(x)

    @classmethod
    def jitter(cls, x, factors, order):
        return cls.flat(_cpu_operations.jitter, x, factors, order.to(torch.uint8).contiguous())

    @classmethod
    def shift_hue(cls, x, turns):
        return cls.flat(_cpu_operations.shift_hue, x, turns)

    @classmethod
    def grey(cls, x, chosen):
        return cls.flat(_cpu_operations.grey, x, chosen=chosen)

    @classmethod
    def solarise(cls, x, chosen, threshold):
        return cls.flat(_cpu_operations.solarise, x, torch.full((len(x),), threshold), chosen=chosen)

    @classmethod
    def rotate(cls, x, degrees):
        return cls.each(_cpu_operations.rotate, x, degrees)

    @classmethod
    def blur(cls, x, sigma, chosen):
        return cls.each(_cpu_operations.blur, x, sigma, chosen=chosen)

    @staticmethod
    def resize(x, start, length, flip, size, interpolation):
        out = torch.zeros(len(x), 3, size, size)
        for i in range(len(x)):
            matrices = []
            for axis, n in enumerate(x.shape[2:]):
                first, weights, taps = _cpu_cut.axis_filter(
                    length[i, axis].item(), size, 0, bool(flip[i]) and axis == 1, size, interpolation == "bicubic"
                )
                matrix = torch.zeros(size, n)
                for row, (at, values) in enumerate(zip(first, weights.reshape(size, int(taps)), strict=True)):
                    at = int(at) + start[i, axis].item()
                    matrix[row, at : at + int(taps)] = torch.from_numpy(values)
                matrices.append(matrix)
            out[i] = matrices[0] @ x[i] @ matrices[1].T
        return out.clamp(0, 1) if interpolation == "bicubic" else out


pytestmark = pytest.mark.parametrize("ops", [TorchOps, CpuOps], ids=["torch", "cpu"])


def images(n: int, size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("operation", range(4))
def test_each_jitter_operation_equals_torchvision(ops, operation: int) -> None:
    x = images(9)
    values = torch.linspace(-0.5, 0.5, 9) if operation == 3 else torch.linspace(0, 2, 9)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(9, 1)
    factors[:, operation] = values
    expected = torch.stack([ADJUST[operation](i, v.item()) for i, v in zip(x, values, strict=True)])
    result = ops.jitter(x.clone(), factors, torch.arange(4).expand(9, 4))
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)  # hue: two roundings of a sixth of a turn


def test_jitter_in_every_order_equals_torchvision(ops) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    x = images(24)
    g = torch.Generator().manual_seed(1)
    factors = torch.rand(24, 4, generator=g) * torch.tensor([2.0, 2.0, 2.0, 1.0]) - torch.tensor([0, 0, 0, 0.5])
    expected = x.clone()
    for i, order in enumerate(orders.tolist()):
        for operation in order:
            expected[i] = ADJUST[operation](expected[i], factors[i, operation].item())
    torch.testing.assert_close(ops.jitter(x, factors, orders), expected, atol=1e-5, rtol=0)


def test_neutral_jitter_changes_nothing(ops) -> None:
    x = images(4)
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(4, 1)
    assert torch.equal(ops.jitter(x.clone(), neutral, torch.arange(4).expand(4, 4)), x)


def test_hue_equals_colorsys_on_pure_and_grey_colours(ops) -> None:
    levels = [0.0, 0.25, 0.5, 1.0]
    colours = torch.tensor(list(itertools.product(levels, repeat=3)))  # (64, 3), with every tie of channels
    x = colours.T.reshape(1, 3, 8, 8)
    for turns in (-0.5, -0.3, 0.0, 1 / 6, 0.5):
        result = ops.shift_hue(x, torch.tensor([turns])).reshape(3, 64).T
        expected = []
        for colour in colours.tolist():
            h, s, v = colorsys.rgb_to_hsv(*colour)
            expected.append(colorsys.hsv_to_rgb((h + turns) % 1.0, s, v))
        torch.testing.assert_close(result, torch.tensor(expected), atol=1e-6, rtol=0)


def test_grey_images_stay_finite_and_grey_under_hue(ops) -> None:
    x = images(5)[:, :1].expand(-1, 3, -1, -1).contiguous()
    x[0], x[1] = 0.0, 1.0
    assert torch.equal(ops.shift_hue(x, torch.linspace(-0.5, 0.5, 5)), x)


def test_grey_and_solarise_equal_torchvision_on_the_chosen(ops) -> None:
    x, chosen = images(4), torch.tensor([True, False, True, False])
    grey, solar = ops.grey(x.clone(), chosen), ops.solarise(x.clone(), chosen, 128 / 255)
    for i in range(4):
        torch.testing.assert_close(grey[i], TF.rgb_to_grayscale(x[i], 3) if chosen[i] else x[i])
        torch.testing.assert_close(solar[i], TF.solarize(x[i], 128 / 255) if chosen[i] else x[i])


def test_rotation_equals_torchvision(ops) -> None:
    x, degrees = images(8, 33), torch.tensor([-90.0, -2.0, -1.3, 0.0, 0.01, 2.0, 30.0, 180.0])
    expected = torch.stack([TF.rotate(i, d.item(), fill=[0.0]) for i, d in zip(x, degrees, strict=True)])
    assert torch.equal(ops.rotate(x, degrees), expected)


def test_rotation_is_close_to_pils(ops) -> None:
    x = images(4, 32)
    for image, degrees in zip(x, (-2.0, -0.7, 1.1, 2.0), strict=True):
        theirs = from_pil(to_pil(image).rotate(degrees))
        differs = (ops.rotate(image[None], torch.tensor([degrees]))[0] - theirs).abs().amax(0) > 0.01
        assert differs.float().mean() < 0.02  # pixels whose source lies on a pixel border, up to rounding


@pytest.mark.parametrize("size", [4, 12, 40])
def test_blur_equals_torchvision_on_repeated_borders(ops, size: int) -> None:
    x, sigma = images(6, size), torch.tensor([0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
    chosen = torch.tensor([True] * 5 + [False])
    result = ops.blur(x.clone(), sigma, chosen)
    for i in range(6):
        radius = int(4 * sigma[i] + 0.5)
        padded = F.pad(x[i], (20,) * 4, mode="replicate")  # torchvision would reflect; PIL, the reference, repeats
        blurred = TF.gaussian_blur(padded, [2 * radius + 1] * 2, [sigma[i].item()] * 2)[:, 20:-20, 20:-20]
        torch.testing.assert_close(result[i], blurred if chosen[i] else x[i], atol=1e-6, rtol=1e-5)


def test_blur_of_an_image_does_not_depend_on_its_neighbours(ops) -> None:
    x, sigma, yes = images(2), torch.tensor([0.5, 2.0]), torch.tensor([True, True])
    torch.testing.assert_close(
        ops.blur(x[:1].clone(), sigma[:1], yes[:1]), ops.blur(x.clone(), sigma, yes)[:1], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_close_to_pils(ops, sigma: float) -> None:
    # smooth, like photographs. PIL approximates the Gaussian by three box filters, each rounded to 8 bits
    image = F.interpolate(images(1, 8), (64, 64), mode="bicubic")[0].clamp(0, 1)
    theirs = from_pil(to_pil(image).filter(ImageFilter.GaussianBlur(sigma)))
    ours = ops.blur(image[None].clone(), torch.tensor([sigma]), torch.tensor([True]))[0]
    assert (ours - theirs).abs().max() * 255 < 3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size_in", "size_out"), [(32, 32), (20, 7), (7, 20), (1, 5)])
def test_resize_equals_interpolate(ops, size_in: int, size_out: int, interpolation: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, 3, size_in, size_in, generator=g)
    length = torch.randint(1, size_in + 1, (20, 2), generator=g)
    start = (torch.rand(20, 2, generator=g) * (size_in - length + 1)).long()
    flip = torch.arange(20) % 2 == 0
    result = ops.resize(x, start, length, flip, size_out, interpolation)
    for i in range(20):
        (top, left), (h, w) = start[i].tolist(), length[i].tolist()
        mode = TF.InterpolationMode(interpolation)
        expected = TF.resized_crop(x[i], top, left, h, w, [size_out, size_out], mode, antialias=True).clamp(0, 1)
        torch.testing.assert_close(result[i], expected.flip(-1) if flip[i] else expected, atol=1e-5, rtol=0)
