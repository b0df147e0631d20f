import hashlib
import pickle

import numpy as np
import pytest
import torch
from indexed_images import SHAPES_CLASS_NAMES, draw_shapes, open_images
from indexed_images._hash import mix, uniform
from indexed_images._scene import colours, directions
from indexed_images._shapes import shape_labels


def _digest(*arrays: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(a.numpy().tobytes() for a in arrays)).hexdigest()[:16]


# The images are promised never to change: other digests need a major version.
@pytest.mark.parametrize(
    ("seed", "split", "size", "digest"),
    [
        (0, "train", 32, "09c52bae55d10abf"),
        (0, "val", 32, "d206811f85c063c3"),
        (7, "train", 48, "128cf769634eef64"),
    ],
)
def test_golden_worlds(seed, split, size, digest):
    batch = draw_shapes(seed, split, range(64), size)
    assert _digest(batch.images, batch.labels, batch.boxes, batch.masks) == digest


def test_splitmix64_reference_values():
    # The first outputs of SplitMix64 for the seeds 0 and 1234567, as published with the generator.
    gamma = np.uint64(0x9E3779B97F4A7C15)
    state = np.array([0, 1234567], dtype=np.uint64)
    assert mix(state).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]
    assert mix(state + gamma).tolist() == [0x6E789E6AA1B965F4, 3203168211198807973]


def test_directions_are_cosine_and_sine():
    turns = np.linspace(0, 1, 1001)[:-1]
    c, s = directions(turns)
    np.testing.assert_allclose(c, np.cos(2 * np.pi * turns), atol=1e-8)
    np.testing.assert_allclose(s, np.sin(2 * np.pi * turns), atol=1e-8)


def test_uniform_is_uniform():
    values = uniform(mix(np.arange(100_000, dtype=np.uint64)), 3, -1, 2)
    assert values.min() >= -1
    assert values.max() < 2
    counts = np.histogram(values, bins=30, range=(-1, 2))[0]
    assert abs(counts - 100_000 / 30).max() < 5 * np.sqrt(100_000 / 30)


def test_an_image_does_not_depend_on_its_company():
    together = draw_shapes(3, "train", range(100), 32)
    for picked in ([41], [99, 0, 41], list(range(33, 67)), np.array([5, 7]), torch.tensor([5, 7])):
        alone = draw_shapes(3, "train", picked, 32)
        assert torch.equal(alone.images, together.images[picked])
        assert torch.equal(alone.labels, together.labels[picked])
        assert torch.equal(alone.boxes, together.boxes[picked])


@pytest.mark.parametrize("size", [16, 32, 51])
def test_boxes_are_the_extents_of_the_masks(size):
    batch = draw_shapes(0, "val", range(60), size)
    for mask, box in zip(batch.masks, batch.boxes, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_objects_are_whole_and_of_the_promised_size():
    boxes = draw_shapes(0, "train", range(500), 32).boxes
    widths = boxes[:, 2] - boxes[:, 0]
    assert boxes.min() >= 0
    assert boxes.max() <= 32
    assert widths.min() > 0.3 * 32
    assert widths.max() < 0.85 * 32


def test_mask_separates_object_from_ground_in_grey():
    batch = draw_shapes(0, "train", range(300), 32)
    grey = batch.images.float().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    plain = batch.labels % 3 == 0
    contrast = [abs(g[m].median() - g[~m].median()) for g, m in zip(grey[plain], batch.masks[plain], strict=True)]
    assert min(contrast) > 20


def test_colours_keep_their_contrast_and_stay_in_gamut():
    three = colours(mix(np.arange(2000, dtype=np.uint64)), 10)
    luma = three @ np.array([0.299, 0.587, 0.114])
    assert np.diff(luma, axis=0).min() > 0.13  # object, marks and ground go from dark to bright
    assert three.min() >= 0
    assert three.max() <= 1


def test_seed_split_and_index_change_the_image():
    images = [draw_shapes(s, split, [i], 32).images for s, split, i in [(0, "train", 0), (1, "train", 0)]]
    images += [draw_shapes(0, "val", [0], 32).images, draw_shapes(0, "train", [1], 32).images]
    assert len({_digest(image) for image in images}) == 4
    assert torch.equal(draw_shapes(0, "val", [5]).images, draw_shapes(0, "test", [5]).images)


def test_labels_without_drawing_and_balance():
    labels = shape_labels(0, "train", np.arange(10_000))
    assert labels[:50].tolist() == draw_shapes(0, "train", range(50)).labels.tolist()
    counts = np.bincount(labels, minlength=12)
    assert len(counts) == len(SHAPES_CLASS_NAMES) == 12
    assert abs(counts - 10_000 / 12).max() < 5 * np.sqrt(10_000 / 12)


def test_draw_nothing_and_refusals():
    empty = draw_shapes(0, "train", [], 32)
    assert empty.images.shape == (0, 3, 32, 32)
    assert empty.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="at least 16"):
        draw_shapes(0, "train", [0], 8)
    with pytest.raises(ValueError, match="'trian'"):
        draw_shapes(0, "trian", [0])
    with pytest.raises(ValueError, match="negative"):
        draw_shapes(0, "train", [-1])


def test_source_equals_drawing_across_blocks_and_pickles():
    images = open_images("shapes:n=300,size=24", seed=5)
    drawn = draw_shapes(5, "train", range(300), 24)
    assert len(images) == 300
    assert torch.equal(images.labels, drawn.labels)
    for i in (299, 0, 255, 256):
        image, index, label = images[i]
        assert torch.equal(image, drawn.images[i])
        assert (index, label) == (i, drawn.labels[i])
    copy = pickle.loads(pickle.dumps(images))
    assert len(pickle.dumps(images)) < 20_000  # without the drawn images
    assert torch.equal(copy[299].image, images[299].image)
    assert torch.equal(images.resident(), drawn.images)


def test_a_sample_is_not_a_view_of_the_store():
    images = open_images("shapes:n=2")
    images[0].image.zero_()
    assert images[0].image.any()


def test_defaults_and_options():
    assert len(open_images("shapes")) == 10_000
    assert len(open_images("shapes", "val")) == len(open_images("shapes", "test")) == 2_000
    assert len(open_images("shapes:n_val=30", "val")) == 30
    with pytest.raises(ValueError, match="did you mean 'size'"):
        open_images("shapes:sise=48")
    with pytest.raises(ValueError, match="whole number"):
        open_images("shapes:n=many")
    with pytest.raises(ValueError, match="at least 16"):
        open_images("shapes:size=4")
