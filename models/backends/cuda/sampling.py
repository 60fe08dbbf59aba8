"""Sampling where the logits are: the steps of `sample` from temperature on, for a whole batch, without the host.

A kernel may sum floats in an order that it chooses by the shape of the whole batch, and a row must not feel its
company. So what is summed over the vocabulary here are integers, whose sum is the same in every order: masses, which
are probabilities in units of 2^-52. Sums of them stay below 2^53, so they are exact as float64 too.
"""

import torch
from torch import Tensor

from models.decoding.sampling import GREEDY_BELOW

_UNITS = 2.0**52


def token_probabilities(logits: Tensor, highest: Tensor, temperatures: Tensor) -> Tensor:
    """(B, V). logits: (B, V), float32. highest: (B,), of each row. temperatures: (B,); greedy rows are the caller's."""
    temperatures = temperatures.clamp_min(GREEDY_BELOW).float()
    return torch.softmax((logits - highest[:, None]) / temperatures[:, None], dim=1)


def keep_likeliest(probabilities: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """top-k, top-p and min-p, in this order, each row by its own. Among equals the lower id is kept first.

    probabilities: (B, V). top_k: (B,), int64, 0: all. top_p, min_p: (B,), float64. Returns (B, V), not renormalised;
    a row that filters nothing comes back as it was.
    """
    ordered, ids = probabilities.sort(dim=1, descending=True, stable=True)
    place = torch.arange(probabilities.shape[1], device=probabilities.device)
    keep = (place < top_k[:, None]) | (top_k == 0)[:, None]
    masses = _masses(ordered * keep)
    reached = masses.cumsum(dim=1)
    within = (reached - masses) < top_p[:, None] * reached[:, -1:]
    keep &= within | (top_p >= 1)[:, None] | (place == 0)
    keep &= ordered >= min_p.float()[:, None] * ordered[:, :1]
    return torch.zeros_like(probabilities).scatter_(1, ids, ordered * keep)


def draw_tokens(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """The token whose slice of the cumulative masses holds the number.

    probabilities: (B, V), any positive scale up to 1. numbers: (B,), float64 in [0, 1). Returns (B,), int64; never a
    token of mass 0.
    """
    cumulative = _masses(probabilities).cumsum(dim=1)
    total = cumulative[:, -1:]
    place = (numbers[:, None] * total).long()  # below total: the largest number is 1 - 2^-53, the total exact
    return torch.searchsorted(cumulative, place, right=True).squeeze(1)


def _masses(probabilities: Tensor) -> Tensor:
    return (probabilities.double() * _UNITS).long()


def uniforms(seed: Tensor, choice: Tensor, position: Tensor) -> Tensor:
    """`models.decoding.sampling.uniforms` on the device. seed, choice, position: int64, of shapes that fit together."""
    bits = torch.zeros_like(seed)
    for number in (seed, choice, position):
        bits = _splitmix64(bits ^ number)
    return _shift_right(bits, 11).double() * 2.0**-53


def _splitmix64(bits: Tensor) -> Tensor:
    """On int64, whose products wrap as those of uint64 do."""
    bits = bits + _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift_right(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift; int64's own is arithmetic."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
