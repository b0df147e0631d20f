"""The settings that all methods share, in the sections of `--help`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from steady_runs import Settings
from steady_runs.image_options import ImageOptions

from pretrain.settings.values import CropsText, Fraction, Hue, IntervalText, ResidentText


class Data(Settings):
    """images"""

    data: str = "shapes"
    """Images: shapes, digits, folder:PATH, tar:PATTERN, list:FILE, csv:FILE, jsonl:FILE, parquet:FILES, npz:FILE,
    npy:FILE, hf:NAME, cifar10[:PATH], cifar100, stl10; several are joined as folder:A+folder:B (docs/images.md)."""
    val: str | None = None
    """Images for the kNN score; the val split of --data if not given. Without one, training images score each other."""
    crops: tuple[CropsText, ...] = ("1x224@0.08-1",)
    """Random crops of each image as NxSIZE@LOW-HIGH, where LOW to HIGH is the fraction of the image's area."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    rotation: float = Field(2.0, ge=0, le=180)
    """Largest random rotation, in degrees."""
    jitter: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, Hue] = (0.4, 0.4, 1.0, 0.5)
    """Colour jitter: brightness, contrast, saturation, and hue up to 0.5."""
    jitter_p: Fraction = 1.0
    """Probability of the colour jitter."""
    grey: Fraction = 0.2
    """Probability of conversion to grey."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur of 0.1 to 2 pixels."""
    solarise: Fraction = 0.0
    """Probability of solarisation: inverting all values of 128 and above."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, in [0, 1], that is subtracted from the pixels."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    """Standard deviation that the pixels are divided by; the official SwAV code has 0.228 for red."""
    eval_size: int | None = Field(None, gt=0, le=4096)
    """Side in pixels of the centre crop for features and scores; the size of the first crops if not given."""
    eval_resize: int | None = Field(None, gt=0, le=8192)
    """Short side in pixels before the centre crop; if not given, 8/7 of a crop of 96 px or more, else the same."""


class Network(Settings):
    """network"""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Backbone."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layer: imagenet = 7x7 stride 2 and max-pool; cifar = 3x3 stride 1, for images of about 32 px."""
    width: float = Field(1.0, gt=0, le=8)
    """Factor on the number of channels of the backbone."""
    sobel: bool = False
    """Put fixed Sobel filters before the backbone, so that it sees edges but no colour."""
    zero_init_residual: bool = False
    """Initialise the last batch norm of each residual block with zero."""
    weights: str | None = None
    """Backbone file to start from, instead of random weights; any file that sobel_resnet.load_backbone reads."""


class Training(Settings):
    """training"""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of everything random."""
    epochs: PositiveInt = 100
    """Passes over the images; the learning-rate schedule spans all of them."""
    steps: int | None = Field(None, gt=0, le=2**31)
    """Length of the run in steps, whatever the number of images: as many whole epochs, at least one. --epochs goes
    before."""
    max_steps: PositiveInt | None = None
    """Stop after this many steps; the schedule stays that of --epochs."""
    batch: int = Field(512, gt=0, le=2**31)
    """Images per step, over all processes."""
    micro_batch: PositiveInt | None = None
    """Images per micro-batch of a process, to save GPU memory; a third more work (gradients as for the whole batch)."""
    drop_last: bool = False
    """Drop the last incomplete batch of an epoch, instead of filling it with images from the start of the epoch."""
    optimizer: Literal["sgd", "larc", "lars", "clipped-lars", "adam"] = "sgd"
    """SGD; LARC as in SwAV; LARS as in MMSelfSup; clipped LARS as in solo-learn; Adam (docs/methods/optimizers.md)."""
    lr: float = Field(0.06, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum (not used by Adam)."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning-rate schedule: step = times --lr-gamma at each epoch of --lr-steps; cosine = down to --final-lr."""
    cosine_by_epoch: bool = False
    """Update the cosine once per epoch instead of every step."""
    lr_steps: tuple[int, ...] = ()
    """Epochs at which the learning rate drops; constant if not given."""
    lr_gamma: float = Field(0.1, gt=0)
    """Factor at each drop."""
    final_lr: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs of linear warm-up from --warmup-lr."""
    warmup_lr: float = Field(0.0, ge=0)
    """Learning rate at the start of the warm-up."""
    sync_bn: bool = True
    """Synchronise batch norm over all processes."""
    sync_bn_group: PositiveInt | None = None
    """Synchronise batch norm within groups of this many processes instead; SwAV and DeepCluster-v2 used 8."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"--warmup-epochs {self.warmup_epochs} leaves nothing of --epochs {self.epochs}; lower it")
        return self


class Machine(Settings):
    """machine and bookkeeping (no effect on what a healthy run learns)"""

    out: str | None = None
    """Run folder; runs/METHOD-1, -2, ... if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16 = bfloat16 autocast; auto = bf16 on GPUs and on CPUs with bf16 matrix units (AMX), else 32."""
    workers: int | None = Field(None, ge=0)
    """Processes per rank that load and augment images; by the number of cores if not given."""
    resident: ResidentText = "auto"
    """Keep all images decoded in memory. on = images of one size; a number of pixels = resized and centre-cropped to
    it; auto = sets that are arrays, if they fit. On the GPU if they fit in half its memory, else in main memory."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the backbone with torch.compile, which takes minutes; auto = off, until it has been seen to pay."""
    checkpoint_every: IntervalText | None = None
    """Steps between checkpoints, or minutes such as 15min; every epoch, at most 1000 steps apart, if not given."""
    rank_timeout: PositiveInt = 600
    """Seconds that a process waits for another one before it ends the run; longer than the longest clustering."""
    knn_every: int = Field(5, ge=0)
    """Epochs between kNN scores, if there are labels; 0 = only before and after training."""
    knn_images: PositiveInt = 10_000
    """Most training images that the kNN score searches; a random choice, by seed, if there are more."""
    log_every: PositiveInt = 10
    """Steps between lines in metrics.jsonl."""
    report: bool = True
    """Write report.html at the end."""
    quiet: bool = False
    """Print the result only."""
    on_collapse: Literal["mend", "warn", "stop"] = "mend"
    """What to do when embeddings or codes collapse, which a run notices within 100 steps: mend = go back to the last
    healthy checkpoint and on with the likeliest remedy, three times at most; warn = go on; stop = exit code 3."""


class RunSettings(Machine, Training, Network, ImageOptions, Data):
    """clusters"""

    implementation: ClassVar[str] = ""
    """MODULE:CLASS of the method. A name, as importing the class would import torch and slow `--help` down."""

    method: str
    k: int | None = Field(None, ge=2)
    """Number of clusters or prototypes; by the number of images if not given."""
