"""Weights of a language model in rescoring, tuned for the fewest word errors. Arrays only: no model, no files."""

import numpy as np

from app.files.word_errors import Floats, NBest

WEIGHTS = (0.0, *(0.02 * 1.25**step for step in range(33)))
"""Weights of the language model that are tried: up to 25, for scores that are not log-probabilities."""
PER_WORD = tuple(float(value) for value in range(-12, 13))
"""Nats per word that are tried: they make up for the log-probability that each word costs."""
FINE_STEPS = 17
"""Values of each weight that are tried between the neighbours of the best."""


def tune(lists: NBest) -> tuple[float, float]:
    """(weight, length_weight) with the fewest word errors: over a coarse grid, then over a fine grid at its best point.

    The grids are of `weight` and of `length_weight / weight`. Few utterances decide between neighbours, so an error
    count is smoothed with those around it before the best is chosen; among equals the smaller weight wins.
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
    """Places of the best pair in `weights` and `per_word`."""
    shape = len(weights), len(per_word)
    counts = np.array([[lists.errors_at(a, a * b) for b in per_word] for a in weights], np.float64)
    padded = np.pad(counts, 1, mode="edge")
    smooth = counts + sum(padded[i : i + shape[0], j : j + shape[1]] for i in range(3) for j in range(3))
    # The keys from the last to the first: errors, then the weight, then the nats per word.
    order = np.lexsort((np.tile(np.abs(per_word), shape[0]), np.repeat(weights, shape[1]), smooth.ravel()))
    i, j = divmod(int(order[0]), shape[1])
    return i, j
