"""Files that are no weights are called what they are, in one line with what to do; weights in parts load."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sobel_resnet import load_backbone, resnet18
from torch import nn

STATE = dict(resnet18(width=1 / 64, seed=3).state_dict())


def zipped(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("resnet.pth")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def numpy_file(save: Callable[..., None], *arrays: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays)
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    data = zipped({"x/data.pkl": b"", "x/constants.pkl": b"", "x/code/__torch__.py": b"", "x/version": b"3"})
    buffer.write(data)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102502400\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd4\x93\x01\n\x80\x01\n\x05input"

KINDS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("x.pth", b"", "empty: the download or copy failed, fetch or save it again"),
    "html": (
        "x.pth",
        b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>",
        "an HTML page.* open the address in a browser",
    ),
    "html in capitals": ("x.pth", b"\xef\xbb\xbf<HTML lang=en>\xc3\xa9</HTML>", "an HTML page"),
    "long html": ("x.pth", b"<html> " + "é".encode() * 9_000, "an HTML page"),
    "xml": (
        "x.pth",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "an XML text, often a server's error",
    ),
    "git lfs": ("x.safetensors", LFS, "a Git LFS pointer: .*git lfs pull"),
    "onnx": ("x.onnx", ONNX, "an ONNX model: .*state_dict that it was exported from"),
    "hdf5": (
        "x.h5",
        b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00\x00\x08\x08\x00",
        "an HDF5 file, as Keras writes: save the state_dict",
    ),
    "gzip": ("x.pth.gz", gzip.compress(torch_file()), "a gzip: unpack it with gunzip"),
    "bzip2": ("x.bz2", bz2.compress(b"abc"), "a bzip2 archive: unpack it"),
    "xz": ("x.xz", lzma.compress(b"abc"), "an xz archive: unpack it"),
    "zstd": ("x.zst", b"\x28\xb5\x2f\xfd\x04\x00", "a zstd archive: unpack it"),
    "7z": ("x.7z", b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive: unpack it"),
    "tar": ("x.pth.tar", tarred(), "a tar archive: unpack it and pass the file inside"),
    "zip of weights": (
        "x.zip",
        zipped({"resnet50.pth": torch_file()}),
        r"a zip .* \(it holds resnet50\.pth\): unpack it",
    ),
    "zip of nothing": ("x.zip", zipped({}), r"a zip .* \(it holds nothing\)"),
    "zip of arrays": ("x.npz", numpy_file(np.savez, np.zeros(3)), "a zip of NumPy arrays: save a state_dict"),
    "keras": ("x.keras", zipped({"config.json": b"{}", "model.weights.h5": b""}), "a Keras model"),
    "torchscript": ("x.pt", torchscript(), r"a TorchScript program: load it with torch\.jit\.load"),
    "torch.export": (
        "x.pt2",
        zipped({"x/archive_format": b"pt2", "x/models/model.json": b"{}"}),
        r"a program of torch\.export",
    ),
    "array": ("x.npy", numpy_file(np.save, np.zeros(3)), "a NumPy array: save a state_dict"),
    "tensorflow index": (
        "model.ckpt-1.index",
        b"\x00\x01\x02" * 9 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
        "a part of a TensorFlow checkpoint",
    ),
    "tensorflow data": ("model.ckpt-1.data-00000-of-00001", b"\x00\x01\xff" * 9, "a part of a TensorFlow checkpoint"),
    "tensorflow names": ("checkpoint", b'model_checkpoint_path: "model.ckpt-1"\n', "a part of a TensorFlow checkpoint"),
    "saved model": ("saved_model.pb", b"\x08\x01\x12\x80\x01\x00\x01", "a part of a TensorFlow checkpoint"),
    "tflite": ("x.tflite", b"\x1c\x00\x00\x00TFL3\x14\x00", "a TensorFlow Lite model"),
    "flax": ("flax_model.msgpack", b"\x82\xa6params\x80", "a msgpack file, as Flax writes"),
    "text": ("x.txt", b"epoch 1 loss 3.2\n", "plain text: pass the weights file"),
    "text like safetensors": ("x.py", b"weights {}\n", "plain text: pass the weights file"),
    "json": (
        "config.json",
        b'{"architectures": ["ResNetForImageClassification"]}',
        "a JSON text: pass the weights file",
    ),
    "image": ("x.png", b"\x89PNG\r\n\x1a\n\x00\x00", "an image: pass the weights"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_called_what_they_are(tmp_path: Path, kind: str) -> None:
    name, data, said = KINDS[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"not a readable weights file but {said}") as caught:
        load_backbone(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert str(caught.value).isprintable()


def test_a_real_script_and_a_real_program_are_named(tmp_path: Path) -> None:
    with torch.no_grad():
        script = torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2), check_trace=False)
    torch.jit.save(script, str(tmp_path / "x.pt"))
    with pytest.raises(ValueError, match="a TorchScript program"):
        load_backbone(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.onnx", "model.ckpt.data", "x.h5", "x.txt", "x.index", "weights", "x.html"])
def test_the_name_of_a_torch_file_does_not_matter(tmp_path: Path, name: str) -> None:
    torch.save(STATE, tmp_path / name)
    assert load_backbone(tmp_path / name)[1].matched == len(STATE)


def test_folders_are_named_with_what_to_pass(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(ValueError, match="run: not a readable weights file but a folder without weights"):
        load_backbone(folder)
    for name in ("notes.txt", "last.ckpt", "best.pth", "model.safetensors", "other.pt"):
        (folder / name).touch()
    with pytest.raises(ValueError, match=r"a folder: .* \(best\.pth, last\.ckpt, model\.safetensors or 1 more\)"):
        load_backbone(folder)
    (folder / "model.ckpt.data-00000-of-00001").touch()
    with pytest.raises(ValueError, match="a folder with a TensorFlow checkpoint"):
        load_backbone(folder)
    (folder / "model.ckpt.data-00000-of-00001").rename(folder / "data.pkl")
    with pytest.raises(ValueError, match="the folder of an unpacked torch file"):
        load_backbone(folder)


def in_parts(folder: Path, name: str = "model.safetensors", n_parts: int = 3) -> Path:
    """Write STATE in parts with an index, as transformers does."""
    stem, suffix = name.split(".", 1)
    places = {}
    for part in range(n_parts):
        file = f"{stem}-{part + 1:05}-of-{n_parts:05}.{suffix}"
        tensors = {key: STATE[key] for i, key in enumerate(STATE) if i % n_parts == part}
        (save_file if suffix == "safetensors" else torch.save)(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "student.safetensors"])
@pytest.mark.parametrize("given", ["index", "folder"])
def test_weights_in_parts(tmp_path: Path, name: str, given: str) -> None:
    index = in_parts(tmp_path, name)
    model, report = load_backbone(index if given == "index" else tmp_path)
    assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())
    assert report.matched == len(STATE)
    with pytest.raises(ValueError, match=r"missing|no ResNet found"):  # a part alone is not the whole
        load_backbone(next(tmp_path.glob("*-00002-of-*")))


def changed(**places: Any) -> Callable[[Path], None]:
    def change(index: Path) -> None:
        content = json.loads(index.read_text())
        index.write_text(json.dumps(content | {"weight_map": content["weight_map"] | places}))

    return change


def part(index: Path) -> Path:
    return index.with_name("model-00002-of-00003.safetensors")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a part is missing": (
        lambda index: part(index).unlink(),
        r"model-00002-of-00003\.safetensors .* is missing: fetch it",
    ),
    "a part is a pointer": (lambda index: part(index).write_bytes(LFS), "a Git LFS pointer"),
    "a part is cut": (
        lambda index: part(index).write_bytes(part(index).read_bytes()[:-9]),
        "not a readable weights file",
    ),
    "a tensor is missing": (changed(fc="model-00002-of-00003.safetensors"), r"1 tensors \(fc\) are not in model-00002"),
    "a place outside": (changed(fc="../x.safetensors"), "refers to '../x.safetensors', which is no file beside it"),
    "an absolute place": (changed(fc="/etc/passwd"), "refers to '/etc/passwd'"),
    "a place of Windows": (changed(fc="..\\x.safetensors"), "which is no file beside it"),
    "a folder as a place": (changed(fc=".."), "which is no file beside it"),
    "no place": (changed(fc=7), "refers to 7"),
    "a list as a place": (changed(fc=[]), "no readable weight_map"),
    "no JSON": (lambda index: index.write_text("{"), "no readable weight_map"),
    "no map": (lambda index: index.write_text('{"weight_map": []}'), "no readable weight_map"),
    "another JSON": (lambda index: index.write_text("[1]"), "no readable weight_map"),
    "nested deep": (lambda index: index.write_text("[" * 100_000), "no readable weight_map"),
    "an empty map": (lambda index: index.write_text('{"weight_map": {}}'), "no ResNet found"),
    "an index of 1 GB": (lambda index: os.truncate(index, 10**9), "larger than 100 MiB"),
    "itself": (changed(fc="model.safetensors.index.json"), "a JSON text"),
}


@pytest.mark.parametrize("given", ["index", "folder"])
@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_indexes(tmp_path: Path, fault: str, given: str) -> None:
    index = in_parts(tmp_path)
    change, said = FAULTS[fault]
    change(index)
    with pytest.raises(ValueError, match=said) as caught:
        load_backbone(index if given == "index" else tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).isprintable()


def test_two_indexes_in_a_folder_are_not_guessed(tmp_path: Path) -> None:
    in_parts(tmp_path, "student.safetensors")
    in_parts(tmp_path, "teacher.safetensors")
    with pytest.raises(ValueError, match="but a folder: pass one of the files"):
        load_backbone(tmp_path)
    assert load_backbone(tmp_path / "teacher.safetensors.index.json")[1].matched == len(STATE)
    in_parts(tmp_path, "model.safetensors")  # transformers' name goes first
    assert load_backbone(tmp_path)[1].matched == len(STATE)


def test_a_file_that_may_not_be_read_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_backbone(tmp_path / "none.safetensors.index.json")
    if os.geteuid() != 0:
        torch.save(STATE, tmp_path / "x.pth")
        (tmp_path / "x.pth").chmod(0)
        with pytest.raises(PermissionError):
            load_backbone(tmp_path / "x.pth")
