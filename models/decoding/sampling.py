"""From logits to the next token: pure functions on a batch whose rows may all ask for something else.

The order of the steps, because results depend on it: repetition, presence and frequency penalties; logit bias; tokens
that may not be sampled (`<unk>`, an early `<eos>`); temperature; top-k; top-p; min-p; draw.

`<unk>` resampling. A model at word level now and then draws `<unk>`; a reader wants a word, so the model would draw
again until it has one. The k-th word w comes out of that loop with probability

    p(w) * sum_i p(unk)^i = p(w) / (1 - p(unk)),

which is the distribution with `<unk>` taken out and the rest renormalised. That is what is drawn from here: the same
distribution, one draw, no loop.

A new filter is a field of `SamplingParams` and a function in `FILTERS`: a backend that does not list the field in its
`samples` leaves such rows to `sample`, in the file at hand.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, Protocol

import numpy as np
from annotated_types import Ge, Gt, Le

from models.arrays import Array

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
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
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

    def within(self, vocabulary_size: int) -> "SamplingParams":
        """The same for a vocabulary: as many tokens as it has are all tokens."""
        return self if self.top_k < vocabulary_size else replace(self, top_k=0)

    @cached_property
    def wanted(self) -> frozenset[str]:
        """Names of the fields that do not have their default."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != _default(f))

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed by penalties or bias."""
        return not self.wanted.isdisjoint(ADJUSTMENTS)

    @property
    def filters(self) -> bool:
        """Whether unlikely tokens are left out."""
        return not self.wanted.isdisjoint(FILTERS)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


def _default(parameter: Any) -> Any:
    return parameter.default if parameter.default is not MISSING else parameter.default_factory()


MOST_BANNED = 2
"""Ids that may be banned where a backend samples: `<unk>` and `<eos>`."""

ADJUSTMENTS = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"})
"""Fields that change logits before anything else is done: see `adjust_logits`."""


@dataclass(frozen=True)
class Draw:
    """What the next token of one row depends on besides the logits.

    prompt, completion: token ids so far. banned: ids that may not be sampled.
    seed, choice, position: what the random number is a function of.
    """

    params: SamplingParams
    seed: int
    choice: int = 0
    position: int = 0
    prompt: Sequence[int] = ()
    completion: Sequence[int] = ()
    banned: Sequence[int] = ()


class Sampler(Protocol):
    """What `sample_rows` asks of a backend: see `models.backends.base.InferenceNetwork`."""

    samples: frozenset[str]

    def sample(self, logits: Any, draws: Sequence[Draw]) -> list[int]: ...

    def host(self, values: Any) -> Array: ...

    def own(self, values: Array) -> Any: ...


def sample_rows(network: Sampler, logits: Any, draws: Sequence[Draw]) -> list[int]:
    """One token for each row of a backend's logits, (N, V), which may be overwritten.

    Penalties and bias are applied here. Where the backend knows all else that a row asks for, it samples the row; the
    other rows go through `sample`.
    """
    ids = [0] * len(draws)
    left_to_network = []
    for row, draw in enumerate(draws):
        unknown = draw.params.wanted - network.samples
        if unknown <= ADJUSTMENTS and len(draw.banned) <= MOST_BANNED:
            left_to_network.append(row)
            if unknown:
                adjusted = network.host(logits[row])
                adjust_logits(adjusted, draw)
                logits[row] = network.own(adjusted)
        else:
            ids[row] = int(sample(network.host(logits[[row]]), [draw])[0])
    if len(left_to_network) == len(draws):
        return network.sample(logits, draws)
    if left_to_network:
        sampled = network.sample(logits[left_to_network], [draws[row] for row in left_to_network])
        for row, token_id in zip(left_to_network, sampled, strict=True):
            ids[row] = token_id
    return ids


def sample(logits: Array, draws: Sequence[Draw]) -> Array:
    """One token for each row. logits: (B, V), float32; left as it is. Returns (B,), int64."""
    probabilities = next_token_probabilities(logits, draws)
    numbers = uniforms([d.seed for d in draws], [d.choice for d in draws], [d.position for d in draws])
    return inverse_cdf(probabilities, numbers)


@np.errstate(all="ignore")
def next_token_probabilities(logits: Array, draws: Sequence[Draw]) -> Array:
    """The distribution that each row is sampled from: (B, V), float32, rows sum to 1."""
    logits = logits.astype(np.float32)
    for row, draw in zip(logits, draws, strict=True):
        if draw.params.adjusts:
            adjust_logits(row, draw)
        row[list(draw.banned)] = -np.inf
    temperatures = np.array([max(draw.params.temperature, GREEDY_BELOW) for draw in draws], np.float32)
    best = logits.argmax(axis=1)
    largest = logits[np.arange(len(logits)), best]
    probabilities = _softmax((logits - largest[:, None]) / temperatures[:, None])
    for i, draw in enumerate(draws):
        if draw.params.greedy:
            probabilities[i] = 0.0
            probabilities[i, best[i]] = 1.0
        elif draw.params.filters:
            probabilities[i] = _filter(probabilities[i], draw.params)
    return probabilities


def _softmax(values: Array) -> Array:
    """(B, V), float32, the largest of each row 0. Sums are of one row each, whatever the number of rows."""
    exponentials = np.exp(values)
    probabilities: Array = exponentials / exponentials.astype(np.float64).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


@np.errstate(all="ignore")
def adjust_logits(row: Array, draw: Draw) -> None:
    """Penalties and bias, in place on one row of logits, (V,), float32."""
    params = draw.params
    if params.repetition_penalty != 1.0:
        seen = sorted({*draw.prompt, *draw.completion})
        values = row[seen]
        row[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        counts = Counter(draw.completion)
        times = np.array(list(counts.values()), np.float32)
        row[list(counts)] -= params.presence_penalty + params.frequency_penalty * times
    if params.logit_bias:
        row[list(params.logit_bias)] += np.array(list(params.logit_bias.values()), np.float32)
    # An extreme penalty must not make infinities, whose difference is NaN.
    np.clip(row, -LARGEST_LOGIT, LARGEST_LOGIT, out=row)


def _keep_top_k(ordered: Array, params: SamplingParams) -> Array:
    return np.arange(len(ordered)) < params.top_k


def _keep_top_p(ordered: Array, params: SamplingParams) -> Array:
    masses = ordered.astype(np.float64)
    keep: Array = masses.cumsum() - masses < params.top_p * masses.sum()
    keep[0] = True
    return keep


def _keep_min_p(ordered: Array, params: SamplingParams) -> Array:
    keep: Array = ordered >= params.min_p * ordered[0]
    return keep


FILTERS: dict[str, Callable[[Array, SamplingParams], Array]] = {
    "top_k": _keep_top_k,
    "top_p": _keep_top_p,
    "min_p": _keep_min_p,
}
"""Which tokens stay, by the field that asks for it, in the order in which they are applied: (probabilities of one row,
(V,), likeliest first, 0 where a filter before has taken the token out; params) -> (V,), bool."""


def _filter(probabilities: Array, params: SamplingParams) -> Array:
    """What the filters leave of one row (V,), renormalised. Among equals the lower id is kept first."""
    ids = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[ids]
    for name, keep in FILTERS.items():
        if name in params.wanted:
            ordered = ordered * keep(ordered, params)
    filtered = np.zeros_like(probabilities)
    filtered[ids] = ordered
    filtered /= filtered.sum(dtype=np.float64)
    return filtered


def inverse_cdf(probabilities: Array, numbers: Array) -> Array:
    """The token whose slice of the cumulative distribution holds the number.

    probabilities: (B, V), at least one above 0 in each row. numbers: (B,), float64 in [0, 1). Returns (B,), int64;
    never a token of probability 0.
    """
    cumulative = probabilities.cumsum(axis=1, dtype=np.float64)
    total = cumulative[:, -1:]
    chosen = (cumulative <= numbers[:, None] * total).sum(axis=1)
    last = (cumulative < total).sum(axis=1)  # rounding may have put the number on the total itself
    ids: Array = np.minimum(chosen, last)
    return ids


def uniforms(seed: Sequence[int] | Array, choice: Sequence[int] | Array, position: Sequence[int] | Array) -> Array:
    """Random numbers in [0, 1) as a function of three integers: the same wherever and whenever they are made.

    A counter-based generator: splitmix64's output function (Steele et al. 2014, figure 17) applied to each integer in
    turn. seed, choice, position: B integers from 0 to 2^63 - 1. Returns (B,), float64, multiples of 2^-53.
    """
    bits: Array = np.zeros(len(seed), np.uint64)
    for numbers in (seed, choice, position):
        bits = _splitmix64(bits ^ np.asarray(numbers, dtype=np.uint64))
    numbers_in_unit: Array = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers_in_unit


def _splitmix64(bits: Array) -> Array:
    """On uint64, whose products wrap."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = bits ^ (bits >> np.uint64(31))
    return mixed
