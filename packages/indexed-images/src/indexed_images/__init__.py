"""Images from any source as one indexed dataset: folders, lists, archives, benchmark sets and two embedded worlds.

images = open_images("folder:photos")            # or "shapes", "tar:shards-{000..012}.tar", "voc07:VOCdevkit", ...
image, index, label = images[3]                  # uint8 (3, H, W), 3, class or -1
small = images.resident("cpu", size=64)          # all of them, uint8 (N, 3, 64, 64)
scene = draw_shapes(seed=0, split="val", indices=range(8), size=32)   # images, labels, boxes, masks
scenes = draw_scenes(seed=0, split="val", indices=range(8))           # several objects each
images.labels, images.class_names, images.skipped
"""

from ._dataset import IndexedImages as IndexedImages
from ._dataset import Sample as Sample
from ._dataset import Skipped as Skipped
from ._decode import EXTENSIONS as EXTENSIONS
from ._decode import CorruptImage as CorruptImage
from ._draw_scenes import Scene as Scene
from ._draw_scenes import draw_scenes as draw_scenes
from ._export import export_shapes as export_shapes
from ._open import open_images as open_images
from ._shapes import SHAPES_CLASS_NAMES as SHAPES_CLASS_NAMES
from ._shapes import ShapesBatch as ShapesBatch
from ._shapes import draw_shapes as draw_shapes
from ._source import NoSuchSplit as NoSuchSplit
