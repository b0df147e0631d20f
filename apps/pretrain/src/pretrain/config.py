"""What a run can be told: one frozen model a method, read from a recipe (TOML) and overridden by the command line.

A recipe is flat: `method = "odc"`, then any field below; its `[about]` table is for `recipes` and for readers.
Unknown keys fail and name the nearest known one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from multicrop_aug import CropSpec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from pretrain.errors import BadInput

_CROPS = re.compile(r"^(\d+)x(\d+)(?:@([\d.]+)-([\d.]+))?$")


def parse_crops(text: str) -> CropSpec:
    """`2x224@0.14-1` -> two crops of 224 px that cover 14 % to 100 % of the image."""
    match = _CROPS.match(text)
    if match is None:
        raise ValueError(f"expected NxSIZE@LOW-HIGH such as 2x224@0.14-1, got '{text}'")
    n, size, low, high = match.groups(default="")
    scale = (float(low or 0.08), float(high or 1.0))
    if not (int(n) > 0 and int(size) > 0 and 0 < scale[0] <= scale[1] <= 1):
        raise ValueError(f"expected at least one crop, a size and 0 < LOW <= HIGH <= 1, got '{text}'")
    return CropSpec(size=int(size), n_crops=int(n), scale=scale)


def _checked_crops(text: str) -> str:
    parse_crops(text)
    return text


Crops = Annotated[str, AfterValidator(_checked_crops)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Data(_Settings):
    """images"""

    data: str = "shapes"
    """Images: shapes, digits, folder:PATH, list:FILE, npz:FILE[,VAL], tar:PATTERN, cifar10[:PATH], cifar100, stl10."""
    val: str | None = None
    """Images for the kNN score, if not the val split of --data; without, training images score each other."""
    download: bool = False
    """Let cifar10, cifar100 and stl10 fetch their files if they are not there."""
    crops: tuple[Crops, ...] = ("1x224@0.08-1",)
    """Random crops of each image, NxSIZE@LOW-HIGH (share of the image's area)."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    rotation: float = Field(2.0, ge=0, le=180)
    """Random rotation by up to this many degrees."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 1.0, 0.5)
    """Colour jitter: brightness, contrast, saturation, hue."""
    jitter_p: Share = 1.0
    """Probability of the colour jitter."""
    grey: Share = 0.2
    """Probability of grey."""
    eval_size: PositiveInt | None = None
    """Side of the centre crop for features and scores; that of the first crops if not given."""
    eval_resize: PositiveInt | None = None
    """Short side before the centre crop: 8/7 of the crop if that is 96 px or more, else the crop itself."""


class Network(_Settings):
    """network"""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Depth of the backbone."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """7x7 stride 2 and max-pool, or 3x3 stride 1 for images of about 32 px."""
    width: float = Field(1.0, gt=0, le=8)
    """Factor on the channels of the backbone."""
    sobel: bool = False
    """Put fixed Sobel filters before the backbone, so that it sees edges and no colour."""


class Training(_Settings):
    """training"""

    seed: int = Field(0, ge=0, lt=2**31)
    """Everything random follows from this number."""
    epochs: PositiveInt = 100
    """Passes over the images; the learning rate schedule spans them."""
    max_steps: PositiveInt | None = None
    """Stop after this many steps, all else unchanged."""
    batch: PositiveInt = 512
    """Images a step, over all processes."""
    lr: float = Field(0.06, gt=0)
    """Learning rate of SGD."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay of SGD."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate: times --lr-gamma at each epoch of --lr-steps, or a cosine to --final-lr, step by step."""
    lr_steps: tuple[int, ...] = ()
    """Epochs at which the learning rate drops; none = constant."""
    lr_gamma: float = Field(0.1, gt=0)
    """Factor at each drop."""
    final_lr: float = Field(0.0, ge=0)
    """Where the cosine ends."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs of linear warm-up from --warmup-lr."""
    warmup_lr: float = Field(0.0, ge=0)
    """Where the warm-up starts."""
    sync_bn: bool = True
    """Batch statistics over all GPUs."""


class Machine(_Settings):
    """machine and bookkeeping (no effect on what is learnt)"""

    out: str | None = None
    """Run folder; runs/METHOD-1, -2, ... if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16 = autocast; auto takes it on GPUs and on CPUs with bf16 matrix units."""
    workers: int | None = Field(None, ge=0)
    """Processes that load and augment; chosen by the number of cores if not given."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; every epoch, and at least every 1000 steps, if not given."""
    knn_every: int = Field(5, ge=0)
    """Epochs between kNN scores on the way, where labels exist; 0 = only before and after."""
    knn_images: PositiveInt = 10_000
    """At most this many training images serve as the kNN's bank (a seeded choice)."""
    log_every: PositiveInt = 10
    """Steps between lines in metrics.jsonl."""
    report: bool = True
    """Write report.html at the end."""
    quiet: bool = False
    """Print only the result."""


class OdcSettings(Machine, Training, Network, Data):
    """Online Deep Clustering"""

    method: Literal["odc"] = "odc"
    k: int | None = Field(None, ge=2)
    """Number of clusters; about one for 100 images if not given."""
    memory_momentum: Share = 0.5
    """Weight of the new feature in the samples memory."""
    centroid_every: PositiveInt = 10
    """Steps between updates of all centroids."""
    min_cluster: int = Field(20, ge=1)
    """Clusters below this size are dissolved, and the largest split in their place; at most half the mean size."""
    head_lr: float = Field(1.0, gt=0)
    """Factor on the learning rate of the head, which has no momentum."""
    reweight_power: float = Field(0.5, ge=0)
    """Loss weight of a cluster = size to the minus this power."""
    neck_hidden: PositiveInt = 512
    """Width of the neck's hidden layer."""
    neck_dim: PositiveInt = 256
    """Dimension of the features that are clustered."""
    neck_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout in the neck."""


Settings = OdcSettings
METHODS: dict[str, type[OdcSettings]] = {"odc": OdcSettings}
PHOTOGRAPHS = ("folder:", "list:", "tar:", "stl10")  # sources of images of any size


def recipe_for(method: str, data: str | None) -> str:
    """The recipe of `pretrain METHOD`: a small network for small images, ResNet-50 at 224 px for photographs."""
    return f"{method}_photos" if data and data.startswith(PHOTOGRAPHS) else f"{method}_shapes"


def recipe_names() -> list[str]:
    return sorted(f.name.removesuffix(".toml") for f in _recipes().iterdir() if f.name.endswith(".toml"))


def read_recipe(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A recipe by name, or any TOML file by path -> (its settings, its `[about]` table)."""
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise BadInput(f"--recipe {name}: {error.strerror}") from None
    elif name in recipe_names():
        text = (_recipes() / f"{name}.toml").read_text()
    else:
        raise BadInput(f"unknown recipe '{name}'{nearest(name, recipe_names())}; `pretrain recipes` lists them")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{name}: not a TOML file ({error})") from None
    return values, values.pop("about", {})


def build(values: Mapping[str, Any], source: str) -> Settings:
    """Check `values` and freeze them; `source` is what an error message points at."""
    method = values.get("method")
    if method not in METHODS:
        raise BadInput(f"{source}: method must be one of {', '.join(METHODS)}, got {method!r}")
    settings = METHODS[str(method)]
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{source}: {_one_line(error, list(settings.model_fields))}") from None


def dump(settings: Settings) -> str:
    """The settings as TOML, whole, such that `--recipe config.toml` repeats the run."""
    return tomli_w.dumps(settings.model_dump(exclude_none=True))


def nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def _one_line(error: ValidationError, known: list[str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key '{name}'{nearest(name, known)}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    verb = "" if first["type"] == "value_error" else "should be "
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{name.replace('_', '-')} {verb}{message}{got}" if verb else f"{name.replace('_', '-')}: {message}"


def _recipes() -> Any:
    return resources.files("pretrain") / "recipes"
