"""The baseline of counting: a proper distribution, equal to the formula on dictionaries, better with context."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from training.studies.ngram import KneserNey

EOS, SIZE = 1, 6


def text(seed: int, length: int = 400) -> np.ndarray:
    """Tokens 2 … 5, each mostly followed by the next one, in sentences."""
    chooser = np.random.default_rng(seed)
    ids, token = [], 2
    for _ in range(length):
        token = 2 + (token - 1) % 4 if chooser.random() < 0.8 else int(chooser.integers(2, 6))
        ids.append(token)
        if chooser.random() < 0.15:
            ids.append(EOS)
    return np.array([*ids, EOS])


def by_hand(train: list[int], history: tuple[int, ...], token: int, order: int) -> float:
    """Chen & Goodman's equation 26, word for word, on dictionaries, with the discounts of too little text."""
    grams: dict[int, Counter[tuple[int, ...]]] = {n: Counter() for n in range(1, order + 1)}
    sentence = [EOS]
    for following in train:
        sentence.append(following)
        for n in range(1, min(order, len(sentence)) + 1):
            grams[n][tuple(sentence[-n:])] += 1
        if following == EOS:
            sentence = [EOS]
    counts: dict[int, dict[tuple[int, ...], int]] = {order: dict(grams[order])}
    for n in range(1, order):
        before: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for gram in grams[n + 1]:
            before[gram[1:]].add(gram[0])
        counts[n] = {gram: len(before[gram]) or count for gram, count in grams[n].items()}

    def probability(context: tuple[int, ...]) -> float:
        lower = probability(context[1:]) if context else 1 / SIZE
        following = {gram[-1]: count for gram, count in counts[len(context) + 1].items() if gram[:-1] == context}
        total = sum(following.values())
        if not total:
            return lower
        discounts = {following_one: 0.5 * min(count, 3) for following_one, count in following.items()}
        left = sum(discounts.values()) / total
        return (following.get(token, 0) - discounts.get(token, 0)) / total + left * lower

    return probability(history[max(0, len(history) - order + 1) :])


def test_equals_the_formula_on_a_text_too_short_to_estimate_discounts() -> None:
    train, held = [2, 3, 2, 3, 4, EOS, 3, 2, EOS], [2, 3, 4, EOS, 5, 3, 2, 3, EOS]
    found = KneserNey(np.array(train), SIZE, EOS, order=3).logprobs(np.array(held))
    histories = [(EOS, *held[:3][:i]) for i in range(4)] + [(EOS, *held[4:][:i]) for i in range(5)]
    expected = [math.log(by_hand(train, history, token, 3)) for history, token in zip(histories, held, strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_of_all_tokens_sum_to_one(order: int) -> None:
    model = KneserNey(text(0), SIZE, EOS, order)
    for context in ([], [2], [2, 3], [5, 5, 5, 5], [4, 5, 2, 3, 4]):
        ends = [model.logprobs(np.array([*context, token]))[-1] for token in range(SIZE)]
        assert np.exp(ends).sum() == pytest.approx(1, abs=1e-12)


def test_context_helps_on_text_that_has_some() -> None:
    perplexities = [math.exp(-KneserNey(text(0), SIZE, EOS, order).logprobs(text(1)).mean()) for order in (1, 2, 3)]
    assert perplexities[0] > 1.5 * perplexities[1]
    assert perplexities[2] < 1.05 * perplexities[1]


def test_nothing_is_known_of_the_sentence_before() -> None:
    model = KneserNey(text(0), SIZE, EOS, 5)
    one, other = (model.logprobs(np.array([*before, EOS, 3, 4, EOS]))[-3:] for before in ([2, 3], [5]))
    assert (one == other).all()


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        KneserNey(np.array([], dtype=np.int64), SIZE, EOS)


def test_sentences_shorter_than_the_order_are_counted() -> None:
    train = np.array([2, 3, EOS, 4, 5, EOS, 2, 5, EOS] * 40)
    logprobs = KneserNey(train, SIZE, EOS).logprobs(np.array([2, 3, EOS, 5, 4, 3, 2, 5, 4, EOS]))
    assert np.isfinite(logprobs).all()
    assert logprobs[0] > logprobs[3]


def test_nothing_is_impossible_after_discounts_that_the_estimate_would_make_nothing() -> None:
    """As many bigrams seen four times as three times: equation 17 would take nothing from large counts."""
    rows = [[a, b] for k, a in enumerate(range(2, 30)) for b in range(2, 30) for _ in range(1 + (a + b + k) % 4)]
    train = np.array([token for row in rows for token in [*row, EOS]])
    held = np.array([token for a in range(2, 32) for token in (a, 31, EOS)])
    assert np.isfinite(KneserNey(train, 32, EOS).logprobs(held)).all()
