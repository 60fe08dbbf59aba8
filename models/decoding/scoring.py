"""How probable a text is: the figures made of log-probabilities of tokens. No network, no HTTP, no files.

Every figure is a pure function of natural-log probabilities and counts; units ride in the names.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.arrays import Array

BLOCK_ELEMENTS = 1 << 22
"""Logits held at once while scoring."""


@np.errstate(all="ignore")
def log_softmax(logits: Array) -> Array:
    """Log-probabilities, in nats, of all tokens: (N, V) -> (N, V), in the type of the logits.

    Each row is a function of itself alone: sums are of one row each, in double precision. NaN, where a state from
    outside has made the network overflow, stays NaN.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    totals = np.exp(shifted).astype(np.float64).sum(axis=1, keepdims=True)
    return shifted - np.log(totals).astype(logits.dtype)  # type: ignore[no-any-return]


def likeliest(values: Array, count: int) -> Array:
    """Places of the `count` largest of values, (V,), the largest first, the lower place first among equals."""
    count = min(count, len(values))
    if not count:
        return np.empty(0, np.int64)
    least = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= least)
    return places[np.argsort(-values[places], kind="stable")[:count]]


def best_total(logprob: float, logprob_open: float | None) -> float:
    """The total by which texts are compared, in nats: with the spelling of unknown words where a model can spell."""
    return logprob if logprob_open is None else logprob_open


def perplexity(logprob: float, tokens: int) -> float | None:
    """exp(-logprob / tokens); None over no tokens, infinity where a float cannot hold it."""
    if tokens == 0:
        return None
    mean_nats = -logprob / tokens
    return math.exp(mean_nats) if mean_nats < 700 else math.inf


def bits_per_character(logprob: float, characters: int) -> float | None:
    """-logprob / (ln 2 * characters); None over no characters."""
    return -logprob / (math.log(2) * characters) if characters else None


class TokenScore(NamedTuple):
    """One token under the model's own distribution: temperature 1, before any filter.

    rank: 1 is the likeliest; equals share the best rank. top: (token id, logprob) of the likeliest tokens, best first.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


def score_targets(logits: Array, targets: Sequence[int], top: int = 0) -> list[TokenScore]:
    """Scores of one target for each row of logits. logits: (N, V), float32."""
    logprobs = log_softmax(logits)
    chosen = logprobs[np.arange(len(targets)), targets]
    ranks = (logprobs > chosen[:, None]).sum(axis=1) + 1
    best = [likeliest(row, top) for row in logprobs]
    return [
        TokenScore(target, logprob, rank, tuple(zip(ids.tolist(), row[ids].tolist(), strict=True)))
        for target, logprob, rank, ids, row in zip(
            targets, chosen.tolist(), ranks.tolist(), best, logprobs, strict=True
        )
    ]


def started(token_ids: Sequence[int], eos_id: int) -> list[int]:
    """Tokens after the start symbol, `<eos>`: a boundary that they begin with is that symbol."""
    return list(token_ids) if token_ids and token_ids[0] == eos_id else [eos_id, *token_ids]


def scoring_plan(token_ids: Sequence[int], eos_id: int, bos: bool, eos: bool) -> tuple[list[int], list[int | None]]:
    """What the network consumes to score a text, and what is predicted on the way.

    Returns (inputs, targets) with len(targets) = len(inputs) + 1: targets[k] is predicted after k inputs; None is not
    scored. As in KenLM, `bos` says that the text starts a sentence, `eos` that its end is predicted. For `a b`:

        bos, eos      inputs  <eos> a b      targets  None a b <eos>
        bos only      inputs  <eos> a b      targets  None a b None
        eos only      inputs  a b            targets  None b <eos>       the first token only conditions
        neither       inputs  a b            targets  None b None
    """
    inputs = started(token_ids, eos_id) if bos else list(token_ids)
    if not inputs:
        return [], [None]
    return inputs, [None, *inputs[1:], eos_id if eos else None]
