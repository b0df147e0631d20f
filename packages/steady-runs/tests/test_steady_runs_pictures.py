"""Pictures of truth and prediction."""

import numpy as np
from steady_runs.benchmark import draw_map, draw_objects, side_by_side


def test_small_images_are_enlarged_and_objects_marked() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    masks = np.zeros((1, 40, 60), bool)
    masks[0, 10:20, 10:30] = True
    picture = draw_objects(image, np.array([[10, 10, 30, 20]]), [1], ["a", "b"], scores=[0.5], masks=masks)
    assert picture.size == (480, 320)
    pixels = np.asarray(picture)
    assert (pixels[-1, -1] == 200).all()
    assert not (pixels[8 * 18, 8 * 28] == 200).all()


def test_no_object_at_all_is_the_image() -> None:
    image = np.arange(320 * 320 * 3, dtype=np.uint8).reshape(320, 320, 3)
    assert (np.asarray(draw_objects(image, np.zeros((0, 4)), [], [])) == image).all()


def test_ignored_pixels_stay_as_they_are() -> None:
    image = np.full((300, 300, 3), 7, np.uint8)
    labels = np.full((300, 300), 255)
    labels[:150] = 3
    pixels = np.asarray(draw_map(image, labels))
    assert (pixels[150:] == 7).all()
    assert not (pixels[:150] == 7).all()
    assert side_by_side([draw_map(image, labels)] * 2).size == (606, 300)
