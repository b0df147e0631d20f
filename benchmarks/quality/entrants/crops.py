"""Two crops of an image with torchvision, for rivals that bring no transform of their own."""

from __future__ import annotations

from typing import Any

from torchvision import transforms as T


class TwoCrops:
    """Colours change as in SwAV and in solo-learn's settings for CIFAR-10; `blur` is a probability, 0 if not given."""

    def __init__(self, settings: dict[str, Any]) -> None:
        s = settings
        blur = T.GaussianBlur(kernel_size=3, sigma=(0.1, 2.0))
        self.one = T.Compose(
            [
                T.RandomResizedCrop(s["size"], scale=s["scale"], interpolation=T.InterpolationMode.BICUBIC),
                T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                T.RandomGrayscale(p=0.2),
                *([T.RandomApply([blur], p=s["blur"])] if s.get("blur") else []),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize(**s["normalise"]),
            ]
        )

    def __call__(self, image: Any) -> list[Any]:
        return [self.one(image), self.one(image)]
