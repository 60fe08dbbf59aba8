"""Weights of a language model in rescoring, chosen to make the fewest word errors. Arrays only: no model, no files."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WEIGHTS = (0.0, *(0.02 * 1.25**step for step in range(33)))
"""Of the language model, that are tried: up to 25, for scores that are no log-probabilities."""
PER_WORD = tuple(float(value) for value in range(-12, 13))
"""What is added to the model's log-probability for each word, which costs some nats."""
FINE_STEPS = 17
"""Values of each that are tried between the neighbours of the best."""


@dataclass(frozen=True)
class NBest:
    """N-best lists of U utterances, shorter ones filled up with what is never chosen. All (U, N).

    scores: the recogniser's, -inf where there is nothing. logprobs: the language model's. words: of each hypothesis.
    errors: its word errors. reference_words: (U,).
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
        """(U,): the place of the best hypothesis; of equals the first."""
        totals: Floats = self.scores + weight * self.logprobs + length_weight * self.words
        chosen: Ints = totals.argmax(axis=1)
        return chosen

    def errors_at(self, weight: float, length_weight: float) -> int:
        """Word errors with these weights."""
        return int(self._errors_of(self.chosen(weight, length_weight)))

    def rate(self, errors: int) -> float:
        """Word error rate: errors by words of the references."""
        return errors / max(1, int(self.reference_words.sum()))

    @property
    def first_errors(self) -> int:
        """When the first hypothesis is taken."""
        return int(self.errors[:, 0].sum())

    @property
    def oracle_errors(self) -> int:
        """When the best there is is taken."""
        return int(np.where(np.isfinite(self.scores), self.errors, np.iinfo(np.int64).max).min(axis=1).sum())

    def _errors_of(self, chosen: Ints) -> int:
        return int(np.take_along_axis(self.errors, chosen[:, None], axis=1).sum())


def word_errors(reference: str, hypothesis: str) -> int:
    """Substitutions, deletions and insertions of words."""
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


def tune(lists: NBest) -> tuple[float, float]:
    """(weight, length_weight) with the fewest word errors: over a coarse grid, then over a fine one around its best.

    The grids are of `weight` and of `length_weight / weight`. Few utterances decide between neighbours, so an error
    count is smoothed with those around it before the best is chosen; of equals the smaller weight wins.
    """
    best = _best_of_grid(lists, np.array(WEIGHTS), np.array(PER_WORD))
    axes = []
    for axis, place in zip((WEIGHTS, PER_WORD), best, strict=True):
        axes.append(np.linspace(axis[max(0, place - 1)], axis[min(len(axis) - 1, place + 1)], FINE_STEPS))
    i, j = _best_of_grid(lists, *axes)
    weight, per_word = float(axes[0][i]), float(axes[1][j])
    return weight, weight * per_word


def cross_validate(lists: NBest, folds: int) -> tuple[int, list[tuple[float, float]]]:
    """(word errors, the weights of each fold): every utterance chosen with weights tuned on those of other folds.

    Utterance i belongs to fold i * folds // U: neighbours, often of one speaker, are not divided.
    """
    fold_of = np.arange(len(lists.scores)) * folds // max(1, len(lists.scores))
    errors, weights = 0, []
    for fold in range(folds):
        weights.append(tune(lists.of(fold_of != fold)))
        errors += lists.of(fold_of == fold).errors_at(*weights[-1])
    return errors, weights


def _best_of_grid(lists: NBest, weights: Floats, per_word: Floats) -> tuple[int, int]:
    """Places of the best pair."""
    shape = len(weights), len(per_word)
    counts = np.array([[lists.errors_at(a, a * b) for b in per_word] for a in weights], np.float64)
    padded = np.pad(counts, 1, mode="edge")
    smooth = counts + sum(padded[i : i + shape[0], j : j + shape[1]] for i in range(3) for j in range(3))
    # The keys from the last to the first: errors, then the weight, then what is added for a word.
    order = np.lexsort((np.tile(np.abs(per_word), shape[0]), np.repeat(weights, shape[1]), smooth.ravel()))
    i, j = divmod(int(order[0]), shape[1])
    return i, j
