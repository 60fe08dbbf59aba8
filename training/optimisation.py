"""Optimizers and schedules of the learning rate: two tables, and the functions in them."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "one-cycle", "constant", "range"]


def _adamw(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """(Loshchilov & Hutter 2019.) Only matrices decay."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99), fused=True)


def _sgd(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Without momentum. Everything decays."""
    return torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=weight_decay, fused=True)


OPTIMIZERS: dict[Optimizer, Callable[[nn.Module, float], torch.optim.Optimizer]] = {"adamw": _adamw, "sgd": _sgd}
"""(network, weight decay) -> the optimizer. The trainer sets the learning rate before each step."""


def _cosine(progress: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth (Loshchilov & Hutter 2017, equation 5, one period)."""
    return warmup * (0.01 + 0.99 * _falling(progress))


def _one_cycle(progress: float, _warmup: float) -> float:
    """Up from a 25th over the first 30 %, down to a ten-thousandth (Smith & Topin 2018, cosines for lines)."""
    rise = 0.3
    if progress < rise:
        return 1 - (1 - 1 / 25) * _falling(progress / rise)
    return 1e-4 + (1 - 1e-4) * _falling((progress - rise) / (1 - rise))


def _constant(_progress: float, warmup: float) -> float:
    """Warm-up alone."""
    return warmup


def _range(progress: float, _warmup: float) -> float:
    """Exponentially up from a 100,000th, to see which rate is too high (Smith 2017, section 3.3)."""
    return float(10 ** (-5 * (1 - progress)))


SCHEDULES: dict[Schedule, Callable[[float, float], float]] = {
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "constant": _constant,
    "range": _range,
}
"""(share of the training that is done, share of the warm-up that is done) -> the rate as a share of its highest."""


def rate_factor(schedule: Schedule, progress: float, step: int, warmup_steps: int) -> float:
    """The learning rate as a share of its highest. progress: how much of the training is done, 0 … 1."""
    return SCHEDULES[schedule](progress, min(1.0, (step + 1) / max(1, warmup_steps)))


def _falling(share: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * share))
