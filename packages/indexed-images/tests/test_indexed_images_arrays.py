import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_images import CorruptImage, NoSuchSplit, open_images
from indexed_images._npz import available_memory
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


def _npz(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return f"npz:{tmp_path}/x.npz"


def _pixels(images):
    return images.resident().permute(0, 2, 3, 1).numpy()


X, Y = _noise(6, 5, 7), np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize(
    "keys",
    [
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("X_train", "Y_train", "X_valid", "Y_valid", "X_test", "Y_test"),
        ("trainX", "trainy", "validX", "validy", "testX", "testy"),
        ("images", "labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("data_train", "target_train", "data_dev", "target_dev", "data_test", "target_test"),
    ],
)
def test_splits_of_an_npz(tmp_path, keys):
    parts = [X[:3], Y[:3, None], X[3:5], Y[3:5, None], X[5:], Y[5:, None]]  # labels (N, 1), as MedMNIST has them
    spec = _npz(tmp_path, **dict(zip(keys, parts, strict=True)))
    for k, split in enumerate(("train", "val", "test")):
        images = open_images(spec, split)
        assert np.array_equal(_pixels(images), np.stack([parts[2 * k]] * 3, axis=-1))
        assert images.labels.tolist() == parts[2 * k + 1][:, 0].tolist()
        assert images.place == keys[2 * k]
    spec = _npz(tmp_path, **dict(list(zip(keys, parts, strict=True))[:2] + list(zip(keys, parts, strict=True))[4:]))
    for split in ("val", "test"):  # as of Keras
        assert np.array_equal(_pixels(open_images(spec, split))[..., 0], X[5:])


def test_labels_of_an_npz_have_one_kind_in_all_splits(tmp_path):
    several = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]])
    spec = _npz(tmp_path, train_images=X[:3], train_labels=several, test_images=X[3:], test_labels=np.eye(3, dtype=int))
    assert open_images(spec).labels.tolist() == several.tolist()
    assert open_images(spec, "test").labels.tolist() == np.eye(3).tolist()  # not one class an image
    spec = _npz(tmp_path, x_train=X[:3], y_train=np.eye(3)[[2, 0, 1]], x_test=X[3:], y_test=np.eye(3)[[1, 1, 0]])
    assert open_images(spec).labels.tolist() == [2, 0, 1]
    assert open_images(spec, "test").labels.tolist() == [1, 1, 0]
    spec = _npz(tmp_path, x_train=X[:3], y_train=np.array(["c", "a", "c"]), x_test=X[3:], y_test=np.array([b"b"] * 3))
    assert open_images(spec).class_names == open_images(spec, "test").class_names == ["a", "b", "c"]
    assert open_images(spec, "test").labels.tolist() == [1, 1, 1]
    spec = _npz(tmp_path, x_train=X[:3], y_train=Y[:3], x_test=X[3:], y_test=np.full(3, -1))
    assert open_images(spec, "test").labels is None
    assert open_images(spec).labels.tolist() == [2, 0, 1]
    spec = _npz(tmp_path, x_train=X[:3], y_train=Y[:3], x_test=X[3:], y_test=np.eye(3))
    with pytest.raises(ValueError, match="labels of the splits differ in kind"):
        open_images(spec)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_a_minus_one_that_lost_its_sign_is_refused(tmp_path, dtype):
    most = np.iinfo(dtype).max
    for labels in (np.array([0, 1, most, 2, 0, most], dtype), np.full((6, 1), most, dtype)):
        with pytest.raises(ValueError, match=f"labels are {most}, the largest uint.* read without its sign") as error:
            open_images(_npz(tmp_path, images=X, labels=labels))
        assert "\n" not in str(error.value)
    labels = np.array([0, 1, most, most // 2 + 1, 0, 1], dtype)  # many classes
    assert open_images(_npz(tmp_path, images=X, labels=labels)).labels.tolist() == labels.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize(
    ("shape", "order", "said"),
    [
        ((4, 5, 7, 1), None, False),
        ((4, 1, 5, 7), (0, 2, 3, 1), False),
        ((4, 3, 5, 7), (0, 2, 3, 1), False),
        ((4, 5, 7, 3), None, False),
        ((4, 3, 7, 3), None, True),
        ((4, 3, 3, 3), None, True),
        ((4, 1, 7, 3), None, True),
    ],
)
def test_shapes_of_arrays(tmp_path, shape, order, said, dtype):
    pixels = _noise(*shape)
    pixels.flat[:2] = 0, 255
    expected = pixels if order is None else pixels.transpose(order)
    expected = np.broadcast_to(expected, (*expected.shape[:3], 3))
    np.save(tmp_path / "x.npy", np.asfortranarray(pixels.astype(dtype)))
    for spec in (_npz(tmp_path, images=pixels.astype(dtype)), f"npy:{tmp_path}/x.npy"):
        images = open_images(spec)
        assert np.array_equal(_pixels(images), expected)
        assert any("taken for (N, H, W, C)" in remark for remark in images.remarks) == said


@pytest.mark.parametrize(
    ("values", "said", "expected"),
    [
        (np.array([0, 4095], np.uint16), "0 is taken as black, 4095 as white", [0, 255]),
        (np.array([0, 65535, 32768], ">u2"), "65535 as white", [0, 255, 128]),
        (np.array([0, 255, 128], np.int64), "255 as white", [0, 255, 128]),
        (np.array([0, 1, 0.5], np.float32), "1 as white", [0, 255, 128]),
        (np.array([0, 0.25], np.float16), "1 as white", [0, 64]),
        (np.array([0.0, 255.0, 99.4]), "255 as white", [0, 255, 99]),
        (np.array([False, True]), "True as white", [0, 255]),
        (np.array([0.0, 0.0]), "1 as white", [0, 0]),
    ],
)
def test_ranges_of_arrays(tmp_path, values, said, expected):
    pixels = np.resize(values, (6, 5, 7))
    np.save(tmp_path / "x.npy", pixels)
    for spec in (_npz(tmp_path, images=pixels), f"npy:{tmp_path}/x.npy"):
        images = open_images(spec)
        assert np.array_equal(_pixels(images)[..., 1], np.resize(expected, (6, 5, 7)))
        assert any(said in remark for remark in images.remarks)


def test_splits_share_one_range(tmp_path):
    train, test = np.full((2, 5, 7), 4000, np.uint16), np.full((2, 5, 7), 400, np.uint16)  # test alone is 9-bit
    specs = [_npz(tmp_path, x_train=train, x_test=test)]
    np.savez(tmp_path / "a.npz", images=train)
    np.savez(tmp_path / "b.npz", images=test)
    specs.append(f"npz:{tmp_path}/a.npz,{tmp_path}/b.npz")
    for spec in specs:
        assert set(_pixels(open_images(spec, "val")).flat) == {round(400 * 255 / 4095)}
        assert set(_pixels(open_images(spec)).flat) == {round(4000 * 255 / 4095)}
    assert open_images(specs[0]).pixel_range == open_images(specs[0], "val").pixel_range == (0, 4095)
    given = open_images(specs[0], "val", pixel_range=(0, 800))
    assert set(_pixels(given).flat) == {128}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (np.float32([0, 1]), np.float32([0, 255])),
        (np.uint16([0, 65535]), np.float32([0, 1])),
        (np.uint16([0, 65535]), np.uint16([0, 255])),
        (np.uint16([0, 4095]), np.float64([0, 255])),
        (np.uint16([0, 4095]), np.uint8([0, 255])),
        (np.array([False, True]), np.int64([0, 255])),
    ],
)
def test_splits_of_other_ranges_are_refused(tmp_path, train, test):
    train, test = (np.resize(values, (2, 5, 7)) for values in (train, test))
    np.savez(tmp_path / "a.npz", images=train)
    np.savez(tmp_path / "b.npz", images=test)
    for spec in (_npz(tmp_path, x_train=train, x_test=test), f"npz:{tmp_path}/a.npz,{tmp_path}/b.npz"):
        for split, one, two in (("train", train, test), ("val", test, train)):
            said = (
                rf"{one.dtype} from 0 to {one.max() * 1:g} .*{two.dtype} from 0 to {two.max() * 1:g} .*\(--pixel-range"
            )
            with pytest.raises(ValueError, match="different ranges: " + said) as error:
                open_images(spec, split)
            assert "\n" not in str(error.value)
            assert len(open_images(spec, split, pixel_range=(0, 255))) == 2


