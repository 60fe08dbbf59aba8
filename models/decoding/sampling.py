"""From logits to the next token: pure functions on a batch whose rows may all ask for something else.

The order of the steps, because results depend on it: repetition, presence and frequency penalties; logit bias; tokens
that may not be drawn (`<unk>`, an early `<eos>`); temperature; top-k; top-p; min-p; draw.

`<unk>` resampling. A model at word level now and then draws `<unk>`; a reader wants a word, so one draws again until it
is something else. The k-th word w comes out of that loop with probability

    p(w) * sum_i p(unk)^i = p(w) / (1 - p(unk)),

which is the distribution with `<unk>` taken out and the rest renormalised. That is what is drawn from here: the same
distribution, one draw, no loop.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

GREEDY_BELOW = 1e-4
"""Temperatures below this are greedy."""

LARGEST_LOGIT = 1e30
"""Logits stay within this after penalties and bias: finite, also once divided by the smallest temperature."""


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one sequence are sampled: the only definition of these parameters, with their ranges and what
    users read about them. Values are taken as valid: the request bodies that are made of these fields check them.
    """

    temperature: Annotated[float, Ge(0), Le(10)] = 1.0
    """Below 1 the text is plainer, above 1 wilder; at 0 the likeliest token is always taken."""
    top_k: Annotated[int, Ge(0)] = 0
    """Sample from the k likeliest tokens; 0: from all."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Sample from the fewest likeliest tokens whose probabilities reach this sum (nucleus sampling, Holtzman et al.
    2020, section 3.1)."""
    min_p: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Sample from tokens at least this fraction as probable as the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: Annotated[float, Gt(0), Le(10)] = 1.0
    """Above 1, tokens of prompt and completion become less likely: it divides their positive logits and multiplies the
    negative ones (Keskar et al. 2019, section 4.1)."""
    presence_penalty: Annotated[float, Ge(-2), Le(2)] = 0.0
    """Subtracted once from the logits of tokens that the completion contains."""
    frequency_penalty: Annotated[float, Ge(-2), Le(2)] = 0.0
    """Subtracted from the logits of a token once for each time that the completion contains it."""
    logit_bias: Mapping[int, Annotated[float, Ge(-100), Le(100)]] = field(default_factory=dict)
    """Added to logits, by token id."""

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed by penalties or bias."""
        penalties = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        return bool(penalties or self.logit_bias)

    @property
    def filters(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class Draw:
    """What the next token of one row depends on besides the logits.

    prompt, completion: token ids so far. banned: ids that may not be drawn.
    seed, choice, position: what the random number is a function of.
    """

    params: SamplingParams
    seed: int
    choice: int = 0
    position: int = 0
    prompt: Sequence[int] = ()
    completion: Sequence[int] = ()
    banned: Sequence[int] = ()


def sample(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """One token for each row. logits: (B, V), float; left as it is. Returns (B,), int64."""
    probabilities = next_token_probabilities(logits, draws)
    numbers = uniforms(*(torch.tensor([getattr(d, n) for d in draws]) for n in ("seed", "choice", "position")))
    return inverse_cdf(probabilities, numbers.to(logits.device))


def next_token_probabilities(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The distribution each row is drawn from: (B, V), float32, rows sum to 1."""
    logits = logits.float().clone()
    for row, draw in zip(logits, draws, strict=True):
        if draw.params.adjusts:
            adjust_logits(row, draw)
        for token_id in draw.banned:
            row[token_id] = -torch.inf
    greedy = torch.tensor([draw.params.greedy for draw in draws], device=logits.device)
    temperatures = torch.tensor([max(draw.params.temperature, GREEDY_BELOW) for draw in draws], device=logits.device)
    best = logits.max(dim=1, keepdim=True)
    probabilities = torch.softmax((logits - best.values) / temperatures[:, None], dim=1)
    probabilities[greedy] = 0.0
    probabilities[greedy, best.indices[greedy, 0]] = 1.0
    filtered = [i for i, d in enumerate(draws) if not d.params.greedy and d.params.filters]
    for i in filtered:
        probabilities[i] = _filter(probabilities[i], draws[i].params)
    return probabilities


def adjust_logits(row: Tensor, draw: Draw) -> None:
    """Penalties and bias, in place on one row of logits, (V,), float32."""
    params = draw.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*draw.prompt, *draw.completion}), dtype=torch.int64, device=row.device)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        counts = Counter(draw.completion)
        ids = torch.tensor(list(counts), dtype=torch.int64, device=row.device)
        times = torch.tensor(list(counts.values()), dtype=row.dtype, device=row.device)
        row[ids] -= params.presence_penalty + params.frequency_penalty * times
    if params.logit_bias:
        biased = torch.tensor(list(params.logit_bias), dtype=torch.int64, device=row.device)
        row.index_add_(0, biased, torch.tensor(list(params.logit_bias.values()), dtype=row.dtype, device=row.device))
    row.clamp_(-LARGEST_LOGIT, LARGEST_LOGIT)  # an extreme penalty must not make infinities, whose difference is NaN


def _filter(probabilities: Tensor, params: SamplingParams) -> Tensor:
    """top-k, top-p and min-p on one row (V,), renormalised. Among equals the lower id is kept first."""
    ordered, ids = probabilities.sort(descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if 0 < params.top_k < len(ordered):
        keep[params.top_k :] = False
    if params.top_p < 1:
        kept = ordered * keep
        before = kept.double().cumsum(0) - kept
        keep &= before < params.top_p * kept.double().sum()
        keep[0] = True
    if params.min_p > 0:
        keep &= ordered >= params.min_p * ordered[0]
    filtered = torch.zeros_like(probabilities)
    filtered[ids] = ordered * keep
    return filtered / filtered.sum()


def inverse_cdf(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """The token whose slice of the cumulative distribution holds the number.

    probabilities: (B, V), at least one above 0 in each row. numbers: (B,), float64 in [0, 1). Returns (B,), int64;
    never a token of probability 0.
    """
    cumulative = probabilities.cumsum(dim=1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    chosen = torch.searchsorted(cumulative, numbers[:, None] * total, right=True)
    last = torch.searchsorted(cumulative, total)  # rounding may have put the number on the total itself
    return torch.minimum(chosen, last).squeeze(1)


def uniforms(seed: Tensor, choice: Tensor, position: Tensor) -> Tensor:
    """Random numbers in [0, 1) as a function of three integers: the same wherever and whenever they are drawn.

    A counter-based generator: splitmix64's output function (Steele et al. 2014, figure 17) applied to each integer in
    turn. seed, choice, position: (B,), int64, >= 0. Returns (B,), float64, multiples of 2^-53.
    """
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
