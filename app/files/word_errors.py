"""Word errors of n-best lists: what the weights of rescoring are tuned on."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from numpy.typing import NDArray

from app.files.lines import InputError
from app.files.nbest import NBestList
from models.text.words import words_in

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NBest:
    """N-best lists of U utterances, at most N hypotheses each; shorter lists are padded. All arrays are (U, N).

    scores: the recogniser's, -inf where padded, so that padding is never chosen. logprobs: the language model's, in
    nats. words, errors: number of words and of word errors of each hypothesis. reference_words: (U,).
    """

    scores: Floats
    logprobs: Floats
    words: Ints
    errors: Ints
    reference_words: Ints

    def of(self, rows: NDArray[np.bool_]) -> "NBest":
        """Some of the utterances."""
        return NBest(
            self.scores[rows], self.logprobs[rows], self.words[rows], self.errors[rows], self.reference_words[rows]
        )

    def chosen(self, weight: float, length_weight: float) -> Ints:
        """(U,): place of the best hypothesis; the first among equals."""
        totals: Floats = self.scores + weight * self.logprobs + length_weight * self.words
        chosen: Ints = totals.argmax(axis=1)
        return chosen

    def errors_at(self, weight: float, length_weight: float) -> int:
        """Word errors with these weights."""
        return int(self._errors_of(self.chosen(weight, length_weight)))

    def rate(self, errors: int) -> float:
        """Word error rate: errors divided by the number of words of the references."""
        return errors / max(1, int(self.reference_words.sum()))

    @property
    def first_errors(self) -> int:
        """Word errors of the first hypotheses."""
        return int(self.errors[:, 0].sum())

    @property
    def oracle_errors(self) -> int:
        """Word errors of the hypotheses with the fewest."""
        return int(np.where(np.isfinite(self.scores), self.errors, np.iinfo(np.int64).max).min(axis=1).sum())

    def _errors_of(self, chosen: Ints) -> int:
        return int(np.take_along_axis(self.errors, chosen[:, None], axis=1).sum())


def word_errors(reference: str, hypothesis: str) -> int:
    """Number of substitutions, deletions and insertions of words."""
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions


def nbest_lists(
    scores: Sequence[Sequence[float]],
    logprobs: Sequence[Sequence[float]],
    words: Sequence[Sequence[int]],
    errors: Sequence[Sequence[int]],
    reference_words: Sequence[int],
) -> NBest:
    """Lists of any lengths, at least one hypothesis each."""
    shape = len(scores), max(map(len, scores), default=1)
    filled = NBest(
        np.full(shape, -np.inf),
        np.zeros(shape),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.array(reference_words, np.int64),
    )
    for row in range(len(scores)):
        for array, values in (
            (filled.scores, scores[row]),
            (filled.logprobs, logprobs[row]),
            (filled.words, words[row]),
            (filled.errors, errors[row]),
        ):
            array[row, : len(values)] = values
    return filled


class WordErrors:
    """Collects what word error rates are made of: a few numbers of each hypothesis, not its text."""

    def __init__(self) -> None:
        self._rows: list[tuple[list[float], list[float], list[int], list[int], int]] = []
        self._missing = False

    def add(self, nbest: NBestList, logprobs: list[float]) -> None:
        if nbest.reference is None:
            self._missing = True
            return
        words = [len(words_in(text)) for text in nbest.texts]
        errors = [word_errors(nbest.reference, text) for text in nbest.texts]
        self._rows.append((nbest.scores, logprobs, words, errors, len(words_in(nbest.reference))))

    @property
    def complete(self) -> bool:
        """Whether at least one list came, and every list had a reference."""
        return bool(self._rows) and not self._missing

    def nbest(self, wanted_by: str) -> NBest:
        """wanted_by: the option that needs the references. Raises `InputError` when a list has none."""
        if not self.complete:
            raise InputError(
                f"{wanted_by}: every list needs a reference, the text that was really said; name its field with "
                "--reference-field"
            )
        scores, logprobs, words, errors, lengths = zip(*self._rows, strict=True)
        return nbest_lists(scores, logprobs, words, errors, lengths)