@pytest.mark.parametrize(
    ("train", "test", "white"),
    [
        (np.float32([0, 1]), np.uint8([0, 255]), 255),
        (np.uint8([0, 255]), np.int64([0, 255]), 255),
        (np.float32([0, 255]), np.int32([0, 255]), 255),
        (np.float32([0, 255]), np.float32([0, 100]), 100),
        (np.float32([0, 255]), np.float32([0, 0]), 0),
        (np.array([False, True]), np.float32([0, 1]), 255),
    ],
)
def test_splits_of_one_range_in_several_types(tmp_path, train, test, white):
    spec = _npz(tmp_path, x_train=np.resize(train, (2, 5, 7)), x_test=np.resize(test, (2, 5, 7)))
    assert {*_pixels(open_images(spec)).flat} == {0, 255}
    assert {*_pixels(open_images(spec, "val")).flat} == {0, white}


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((2, 5, 7), -1.0), r"pixels between -1 and -1 have no known range.* \(--pixel-range LOW,HIGH\)"),
        (np.full((2, 5, 7), np.nan), "NaN or infinite"),
        (np.full((2, 5, 7), 70_000), "no known range"),
        (np.full((2, 5, 7), 1.5), "pixels from 1.5 to 1.5 are near black in a range of 0 to 255"),
        (np.full((2, 5, 7), 1), "near black in a range of 0 to 255"),
        (np.zeros((2, 5, 7), complex), "must be numbers, got complex128"),
        (np.zeros((2, 5, 7), "M8[s]"), "must be numbers"),
        (np.zeros((2, 5, 7), "S3"), "must be numbers"),
        (_noise(5, 7, 3), "looks like a single image"),
        (_noise(5, 7, 1), "looks like a single image"),
        (_noise(2, 784), "reshape them"),
        (np.uint8(3), "reshape them"),
        (_noise(2, 5, 7, 4), "leave out other channels, such as transparency"),
        (_noise(2, 4, 5, 7), "leave out other channels"),
        (_noise(2, 2, 5, 7, 3), "must be"),
        (_noise(2, 0, 7), r"is empty: images of shape \(2, 0, 7\)"),
        (_noise(0, 5, 7, 3), "is empty"),
        (np.zeros((2, 5, 7), [("a", "u1")]), "must be numbers"),
    ],
)
def test_arrays_that_hold_no_images(tmp_path, pixels, message):
    np.save(tmp_path / "x.npy", pixels)
    for spec in (_npz(tmp_path, images=pixels), f"npy:{tmp_path}/x.npy"):
        with pytest.raises(ValueError, match=message) as error:
            open_images(spec)
        assert "\n" not in str(error.value)


