"""Hostile files: code in pickles, forged sizes, endless containers and unusual kinds of tensors."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sobel_resnet import load_backbone, resnet18, save_backbone
from torch import Tensor


def thin() -> dict[str, Tensor]:
    return dict(resnet18(width=1 / 64).state_dict())  # one channel in the stem: 25 kB


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match="x: ") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_200
    return str(caught.value)


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def _tar(path: Path, content: Any) -> None:
    """Write torch's format before 0.1.10: a tar of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            data = pickle.dumps(content)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _torchscript(path: Path, content: Any) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("x/constants.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("x/code/__torch__.py", "import os")
        archive.writestr("x/version", "3\n")


WRITERS = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle 2": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "pickle 5": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=5)),
    "tar": lambda content, path: _tar(path, content),
    "TorchScript": lambda content, path: _torchscript(path, content),
}
CALLS = {
    "mkdir": lambda canary: Call(os.mkdir, canary),
    "system": lambda canary: Call(os.system, f"touch {canary}"),
    "eval": lambda canary: Call(eval, f"open({canary!r}, 'w')"),
    "popen": lambda canary: Call(subprocess.Popen, ["touch", canary]),
    "getattr": lambda canary: Call(getattr, Path(canary), "touch"),
    "load": lambda canary: Call(torch.load, canary),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_container_runs_a_pickles_code(tmp_path: Path, writer: str, call: str) -> None:
    canary = tmp_path / "canary"
    WRITERS[writer](thin() | {"extra": CALLS[call](str(canary))}, tmp_path / "x")
    refused(tmp_path / "x")
    assert not canary.exists()
    assert os.listdir(tmp_path) == ["x"]


def expanded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros((), dtype=dtype).expand(shape)


def safetensors(path: Path, header: dict[str, Any], body: bytes = b"", length: int | None = None) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def _wide(path: Path, width: str) -> None:
    about = {"sobel_resnet": "1", "arch": "resnet101", "sobel": "false", "stem": "imagenet", "in_channels": "3"}
    save_file(thin(), path, about | {"width": width})


def _f32(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"conv1.weight": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}


CLAIMS: dict[str, Callable[[Path], Any]] = {
    "safetensors, 100 GB of a tensor": lambda p: safetensors(p, _f32([25 * 10**9], 0, 10**11)),
    "safetensors, 100 GB in four bytes": lambda p: safetensors(p, _f32([25 * 10**9], 0, 4), bytes(4)),
    "safetensors, a shape beyond 64 bit": lambda p: safetensors(p, _f32([2**62, 2**62], 0, 0)),
    "safetensors, a shape without numbers": lambda p: safetensors(p, _f32([10**12, 0, 7, 7], 0, 0)),
    "safetensors, offsets turned round": lambda p: safetensors(p, _f32([1], 4, 0), bytes(4)),
    "safetensors, a header of 100 GB": lambda p: safetensors(p, {}, length=10**11),
    "safetensors, a header beyond 63 bit": lambda p: safetensors(p, {}, length=2**64 - 1),
    "safetensors, nested deep": lambda p: p.write_bytes(struct.pack("<Q", 100_000) + b'{"a":' * 20_000),
    "our metadata, a width of a million": lambda p: _wide(p, "1e6"),
    "our metadata, a width beyond floats": lambda p: _wide(p, "1e308"),
    "our metadata, an infinite width": lambda p: _wide(p, "inf"),
    "our metadata, no width": lambda p: _wide(p, "nan"),
    "zip, one number as a wide stem": lambda p: torch.save(_with(expanded(10**8, 3, 7, 7)), p),
    "zip, one number as a whole network": lambda p: torch.save(_broad(), p),
    "legacy, one number as a whole network": lambda p: WRITERS["legacy"](_broad(), p),
    "zip, a shape beyond its storage": lambda p: torch.save(_with(_beyond(10**10)), p),
    "legacy, a shape beyond its storage": lambda p: WRITERS["legacy"](_with(_beyond(10**10)), p),
    "zip, a call for memory": lambda p: torch.save(_with(Call(bytearray, 10**11)), p),
}


def _with(stem: Any) -> dict[str, Any]:
    return thin() | {"conv1.weight": stem}


def _broad() -> dict[str, Tensor]:
    """A ResNet-18 of 45 GB whose tensors all share one number; the shapes are consistent."""
    with torch.device("meta"):
        state = resnet18(width=32.0).state_dict()
    return {key: expanded(*value.shape, dtype=value.dtype) for key, value in state.items()}


def _beyond(n: int) -> Call:
    storage = torch.zeros(4).storage()  # torch deprecates typed storages, but files still refer to them
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, (n, 1, 1, 1), (1, 1, 1, 1), False, OrderedDict())


