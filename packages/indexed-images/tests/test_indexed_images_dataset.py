import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import indexed_images
import numpy as np
import pytest
import torch
from indexed_images import CorruptImage, Sample, open_images
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2


def _folder(root, n, corrupt=(), size=(8, 8)):
    for k in range(n):
        path = root / "ab"[k % 2] / f"{k:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, k % 256).save(path)
    paths = sorted(root.rglob("*.png"))
    for i in corrupt:
        paths[i].write_bytes(b"damaged")
    return f"folder:{root}", paths


def test_indexing(tmp_path):
    images = open_images(_folder(tmp_path, 4)[0])
    assert isinstance(images[1], Sample)
    assert images[-1].index == 3
    assert images[torch.tensor(2)].index == images[np.int32(2)].index == 2
    assert isinstance(images[np.int32(2)].index, int)
    assert [s.index for s in images] == [0, 1, 2, 3]
    assert repr(images).endswith("4 images, 2 classes)")
    for bad in (4, -5):
        with pytest.raises(IndexError, match="out of range for 4"):
            images[bad]
    with pytest.raises(TypeError):
        images["1"]


def test_one_image(tmp_path):
    images = open_images(_folder(tmp_path, 1)[0], on_corrupt="replace")
    assert len(images) == 1
    assert images.resident().shape == (1, 3, 8, 8)


def test_raise_names_path_and_reason(tmp_path):
    spec, paths = _folder(tmp_path, 4, corrupt=[2])
    images = open_images(spec)
    assert images.skipped == []
    with pytest.raises(CorruptImage) as caught:
        images[2]
    assert str(caught.value) == f"{paths[2]} (index 2): not an image Pillow knows"
    assert images.skipped == [(2, str(paths[2]), "not an image Pillow knows")]
    assert images.bytes(2) == b"damaged"


def test_replace_takes_image_and_label_of_the_next_good_one(tmp_path):
    spec, paths = _folder(tmp_path, 400, corrupt=[199, 200, 399])
    images = open_images(spec, on_corrupt="replace")
    image, index, label = images[199]
    assert torch.equal(image, images[201].image)
    assert index == 199
    assert (label, images.labels[199]) == (1, 0)
    assert torch.equal(images[399].image, images[0].image)  # wraps around
    for _ in range(3):
        images[200]  # counted only once
    assert [s.index for s in images.skipped] == [199, 200, 399]
    assert images.skipped[0].path == str(paths[199])


def test_more_than_one_percent_is_an_error(tmp_path):
    spec, paths = _folder(tmp_path, 200, corrupt=[0, 50, 100])
    images = open_images(spec, on_corrupt="replace")
    images[0]
    images[50]
    with pytest.raises(CorruptImage, match="3 of 200 images are corrupt, at most 2") as caught:
        images[100]
    assert str(paths[0]) in str(caught.value)


def test_a_small_set_may_lose_one(tmp_path):
    images = open_images(_folder(tmp_path, 5, corrupt=[0, 2])[0], on_corrupt="replace")
    images[0]
    with pytest.raises(CorruptImage, match="2 of 5"):
        images[2]
    alone = open_images(_folder(tmp_path / "one", 1, corrupt=[0])[0], on_corrupt="replace")
    with pytest.raises(CorruptImage, match="no image can be read"):
        alone[0]


def test_missing_file_is_corrupt(tmp_path):
    spec, paths = _folder(tmp_path, 3)
    images = open_images(spec)
    paths[1].unlink()
    with pytest.raises(CorruptImage, match="No such file"):
        images[1]
    with pytest.raises(CorruptImage, match="No such file"):
        images.bytes(1)


def test_a_wrong_policy_is_refused():
    with pytest.raises(ValueError, match="'raise' or 'replace'"):
        open_images("digits", on_corrupt="skip")


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers_agree_and_share_one_count(tmp_path, context):
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    spec, _ = _folder(tmp_path, 300, corrupt=[3, 250])
    images = open_images(spec, on_corrupt="replace")
    loader = DataLoader(images, batch_size=50, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert torch.cat([b.index for b in batches]).tolist() == list(range(300))
    assert [s.index for s in images.skipped] == [3, 250]  # workers met them, and the main process knows
    assert torch.equal(torch.cat([b.image for b in batches]), images.resident())


def test_corrupt_file_in_a_worker_keeps_its_type_and_name(tmp_path):
    spec, paths = _folder(tmp_path, 4, corrupt=[1])
    with pytest.raises(CorruptImage, match=paths[1].name):
        list(DataLoader(open_images(spec), num_workers=1))


def test_forked_workers_share_what_they_draw():
    images = open_images("shapes:n=600")
    batches = list(DataLoader(images, batch_size=300, num_workers=2, multiprocessing_context="fork"))
    assert images._source._drawn.tolist() == [1, 1, 1]
    assert torch.equal(torch.cat([b.image for b in batches]), open_images("shapes:n=600").resident())


@pytest.mark.parametrize("name", ["digits", "shapes:n=40", "folder"])
def test_pickle_round_trip(tmp_path, name):
    images = open_images(_folder(tmp_path, 5, corrupt=[4])[0] if name == "folder" else name, on_corrupt="replace")
    images[4]
    copy = pickle.loads(pickle.dumps(images))
    assert (copy.spec, copy.class_names, copy.skipped) == (images.spec, images.class_names, images.skipped)
    assert torch.equal(copy.labels, images.labels)
    assert torch.equal(copy[3].image, images[3].image)


def test_threads_see_the_same_images():
    images = open_images("shapes:n=700")
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0)).tolist()
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda i: images[i].image, order))
    assert torch.equal(torch.stack(seen), open_images("shapes:n=700").resident()[order])


