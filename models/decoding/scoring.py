"""How probable a text is: log-probabilities of tokens, and the figures made of them. No HTTP, no files.

Every figure is a pure function of natural-log probabilities and counts; units ride in the names.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.network import LanguageModel

BLOCK_ELEMENTS = 1 << 22
"""Logits held at once while scoring."""


def token_logprobs(model: LanguageModel, features: Tensor, targets: Tensor) -> Tensor:
    """Log-probability, in nats, of each target token.

    features: (N, P). targets: (N,), int64; targets[i] is the token that features[i] predict.
    Returns (N,), float32, every entry <= 0. The (N, V) logits are made in blocks of rows.
    """
    rows = max(1, BLOCK_ELEMENTS // model.config.vocabulary_size)
    parts = []
    for start in range(0, len(targets), rows):
        logits = model.logits(features[start : start + rows]).float()
        chosen = logits.gather(1, targets[start : start + rows, None]).squeeze(1)
        parts.append(chosen - logits.logsumexp(dim=1))
    return torch.cat(parts) if parts else torch.zeros(0)


@torch.inference_mode()
def score_sequences(
    model: LanguageModel, inputs: Sequence[Tensor], targets: Sequence[Tensor], window: int = 256
) -> list[Tensor]:
    """Log-probabilities of whole sequences, each from the zero state; shorter ones ride along padded.

    inputs[i], targets[i]: (T_i,), int64: token t of targets is predicted from tokens 0 … t of inputs.
    Returns (T_i,) float32 each, in the order given.
    """
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    results = [torch.zeros(0)] * len(inputs)
    if not order:
        return results
    lengths = torch.tensor([len(inputs[i]) for i in order])
    padded_inputs = pad_sequence([inputs[i] for i in order], batch_first=True)  # (B, T)
    padded_targets = pad_sequence([targets[i] for i in order], batch_first=True)
    device = model.output.weight.device
    scores = torch.zeros(padded_inputs.shape)
    state = model.config.state_layout.zeros(len(order), device)
    for start in range(0, padded_inputs.shape[1], window):
        alive = int((lengths > start).sum())  # longest first: the rows still alive are the first ones
        chunk = padded_inputs[:alive, start : start + window]
        features, state = model.features(chunk.to(device), state[:alive])
        real = start + torch.arange(chunk.shape[1]) < lengths[:alive, None]  # (B, T): not padding
        target = padded_targets[:alive, start : start + window][real]
        scores[:alive, start : start + window][real] = token_logprobs(model, features[real], target.to(device)).cpu()
    for row, i in enumerate(order):
        results[i] = scores[row, : lengths[row]]
    return results


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


def score_targets(logits: Tensor, targets: Sequence[int], top: int = 0) -> list[TokenScore]:
    """Scores of one target for each row of logits. logits: (N, V)."""
    ids = torch.tensor(targets, device=logits.device)[:, None]
    logprobs = torch.log_softmax(logits.float(), dim=1)
    chosen = logprobs.gather(1, ids)
    ranks = (logprobs > chosen).sum(dim=1) + 1
    if not top:
        return [TokenScore(*row) for row in zip(targets, chosen[:, 0].tolist(), ranks.tolist(), strict=True)]
    best = logprobs.topk(min(top, logprobs.shape[1]), dim=1)
    pairs = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [TokenScore(*row) for row in zip(targets, chosen[:, 0].tolist(), ranks.tolist(), pairs, strict=True)]


def scoring_plan(token_ids: Sequence[int], eos_id: int, bos: bool, eos: bool) -> tuple[list[int], list[int | None]]:
    """What the network consumes to score a text, and what is predicted on the way.

    Returns (inputs, targets) with len(targets) = len(inputs) + 1: targets[k] is predicted after k inputs; None is not
    scored. As in KenLM, `bos` says that the text starts a sentence, `eos` that its end is predicted. For `a b`:

        bos, eos      inputs  <eos> a b      targets  None a b <eos>
        bos only      inputs  <eos> a b      targets  None a b None
        eos only      inputs  a b            targets  None b <eos>       the first token only conditions
        neither       inputs  a b            targets  None b None
    """
    inputs = [eos_id, *token_ids] if bos else list(token_ids)
    if not inputs:
        return [], [None]
    return inputs, [None, *inputs[1:], eos_id if eos else None]
