"""Word errors, and how weights are tuned on them."""

import numpy as np
import pytest

from app.files.tuning import cross_validate, tune
from app.files.word_errors import nbest_lists, word_errors


class TestWeights:
    def test_word_errors(self) -> None:
        assert word_errors("a b c", "a x c d") == 2
        assert word_errors("", "a b") == 2
        assert word_errors("a", "") == 1

    def test_tuning_finds_the_weight_that_made_the_lists(self) -> None:
        generator = np.random.default_rng(1)
        scores, logprobs = generator.normal(size=(2, 400, 8))
        words = generator.integers(3, 12, size=(400, 8))
        best = (scores + 0.6 * logprobs + 0.5 * words).argmax(axis=1)
        errors = np.ones((400, 8), np.int64)
        errors[np.arange(400), best] = 0
        lists = nbest_lists(scores.tolist(), logprobs.tolist(), words.tolist(), errors.tolist(), [10] * 400)
        weight, length_weight = tune(lists)
        assert weight == pytest.approx(0.6, abs=0.15)
        assert length_weight == pytest.approx(0.5, abs=0.15)
        assert lists.errors_at(weight, length_weight) < 40 < lists.first_errors
        assert lists.oracle_errors == 0
        assert cross_validate(lists, 2)[0] < 60

    def test_lists_of_different_lengths(self) -> None:
        lists = nbest_lists([[-1.0], [-2.0, -3.0]], [[0.0], [-9.0, -1.0]], [[1], [1, 1]], [[2], [1, 0]], [3, 3])
        assert lists.chosen(0.0, 6.0).tolist() == [0, 0]
        assert lists.errors_at(1.0, 0.0) == 2
        assert lists.oracle_errors == 2
        assert lists.rate(lists.first_errors) == 0.5

    def test_a_model_that_says_nothing_is_given_no_weight(self) -> None:
        lists = nbest_lists([[-1.0, -2.0]] * 9, [[-5.0, -5.0]] * 9, [[2, 2]] * 9, [[0, 1]] * 9, [2] * 9)
        assert tune(lists) == (0.0, 0.0)
