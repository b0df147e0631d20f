"""What a run can be told: one frozen model a method, out of a recipe (`recipe_files.py`) and the command line."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from multicrop_aug import CropSpec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

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


def parse_every(text: str) -> tuple[int | None, float | None]:
    """`500` -> every 500 steps; `15min` -> every 900 seconds. (steps, seconds), one of them None."""
    match = re.fullmatch(r"(\d+)( ?min)?", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"expected a number of steps such as 500, or minutes such as 15min, got '{text}'")
    return (None, 60.0 * int(match[1])) if match[2] else (int(match[1]), None)


def _checked_every(text: str) -> str:
    parse_every(text)
    return text


def _checked_resident(text: str) -> str:
    if text not in ("auto", "on", "off") and not (text.isdecimal() and 8 <= int(text) <= 4096):
        raise ValueError(f"expected auto, on, off or a size from 8 to 4096 pixels such as 160, got '{text}'")
    return text


Resident = Annotated[str, BeforeValidator(str), AfterValidator(_checked_resident)]
Every = Annotated[str, BeforeValidator(str), AfterValidator(_checked_every)]
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
    blur: Share = 0.0
    """Probability of a Gaussian blur of 0.1 to 2 pixels."""
    solarise: Share = 0.0
    """Probability of inverting the bright half of the values."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divisors after that; the official SwAV code has 0.228 first."""
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
    zero_init_residual: bool = False
    """Start the last batch norm of each block at zero."""
    weights: str | None = None
    """Start from this backbone file instead of random numbers; any file that sobel_resnet.load_backbone reads."""


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
    micro_batch: PositiveInt | None = None
    """Images that a process holds activations of at once; a larger batch is run in parts, at a third more work."""
    drop_last: bool = False
    """Leave out the images after the last full batch of an epoch, instead of filling it from the epoch's start."""
    optimizer: Literal["sgd", "larc", "lars", "clipped-lars", "adam"] = "sgd"
    """SGD; LARC as SwAV, LARS as MMSelfSup, LARS with clipping as solo-learn (docs/methods/optimizers.md); Adam."""
    lr: float = Field(0.06, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum; Adam has its own."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate: times --lr-gamma at each epoch of --lr-steps, or a cosine to --final-lr."""
    cosine_by_epoch: bool = False
    """Let the cosine move once an epoch instead of every step."""
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
    """Batch statistics over all processes."""
    sync_bn_group: PositiveInt | None = None
    """Batch statistics over groups of so many processes instead of all; SwAV and DeepCluster-v2 had 8."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"--warmup-epochs {self.warmup_epochs} leaves nothing of --epochs {self.epochs}; lower it")
        return self


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
    resident: Resident = "auto"
    """Keep all images decoded in memory: on; a number of pixels, to which any images are resized and cropped square
    first; off; auto = those that are arrays, if they fit. On the GPU if half its memory is enough, else on the host."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the backbone: minutes of compiling, then perhaps faster steps; auto is off until it was seen to
    pay."""
    checkpoint_every: Every | None = None
    """Steps between checkpoints, or minutes, such as 15min; if not given, every epoch and at least every 1000 steps."""
    rank_timeout: PositiveInt = 600
    """Seconds that a process waits for another one before it ends the run. The longest clustering must fit."""
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
    on_collapse: Literal["stop", "warn"] = "stop"
    """When all images become one to the network: end with exit code 3, or say so and go on."""


class Settings(Machine, Training, Network, Data):
    """clusters"""

    method: str
    k: int | None = Field(None, ge=2)
    """Number of clusters or prototypes; chosen by the number of images if not given."""


class DeepClusterSettings(Settings):
    """DeepCluster"""

    method: Literal["deepcluster"] = "deepcluster"
    pca_dim: int = Field(256, ge=0)
    """Whitened principal components that are clustered, at most what the features have; 0 = the features themselves."""
    kmeans_iters: PositiveInt = 20
    """Iterations of k-means, once an epoch."""
    balanced: bool = True
    """Draw the images of an epoch evenly over the clusters."""
    reweight_power: float = Field(0.0, ge=0)
    """Loss weight of a cluster = size to the minus this power; the papers' alternative to balanced drawing is 0.5."""
    head_lr: float = Field(1.0, gt=0)
    """Factor on the learning rate of the head, which has no momentum and starts anew each epoch."""


class OdcSettings(Settings):
    """Online Deep Clustering"""

    method: Literal["odc"] = "odc"
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


class _Projected(Settings):
    """projection head"""

    crops_for_codes: PositiveInt = 2
    """The first so many crops of an image give its clusters; all crops predict them."""
    temperature: float = Field(0.1, gt=0)
    """Of the softmax over clusters or prototypes."""
    hidden: PositiveInt = 2048
    """Width of the projection head's hidden layer."""
    dim: PositiveInt = 128
    """Dimension of the embeddings."""

    @model_validator(mode="after")
    def _enough_crops(self) -> Self:
        n_crops = sum(parse_crops(text).n_crops for text in self.crops)
        if n_crops < max(2, self.crops_for_codes):
            raise ValueError(
                f"--crops {' '.join(self.crops)} gives {n_crops} crop(s) of an image, and --crops-for-codes "
                f"{self.crops_for_codes} needs at least {max(2, self.crops_for_codes)}, such as --crops 2x224@0.14-1"
            )
        return self


class DeepClusterV2Settings(_Projected):
    """DeepCluster-v2"""

    method: Literal["deepcluster_v2"] = "deepcluster_v2"
    n_heads: PositiveInt = 3
    """Clusterings, each with its own loss; they take turns with the crops that give clusters."""
    kmeans_iters: PositiveInt = 10
    """Iterations of spherical k-means, once an epoch for each clustering."""
    warm_start: bool = False
    """Begin k-means with the centroids of the epoch before, so that clusters keep their number."""


class SwavSettings(_Projected):
    """SwAV"""

    method: Literal["swav"] = "swav"
    epsilon: float = Field(0.05, ge=1e-3, le=1)
    """Sinkhorn's entropy weight, in units of the scores; smaller makes harder codes."""
    sinkhorn_iters: PositiveInt = 3
    """Sinkhorn iterations."""
    freeze_prototypes_steps: int | None = Field(None, ge=0)
    """Steps before the prototypes begin to learn; those of one epoch if not given."""
    queue: int | None = Field(None, ge=0)
    """Embeddings kept from earlier steps, a multiple of the batch, that share the codes' balance; 0 = none. If not
    given: none where a batch has at least one image for each prototype, else enough to have them."""
    queue_from_epoch: int = Field(15, ge=0)
    """Epoch (the first is 0) that begins to fill the queue; it is used as soon as it is full."""


METHODS: dict[str, type[Settings]] = {
    "deepcluster": DeepClusterSettings,
    "odc": OdcSettings,
    "deepcluster_v2": DeepClusterV2Settings,
    "swav": SwavSettings,
}
