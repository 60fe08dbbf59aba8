"""How well a checkpoint predicts a text: exact, in float32, over every token. No printing, no files.

A text can be read in two ways, which give different figures:

- `never`: each file is one stream. It starts from the zero state and `<eos>`, the state is carried to the end, and
  every token is predicted, the `<eos>` of every boundary included: how well the model reads on.
- `line`: each line, an empty one too, is scored on its own, from `<eos>` to `<eos>`, as `POST /score` scores a text
  with `bos` and `eos`: how well the model judges sentences.

Neither depends on how files or lines are batched, beyond the rounding of float32 sums.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from models.decoding.reference import score_sequences, token_logprobs
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from models.text.words import words_in
from models.words.speller import Speller
from training.data.tokens import TokenizedText, tokenize
from training.evaluation_figures import Totals
from training.progress import Advance, ignore

Reset = Literal["never", "line"]

WINDOW = 128
"""Tokens of a stream between two calls of `on_tokens`; the state is carried over."""
BATCH_TOKENS = 1 << 14
BATCH_ROWS = 256


def evaluate_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    reset: Reset,
    on_tokens: Advance = ignore,
    speller: Speller | None = None,
) -> Totals:
    """The sums over all texts together. on_tokens: called with the tokens scored since the last call."""
    if reset == "line":
        lines = [line for text in texts for line in lines_of(text)]
        totals = evaluate_lines(model, tokenizer, lines, on_tokens)
        return spelled(totals, tokenize(texts, tokenizer), speller)
    tokenized = tokenize(texts, tokenizer)
    return spelled(evaluate_documents(model, tokenized, tokenizer, on_tokens), tokenized, speller)


def spelled(totals: Totals, text: TokenizedText, speller: Speller | None) -> Totals:
    """The sums with the spellings of the text's unknown words, NaN where these cannot be spelled."""
    unknown = text.unknown
    known = totals.oov == 0 or (speller is not None and not text.forgotten)
    logprobs = speller.logprobs(list(unknown)) if speller and unknown else []
    total = math.fsum(count * logprob for count, logprob in zip(unknown.values(), logprobs, strict=False))
    return replace(totals, spelling_logprob=total if known else math.nan)


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    return text.removesuffix("\n").split("\n")


def evaluate_lines(
    model: LanguageModel, tokenizer: Tokenizer, lines: Sequence[str], on_tokens: Advance = ignore
) -> Totals:
    """Each line from `<eos>` to `<eos>`, from the zero state."""
    encoded = (torch.tensor([tokenizer.eos_id, *tokenizer.encode(line).ids, tokenizer.eos_id]) for line in lines)
    total = Totals(words=sum(len(words_in(line)) for line in lines), characters=sum(map(len, lines)))
    for batch in _batches(sorted(encoded, key=len)):
        targets = torch.cat([ids[1:] for ids in batch])
        logprobs = torch.cat(score_sequences(model, [ids[:-1] for ids in batch], [ids[1:] for ids in batch]))
        total += _count(logprobs, targets, tokenizer)
        on_tokens(len(targets))
    return total


def _batches(sequences: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Batches of sequences that are sorted by length, so that little is padding."""
    batch: list[Tensor] = []
    for ids in sequences:
        if batch and (len(batch) >= BATCH_ROWS or (len(batch) + 1) * len(ids) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


@torch.inference_mode()
def evaluate_documents(
    model: LanguageModel, text: TokenizedText, tokenizer: Tokenizer, on_tokens: Advance = ignore
) -> Totals:
    """Each document as one stream, several side by side. The longest is the first row, so that the rows which are not
    yet at their end are the first ones."""
    total = Totals(words=text.words, characters=text.characters)
    documents = sorted(text.documents(), key=len, reverse=True)
    for first in range(0, len(documents), BATCH_ROWS):
        rows = documents[first : first + BATCH_ROWS]
        state = model.config.state_layout.zeros(len(rows))
        for start in range(0, len(rows[0]), WINDOW):
            alive = [ids for ids in rows if len(ids) > start]
            inputs, targets, real = _window(alive, start, tokenizer.eos_id)
            features, state = model.features(inputs, state[: len(alive)])
            total += _count(token_logprobs(model, features[real], targets[real]), targets[real], tokenizer)
            on_tokens(int(real.sum()))
    return total


def _window(documents: Sequence[Tensor], start: int, eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets, and which of them are not padding, (B, T) each, of the window that begins at token `start`.

    inputs    <eos> a b c | d e f          the window's first input is the token before its first target
    targets     a   b c d | e f <eos>
    """
    length = min(WINDOW, len(documents[0]) - start)
    stream = torch.full((len(documents), length + 1), eos_id)
    lengths = torch.tensor([len(ids) - start for ids in documents])
    for row, ids in enumerate(documents):
        piece = ids[max(0, start - 1) : start + length]
        skip = 0 if start else 1
        stream[row, skip : skip + len(piece)] = piece
    return stream[:, :-1], stream[:, 1:], torch.arange(length) < lengths[:, None]


def _count(logprobs: Tensor, targets: Tensor, tokenizer: Tokenizer) -> Totals:
    unknown = targets == tokenizer.unk_id
    return Totals(
        logprob=logprobs.double().sum().item(),
        tokens=len(targets),
        sentences=int((targets == tokenizer.eos_id).sum()),
        oov=int(unknown.sum()),
        oov_logprob=logprobs[unknown].double().sum().item(),
    )
