"""What a text is made of: tokens, types, how many are unknown at a given vocabulary, and Zipf's law. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.documents.text import Document, pieces
from models.text.levels import EOS, Level
from models.text.tokenizer import Boundary, Tokenizer
from training.data.corpus import hold_out
from training.data.tokens import tokenize

VOCABULARY_SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)

HELD_OUT = 0.1
"""Share of the text whose unknown tokens are counted, given a vocabulary from the rest."""


@dataclass(frozen=True)
class Statistics:
    """Figures of a text; `<eos>` is not counted among tokens and types.

    hapaxes: types seen once. oov_rates: vocabulary size -> share of unknown tokens in the held-out tenth, with the
    vocabulary made of the other nine tenths. line_length: characters, mean over lines that are not empty.
    zipf_exponent, zipf_constant: frequency = constant * rank ** -exponent, fitted to the logarithms.
    """

    level: Level
    characters: int
    words: int
    lines: int
    line_length: float
    tokens: int
    types: int
    hapaxes: int
    oov_rates: dict[int, float]
    zipf_exponent: float
    zipf_constant: float
    commonest: list[tuple[str, int]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(documents: Sequence[str], level: Level, boundary: Boundary = "line") -> tuple[Statistics, list[int]]:
    """The figures, and the frequency of every type in descending order. Raises `CorpusError` on very short texts."""
    counts, tokenizer = count_types(documents, level, boundary)
    frequencies = sorted(counts.values(), reverse=True)
    exponent, constant = fit_zipf(frequencies)
    lines = [line for text in documents for line in text.split("\n") if line.strip()]
    statistics = Statistics(
        level=level,
        characters=sum(map(len, documents)),
        words=sum(len(text.split()) for text in documents),
        lines=len(lines),
        line_length=sum(map(len, lines)) / max(1, len(lines)),
        tokens=sum(frequencies),
        types=len(frequencies),
        hapaxes=sum(frequency == 1 for frequency in frequencies),
        oov_rates=oov_rates(documents, level, boundary),
        zipf_exponent=exponent,
        zipf_constant=constant,
        commonest=[(tokenizer.tokens[token_id], count) for token_id, count in counts.most_common(20)],
    )
    return statistics, frequencies


def count_types(documents: Sequence[Document], level: Level, boundary: Boundary) -> tuple[Counter[int], Tokenizer]:
    """How often each token id occurs, with every type in the vocabulary."""
    texts = (piece for document in documents for piece in pieces(document))
    tokenizer = Tokenizer.train(texts, level, boundary)
    ids, counts = np.unique(tokenize(documents, tokenizer).ids.numpy(), return_counts=True)
    counter = Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    del counter[tokenizer.vocabulary[EOS]]
    return counter, tokenizer


def oov_rates(documents: Sequence[str], level: Level, boundary: Boundary) -> dict[int, float]:
    """Share of unknown tokens in a held-out tenth by vocabulary size, up to the whole vocabulary of the rest."""
    rest, held_out = hold_out(list(documents), HELD_OUT)
    counts, tokenizer = count_types(rest, level, boundary)
    ranks = {token_id: rank for rank, (token_id, _) in enumerate(counts.most_common())}
    ids = [i for i in tokenize(held_out, tokenizer).ids.tolist() if i != tokenizer.eos_id]
    held_ranks = np.array([ranks.get(i, len(ranks)) for i in ids])
    sizes = [size for size in VOCABULARY_SIZES if size < len(ranks)] + [len(ranks)]
    return {size: float((held_ranks >= size).mean()) if len(ids) else 0.0 for size in sizes}


def fit_zipf(frequencies: Sequence[int]) -> tuple[float, float]:
    """(exponent, constant) of frequency = constant * rank ** -exponent, by least squares on the logarithms.

    frequencies: descending. The ranks that are fitted are evenly spread on the logarithmic axis, so that the long tail
    of rare types does not outvote the rest; types seen once are a plateau, and are left out.
    """
    usable = sum(frequency > 1 for frequency in frequencies)
    if usable < 2:
        return 0.0, float(frequencies[0]) if frequencies else 0.0
    ranks = np.unique(np.geomspace(1, usable, 100).round().astype(int))
    slope, intercept = np.polyfit(np.log(ranks), np.log(np.array(frequencies)[ranks - 1]), 1)
    return -float(slope), float(np.exp(intercept))
