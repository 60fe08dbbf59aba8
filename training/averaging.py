"""Averages of the weights over steps, which often predict better than the last weights (Polyak & Juditsky 1992)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Averaging = Literal["none", "ema", "triggered"]

NON_MONOTONE = 5
"""NT-ASGD looks back past this many validations (Merity et al. 2018, algorithm 1, n)."""


def averaging_starts(costs: Sequence[float]) -> bool:
    """Whether the last validation is worse than the best one, the `NON_MONOTONE` right before it left out: the step is
    too long for SGD to come closer, and the average of where it goes is better (Merity et al. 2018, algorithm 1).

    costs: of all validations so far; lower is better.
    """
    *before, last = costs or [0.0]
    return len(before) > NON_MONOTONE and last > min(before[:-NON_MONOTONE])


class Average:
    """A moving average of the weights, updated after each step; `count` steps are in it.

    decay: of the exponential average, which reaches less far back while few steps are in it; None: the plain mean of
    all steps, as ASGD takes it.
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
        """Inside the `with` the average stands in for the weights."""
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


class WeightAverage:
    """The average that a run keeps: from its first step (`ema`), from when validation stops improving (`triggered`),
    or never (`none`)."""

    def __init__(self, kind: Averaging, decay: float, weights: Mapping[str, Tensor]) -> None:
        """weights: the network's own tensors, which the average is taken of."""
        self.kind = kind
        self.average: Average | None = None
        self._decay = decay if kind == "ema" else None
        self._weights = weights
        if kind == "ema":
            self._begin()

    def _begin(self, count: int = 0) -> None:
        self.average = Average(self._weights, self._decay, count)

    def update(self) -> None:
        """Takes in the weights after a step."""
        if self.average is not None:
            self.average.update(self._weights)

    def standing_in(self) -> AbstractContextManager[None]:
        """Inside the `with` the network has the average's weights, if a run has begun one."""
        return self.average.in_place_of(self._weights) if self.average else nullcontext()

    @property
    def is_waiting(self) -> bool:
        """Whether validations decide when the average begins, and have not yet."""
        return self.kind == "triggered" and self.average is None

    def begin_if_due(self, costs: Sequence[float]) -> None:
        """costs: of all validations so far; lower is better."""
        if self.is_waiting and averaging_starts(costs):
            self._begin()

    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Continues with an average that was saved with `count` steps in it."""
        self._begin(count)
        assert self.average is not None
        for name, average in self.average.weights.items():
            average.copy_(tensors[name])
