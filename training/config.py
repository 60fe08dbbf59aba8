"""How a network is trained, as a value."""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import torch

from training.averaging import Averaging
from training.data.batching import Partition, Truncation
from training.initialisation import Initialisation
from training.optimisation import Optimizer, Schedule
from training.regularisation import Regularisation

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Regularisation):
    """Raises `ValueError`, naming the field, on a value that makes no sense."""

    steps: int
    """Optimizer steps."""
    batch_size: int = 32
    """Windows that are trained on side by side in a step."""
    bptt_length: int = 64
    """Tokens in a window, at whose edges the gradient stops."""
    truncation: Truncation = "fixed"
    """Windows of one length, of varying lengths, or with the gradient cut inside them at random. Described in
    training/data/batching.py."""
    partition: Partition = "sequential"
    """Whether windows follow each other and carry the state on, or start anew at random places."""
    reset_probability: float = 0.03
    """Share of sequential windows that start from the zero state."""
    initialisation: Initialisation = "uniform"
    """How the weights of recurrent layers begin."""
    forget_bias: float | None = None
    """First bias of an LSTM's forget gates. None: as the initialisation has it."""
    optimizer: Optimizer = "adamw"
    """How gradients become steps."""
    learning_rate: float = 2e-3
    """The highest learning rate of the schedule."""
    schedule: Schedule = "cosine"
    """How the learning rate changes over the training."""
    warmup_steps: int = 100
    """Steps of linear warm-up of the learning rate."""
    weight_decay: float = 0.01
    """Weight decay: AdamW applies it to matrices, SGD to all weights."""
    clip_norm: float = 1.0
    """Maximum gradient norm."""
    sampled_softmax: int = 0
    """Types that the loss samples in place of the whole vocabulary; 0 takes all. Validation always takes all."""
    full_softmax_from: float = 0.8
    """Share of the schedule after which the loss takes the whole vocabulary in any case."""
    averaging: Averaging = "none"
    """Which average of the weights is validated and exported instead of them. ema: an exponential average; triggered:
    the mean of all steps since validation stopped improving, which with optimizer sgd and schedule constant is
    NT-ASGD."""
    average_decay: float = 0.999
    """Factor of the exponential average at each step."""
    precision: Precision = "auto"
    """Number type of matrix products."""
    validate_every: int = 200
    """Steps between two validations."""
    patience: int = 10
    """Validations without improvement before training stops."""
    checkpoint_every: int = 100
    """Steps between two saves: a kill -9 loses no more."""
    max_minutes: float | None = None
    """Minutes for the whole command, from reading the text to the export. The schedule and, where it is chosen, the
    number of steps follow from them. Such a training is not reproducible bit for bit."""
    seed: int = 0
    """Seed of weights, windows and dropout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "bptt_length", "validate_every", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0")
        for name in ("reset_probability", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a probability below 1")
        if not 0 <= self.full_softmax_from <= 1:
            raise ValueError(f"full_softmax_from: {self.full_softmax_from} is not a share")
        for name in ("warmup_steps", "weight_decay", "sampled_softmax"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes: {self.max_minutes} is not above 0")
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(hint))}")
        if self.truncation == "variable" and self.partition == "random":
            raise ValueError("truncation: windows of varying length need the partition sequential, not random")
        if self.truncation == "variable" and self.bptt_length < 2:
            raise ValueError("bptt_length: windows of varying length need 2 or more")


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the matrix products: bfloat16 under `auto` where the processor multiplies it natively."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
