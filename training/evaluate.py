"""How well a checkpoint predicts a text: exact, in float32, over every token. Pure figures; no printing, no files.

Two ways to read a text, which give different figures and are both wanted:

- `never`: each file is one stream. It starts from the zero state and `<eos>`, the state is carried to the end, and
  every token is predicted, the `<eos>` of every boundary included: how well the model reads on.
- `line`: each line, an empty one too, is scored on its own, from `<eos>` to `<eos>`, as `POST /score` scores a text
  with `bos` and `eos`: how well the model judges sentences.

Neither depends on how files or lines are batched, beyond the rounding of float32 sums.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from models.decoding.reference import score_sequences, token_logprobs
from models.decoding.scoring import bits_per_character, perplexity
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from models.words.speller import Speller
from training.data.tokens import Split, tokenize

Reset = Literal["never", "line"]

WINDOW = 128
"""Tokens of a stream between two calls of `on_tokens`; the state is carried over."""
BATCH_TOKENS = 1 << 14
BATCH_ROWS = 256


@dataclass(frozen=True)
class Figures:
    """Totals over a text, and the figures made of them.

    logprob: nats, over all predicted tokens. tokens: predicted, every `<eos>` included. sentences: predicted `<eos>`.
    words: whitespace-separated words of the text. characters: code points of the text (reset `line`: without line
    ends). oov: predicted `<unk>`; oov_logprob: their share of logprob. spelling_logprob: of what each of them stands
    for; NaN where nobody can spell it.
    """

    logprob: float = 0.0
    tokens: int = 0
    sentences: int = 0
    words: int = 0
    characters: int = 0
    oov: int = 0
    oov_logprob: float = 0.0
    spelling_logprob: float = 0.0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def perplexity(self) -> float | None:
        """exp(nats / predicted tokens), `<eos>` and `<unk>` included."""
        return perplexity(self.logprob, self.tokens)

    @property
    def perplexity_per_word(self) -> float | None:
        """exp(nats / (words + predicted `<eos>`)), the divisor that `POST /score` and KenLM have."""
        return perplexity(self.logprob, self.words + self.sentences)

    @property
    def bits_per_character(self) -> float | None:
        """nats / (ln 2 * characters). An `<unk>` costs what the symbol costs, not what its spelling would."""
        return bits_per_character(self.logprob, self.characters)

    @property
    def open_bits_per_character(self) -> float | None:
        """The same, spellings of unknown words included: comparable between models of words, subwords and
        characters. None where an unknown word has no spelling."""
        total = self.logprob + self.spelling_logprob
        return bits_per_character(total, self.characters) if math.isfinite(total) else None

    @property
    def nats_per_character(self) -> float | None:
        return -self.logprob / self.characters if self.characters else None

    def to_json(self) -> dict[str, Any]:
        """Every figure by name; null where it does not exist."""
        return {
            "logprob": self.logprob,
            "tokens": self.tokens,
            "sentences": self.sentences,
            "words": self.words,
            "characters": self.characters,
            "oov": self.oov,
            "oov_rate": self.oov / self.tokens if self.tokens else None,
            "logprob_without_oov": self.logprob - self.oov_logprob,
            "perplexity": _finite(self.perplexity),
            "perplexity_per_word": _finite(self.perplexity_per_word),
            "bits_per_character": self.bits_per_character,
            "open_bits_per_character": self.open_bits_per_character,
            "nats_per_character": self.nats_per_character,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def ignore(_tokens: int) -> None:
    """Progress that nobody watches."""


def evaluate_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    reset: Reset,
    on_tokens: Callable[[int], None] = ignore,
    speller: Speller | None = None,
) -> Figures:
    """Figures over all texts together. on_tokens: told how many tokens have been scored since the last call."""
    if reset == "line":
        lines = [line for text in texts for line in lines_of(text)]
        figures = evaluate_lines(model, tokenizer, lines, on_tokens)
        return spelled(figures, tokenize(texts, tokenizer), speller)
    split = tokenize(texts, tokenizer)
    return spelled(evaluate_split(model, split, tokenizer, on_tokens), split, speller)


def spelled(figures: Figures, split: Split, speller: Speller | None) -> Figures:
    """Figures that charge the spellings of unknown words."""
    unknown = split.unknown
    known = figures.oov == 0 or (speller is not None and not split.forgotten)
    logprobs = speller.logprobs(list(unknown)) if speller and unknown else []
    total = math.fsum(count * logprob for count, logprob in zip(unknown.values(), logprobs, strict=False))
    return replace(figures, spelling_logprob=total if known else math.nan)


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    return text.removesuffix("\n").split("\n")


def evaluate_lines(
    model: LanguageModel, tokenizer: Tokenizer, lines: Sequence[str], on_tokens: Callable[[int], None] = ignore
) -> Figures:
    """Each line from `<eos>` to `<eos>`, from the zero state."""
    encoded = (torch.tensor([tokenizer.eos_id, *tokenizer.encode(line).ids, tokenizer.eos_id]) for line in lines)
    total = Figures(words=sum(len(line.split()) for line in lines), characters=sum(map(len, lines)))
    for batch in _batches(sorted(encoded, key=len)):
        targets = torch.cat([ids[1:] for ids in batch])
        logprobs = torch.cat(score_sequences(model, [ids[:-1] for ids in batch], [ids[1:] for ids in batch]))
        total += _count(logprobs, targets, tokenizer)
        on_tokens(len(targets))
    return total


def _batches(sequences: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Neighbours of similar length together, shortest first, so that little is padding."""
    batch: list[Tensor] = []
    for ids in sequences:
        if batch and (len(batch) >= BATCH_ROWS or (len(batch) + 1) * len(ids) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


@torch.inference_mode()
def evaluate_split(
    model: LanguageModel, split: Split, tokenizer: Tokenizer, on_tokens: Callable[[int], None] = ignore
) -> Figures:
    """Each document as one stream, several side by side, longest first so that those still going are the first rows."""
    total = Figures(words=split.words, characters=split.characters)
    documents = sorted(split.documents(), key=len, reverse=True)
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
    """Inputs, targets and which of them are real, (B, T) each, of the window that begins at token `start`.

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


def _count(logprobs: Tensor, targets: Tensor, tokenizer: Tokenizer) -> Figures:
    unknown = targets == tokenizer.unk_id
    return Figures(
        logprob=logprobs.double().sum().item(),
        tokens=len(targets),
        sentences=int((targets == tokenizer.eos_id).sum()),
        oov=int(unknown.sum()),
        oov_logprob=logprobs[unknown].double().sum().item(),
    )
