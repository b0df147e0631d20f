"""`MultiCropV2`, a transform for torchvision v2 pipelines that pass whole samples. This module needs torchvision."""

from typing import Any

import PIL.Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ._recipe import Recipe
from ._transform import MultiCrop


class MultiCropV2(v2.Transform):
    """A `torchvision.transforms.v2.Transform` that replaces the image of a sample by the list of its V crops (3, S, S).

    Samples may be nested, as in all of v2. A PIL image or tv_tensors.Image is cropped, or else the first plain tensor.
    Labels and everything else pass through. Images are counted, as by `MultiCrop` without an index.

    Args:
        recipe: What to draw.
        seed: Any integer.

    Raises:
        TypeError: When called on a sample with masks or boxes: they have no meaning after several crops.

    Example:
        ```python
        transform = v2.Compose([v2.RGB(), MultiCropV2(simclr())])
        ```
    """

    _transformed_types = (PIL.Image.Image, tv_tensors.Image, v2.functional.is_pure_tensor)

    def __init__(self, recipe: Recipe, seed: int = 0) -> None:
        super().__init__()
        self.multi_crop = MultiCrop(recipe, seed)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise TypeError for masks, boxes and other inputs that have no meaning after several crops."""
        for value in flat_inputs:
            if isinstance(value, tv_tensors.TVTensor) and not isinstance(value, tv_tensors.Image):
                name = type(value).__name__
                raise TypeError(f"MultiCropV2 crops images only, got {name}: take it out of the sample first")

    def transform(self, inpt: PIL.Image.Image | Tensor, params: dict[str, Any]) -> list[Tensor]:
        """Return the crops of one image."""
        return self.multi_crop(inpt)

    def extra_repr(self) -> str:
        """Return the recipe, for `repr`."""
        return repr(self.multi_crop.recipe)