def test_resident_resizes_and_crops_as_torchvision_does(tmp_path):
    rng = np.random.default_rng(0)
    for k, shape in enumerate([(37, 64, 3), (90, 41, 3), (24, 24, 3), (24, 31, 3)]):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{k}.png")
    images = open_images(f"folder:{tmp_path}")
    resident = images.resident(size=24)
    transform = v2.Compose([v2.Resize(24, antialias=True), v2.CenterCrop(24)])
    assert torch.equal(resident, torch.stack([transform(s.image) for s in images]))
    assert resident.is_contiguous()
    with pytest.raises(ValueError, match=r"image 0 is 64x37, image 1 is 41x90: pass size=PIXELS"):
        images.resident()
    with pytest.raises(ValueError, match="at least 1"):
        images.resident(size=0)


def test_resident_keeps_uniform_images_and_reports_progress(tmp_path):
    images = open_images(_folder(tmp_path, 300, size=(6, 4))[0])
    seen = []
    resident = images.resident("cpu", progress=lambda done, total: seen.append((done, total)))
    assert resident.shape == (300, 3, 4, 6)
    assert torch.equal(resident[7], images[7].image)
    assert seen == [(256, 300), (300, 300)]


def test_resident_obeys_the_corrupt_policy(tmp_path):
    spec, _ = _folder(tmp_path, 10, corrupt=[6])
    with pytest.raises(CorruptImage, match="index 6"):
        open_images(spec).resident(size=4)
    resident = open_images(spec, on_corrupt="replace").resident()
    assert torch.equal(resident[6], resident[7])


def test_unknown_specs(tmp_path):
    with pytest.raises(ValueError, match=r"unknown source 'foldr'.*known: shapes, digits, .*did you mean 'folder'\?"):
        open_images("foldr:x")
    with pytest.raises(ValueError, match=f"did you mean 'folder:{tmp_path}'"):
        open_images(str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=f"did you mean 'npz:{tmp_path}/x.npz'"):
        open_images(f"{tmp_path}/x.npz")
    with pytest.raises(ValueError, match=r"known: .*inat18$"):
        open_images("")
    with pytest.raises(ValueError, match="unknown source"):
        open_images("zip:x")


def test_paths_are_opened_by_their_kind(tmp_path, monkeypatch):
    spec, paths = _folder(tmp_path / "photos", 4)
    shutil.make_archive(tmp_path / "a,b {0..1}", "tar", tmp_path / "photos")
    np.savez(tmp_path / "a,b.npz", images=open_images(spec).resident().permute(0, 2, 3, 1).numpy())
    for suffix in ("txt", "lst"):
        (tmp_path / f"list.{suffix}").write_text("".join(f"{path} {path.parent.name}\n" for path in paths))
    expected = open_images(spec)
    (tmp_path / "table.tsv").write_text("".join(f"{path}\t{path.parent.name}\n" for path in paths))
    names = ("photos", "a,b {0..1}.tar", "a,b.npz", "list.txt", "list.lst", "table.tsv")
    for name, kind in zip(names, ("folder", "tar", "npz", "list", "list", "csv"), strict=True):
        images = open_images(tmp_path / name)
        assert images.spec == f"{kind}:{tmp_path / name}"
        assert torch.equal(images.resident(), expected.resident())
        assert kind == "npz" or (images.class_names, images.labels.tolist()) == (["a", "b"], [0, 0, 1, 1])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_images(Path("~/photos"))) == 4


def test_paths_of_no_known_kind_are_refused(tmp_path):
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(
        ValueError, match=r"cannot tell the source of .*x.tar.gz': expected a folder, a file \("
    ) as error:
        open_images(tmp_path / "x.tar.gz")
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no file or folder 'shapes'"):
        open_images(Path("shapes"))


def test_the_package_lists_its_public_names():
    assert all(hasattr(indexed_images, name) for name in indexed_images.__all__)
    assert indexed_images.__version__ == version("indexed-images")
