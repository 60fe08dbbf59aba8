"""Log-probabilities and the figures made of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import models.decoding.reference
from models.decoding.reference import score_sequences, token_logprobs
from models.decoding.scoring import (
    TokenScore,
    best_total,
    bits_per_character,
    likeliest,
    log_softmax,
    perplexity,
    score_targets,
    scoring_plan,
)
from models.network import LanguageModel
from tests.tiny import random_ids, tiny_model

HAND = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))


def sequences(*lengths: int) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and targets of the given lengths."""
    ids = [random_ids(length + 1, seed=i) for i, length in enumerate(lengths)]
    return [row[:-1] for row in ids], [row[1:] for row in ids]


def slowly(model: LanguageModel, inputs: Tensor, targets: Tensor) -> Tensor:
    """log_softmax and gather over one whole sequence."""
    if not len(inputs):
        return torch.zeros(0)
    logits: Tensor = model(inputs[None], model.config.state_layout.zeros(1))[0]
    return logits[0].log_softmax(-1).gather(1, targets[:, None])[:, 0]


# Log-probabilities


@pytest.mark.parametrize("block", [1 << 22, 36, 1], ids=["one block", "three rows a block", "a row a block"])
def test_token_logprobs_are_log_softmax_at_the_targets(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.decoding.reference, "BLOCK_ELEMENTS", block)
    model = tiny_model()
    (inputs,), (targets,) = sequences(10)
    features, _ = model.features(inputs[None], model.config.state_layout.zeros(1))
    found = token_logprobs(model, features[0], targets)
    assert_close(found, slowly(model, inputs, targets))
    assert found.dtype == torch.float32
    assert bool((found <= 0).all())


