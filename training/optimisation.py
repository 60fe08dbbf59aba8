"""Optimizers, their learning rates, and averages of the weights: small pieces that the trainer puts together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "one-cycle", "constant", "range"]
Averaging = Literal["none", "ema", "triggered"]

NON_MONOTONE = 5
"""NT-ASGD looks back past this many validations (Merity et al. 2018, algorithm 1, n)."""


def make_optimizer(model: nn.Module, kind: Optimizer, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), decaying matrices alone; or plain SGD, decaying everything."""
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=weight_decay, fused=True)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99), fused=True)


def rate_factor(schedule: Schedule, progress: float, step: int, warmup_steps: int) -> float:
    """The learning rate as a share of its highest. progress: how much of the training is done, 0 … 1.

    cosine: linear warm-up, then half a cosine down to a hundredth (Loshchilov & Hutter 2017, equation 5, one period).
    one-cycle: up from a 25th over the first 30 %, down to a ten-thousandth (Smith & Topin 2018, cosines for lines).
    constant: warm-up alone. range: exponentially up from a 100,000th, to see what is too much (Smith 2017, 3.3).
    """
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    if schedule == "constant":
        return warmup
    if schedule == "range":
        return float(10 ** (-5 * (1 - progress)))
    if schedule == "cosine":
        return warmup * (0.01 + 0.99 * _falling(progress))
    rise = 0.3
    if progress < rise:
        return 1 - (1 - 1 / 25) * _falling(progress / rise)
    return 1e-4 + (1 - 1e-4) * _falling((progress - rise) / (1 - rise))


def _falling(share: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * share))


def averaging_starts(validations: Sequence[float]) -> bool:
    """Whether the last validation is worse than the best one, the `NON_MONOTONE` right before it left out: the step is
    too long for SGD to come closer, and the average of where it goes is better (Merity et al. 2018, algorithm 1)."""
    *before, last = validations or [0.0]
    return len(before) > NON_MONOTONE and last > min(before[:-NON_MONOTONE])


class Average:
    """A moving average of the weights, updated after each step; `count` of them are in it.

    decay: of the exponential average (Polyak & Juditsky 1992 with a window), shorter while little is in it; None: the
    plain mean of all (Polyak & Juditsky 1992), as ASGD takes it.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float | None, count: int = 0) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}
        self.count = count
        self._decay = decay

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        self.count += 1
        share = 1 / self.count
        if self._decay is not None:
            share = max(1 - self._decay, 9 / (9 + self.count))
        torch._foreach_lerp_(list(self.weights.values()), [weights[name].detach() for name in self.weights], share)

    @contextmanager
    def in_place_of(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """The average stands in for the weights meanwhile."""
        self._swap(weights)
        try:
            yield
        finally:
            self._swap(weights)

    @torch.no_grad()
    def _swap(self, weights: Mapping[str, Tensor]) -> None:
        for name, average in self.weights.items():
            kept = weights[name].detach().clone()
            weights[name].copy_(average)
            average.copy_(kept)
