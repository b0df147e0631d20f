"""Hostile files: code in pickles, forged sizes, endless containers and unusual kinds of tensors."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

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
    endless: dict[str, Any] = {f"t{i}": torch.zeros(()) for i in range(3)}
    endless |= dict.fromkeys(("state_dict", "s1", "s2"), endless)
    torch.save(endless, tmp_path / "x")
    start = time.perf_counter()
    assert "no ResNet found" in refused(tmp_path / "x")
    assert time.perf_counter() - start < 1  # 43 million containers, if each was searched under each of its names
    deep: dict[str, Any] = {}
    for _ in range(17):
        deep = {"state_dict": deep}
    torch.save(deep, tmp_path / "x")
    assert "nested deeper than 16" in refused(tmp_path / "x")


def test_a_shared_container_has_its_usual_name(tmp_path: Path) -> None:
    torch.save(dict.fromkeys(("ema", "any", "state_dict", "last"), thin()) | {"b": {"model": thin()}}, tmp_path / "x")
    report = load_backbone(tmp_path / "x")[1]
    assert (report.prefix, report.is_copy) == ("state_dict.", False)


BOMB = b"K\x01\x85" + b"2\x86" * 60  # the tuple of a tuple twice, and so on: 2^60 items, if each is visited
STORAGE = b"X\x07\0\0\0storagectorch\nFloatStorage\n"
LONG = b"X\x40\x42\x0f\0" + b"a" * 10**6  # text of a million characters
MANY = b"(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(20_000)) + b"d"  # a dict
ENDLESS: dict[str, tuple[bytes, str]] = {
    "module": (b"N" + BOMB + b"\x93", "a name is not text"),
    "name": (BOMB + b"N\x93", "a name is not text"),
    "key": (b"(" + STORAGE + BOMB + b"X\x03\0\0\0cpuK\x01tQ", "key or length is neither text nor a number"),
    "length": (b"(" + STORAGE + b"X\x01\0\0\x000X\x03\0\0\0cpu" + BOMB + b"tQ", "key or length is neither"),
    "dicts": (MANY + b"q\0" + b"ccollections\nOrderedDict\nh\0\x85R" * 20_000, "copies the same items many times"),
    "pairs": (b"ccollections\nOrderedDict\n](NNNta\x85R", "not made of pairs"),
    "names": (LONG + b"q\0" + b"h\0h\0\x93" * 50_000, "a name is too long"),
    "subclasses": (
        b"ctorch._tensor\n_rebuild_from_type_v2\nq\0" + b"h\0N" * 9 + b")" + b"\x87" * 9 + b"R",
        "more than 8 tensors of a subclass",
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_small_pickle_ends_at_once(tmp_path: Path, case: str) -> None:
    body, fault = ENDLESS[case]
    (tmp_path / "x").write_bytes(b"\x80\x02" + body + b".")
    start = time.perf_counter()
    assert fault in refused(tmp_path / "x")
    assert time.perf_counter() - start < 1


def test_keywords_are_not_copied(tmp_path: Path) -> None:
    arguments = b"(" + b"N" * 5_000 + b"tq\0"
    many = b"]ccalendar\nCalendar\nq\x010" + b"h\1h\0}\x92a" * 5_000
    (tmp_path / "x").write_bytes(b"\x80\x04}(" + arguments + many + b"u.")
    tracemalloc.start()
    assert "no ResNet found" in refused(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 20e6  # 200 MB, if each object has its own arguments
    tracemalloc.stop()


def test_places_of_tensors_are_integers(tmp_path: Path) -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + STORAGE + b"X\1\0\0\x000X\3\0\0\0cpuK\1tQK\0"
    for place in (BOMB + b")", b")" + BOMB, b"(" + b"K\1" * 65 + b"t)"):
        with zipfile.ZipFile(tmp_path / "x", "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02" + tensor + place + b"tR.")
            archive.writestr("x/data/0", bytes(4))
        assert "not made of integers" in refused(tmp_path / "x")


def test_keys_of_storages_are_text(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x").read_bytes()
    empty = pickle.dumps([], protocol=2)
    assert whole.endswith(empty)
    for keys, fault in ((b"\x80\x02]" + BOMB + b"a.", "unknown type"), (b"\x80\x02" + BOMB + b".", "not a list")):
        (tmp_path / "x").write_bytes(whole.removesuffix(empty) + keys)
        assert fault in refused(tmp_path / "x")


def test_instructions_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sobel_resnet._pickles._MAX_STEPS", 1_000)
    (tmp_path / "x").write_bytes(b"\x80\x02" + b"N0" * 500 + b"}.")
    assert "more than 1,000 instructions" in refused(tmp_path / "x")


def test_long_containers_in_names_are_cut(tmp_path: Path) -> None:
    torch.save({"a" * 10**6: {str(i): torch.zeros(()) for i in range(200)}}, tmp_path / "x")
    tracemalloc.start()
    assert "no ResNet found" in refused(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 30e6  # 200 MB, if each name has its container
    tracemalloc.stop()


def test_shapes_that_torch_cannot_have_are_named(tmp_path: Path) -> None:
    safetensors(tmp_path / "x", {"w": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}})
    assert "not a readable weights file" in refused(tmp_path / "x")
    about = {"sobel_resnet": "1", "arch": "resnet18", "sobel": "false", "stem": "imagenet", "width": "0.25"}
    save_file(thin(), tmp_path / "x", about | {"in_channels": "9" * 20})
    assert "no ResNet can be built with" in refused(tmp_path / "x")


def test_a_time_zone_is_inert(tmp_path: Path) -> None:
    when = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))
    for writer in ("zip", "legacy"):
        WRITERS[writer]({"state_dict": thin(), "saved": when}, tmp_path / "x")
        assert load_backbone(tmp_path / "x")[1].matched == len(thin())


def test_negated_numbers_are_refused(tmp_path: Path) -> None:
    state = thin()
    torch.save(state | {"bn1.bias": torch._neg_view(state["bn1.bias"] + 1)}, tmp_path / "x")
    assert torch.load(tmp_path / "x")["bn1.bias"].is_neg()
    assert "bn1.bias is not a dense CPU tensor" in refused(tmp_path / "x")
    torch.save({"state_dict": state, "beside": torch._neg_view(torch.ones(2))}, tmp_path / "x")
    assert load_backbone(tmp_path / "x")[1].matched == len(state)


@pytest.mark.parametrize("name", ["x", "no\nfolder/x", "model.safetensors.index.json", f"{__file__}/x"])
def test_a_missing_file_says_what_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; expected a safetensors or torch file") as caught:
        load_backbone(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name).replace("\n", "\\n"))
    assert "\n" not in str(caught.value)


def test_a_line_feed_in_the_path_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines"
    for content in ({"a": torch.zeros(1)}, thin() | {"conv2.weight": torch.zeros(1)}, [1], Call(os.mkdir, "a")):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"two\\nlines: ") as caught:
            load_backbone(path)
        assert "\n" not in str(caught.value)
    for text in ("", "<html>", '{"weight_map": 3}'):
        other = path if text[:1] != "{" else tmp_path / "a\nb.index.json"
        other.write_text(text)
        with pytest.raises(ValueError, match=r"\\n") as caught:
            load_backbone(other)
        assert "\n" not in str(caught.value)


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
