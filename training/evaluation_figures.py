"""The figures of an evaluation in one list: what each is, its name in JSON, and how tables and cards show it.

A new figure is an entry of `FIGURES`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from models.decoding.scoring import bits_per_character, perplexity
from models.text.levels import LEVELS, Level

Row = Mapping[str, Any]
"""Figures by name: the JSON of an evaluation, or a row of a card."""


@dataclass(frozen=True)
class Totals:
    """Sums over a text, of which all figures are made.

    logprob: nats, over all predicted tokens. tokens: predicted, every `<eos>` included. sentences: predicted `<eos>`.
    words: whitespace-separated words of the text. characters: code points of the text (reset `line`: without line
    ends). oov: predicted `<unk>`; oov_logprob: their share of logprob. spelling_logprob: of the spellings of the words
    that they stand for; NaN where no speller can spell them.
    """

    logprob: float = 0.0
    tokens: int = 0
    sentences: int = 0
    words: int = 0
    characters: int = 0
    oov: int = 0
    oov_logprob: float = 0.0
    spelling_logprob: float = 0.0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def comparable_logprob(self) -> float:
        """The open total, which charges an unknown word its spelling too, so that models with different vocabularies
        compare; the closed total where no speller can spell."""
        return self.logprob if math.isnan(self.spelling_logprob) else self.logprob + self.spelling_logprob

    @property
    def unk_spelling(self) -> float | None:
        """Mean nats of the spelling of an unknown word; None where there is none, or no speller."""
        return self.spelling_logprob / self.oov if self.oov and math.isfinite(self.spelling_logprob) else None

    def to_json(self) -> dict[str, Any]:
        """Every figure by name; null where it does not exist."""
        values = {figure.name: figure.value(self) for figure in FIGURES if figure.value}
        return {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}


def number(value: float | None, digits: int) -> str:
    """A figure as text: a dash where it does not exist, powers of ten where it is huge, as per word without spaces."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if value < 1e6 else f"{value:.2e}"


@dataclass(frozen=True)
class Figure:
    """One figure.

    name: its key in JSON. value: what it is, of the sums over a text; None: it is put into a card by other means.
    title: its column on the terminal and card_title: its column on a card; None: not shown there. digits: after the
    point, on a card. show: how a row's value is written, if not as a number. note: what a card says of it.
    """

    name: str
    value: Callable[[Totals], float | None] | None
    title: str | None = None
    card_title: str | None = None
    digits: int = 4
    show: Callable[[Row], str] | None = None
    note: str = ""

    def text(self, row: Row, digits: int) -> str:
        """How a row's value is written."""
        return self.show(row) if self.show else number(row.get(self.name), digits)


def _ngram(row: Row) -> str:
    if row.get("ngram_perplexity") is None:
        return number(None, 2)
    return f"{number(row['ngram_perplexity'], 2)} ({row['ngram_order']}-gram)"


def _per_character(logprob: float, totals: Totals) -> float | None:
    return bits_per_character(logprob, totals.characters)


FIGURES: Sequence[Figure] = (
    Figure("logprob", lambda t: t.logprob),
    Figure("sentences", lambda t: t.sentences),
    Figure("words", lambda t: t.words),
    Figure("characters", lambda t: t.characters),
    Figure("oov", lambda t: t.oov),
    Figure("logprob_without_oov", lambda t: t.logprob - t.oov_logprob),
    Figure(
        "perplexity",
        lambda t: perplexity(t.logprob, t.tokens),
        "perplexity/token",
        "perplexity per token",
        2,
        note="Perplexity per token: exp(nats / predicted tokens), `<eos>` and `<unk>` included.",
    ),
    Figure(
        "perplexity_per_word",
        lambda t: perplexity(t.logprob, t.words + t.sentences),
        "perplexity/word",
        "perplexity per word",
        2,
        note="Perplexity per word: exp(nats / (whitespace-separated words + predicted `<eos>`)), the divisor of "
        "`POST /score` and KenLM.",
    ),
    Figure(
        "bits_per_character",
        lambda t: _per_character(t.comparable_logprob, t),
        "bits/character",
        "bits per character",
        note="Bits per character: nats / (ln 2 × code points of the text); an unknown word is charged its spelling, "
        "too, by the checkpoint's speller, where it has one.",
    ),
    Figure(
        "bits_per_character_closed",
        lambda t: _per_character(t.logprob, t),
        "closed",
        "closed bits per character",
        note="Closed: an `<unk>` is charged as the symbol alone.",
    ),
    Figure(
        "nats_per_character",
        lambda t: -t.logprob / t.characters if t.characters else None,
        "nats/character",
        "nats per character",
        note="Nats per character are closed too.",
    ),
    Figure(
        "ngram_perplexity",
        None,
        None,
        "n-grams: perplexity per token",
        show=_ngram,
        note="N-grams: an n-gram model of the training text with interpolated modified Kneser-Ney smoothing, on the "
        "same tokens (`train` counts at most 16 million tokens, `ngram` all).",
    ),
    Figure("tokens", lambda t: t.tokens, "tokens", "predicted tokens", show=lambda row: f"{row['tokens']:,}"),
    Figure(
        "oov_rate",
        lambda t: t.oov / t.tokens if t.tokens else None,
        "unknown",
        "unknown",
        show=lambda row: f"{row['oov_rate'] or 0:.2%}",
    ),
)
"""In the order of columns."""


def shown_at(level: Level, figures: Sequence[Figure] = FIGURES) -> list[Figure]:
    """The figures that say something of a model of this level: a model of characters has no word as its unit."""
    hidden = {"perplexity_per_word"} if LEVELS[level].is_characters else set[str]()
    return [figure for figure in figures if figure.name not in hidden]


def current(row: Row) -> dict[str, Any]:
    """A row of a card with today's names. Older cards had the closed total under `bits_per_character`, and the open
    one under `open_bits_per_character`."""
    if "open_bits_per_character" not in row and "bits_per_character_closed" in row:
        return dict(row)
    closed, opened = row.get("bits_per_character"), row.get("open_bits_per_character")
    kept = {name: value for name, value in row.items() if name != "open_bits_per_character"}
    return kept | {"bits_per_character": closed if opened is None else opened, "bits_per_character_closed": closed}
