"""How a network is trained, as a value."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from training.data.batching import Partition, Truncation
from training.initialisation import Initialisation
from training.optimisation import Averaging, Optimizer, Schedule
from training.regularisation import Regularisation

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Regularisation):
    """Raises `ValueError`, naming the field, on a value that makes no sense."""

    steps: int
    batch_size: int = 32
    bptt_length: int = 64
    truncation: Truncation = "fixed"
    """Where the gradient stops: training/data/batching.py."""
    partition: Partition = "sequential"
    reset_probability: float = 0.03
    initialisation: Initialisation = "uniform"
    forget_bias: float | None = None
    """None: as the scheme has it."""
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    sampled_softmax: int = 0
    """Types sampled in place of a large vocabulary; 0: none. Validation always takes all."""
    full_softmax_from: float = 0.8
    """Share of the schedule after which the whole vocabulary is taken all the same."""
    averaging: Averaging = "none"
    """Which average of the weights is validated and exported: `ema`, an exponential one; `triggered`, the mean of all
    since validation stopped improving: with `optimizer` sgd and `schedule` constant, NT-ASGD."""
    average_decay: float = 0.999
    precision: Precision = "auto"
    validate_every: int = 200
    patience: int = 10
    """Validations without improvement before training stops."""
    checkpoint_every: int = 100
    max_minutes: float | None = None
    """Fit the schedule to this much training time when the steps would take longer; not reproducible bit for bit."""
    seed: int = 0

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
        choices = {
            "partition": Partition,
            "truncation": Truncation,
            "initialisation": Initialisation,
            "optimizer": Optimizer,
            "schedule": Schedule,
            "averaging": Averaging,
            "precision": Precision,
        }
        for name, known in choices.items():
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(known))}")
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
