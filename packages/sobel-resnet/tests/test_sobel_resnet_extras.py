"""Harmless objects beside the tensors of a pickle become inert stand-ins; nothing is imported, called or allocated."""

import argparse
import collections
import copy
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import resource
import sys
import time
import types
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sobel_resnet import load_backbone, resnet18
from sobel_resnet._torch_files import read_torch
from torch import nn

ZIP: dict[str, Callable[[Any, Path], Any]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
}
WRITERS = ZIP | {"protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4)}


def state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {k: torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for k, v in MODEL.items()}


MODEL = resnet18(width=1 / 64).state_dict()
STATE = state()


def assert_loads(path: Path, wanted: dict[str, Any] = STATE) -> None:
    model, report = load_backbone(path)
    assert report.matched == len(wanted)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


@contextmanager
def module(path: str, **members: type) -> Iterator[None]:
    """A module of another project, gone again when its file is read."""
    names = [path.rsplit(".", i)[0] for i in range(path.count("."), -1, -1)]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for name, member in members.items():
        member.__module__, member.__qualname__, member.__name__ = path, name, name
        setattr(sys.modules[path], name, member)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class HistoryBuffer:
    def __init__(self) -> None:
        self._log_history = np.array([0.5, 0.25])
        self._count_history = np.array([1, 1])
        self._statistics_methods = {"min": 1}
        self.max_length = 1_000_000


class AttributeDict(dict[str, Any]):
    pass


class DictConfig:
    def __init__(self, **content: Any) -> None:
        self.__dict__["_metadata"] = (None, {"flags": None})
        self.__dict__["_content"] = content
        self.__dict__["_parent"] = self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("the object was built")


class Choice(enum.Enum):
    ONE = "one"


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


def omegaconf(path: Path, write: Callable[[Any, Path], Any]) -> None:
    with module("omegaconf.dictconfig", DictConfig=DictConfig):
        write({"cfg": DictConfig(lr=0.1, crops=[2, 6]), "model": STATE}, path)


def mmengine(path: Path, write: Callable[[Any, Path], Any]) -> None:
    with module("mmengine.logging.history_buffer", HistoryBuffer=HistoryBuffer):
        hub = {"log_scalars": collections.OrderedDict(loss=HistoryBuffer()), "runtime_info": {}, "resumed_keys": {}}
        write(
            {"meta": {"time": "now"}, "state_dict": {f"backbone.{k}": v for k, v in STATE.items()}, "message_hub": hub},
            path,
        )


def lightning(path: Path, write: Callable[[Any, Path], Any]) -> None:
    with module("pytorch_lightning.utilities.parsing", AttributeDict=AttributeDict):
        write({"hyper_parameters": AttributeDict(lr=0.1, on=True), "state_dict": STATE}, path)


PROJECTS = {"omegaconf": omegaconf, "mmengine": mmengine, "lightning": lightning}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("project", PROJECTS)
def test_extras_of_projects(tmp_path: Path, project: str, writer: str) -> None:
    PROJECTS[project](tmp_path / "x.pth", WRITERS[writer])
    assert "omegaconf" not in sys.modules
    assert_loads(tmp_path / "x.pth")


EXTRAS: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=0.1, arch="resnet50", nested=argparse.Namespace(a=[1])),
    "numpy scalar": np.float64(0.5),
    "numpy integer": np.int64(3),
    "numpy array": np.zeros((3, 2), np.float32),
    "numpy random state": np.random.get_state(legacy=False),
    "path": pathlib.PurePosixPath("/data/imagenet"),
    "own path": Path("runs") / "x",
    "date": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "time difference": datetime.timedelta(hours=3),
    "uuid": uuid.UUID(int=7),
    "default dict": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1, 2, 3], maxlen=5),
    "counter": collections.Counter("abc"),
    "enum": Choice.ONE,
    "slots": Slots(),
    "partial": functools.partial(nn.LayerNorm, eps=1e-6),
    "simple namespace": types.SimpleNamespace(a=1),
    "set": {1, 2},
    "frozen set": frozenset({1, 2}),
    "range": range(3),
    "complex": 1 + 2j,
    "class": nn.Linear,
    "function": nn.functional.relu,
    "bytes": b"abc",
    "large integer": 10**100,
    "odd keys": {(1, 2): 3, frozenset({1}): 4},
    "subclass of a dict with tensors": collections.defaultdict(int, a=torch.zeros(2)),
    "device and dtype": [torch.device("cpu"), torch.float16, torch.Size([2])],
    "optimiser": torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1).state_dict(),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_harmless_extras(tmp_path: Path, name: str) -> None:
    torch.save(
        {"epoch": 3, "extra": EXTRAS[name], "state_dict": STATE, "more": argparse.Namespace()}, tmp_path / "x.pth"
    )
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)
    assert_loads(tmp_path / "x.pth")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_beside_extras_are_those_saved(tmp_path: Path, writer: str, dtype: torch.dtype) -> None:
    """Other dtypes, parameters, views of one storage, strides and an OrderedDict with attributes."""
    shared = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    content = collections.OrderedDict((k, v.to(dtype) if v.is_floating_point() else v) for k, v in STATE.items())
    content["conv1.weight"] = shared.permute(0, 2, 1)[None]
    content["layer1.0.conv1.weight"] = nn.Parameter(shared[1, 1:4, 2:5][None, None])
    content["layer1.0.bn1.weight"] = torch.rand(2, dtype=dtype)[1:]
    content._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as state_dict() has it
    WRITERS[writer]({"args": argparse.Namespace(), "state_dict": content}, tmp_path / "x.pth")
    assert_loads(
        tmp_path / "x.pth", {k: v.detach().float() if v.is_floating_point() else v for k, v in content.items()}
    )