def test_no_targets_have_no_logprobs() -> None:
    assert token_logprobs(tiny_model(), torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_logprobs_of_huge_logits_are_finite() -> None:
    score = score_targets(np.array([[1e5, 0.0, -1e5]], np.float32), [2])[0]
    assert score.logprob == -2e5


@pytest.mark.parametrize("vocabulary_size", [2, 12, 1000])
def test_uniform_logits_give_perplexity_v(vocabulary_size: int) -> None:
    model = tiny_model(vocabulary_size)
    model.output.weight.zero_()
    model.output.bias.fill_(3.0)
    ids = random_ids(50, vocabulary_size=vocabulary_size)
    logprobs = score_sequences(model, [ids[:-1]], [ids[1:]])[0]
    assert perplexity(float(logprobs.double().sum()), len(logprobs)) == pytest.approx(vocabulary_size, rel=1e-5)


# Whole sequences


def test_each_sequence_scores_as_it_does_alone_whatever_its_company() -> None:
    model = tiny_model()
    inputs, targets = sequences(5, 17, 1, 0, 9, 17)
    together = score_sequences(model, inputs, targets)
    assert [len(scores) for scores in together] == [5, 17, 1, 0, 9, 17]
    for row in range(len(inputs)):
        assert_close(together[row], slowly(model, inputs[row], targets[row]))
        assert_close(together[row], score_sequences(model, inputs[row : row + 1], targets[row : row + 1])[0])


def test_order_does_not_matter() -> None:
    inputs, targets = sequences(5, 17, 1, 9)
    forwards = score_sequences(tiny_model(), inputs, targets)
    backwards = score_sequences(tiny_model(), inputs[::-1], targets[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("window", [1, 3, 4, 16, 17, 18])
def test_window_does_not_matter(cell: str, window: int) -> None:
    """Sequences that end inside, at and before the edge of a window, and the state carried over it."""
    model = tiny_model(cell=cell)  # type: ignore[arg-type]
    inputs, targets = sequences(16, 17, 1, 4, 8)
    for whole, windowed in zip(
        score_sequences(model, inputs, targets), score_sequences(model, inputs, targets, window=window), strict=True
    ):
        assert_close(windowed, whole)


def test_no_sequences_have_no_scores() -> None:
    assert score_sequences(tiny_model(), [], []) == []
    assert [len(scores) for scores in score_sequences(tiny_model(), *sequences(0, 0))] == [0, 0]


def test_total_is_the_probability_of_the_whole_sequence() -> None:
    """Summed over every continuation of two tokens, probabilities make one."""
    model = tiny_model(vocabulary_size=5)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    inputs = [torch.tensor([1, int(first)]) for first, _ in pairs]
    totals = torch.stack([scores.double().sum() for scores in score_sequences(model, inputs, list(pairs))])
    assert float(totals.exp().sum()) == pytest.approx(1.0, abs=1e-6)


# Scores of single tokens


def test_score_targets_by_hand() -> None:
    scores = score_targets(HAND.repeat(2, axis=0), [1, 3], top=2)
    assert [score.token_id for score in scores] == [1, 3]
    assert [score.logprob for score in scores] == pytest.approx([math.log(1 / 4), math.log(1 / 8)])
    for score in scores:
        assert [token_id for token_id, _ in score.top] == [0, 1]
        assert [logprob for _, logprob in score.top] == pytest.approx([math.log(1 / 2), math.log(1 / 4)])


@pytest.mark.parametrize(("target", "rank"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_equals_share_the_best_rank(target: int, rank: int) -> None:
    assert score_targets(HAND, [target])[0].rank == rank


def test_all_equal_are_all_first() -> None:
    assert [score.rank for score in score_targets(np.zeros((4, 4), np.float32), [0, 1, 2, 3])] == [1, 1, 1, 1]


def test_top_is_best_first_and_no_longer_than_the_vocabulary() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    for row, score in enumerate(score_targets(logits, [0, 1, 2], top=50)):
        assert len(score.top) == 12
        assert [logprob for _, logprob in score.top] == sorted((p for _, p in score.top), reverse=True)
        assert dict(score.top)[row] == score.logprob
        assert [token_id for token_id, _ in score.top].index(row) == score.rank - 1


def test_without_top_no_alternatives_are_listed() -> None:
    (score,) = score_targets(HAND, [0])
    assert score == TokenScore(0, score.logprob, 1, ())


def test_scores_do_not_depend_on_a_constant_added_to_the_logits() -> None:
    shifted, plain = score_targets(HAND + 5, [2])[0], score_targets(HAND, [2])[0]
    assert shifted.logprob == pytest.approx(plain.logprob)
    assert shifted.rank == plain.rank


def test_a_rows_logprobs_are_the_same_bits_whatever_the_number_of_rows() -> None:
    logits = 9 * np.random.default_rng(1).normal(size=(70, 1003)).astype(np.float32)
    together = log_softmax(logits)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, torch.from_numpy(logits).log_softmax(1), rtol=1e-6, atol=1e-6)
    for row in range(70):
        assert log_softmax(logits[row : row + 1]).tobytes() == together[row].tobytes()
        assert log_softmax(logits[row:]).tobytes() == together[row:].tobytes()


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_the_likeliest_are_the_largest_the_lower_place_first_among_equals(values: list[int], count: int) -> None:
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:count]
    assert likeliest(np.array(values, np.float32), count).tolist() == expected


# Figures


def test_the_best_total_is_the_open_vocabularys_where_there_is_one() -> None:
    assert best_total(-3.0, None) == -3.0
    assert best_total(-3.0, -5.0) == -5.0


def test_perplexity_by_hand() -> None:
    assert perplexity(math.log(1 / 2) + math.log(1 / 8), 2) == pytest.approx(4.0)
    assert perplexity(0.0, 3) == 1.0


def test_perplexity_over_no_tokens_does_not_exist_and_a_huge_one_is_infinite() -> None:
    assert perplexity(0.0, 0) is None
    assert perplexity(-1e6, 1) == math.inf


def test_bits_per_character_by_hand() -> None:
    """A word of probability 1/16 that has 8 letters costs 4 bits: half a bit a letter."""
    assert bits_per_character(math.log(1 / 16), 8) == pytest.approx(0.5)
    assert bits_per_character(-1.0, 0) is None


# What is predicted

A, B, EOS = 5, 6, 1


@pytest.mark.parametrize(
    ("bos", "eos", "inputs", "targets"),
    [
        (True, True, [EOS, A, B], [None, A, B, EOS]),
        (True, False, [EOS, A, B], [None, A, B, None]),
        (False, True, [A, B], [None, B, EOS]),
        (False, False, [A, B], [None, B, None]),
    ],
    ids=["bos, eos", "bos only", "eos only", "neither"],
)
def test_the_table_of_the_scoring_plan_holds(
    bos: bool, eos: bool, inputs: list[int], targets: list[int | None]
) -> None:
    assert scoring_plan([A, B], EOS, bos, eos) == (inputs, targets)


@pytest.mark.parametrize(
    ("bos", "eos", "inputs", "targets"),
    [
        (True, True, [EOS], [None, EOS]),
        (True, False, [EOS], [None, None]),
        (False, True, [], [None]),
        (False, False, [], [None]),
    ],
    ids=["bos, eos", "bos only", "eos only", "neither"],
)
def test_an_empty_text_predicts_its_end_at_most(
    bos: bool, eos: bool, inputs: list[int], targets: list[int | None]
) -> None:
    assert scoring_plan([], EOS, bos, eos) == (inputs, targets)


@given(st.lists(st.integers(0, 11), max_size=10), st.booleans(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_every_token_is_predicted_from_those_before_it(ids: list[int], bos: bool, eos: bool) -> None:
    inputs, targets = scoring_plan(ids, EOS, bos, eos)
    assert len(targets) == len(inputs) + 1
    assert targets[0] is None
    for k, target in enumerate(targets[1:-1], start=1):
        assert target == inputs[k]