_CHILD = """
import resource, sys
from pathlib import Path
from sobel_resnet import load_backbone, resnet18
load_backbone(sys.argv[1])  # so that torch's one-time allocations are not counted
space = 1024 * int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmSize")))
resource.setrlimit(resource.RLIMIT_AS, (space + 2**30, space + 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[2:]:
    try:
        load_backbone(name)
        print("loaded", name)
    except ValueError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory limits and use from Linux interfaces")
def test_what_a_file_claims_is_not_allocated(tmp_path: Path) -> None:
    """In a process limited to 1 GiB more than it has, 18 files that claim up to 100 GB are refused in one line each."""
    save_backbone(resnet18(width=1 / 64), tmp_path / "good")
    for number, write in enumerate(CLAIMS.values()):
        write(tmp_path / f"{number:02}")
        assert (tmp_path / f"{number:02}").stat().st_size < 500_000
    names = sorted(str(path) for path in tmp_path.glob("[0-9]*"))
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "good"), *names], capture_output=True, text=True, check=True
    )
    *errors, grown_mib = child.stdout.splitlines()
    assert [line.partition(": ")[0] for line in errors] == names
    assert int(grown_mib) < 100, child.stdout


def test_a_compressed_zip_is_refused_unread(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save(thin() | {"fc.weight": torch.zeros(10**6)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.load(tmp_path / "x", weights_only=True)["fc.weight"].numel() == 10**6  # torch itself unpacks it
    assert "compressed, which torch.save never does" in refused(tmp_path / "x")


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    for key in ("state_dict", "anything"):
        endless: dict[str, Any] = {}
        endless[key] = endless
        torch.save(endless, tmp_path / "x")
        assert "nested deeper than 16" in refused(tmp_path / "x")


def test_names_are_shown_in_one_printable_line(tmp_path: Path) -> None:
    torch.save(
        thin() | {"layer1.0.\n\x1b[2Jboo": torch.zeros(1), f"layer1.0.{'x' * 10_000}": torch.zeros(1)}, tmp_path / "x"
    )
    said = refused(tmp_path / "x")
    assert said.isprintable()
    assert r"\x1b[2Jboo" in said


@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_tensors(tmp_path: Path) -> None:
    weight = torch.ones(1, 1, 3, 3)
    others = {
        "sparse": weight.to_sparse(),
        "nested": torch.nested.nested_tensor([weight[0], weight[0]]),
        "meta": weight.to("meta"),
        "quantized": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "complex": weight.to(torch.complex64),
        "integers": weight.to(torch.int8),
        "truth values": weight.bool(),
    }
    for kind, value in others.items():
        for name in ("layer1.0.conv1.weight", "conv1.weight", "sobel.0.weight"):
            torch.save(thin() | {name: value}, tmp_path / "x")
            said = refused(tmp_path / "x")
            assert name in said, kind
            assert "float model" in said, kind
    torch.save(thin() | {"conv1.weight": torch.tensor(1.0)}, tmp_path / "x")
    assert "conv1.weight must be" in refused(tmp_path / "x")
    torch.save(thin() | {"conv1.weight": torch.tensor(1.0), "sobel.0.bias": torch.zeros(1)}, tmp_path / "x")
    assert "two channels" in refused(tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_any_float_loads_as_float32(tmp_path: Path, dtype: torch.dtype, kind: str) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in thin().items()}
    save_file(state, tmp_path / "x") if kind == "safetensors" else torch.save(state, tmp_path / "x")
    model, _ = load_backbone(tmp_path / "x")
    for key, value in model.state_dict().items():
        assert value.dtype == (torch.float32 if state[key].is_floating_point() else torch.int64)
        assert torch.equal(value, state[key].to(value.dtype)), key


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    state = thin()
    state["layer2.0.bn1.running_var"] = state["layer2.0.bn1.running_var"].double()
    state["layer2.0.bn1.running_var"][1] = value
    torch.save(state, tmp_path / "x")
    said = refused(tmp_path / "x")
    assert "1 of 120 tensors hold NaN or infinity, the first is layer2.0.bn1.running_var (1 of 2 values)" in said


def test_large_values_that_are_finite_load(tmp_path: Path) -> None:
    state = thin() | {"bn1.weight": torch.tensor([3e38]), "layer1.0.conv1.weight": torch.full((1, 1, 3, 3), 3e38)}
    torch.save(state, tmp_path / "x")
    assert load_backbone(tmp_path / "x")[0].layer1[0].conv1.weight.sum().isinf()
