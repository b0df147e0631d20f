"""The same as a transform of torchvision's v2, for pipelines that pass whole samples; this module needs torchvision."""

from typing import Any

import PIL.Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ._recipe import Recipe
from ._transform import MultiCrop


class MultiCropV2(v2.Transform):
    """A `torchvision.transforms.v2.Transform`: the image of a sample becomes the list of its V crops (3, S, S).

    Samples may be nested as anywhere in v2: a PIL image or tv_tensors.Image in them is cropped (else the first plain
    tensor), labels and the rest pass through. Masks and boxes raise TypeError, as crops have several geometries.
    Images are numbered as `MultiCrop` without an index numbers them.
    """

    _transformed_types = (PIL.Image.Image, tv_tensors.Image, v2.functional.is_pure_tensor)

    def __init__(self, recipe: Recipe, seed: int = 0) -> None:
        super().__init__()
        self.multi_crop = MultiCrop(recipe, seed)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise TypeError for what has no meaning after several crops."""
        for value in flat_inputs:
            if isinstance(value, tv_tensors.TVTensor) and not isinstance(value, tv_tensors.Image):
                name = type(value).__name__
                raise TypeError(f"MultiCropV2 crops images only, got {name}: take it out of the sample first")

    def transform(self, inpt: PIL.Image.Image | Tensor, params: dict[str, Any]) -> list[Tensor]:
        """The crops of one image."""
        return self.multi_crop(inpt)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return repr(self.multi_crop.recipe)
