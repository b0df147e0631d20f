"""Say what a file is that holds no weights we read, from its first and last bytes and its names."""

import re
import zipfile
from pathlib import Path

_HEAD = 4096
_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", "save the state_dict of the PyTorch model"),
    (b"\x1f\x8b", "a gzip", "unpack it with gunzip (or tar -xzf) and pass the file inside"),
    (b"BZh", "a bzip2 archive", "unpack it and pass the file inside"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it and pass the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it and pass the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and pass the file inside"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and pass the file inside"),
    (b"\x93NUMPY", "a NumPy array", "save a state_dict with torch.save"),
    (b"GGUF", "a GGUF file of a language model", "pass the weights of a ResNet"),
    (b"\x89PNG\r\n", "an image", "pass the weights"),
    (b"\xff\xd8\xff", "an image", "pass the weights"),
    (b"%PDF-", "a PDF", "pass the weights"),
    (b"\x7fELF", "a program", "pass the weights"),
)
_TENSORFLOW = "read it with TensorFlow and save the tensors as a state_dict under torchvision's names"
_ONNX_WRITER = re.compile(rb"\x08[\x01-\x1f]\x12([\x01-\x7f])")  # field 1 is the version, field 2 the writer's name
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of the table of names in a TensorFlow checkpoint


def foreign_kind(path: Path) -> str | None:
    """Return what a file is and what to do, in one line, or None if it may hold weights."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if not head:
        return "but empty: the download or copy failed, fetch or save it again"
    for magic, kind, advice in _MAGIC:
        if head.startswith(magic):
            return f"but {kind}: {advice}"
    if head[257:262] == b"ustar":
        return "but a tar archive: unpack it and pass the file inside"
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if _is_onnx(head):
        return "but an ONNX model: its names and layout are lost, pass the state_dict that it was exported from"
    if head[4:8] == b"TFL3":
        return f"but a TensorFlow Lite model: {_TENSORFLOW}"
    if tail == _TABLE_END or re.search(r"\.data-\d{5}-of-\d{5}$", path.name) or path.name == "saved_model.pb":
        return f"but a part of a TensorFlow checkpoint: {_TENSORFLOW}"
    if path.suffix == ".msgpack":
        return "but a msgpack file, as Flax writes: save the tensors as a state_dict under torchvision's names"
    return _text_kind(head, size)


def folder_kind(path: Path) -> str:
    """Return what a folder is and what to pass instead, in one line."""
    names = sorted(inside.name for inside in path.iterdir() if not inside.name.startswith("."))
    if any(re.search(r"^saved_model\.pb$|\.data-\d{5}-of-\d{5}$", name) for name in names):
        return f"but a folder with a TensorFlow checkpoint: {_TENSORFLOW}"
    if "data.pkl" in names:
        return "but the folder of an unpacked torch file: pass the file as it was before unpacking"
    weights = [name for name in names if name.endswith((".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"))]
    if weights:
        more = f" or {len(weights) - 3} more" if len(weights) > 3 else ""
        return f"but a folder: pass one of the files in it ({', '.join(weights[:3])}{more})"
    return "but a folder without weights: pass a file"


def _zip_kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged zip may raise nearly anything; the reader says so
        return None
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        return "but a TorchScript program: load it with torch.jit.load and save its state_dict"
    if "data.pkl" in last:
        return None
    if "archive_format" in last or "serialized_exported_program.json" in last:
        return "but a program of torch.export: load it with torch.export.load and save its state_dict"
    if "model.weights.h5" in last:
        return "but a Keras model: save the state_dict of the PyTorch model"
    if names and all(name.endswith(".npy") for name in names):
        return "but a zip of NumPy arrays: save a state_dict with torch.save"
    shown = ", ".join(names[:3]) or "nothing"
    return f"but a zip that torch.save did not write (it holds {shown}): unpack it and pass the weights file inside"


def _is_onnx(head: bytes) -> bool:
    found = _ONNX_WRITER.match(head)
    if found is None:
        return False
    name = head[found.end() : found.end() + found[1][0]]
    return name.isascii() and name.decode("ascii").isprintable()


def _text_kind(head: bytes, size: int) -> str | None:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if size <= len(head) or error.start < len(head) - 3:  # otherwise a character is cut in two
            return None
        text = head[: error.start].decode("utf-8-sig")
    if any(not (c.isprintable() or c in "\t\n\r\f") for c in text):
        return None
    start = text.lstrip()[:200].lower()
    if start.startswith("version https://git-lfs.github.com/spec/"):
        return "but a Git LFS pointer: fetch the file itself with git lfs pull"
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return "but an HTML page, saved in place of the file: open the address in a browser to see what it asks for"
    if start.startswith("<"):
        return "but an XML text, often a server's error message: open it and fetch the file again"
    if start.startswith("model_checkpoint_path"):
        return f"but a part of a TensorFlow checkpoint: {_TENSORFLOW}"
    if start.startswith(("{", "[")):
        return "but a JSON text: pass the weights file (or the index of a safetensors file in parts)"
    return "but plain text: pass the weights file"