def test_images_near_black_are_told(tmp_path):
    images = open_images(_npz(tmp_path, images=_noise(4, 5, 7) % 2))
    assert "no pixel of 4 images looked at is above 1 of 255" in images.remarks[0]
    assert open_images(_npz(tmp_path, images=np.zeros((4, 5, 7), np.uint8))).remarks == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": Y}, r"no array of images, only 'a': save it with np.savez\(FILE, images="),
        (
            {"arr_0": X[:3], "arr_1": Y[:3], "arr_2": X[3:], "arr_3": Y[3:]},
            "'arr_0', 'arr_2' may all hold images: name",
        ),
        ({"images": X, "data": X}, "'images', 'data' may all hold images"),
        ({"images": X, "train_images": X, "test_images": X}, "'train_images', 'images' may all hold images"),
        ({"images": X, "labels": Y, "targets": Y}, "'labels', 'targets' may all hold labels: name one with --label-"),
        ({"images": X, "labels": Y[:3]}, r"labels must be \(6,\)"),
        ({"images": X, "labels": np.array(3)}, r"labels must be \(6,\)"),
        ({"images": X, "labels": Y / 4}, "is no class"),
        ({"images": X, "labels": np.zeros((6, 2, 2))}, "labels must be"),
        ({"images": X, "labels": Y, "class_names": np.array("cat")}, "expected a list of names, got <U3 \\(\\)"),
        ({"images": X, "labels": Y, "class_names": np.array(["a", "b"])}, "2 class names for 3 classes"),
        ({"images": X, "labels": Y, "class_names": np.zeros(3)}, "expected a list of names"),
        (
            {"images": X, "labels": np.zeros((6, 2), int), "class_names": np.array(list("abc"))},
            "3 class names for 2 cl",
        ),
        ({"images": X, "labels": np.array([{}] * 6, dtype=object)}, "labels.npy holds Python objects"),
        ({"images": np.array([{}], dtype=object)}, "plain arrays"),
    ],
)
def test_npz_refusals(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as error:
        open_images(_npz(tmp_path, **arrays))
    assert "\n" not in str(error.value)


def test_arrays_found_and_named(tmp_path):
    images = open_images(_npz(tmp_path, arr_0=X, arr_1=Y))
    assert images.labels.tolist() == Y.tolist()
    assert images.remarks == ("images in array 'arr_0', labels in 'arr_1'",)
    assert open_images(_npz(tmp_path, data=X, ids=np.arange(6), species=Y)).labels.tolist() == Y.tolist()
    arrays = {"arr_0": X[:3], "arr_1": Y[:3], "arr_2": X[3:], "arr_3": Y[3:], "junk": np.array([{}], dtype=object)}
    spec = _npz(tmp_path, **arrays)
    images = open_images(spec, image_field="arr_2", label_field="ARR_3")
    assert np.array_equal(_pixels(images)[..., 0], X[3:])
    assert images.labels.tolist() == Y[3:].tolist()
    with pytest.raises(ValueError, match=r"has no column 'q' \(--image-field\), only 'arr_0', 'arr_1'"):
        open_images(spec, image_field="q")
    with pytest.raises(NoSuchSplit):
        open_images(spec, "val", image_field="arr_2")
    arrays = {"x_train": X[:3], "y_train": Y[:3], "fine_train": Y[3:], "x_test": X[3:], "fine_test": Y[:3]}
    images = open_images(_npz(tmp_path, **arrays), "test", label_field="fine_train")
    assert images.labels.tolist() == Y[:3].tolist()


def test_arrays_that_may_be_labels_are_told(tmp_path):
    said = "images in array 'images', no array of labels; --label-field names one of 'fine_labels', 'coarse_labels'"
    spec = _npz(tmp_path, images=X, fine_labels=Y, coarse_labels=Y // 2, ids=Y, other=Y[:3])
    images = open_images(spec)
    assert images.labels is None
    assert images.remarks == (said,)
    assert open_images(spec, label_field="coarse_labels").labels.tolist() == (Y // 2).tolist()
    images = open_images(_npz(tmp_path, x_train=X[:4], kind_train=Y[:4], x_test=X[4:], kind_test=Y[4:]))
    assert "no array of labels; --label-field names one of 'kind_train'" in images.remarks[0]


@pytest.mark.parametrize(("shape", "said"), [((0, 5, 7), "is empty: images of shape"), ((), "got \\(\\)")])
def test_images_are_blamed_and_not_their_labels(tmp_path, shape, said):
    spec = _npz(tmp_path, images=np.zeros(shape, np.uint8), labels=Y)
    with pytest.raises(ValueError, match=f"array 'images'.* {said}") as error:
        open_images(spec)
    assert "labels" not in str(error.value)


def test_class_names_of_an_npz(tmp_path):
    names = np.array([b"crane", b"x", b"crane"])
    images = open_images(_npz(tmp_path, images=X, labels=Y, classes=names))
    assert images.class_names == ["crane (0)", "x", "crane (2)"]
    images = open_images(
        _npz(tmp_path, images=X, labels=np.tile([[1, 1, 0]], (6, 1)), label_names=np.array(list("abc")))
    )
    assert images.class_names == ["a", "b", "c"]
    assert images.labels.tolist() == [[1, 1, 0]] * 6
    images = open_images(_npz(tmp_path, images=X, classes=np.array(list("yxyxyx"))))
    assert images.class_names == ["x", "y"]
    assert images.labels.tolist() == [1, 0] * 3


def test_an_npz_that_unpacks_to_many_times_its_size(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((64, 128, 128), np.uint8))
    spec = f"npz:{tmp_path}/x.npz"
    assert len(open_images(spec)) == 64  # 1 MiB does no harm
    monkeypatch.setattr("indexed_images._npz._LARGE", 1 << 19)
    message = r"decompression bomb: images.npy has 1,\d{3} bytes and unpacks to 1,048,576, more than 200 times as many"
    with pytest.raises(ValueError, match=message) as error:
        open_images(spec)
    assert "\n" not in str(error.value)
    np.savez_compressed(tmp_path / "x.npz", images=_noise(64, 128, 128))
    assert len(open_images(spec)) == 64
    monkeypatch.setattr("indexed_images._npz.available_memory", lambda: 1 << 19)
    with pytest.raises(ValueError, match=r"unpacks to 1,048,576 bytes, and 524,288 are available: save .* as .npy"):
        open_images(spec)


def test_the_memory_that_is_available():
    assert 1 << 20 < available_memory() < 1 << 50


def test_an_npy_is_read_image_by_image(tmp_path):
    pixels = _noise(50, 40, 40, 3)
    np.save(tmp_path / "x.npy", pixels)
    images = open_images(tmp_path / "x.npy")
    assert images.spec == f"npy:{tmp_path}/x.npy"
    assert images.labels is None
    state = pickle.dumps(images)
    assert len(state) < 10_000  # not the pixels
    assert np.array_equal(_pixels(pickle.loads(state)), pixels)
    with pytest.raises(NoSuchSplit):
        open_images(f"npy:{tmp_path}/x.npy", "val")
    with pytest.raises(FileNotFoundError, match="write npy:FILE"):
        open_images(f"npy:{tmp_path}/y.npy")
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(CorruptImage, match="the file was changed since it was opened"):
        images[3]
    with pytest.raises(ValueError, match="is not an npy file of a plain array"):
        open_images(f"npy:{tmp_path}/x.npy")


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_npy_is_read_or_one_line(tmp_path, data):
    buffer = io.BytesIO()
    np.save(buffer, _noise(2, 4, 5))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.npy").write_bytes(content[: data.draw(st.sampled_from([None, 3, 60, 140]))])
    said = ""
    try:
        open_images(f"npy:{tmp_path}/x.npy").resident()
    except ValueError as error:
        said = str(error)
    assert "\n" not in said


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
