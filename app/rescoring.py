"""Weights of a language model in rescoring, chosen to make the fewest word errors. Arrays only: no model, no files."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COARSE_STEPS, FINE_STEPS = 33, 17
"""Values of each weight that are tried over their whole range, and then around the best."""

WEIGHTS = (0.0, 2.0)
LENGTH_WEIGHTS = (-2.0, 6.0)


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

    Few utterances decide between neighbours, so an error count is smoothed with those around it before the best is
    chosen; of equals the smaller weights win.
    """
    ranges = (WEIGHTS, LENGTH_WEIGHTS)
    best, step = _best_of_grid(lists, ranges, COARSE_STEPS)
    around = tuple((value - width, value + width) for value, width in zip(best, step, strict=True))
    around = tuple((max(a, low), min(b, high)) for (a, b), (low, high) in zip(around, ranges, strict=True))
    best, _ = _best_of_grid(lists, (around[0], around[1]), FINE_STEPS)
    return best


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


def _best_of_grid(
    lists: NBest, ranges: tuple[tuple[float, float], tuple[float, float]], steps: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The best pair, and the distance of neighbours."""
    axes = [np.linspace(low, high, steps) for low, high in ranges]
    counts = np.array([[lists.errors_at(a, b) for b in axes[1]] for a in axes[0]], np.float64)
    padded = np.pad(counts, 1, mode="edge")
    smooth = sum(padded[i : i + steps, j : j + steps] for i in range(3) for j in range(3)) + counts
    order = np.lexsort((np.abs(axes[1])[None, :].repeat(steps, 0).ravel(), axes[0].repeat(steps), np.ravel(smooth)))
    a, b = divmod(int(order[0]), steps)
    return (float(axes[0][a]), float(axes[1][b])), (float(axes[0][1] - axes[0][0]), float(axes[1][1] - axes[1][0]))
