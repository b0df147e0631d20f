"""Images of any source as one indexed dataset: folders, lists, archives, benchmark sets and two built-in data sets.

Example:
    ```python
    from indexed_images import draw_scenes, draw_shapes, open_images

    images = open_images("folder:photos")  # or "shapes", "tar:shards-{000..012}.tar", "voc07:VOCdevkit", a Path, ...
    image, index, label = images[3]  # uint8 (3, H, W), 3, class index or -1
    images.labels, images.class_names, images.skipped
    small = images.resident("cpu", size=64)  # all images, uint8 (N, 3, 64, 64)
    drawn = draw_shapes(seed=0, split="val", indices=range(8), size=32)  # images, labels, boxes, masks
    scenes = draw_scenes(seed=0, split="val", indices=range(8))  # several objects each
    ```
"""

from importlib.metadata import version as _version

from ._dataset import IndexedImages, Sample, Skipped
from ._decode import CorruptImage
from ._draw_scenes import Scene, draw_scenes
from ._export import export_shapes
from ._open import open_images
from ._pair import OpenError, TrainAndTest, open_train_and_test
from ._shapes import SHAPES_CLASS_NAMES, ShapesBatch, draw_shapes
from ._source import NoSuchSplit

__version__ = _version("indexed-images")

__all__ = [
    "SHAPES_CLASS_NAMES",
    "CorruptImage",
    "IndexedImages",
    "NoSuchSplit",
    "OpenError",
    "Sample",
    "Scene",
    "ShapesBatch",
    "Skipped",
    "TrainAndTest",
    "__version__",
    "draw_scenes",
    "draw_shapes",
    "export_shapes",
    "open_images",
    "open_train_and_test",
]
