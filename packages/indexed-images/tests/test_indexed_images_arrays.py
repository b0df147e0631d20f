import numpy as np
import pytest
import torch
from indexed_images import NoSuchSplit, open_images
from sklearn.datasets import load_digits


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_digits_are_the_scans_split_by_class():
    train, val = open_images("digits"), open_images("digits", "val")
    assert len(train) + len(val) == 1797
    assert train.class_names == list("0123456789")
    scans, target = load_digits(return_X_y=True)
    shares = np.bincount(val.labels, minlength=10) / np.bincount(target)
    assert abs(shares - 0.2).max() < 0.005
    seen = torch.cat([train.resident(), val.resident()])
    assert seen.shape == (1797, 3, 8, 8)
    assert torch.equal(seen[:, 0], seen[:, 2])
    expected = np.floor(scans * 255 / 16 + 0.5).astype(np.uint8).reshape(-1, 8, 8)
    assert sorted(s.tobytes() for s in seen[:, 0].numpy()) == sorted(s.tobytes() for s in expected)


def test_digits_split_is_drawn_by_the_seed():
    assert torch.equal(open_images("digits", "val").labels, open_images("digits", "test").labels)
    assert torch.equal(open_images("digits").resident(), open_images("digits").resident())
    assert not torch.equal(open_images("digits").resident(), open_images("digits", seed=1).resident())


@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (5, 6, 7)])
def test_npz(tmp_path, shape):
    arrays = _noise(*shape)
    names = np.array(["a", "b"])
    np.savez(tmp_path / "x.npz", images=arrays, labels=np.array([0, 1, 1, 0, 1], np.uint8), class_names=names)
    np.savez_compressed(tmp_path / "v.npz", images=arrays[:2])
    images = open_images(f"npz:{tmp_path}/x.npz")
    assert images.labels.tolist() == [0, 1, 1, 0, 1]
    assert images.labels.dtype == torch.int64
    assert images.class_names == ["a", "b"]
    assert images.bytes(0) is None
    expected = arrays if arrays.ndim == 4 else np.stack([arrays] * 3, axis=-1)
    assert np.array_equal(images.resident().permute(0, 2, 3, 1), expected)
    val = open_images(f"npz:{tmp_path}/x.npz,{tmp_path}/v.npz", "val")
    assert len(val) == 2
    assert val.labels is None
    with pytest.raises(NoSuchSplit, match="npz:FILE,VALFILE"):
        open_images(f"npz:{tmp_path}/x.npz", "val")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": _noise(2, 4, 4)}, r"no array 'images', only \['pixels'\]"),
        ({"images": _noise(2, 4, 4).astype(float)}, "must be uint8"),
        ({"images": _noise(2, 3, 4, 4)}, "must be uint8"),
        ({"images": _noise(0, 4, 4)}, "empty"),
        ({"images": _noise(2, 4, 4), "labels": np.zeros(3, int)}, r"integers \(2,\)"),
        ({"images": _noise(2, 4, 4), "labels": np.zeros(2)}, r"integers \(2,\)"),
        ({"images": np.array([{}], dtype=object)}, "plain arrays"),
    ],
)
def test_npz_refusals(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_images(f"npz:{tmp_path}/x.npz")


def test_npz_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no npz file"):
        open_images(f"npz:{tmp_path}/x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match="not an npz file"):
        open_images(f"npz:{tmp_path}/x.npz")
    np.save(tmp_path / "y.npy", _noise(2, 4, 4))
    with pytest.raises(ValueError, match="not an npz file"):
        open_images(f"npz:{tmp_path}/y.npy")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_classic_sets_say_how_to_fetch(tmp_path, monkeypatch, name, split):
    pytest.importorskip("torchvision")
    with pytest.raises(FileNotFoundError) as caught:
        open_images(f"{name}:{tmp_path}", split)
    assert "\n" not in str(caught.value)
    assert f"open_images('{name}:{tmp_path}', download=True)" in str(caught.value)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"indexed-images"):
        open_images(name, split)
