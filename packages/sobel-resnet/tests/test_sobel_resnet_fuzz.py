"""Damaged weights: after flipped bits, cuts and removed bytes, a file is refused in one line or loads unchanged."""

import io
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from sobel_resnet import ResNet, load_backbone, resnet18, save_backbone
from sobel_resnet._checkpoint import _DIGEST

N_INPUTS = int(os.environ.get("CLUSTER_SSL_FUZZ", 40))  # per kind of file (four), and for random bytes
MODEL = resnet18(sobel=True, width=1 / 64, seed=3)  # 25 kB, so headers are about as large as weights
FUZZ = settings(
    max_examples=N_INPUTS,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _ours(tmp: Path) -> bytes:
    save_backbone(MODEL, tmp / "whole", {"method": "swav"})
    return (tmp / "whole").read_bytes()


def _torch(tmp: Path, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": MODEL.state_dict(), "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


WHOLE = {
    "ours": _ours,
    "zip": _torch,
    "legacy": lambda tmp: _torch(tmp, zipped=False),
    "safetensors": lambda tmp: save(MODEL.state_dict()),
}


def load(path: Path, data: bytes) -> ResNet | None:
    """Load a file of these bytes; None if it was refused in one line. A crash would end this process."""
    path.write_bytes(data)
    try:
        return load_backbone(path)[0]
    except ValueError as error:
        said = str(error)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    return None


def is_what_was_saved(model: ResNet | None) -> bool:
    saved = MODEL.state_dict()
    return model is not None and all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    """Our files and zips have checksums; the other two kinds may load with other values of the same shapes."""
    whole = WHOLE[kind](tmp_path)

    # Half of the damage is in the first and last 4 kB, which hold the headers and the zip's directory.
    edge = st.integers(0, 4095) | st.integers(len(whole) - 4096, len(whole) - 1)
    place = edge | st.integers(0, len(whole) - 1)

    @FUZZ
    @given(
        flips=st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=8),
        cut=st.none() | st.integers(0, len(whole) - 1),
        removed=st.none() | st.tuples(place, st.integers(1, 64)),
    )
    def check(flips: list[tuple[int, int]], cut: int | None, removed: tuple[int, int] | None) -> None:
        data = bytearray(whole)
        for where, mask in flips:
            data[where] ^= mask
        if removed is not None:
            del data[removed[0] : sum(removed)]
        model = load(tmp_path / "x", bytes(data[:cut]))
        assert model is None or kind in ("legacy", "safetensors") or is_what_was_saved(model)

    check()
    assert is_what_was_saved(load(tmp_path / "x", whole))


def test_any_bytes(tmp_path: Path) -> None:
    heads = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", struct.pack("<Q", 40) + b"{"]

    @FUZZ
    @given(st.sampled_from(heads), st.binary(max_size=400))
    def check(head: bytes, data: bytes) -> None:
        assert load(tmp_path / "x", head + data) is None

    check()


@pytest.mark.parametrize("where", ["weights", "yours", "ours"])
def test_the_hash_sees_what_safetensors_do_not(tmp_path: Path, where: str) -> None:
    whole = _ours(tmp_path)
    i = {
        "weights": whole.index(MODEL.conv1.weight.detach().numpy().tobytes()),
        "yours": whole.index(b"swav"),
        "ours": whole.index(b'"in_channels":"3"') + len('"in_channels":"'),
    }[where]
    data = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="differ from their hash"):
        load_backbone(tmp_path / "x")
    # A file of format 1 has no hash, so the same damage goes unnoticed.
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"][_DIGEST]
    header["__metadata__"]["sobel_resnet"] = "1"
    text = json.dumps(header).encode()
    assert load(tmp_path / "x", struct.pack("<Q", len(text)) + text + data[8 + length :]) is not None


def test_the_checksums_of_a_zip_are_compared(tmp_path: Path) -> None:
    data = bytearray(_torch(tmp_path))
    data[data.index(MODEL.layer4[1].conv2.weight.detach().numpy().tobytes())] ^= 1
    (tmp_path / "x").write_bytes(data)
    torch.load(tmp_path / "x", weights_only=True)  # torch does not compare them
    with pytest.raises(ValueError, match=r"wrong checksum of \w+/data/\d+"):
        load_backbone(tmp_path / "x")


def test_files_without_a_hash_load(tmp_path: Path) -> None:
    """Files of format 1, and a zip that was written without checksums."""
    about = {"sobel_resnet": "1", "arch": "resnet18", "sobel": "true", "stem": "imagenet"}
    assert is_what_was_saved(
        load(tmp_path / "x", save(MODEL.state_dict(), about | {"width": str(1 / 64), "in_channels": "3"}))
    )
    torch.serialization.set_crc32_options(False)
    try:
        data = _torch(tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert is_what_was_saved(load(tmp_path / "x", data))


def test_the_hash_is_of_content_not_of_order(tmp_path: Path) -> None:
    save_backbone(MODEL, tmp_path / "a", {"x": "1", "y": "2"})
    save_backbone(MODEL, tmp_path / "b", {"y": "2", "x": "1"})
    one, other = (load_backbone(tmp_path / name)[1].metadata[_DIGEST] for name in "ab")
    assert one == other
    with pytest.raises(ValueError, match="sobel_resnet_sha256"):
        save_backbone(MODEL, tmp_path / "c", {_DIGEST: one})
