import hashlib

import numpy as np
import pytest
import torch
from indexed_images import SHAPES_CLASS_NAMES, draw_scenes
from indexed_images._draw_scenes import _candidates
from indexed_images._outlines import outlines, run_lengths, signed_area
from indexed_images._shapes import world_keys


def _digest(scenes):
    parts = [part for s in scenes for part in (s.image, s.labels, s.boxes, s.masks)]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:16]


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(0, "train", range(150), 64)


# As for `draw_shapes`, other digests mean other images and need a major version.
@pytest.mark.parametrize(
    ("seed", "split", "size", "digest"),
    [(0, "train", 128, "b6e5afdeb56326c0"), (0, "val", 64, "97d9534f78e9f96d"), (7, "train", 33, "a3e1e73bd80ea846")],
)
def test_golden_scenes(seed, split, size, digest):
    assert _digest(draw_scenes(seed, split, range(12), size)) == digest


def test_boxes_are_the_extents_of_what_is_seen(scenes):
    for scene in scenes:
        assert scene.image.shape == (3, 64, 85)
        assert 1 <= len(scene.labels) == len(scene.boxes) == len(scene.masks) <= 5
        for mask, box in zip(scene.masks, scene.boxes, strict=True):
            y, x = mask.nonzero(as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_neither_overlap_nor_touch(scenes):
    for scene in scenes:
        rings = torch.nn.functional.max_pool2d(scene.masks.float(), 3, 1, 1)
        assert rings.sum(0).where(scene.masks.any(0), torch.zeros(())).max() == 1


def test_visible_parts_of_objects_alone_and_behind_others():
    """An object is at the first place tried at which those in front leave 40 % of it visible, or is left out."""
    occluded = 0
    for index in range(60):
        front = np.zeros((64, 85), dtype=bool)
        scene, k = draw_scenes(0, "train", [index], 64)[0], 0
        for tries in _candidates(world_keys(0, "train", np.array([index]), 3), 64, 85):
            for alone in tries:
                whole = np.zeros_like(front)
                whole[alone.window] = alone.mask
                if (whole & ~front).sum() < 0.4 * whole.sum():
                    continue
                assert scene.labels[k] == alone.label
                assert np.array_equal(scene.masks[k].numpy(), whole & ~front)
                occluded += bool((whole & front).any())
                front[alone.window] |= alone.rimmed[0, 0] > 0.5
                k += 1
                break
        assert k == len(scene.labels)
    assert occluded > 20


def test_scales_counts_and_classes_vary(scenes):
    counts = np.bincount([len(scene.labels) for scene in scenes], minlength=6)
    assert counts[1:].min() > 5
    heights = torch.cat([scene.boxes[:1, 3] - scene.boxes[:1, 1] for scene in scenes])  # front objects are not hidden
    assert heights.max() > 2.5 * heights.min()
    assert heights.min() >= 0.15 * 64
    assert set(torch.cat([scene.labels for scene in scenes]).tolist()) == set(range(len(SHAPES_CLASS_NAMES)))


def test_plain_objects_are_darker_than_the_ground(scenes):
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for scene in scenes:
        grey, taken = (scene.image * luma).sum(0), scene.masks.any(0)
        for label, mask in zip(scene.labels.tolist(), scene.masks, strict=True):
            assert label % 3 or grey[mask].median() < grey[~taken].median() - 20


def test_a_scene_does_not_depend_on_its_company(scenes):
    assert _digest(draw_scenes(0, "train", [41], 64)) == _digest([scenes[41]])
    for picked in ([99, 0, 41], np.array([99, 0, 41]), torch.tensor([99, 0, 41])):
        assert _digest(draw_scenes(0, "train", picked, 64)) == _digest([scenes[i] for i in (99, 0, 41)])


def test_seed_split_and_index_change_the_scene(scenes):
    others = [draw_scenes(1, "train", [0], 64), draw_scenes(0, "val", [0], 64)]
    assert len({_digest(found) for found in (*others, *([scene] for scene in scenes))}) == len(scenes) + 2
    assert _digest(draw_scenes(0, "test", [0], 64)) == _digest(others[1])


def test_no_scenes_and_refusals():
    assert draw_scenes(0, "train", []) == []
    with pytest.raises(ValueError, match="at least 32 pixels, got 31"):
        draw_scenes(0, "train", [0], 31)
    with pytest.raises(ValueError, match="'trian'"):
        draw_scenes(0, "trian", [0])
    with pytest.raises(ValueError, match="negative"):
        draw_scenes(0, "train", [-1])


def _filled(outline, height, width):
    """Fill an outline by the even-odd rule."""
    inside = np.zeros((height, width), dtype=bool)
    corners = list(zip(outline[::2], outline[1::2], strict=True))
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        assert (x1 == x2) != (y1 == y2)
        if x1 == x2:
            inside[min(y1, y2) : max(y1, y2), x1:] ^= True
    return inside


def test_outlines_and_run_lengths_give_random_masks_back():
    random = np.random.default_rng(0)
    for share in (0.1, 0.4, 0.6, 0.9):
        for height, width in ((1, 1), (1, 7), (9, 1), (6, 8), (13, 10)):
            mask = random.random((height, width)) < share
            filled, area = np.zeros_like(mask), 0.0
            for outline in outlines(mask):
                filled ^= _filled(outline, height, width)
                area += signed_area(outline)
                corners = np.array(outline).reshape(-1, 2)
                steps = np.abs(np.roll(corners, -1, axis=0) - corners) > 0
                assert (steps[:, 0] != np.roll(steps[:, 0], 1)).all()  # every corner is a turn
            assert np.array_equal(filled, mask)
            assert area == mask.sum()
            counts = run_lengths(mask)
            values = np.repeat(np.arange(len(counts)) % 2, counts)
            assert np.array_equal(values.reshape(width, height).T, mask)


def test_outlines_of_pixels_that_touch_at_a_corner():
    assert outlines(np.eye(2, dtype=bool)) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    assert [signed_area(outline) for outline in outlines(diamond)] == [1, 1, 1, 1]
    ring = ~np.pad(np.ones((1, 1), dtype=bool), 1)
    assert [signed_area(outline) for outline in outlines(ring)] == [9, -1]
    assert run_lengths(ring) == [0, 4, 1, 4]
    island = np.pad(np.zeros((5, 5), dtype=bool), 1, constant_values=True)
    island[[1, 2], [1, 2]] = True  # touches a corner of the hole it is in
    assert [signed_area(outline) for outline in outlines(island)] == [49, 1, -24]
    assert outlines(np.zeros((2, 2), dtype=bool)) == []
    assert run_lengths(np.zeros((2, 2), dtype=bool)) == [4]