def test_a_state_dict_of_another_kind_of_dict(tmp_path: Path) -> None:
    for kind in (AttributeDict, collections.Counter, functools.partial(collections.defaultdict, None)):
        with module("addict", AttributeDict=AttributeDict):
            torch.save({"args": argparse.Namespace(), "state_dict": kind(STATE)}, tmp_path / "x.pth")
        assert_loads(tmp_path / "x.pth")


@pytest.mark.parametrize("writer", ZIP)
def test_a_pickled_model_is_refused_with_advice(tmp_path: Path, writer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    for content in (model, {"model": model, "epoch": 3}, {"net": {"ema": [model]}}):
        ZIP[writer](content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"Sequential\) and nothing of it was run.* save only its state_dict"):
            load_backbone(tmp_path / "x.pth")
    ZIP[writer]({"model": model, "weights": STATE}, tmp_path / "x.pth")  # the state_dict is elsewhere in the file
    assert_loads(tmp_path / "x.pth")
    ZIP[writer](argparse.Namespace(a=1), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no ResNet found"):
        load_backbone(tmp_path / "x.pth")


def test_numpy_arrays_are_named(tmp_path: Path) -> None:
    arrays = {"model": {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}, "__author__": "someone"}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(arrays))
    with pytest.raises(ValueError, match="NumPy arrays, as in detectron2's"):
        load_backbone(tmp_path / "x.pkl")


class Reduced:
    """An object whose pickle names a function and passes arguments, and perhaps a state."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def test_parameters_and_parts_of_storages_before_torch_0_4(tmp_path: Path) -> None:
    """Written by hand, since today's torch.save does not."""
    numbers = torch.rand(10, generator=torch.Generator().manual_seed(2))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if value == "a part":
                return ("storage", torch.FloatStorage, "7", "cpu", 10, ("8", 2, 9))
            return None

    def rebuilt(shape: tuple[int, ...], stride: tuple[int, ...]) -> Reduced:
        return Reduced(torch._utils._rebuild_tensor, ("a part", 1, shape, stride))

    parameter = Reduced(nn.Parameter, (rebuilt((1, 3), (3, 2)), True))
    main = io.BytesIO()
    Pickler(main, protocol=2).dump({"conv1.weight": parameter, "layer1.0.conv1.weight": rebuilt((1,), (1,))})
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    keys = pickle.dumps(["7"], protocol=2)
    data = (10).to_bytes(8, "little") + numbers.numpy().tobytes()
    (tmp_path / "x.pth").write_bytes(b"".join([*head, main.getvalue(), keys, data]))
    read = read_torch(tmp_path / "x.pth")
    assert torch.equal(read["conv1.weight"], numbers[[3, 5, 7]][None])
    assert torch.equal(read["layer1.0.conv1.weight"], numbers[[3]])


@pytest.mark.parametrize("writer", WRITERS)
def test_no_class_is_imported_or_built(tmp_path: Path, writer: str) -> None:
    """A module that can be imported leaves a mark when it is, or when its class is made or filled."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')"
    source = f"class Trap:\n    def __init__(self, *a): {code}\n    def __setstate__(self, s): {code}\n"
    (tmp_path / "trap_module.py").write_text(f"{source}def trap(*a): {code}\n")
    sys.path.insert(0, str(tmp_path))
    try:
        trap = __import__("trap_module")
        extras = [
            Reduced(trap.Trap, (1,), {"a": 1}),
            Reduced(trap.trap, (1,)),
            Reduced(functools.partial, (trap.trap,)),
            Reduced(getattr, (trap.Trap, "name")),
        ]
        WRITERS[writer]({"extras": extras, "state_dict": STATE}, tmp_path / "x.pth")
        del sys.modules["trap_module"]
        assert_loads(tmp_path / "x.pth")
        assert "trap_module" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))
    assert not mark.exists()


DANGEROUS: dict[str, Any] = {
    "mkdir": (os.mkdir, ("{}",)),
    "exec": (exec, ("open('{}', 'w')",)),
    "exec by name": (getattr, (Path("{}"), "touch")),
    "import": (__import__, ("trap_module",)),
    "loads": (pickle.loads, (b"",)),
    "hub": (torch.hub.load, ("a", "b")),
    "open": (io.open, ("{}", "w")),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", DANGEROUS)
def test_what_runs_code_is_refused_beside_extras(tmp_path: Path, name: str, writer: str) -> None:
    function, arguments = DANGEROUS[name]
    mark = tmp_path / "mark"
    filled = tuple(type(a)(str(a).format(mark)) if isinstance(a, str | Path) else a for a in arguments)
    content = {"args": argparse.Namespace(), "extra": Reduced(function, filled), "state_dict": STATE}
    WRITERS[writer](content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="refused, the file asks to run code"):
        load_backbone(tmp_path / "x.pth")
    assert not mark.exists()


def written(path: Path, instructions: bytes) -> Path:
    """A zip of torch around a pickle of these instructions."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + instructions)
        archive.writestr("x/version", "3\n")
    return path


NAMESPACE = b"cargparse\nNamespace\n"
HOSTILE: dict[str, bytes] = {
    "a claim of 4 GB of text": NAMESPACE + b"X\xff\xff\xff\xff.",
    "a claim of 2**62 bytes": NAMESPACE + b"\x8e" + (2**62).to_bytes(8, "little") + b".",
    "a memo of 2**32": NAMESPACE + b"r\xff\xff\xff\xff}.",
    "an endless argument": NAMESPACE + b"]q\x00(ctorch._tensor\n_rebuild_from_type_v2\nNh\x00e.",
    "a list as arguments that holds itself": b"ctorch._tensor\n_rebuild_from_type_v2\nq\x01]q\x00(h\x01Nh\x00eR.",
    "a stack that is empty": NAMESPACE + b"0000R.",
    "a memo that is empty": NAMESPACE + b"h\x07.",
    "lists nested deep": NAMESPACE + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested tuples as a key": b"}" + b"K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x02s.",
    "no end": NAMESPACE + b"}" * 100,
    "an extension": NAMESPACE + b"\x82\x01.",
    "a tensor outside its storage": NAMESPACE
    + b"0ctorch._utils\n_rebuild_tensor_v2\n(NK\x00K\x05\x85K\x01\x85\x89}tR.",
    "attributes of a dict": NAMESPACE + b"0ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_cost_nothing(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "x.pth", HOSTILE[name])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ValueError, match=r"x\.pth: ") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


def test_a_bytearray_of_any_size_is_not_made(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save({"extra": Reduced(bytearray, (2 * 10**9,)), "state_dict": STATE}, tmp_path / "x.pth")
    assert_loads(tmp_path / "x.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Ten names for one record would be read ten times; without checksums nothing else would notice."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/data/0", bytes(100_000))
        for info in archive.filelist:
            info.CRC = 0
        for i in range(1, 10):
            copied = copy.copy(archive.filelist[1])
            copied.filename = copied.orig_filename = f"x/data/{i}"
            archive.filelist.append(copied)
            archive.NameToInfo[copied.filename] = copied
    with pytest.raises(ValueError, match="records claim more bytes than the file has"):
        load_backbone(tmp_path / "x.pth")


def test_a_container_inside_itself_is_one_network(tmp_path: Path) -> None:
    content: dict[str, Any] = dict(STATE)
    content["again"] = content
    torch.save(content, tmp_path / "x.pth")
    assert_loads(tmp_path / "x.pth")
    assert load_backbone(tmp_path / "x.pth")[1].others == ()


@pytest.mark.parametrize("name", ["get", "keys", "values", "pop"])
def test_attributes_of_an_ordered_dict_are_not_used(tmp_path: Path, name: str) -> None:
    content: Any = collections.OrderedDict(state_dict=collections.OrderedDict(STATE))
    for level in (content, content["state_dict"]):
        setattr(level, name, 5)
    torch.save(content, tmp_path / "x.pth")
    assert_loads(tmp_path / "x.pth")


def test_many_names_are_searched_in_time(tmp_path: Path) -> None:
    """Ten thousand names, and names with a thousand levels."""
    one = torch.zeros(1)
    names = [f"a{i}.layer1.0.conv1.weight" for i in range(5_000)] + ["layer1." * 20_000, "0." * 20_000 + "0.weight"]
    path = tmp_path / "x.pth"
    torch.save(dict.fromkeys(names, one) | {f"b{i}.conv1.weight": one for i in range(5_000)}, path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ValueError, match="several ResNets found"):
        load_backbone(path)
    assert time.perf_counter() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


def test_a_cut_storage_beside_extras_is_refused(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(), "state_dict": STATE}
    ZIP["legacy"](content, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for cut in (1, 100, 5_000):
        (tmp_path / "x.pth").write_bytes(whole[:-cut])
        with pytest.raises(ValueError, match=r"x\.pth: not a readable weights file, truncated"):
            load_backbone(tmp_path / "x.pth")
