"""The pretended device itself: what it refuses, what it calls a wait, and that values are the CPU's."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from pretend_cuda.device import Device, pretended
from pretend_cuda.tensor import PretendedTensor
from torch import nn
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("cuda")
AVAILABLE_BEFORE = torch.cuda.is_available()


def test_tensors_say_where_they_are() -> None:
    for make in (lambda: torch.zeros(3, device="cuda"), lambda: torch.ones(3).to("cuda"), lambda: torch.ones(3).cuda()):
        x = make()
        assert (x.device, x.is_cuda, x.dtype, x[1:].device) == (torch.device("cuda:0"), True, torch.float32, x.device)
        assert x.cpu().device.type == "cpu"
        assert type(x.cpu()) is torch.Tensor
    assert torch.tensor([1.0], device="cuda:1").device == torch.device("cuda:1")
    assert torch.zeros_like(torch.ones(2), device="cuda").is_cuda
    with torch.cuda.device(1):
        assert torch.zeros(2, device="cuda").device.index == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, host: x + host,
        lambda x, host: x.mm(host),
        lambda x, host: torch.cat([x, host]),
        lambda x, host: torch.stack([x[0], host[0]]),
        lambda x, host: host[x.argsort(0)],
        lambda x, host: x.index_put_((torch.tensor([0], device="cuda"),), host[:1]),
        lambda x, host: x.index_select(0, torch.tensor([0])),
        lambda x, host: host.add_(x),
        lambda x, host: host[0, 0].add_(x[0, 0]),
        lambda x, host: x.clamp(max=host[0, 0]),
        lambda x, host: torch.stack([x[0, 0], host[0, 0]]),
        lambda x, host: x + x.to("cuda:1"),
        lambda x, host: nn.init.normal_(x, generator=torch.Generator()),
        lambda x, host: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda x, host: x.numpy(),
        lambda x, host: F.linear(x.bfloat16(), x),
        lambda x, host: F.conv1d(x.view(1, 2, 2).bfloat16(), x.view(2, 2, 1)),
    ],
)
def test_cuda_would_raise(wrong: object) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device|type"):
        wrong(torch.eye(2, device="cuda"), torch.eye(2))  # type: ignore[operator]


def test_numbers_on_the_host_may_be_operands(cuda: Device) -> None:
    x, number = torch.ones(2, device="cuda"), torch.tensor(3.0)
    with cuda.watched() as log:
        for y in (x * number, torch.where(x > 0, number, x), x.masked_fill(x > 0, number)):
            assert y.is_cuda
            assert cuda.peek(y).tolist()[0] == 3.0
    assert log.waits == {}
    assert log.host_scalars.total() == 3


def test_generators_of_the_device() -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    assert generator.device.type == "cuda"
    x = torch.randn(3, device="cuda", generator=generator)
    assert torch.equal(x.cpu(), torch.randn(3, generator=torch.Generator().manual_seed(1)))


WAITS = {
    "item": lambda x: x[0, 0].item(),
    "if": lambda x: bool(x[0, 0] > 0),
    "nonzero": lambda x: x.nonzero(),
    "boolean index": lambda x: x[x > 0],
    "index on the CPU": lambda x: x[torch.tensor([0])],
    "unique": lambda x: x.unique(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "tensor": lambda x: torch.tensor([1.0], device="cuda"),
    "pageable": lambda x: torch.ones(2).to("cuda"),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "event": lambda x: torch.cuda.Event().synchronize(),
    "repeat_interleave": lambda x: x[0].repeat_interleave(torch.ones(2, dtype=torch.int64, device="cuda")),
    "save": lambda x: torch.save({"x": x}, io.BytesIO()),
    "format": lambda x: f"{x[0, 0]:.3f}",
}
NO_WAITS = {
    "arithmetic": lambda x: (x @ x).relu().sum(),
    "masked_fill": lambda x: x.masked_fill_(x > 0, 0.0),
    "mask = number": lambda x: x.__setitem__(x > 0, 0.0),
    "index on the device": lambda x: x[torch.zeros(1, dtype=torch.int64, device="cuda")],
    "full": lambda x: torch.full((2,), 3.0, device="cuda"),
    "pinned": lambda x: torch.ones(4).pin_memory()[1:].to("cuda", non_blocking=True),
    "to host, non-blocking": lambda x: x.to("cpu", non_blocking=True),
    "streams": lambda x: torch.cuda.Stream().wait_stream(torch.cuda.current_stream()),
    "repeat_interleave": lambda x: x[0].repeat_interleave(x[0].long(), output_size=1),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits(cuda: Device, name: str) -> None:
    x = torch.eye(2, device="cuda")
    with cuda.watched() as log:
        WAITS[name](x)
    assert log.n_waits == 1, log.waits_by_line()
    assert next(iter(log.waits)).place.line.startswith("device.py:")


@pytest.mark.parametrize("name", NO_WAITS)
def test_no_waits(cuda: Device, name: str) -> None:
    x = torch.eye(2, device="cuda")
    with cuda.watched() as log:
        NO_WAITS[name](x)
    assert log.waits == {}, log.waits_by_line()


def test_copies_are_logged_by_kind(cuda: Device) -> None:
    host = torch.ones(3)
    with cuda.watched() as log:
        host.to("cuda", non_blocking=True)
        host.pin_memory().to("cuda", non_blocking=True)
        torch.empty(3, pin_memory=True).to("cuda")
    found = {(copy.direction, copy.blocking, copy.pinned) for copy in log.copies}
    assert found == {("to device", False, False), ("to device", False, True), ("to device", True, True)}
    assert [wait.kind for wait in log.waits] == ["copy from pinned memory"]


@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_trains_as_on_the_cpu(cuda: Device, autocast: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    x, results = torch.randn(5, 3, 8, 8), {}
    for device in ("cpu", "cuda"):
        mine = copy.deepcopy(net).to(device)
        optimizer = torch.optim.SGD(mine.parameters(), lr=0.1, momentum=0.9, foreach=None)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                y = mine(x.to(device))
                loss = F.cross_entropy(y.float(), torch.arange(5, device=device) % 2)
            assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
            loss.backward()
            with cuda.watched() as log:
                optimizer.step()
        if device == "cuda":
            assert all(type(p) is PretendedTensor and p.grad.is_cuda for p in mine.parameters())
            assert set(log.launches) == {"_foreach_mul_", "_foreach_add_"}, log.launches
            assert log.waits == {}
        results[device] = {name: value.cpu() for name, value in mine.state_dict().items()}
    torch.testing.assert_close(results["cuda"], results["cpu"], rtol=0, atol=0)


def test_loaders_pin_memory(cuda: Device) -> None:
    with cuda.watched() as log:
        for batch in DataLoader(list(torch.ones(4, 3)), batch_size=2, pin_memory=True):  # type: ignore[arg-type]
            assert batch.is_pinned()
            batch.to("cuda", non_blocking=True)
    assert log.waits == {}


def test_what_was_patched_is_as_before(cuda: Device) -> None:
    names = [torch.cuda.is_available, torch.cuda.Stream, torch.Tensor.pin_memory, torch.Generator]
    with pretended(), torch.cuda.device(1):
        pass
    assert names == [torch.cuda.is_available, torch.cuda.Stream, torch.Tensor.pin_memory, torch.Generator]
    assert not AVAILABLE_BEFORE
    assert torch.cuda.current_device() == 0


def test_inference_mode_is_the_real_one() -> None:
    x, parameter = torch.ones(2, device="cuda"), nn.Parameter(torch.ones(2, 2, device="cuda"))
    with torch.inference_mode():
        assert not x[0].is_inference()
        assert (x[0] + x.view(2, 1) + parameter[0] + parameter.T).is_inference()
        y = x * 2
        y += 1
        assert torch.ones(2).to("cuda", non_blocking=True).reshape(2, 1).is_cuda
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        torch.ones(2, device="cuda", requires_grad=True) * y


def test_modules_move_and_keep_their_parameters(cuda: Device) -> None:
    linear = nn.Linear(2, 2)
    weight = linear.weight
    assert linear.to("cuda").weight is weight
    assert weight.is_cuda
    assert copy.deepcopy(linear).weight.requires_grad
    saved = io.BytesIO()
    torch.save(linear.state_dict(), saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=True)["weight"], cuda.peek(weight))
    linear.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert weight.sum().item() == 4
    assert linear.to("cpu").weight.device.type == "cpu"
