"""The floor under a step: no program reads its weights faster than memory gives them, or multiplies faster than the
best matrix product. Measured here and now, at the number type in use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.shapes import NUMBER_BYTES, Shape

SIZES = ((64, 1024, 4096), (256, 1024, 4096), (1024, 1024, 1024), (2048, 2048, 2048))
"""Products (M, K) x (K, N) that are tried; the best rate counts."""


@dataclass(frozen=True)
class Roof:
    """What this machine can do for one network. operations: a multiplication and an addition each."""

    number_type: str
    weights: int
    weights_bytes: int
    bytes_per_second: float
    operations_per_second: float

    def floor_ms(self, rows: int) -> float:
        """Least time of a step of so many sequences: reading the weights or multiplying with them, the longer one."""
        read = self.weights_bytes / self.bytes_per_second
        multiply = 2 * self.weights * rows / self.operations_per_second
        return 1000 * max(read, multiply)


def measure_roof(shape: Shape, number_type: str, seconds: float) -> Roof:
    """Measure for some seconds, with as many threads as there are cores."""
    weights = shape.step_weights()
    size = weights * NUMBER_BYTES[number_type]
    return Roof(number_type, weights, size, read_bandwidth(size, seconds / 2), product_rate(number_type, seconds / 2))


def read_bandwidth(size: int, seconds: float) -> float:
    """Bytes per second of reading a buffer of `size` bytes again and again: two ways to sum it, the better one."""
    buffer = torch.ones(max(1, size // 4))
    return size / min(_best_time(buffer.sum, seconds / 2), _best_time(lambda: torch.dot(buffer, buffer), seconds / 2))


def product_rate(number_type: str, seconds: float) -> float:
    """Operations per second of the best matrix product."""
    rates = []
    for m, k, n in SIZES:
        if number_type == "int8":
            a, b = _integers(m, k), _integers(k, n)
            best = _best_time(lambda a=a, b=b: torch._int_mm(a, b), seconds / len(SIZES))  # type: ignore[misc]
        else:
            dtype = getattr(torch, number_type)
            a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
            best = _best_time(lambda a=a, b=b: torch.mm(a, b), seconds / len(SIZES))  # type: ignore[misc]
        rates.append(2 * m * k * n / best)
    return max(rates)


def _integers(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8)


def _best_time(work: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of many calls."""
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
