"""The speller: a distribution over all strings, the same answers in every company, and deterministic draws."""

import itertools
import math

import pytest

from models.network import LanguageModel, NetworkConfig
from models.speller import VOCABULARY_SIZE, Speller
from tests.tiny import tiny_model
from training.speller import held_out_types, train_speller

WORDS = ["".join(letters) for n in (1, 2, 3, 4) for letters in itertools.product("abc", repeat=n)]


@pytest.fixture(scope="module")
def speller() -> Speller:
    """Taught all strings of up to four letters out of three."""
    return train_speller(WORDS)


def test_probabilities_of_all_strings_up_to_a_length_approach_one_from_below(speller: Speller) -> None:
    totals = []
    for longest in range(1, 7):
        strings = ["".join(s) for n in range(longest + 1) for s in itertools.product("abc", repeat=n)]
        totals.append(math.fsum(map(math.exp, speller.logprobs(strings))))
    assert totals == sorted(totals)
    assert totals[-1] <= 1
    assert totals[-1] > 0.97


def test_every_string_has_a_probability(speller: Speller) -> None:
    values = speller.logprobs(["", "zebra", "北京", "\n", "a" * 500])
    assert all(-math.inf < value < 0 for value in values)
    assert speller.logprobs(["ab"])[0] > values[1]


def test_a_spelling_has_the_same_probability_in_every_company() -> None:
    alone = {word: Speller(tiny_bytes()).logprobs([word])[0] for word in ("cat", "catfish", "é")}
    together = dict(zip(WORDS + list(alone), Speller(tiny_bytes()).logprobs(WORDS + list(alone)), strict=True))
    assert all(together[word] == value for word, value in alone.items())


def tiny_bytes() -> LanguageModel:
    return tiny_model(VOCABULARY_SIZE, hidden_sizes=(16,))


def test_a_draw_is_a_function_of_seed_choice_and_position(speller: Speller) -> None:
    drawn = [speller.spell(seed, 0, 7) for seed in range(30)]
    assert drawn == [speller.spell(seed, 0, 7) for seed in range(30)]
    assert len(set(drawn)) > 10
    assert speller.spell(0, 1, 7) != speller.spell(0, 0, 7) or speller.spell(0, 0, 8) != speller.spell(0, 0, 7)
    assert sum(word in WORDS for word in drawn) >= 25


def test_completions_are_the_likeliest_strings_that_begin_so(speller: Speller) -> None:
    mass, found = speller.completions("ab", 5)
    strings = ["ab" + "".join(s) for n in range(5) for s in itertools.product("abc", repeat=n)]
    scores = dict(zip(strings, speller.logprobs(strings), strict=True))
    assert [word for word, _ in found] == sorted(scores, key=lambda word: -scores[word])[:5]
    assert [value for _, value in found] == pytest.approx([scores[word] for word, _ in found], abs=1e-4)
    assert math.exp(mass) == pytest.approx(math.fsum(map(math.exp, scores.values())), rel=0.05)
    assert math.exp(mass) >= math.fsum(math.exp(value) for _, value in found)


def test_network_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="257"):
        Speller(LanguageModel(NetworkConfig(12, 4, (4,))))


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        train_speller(["one", "two"])


def test_held_out_types_are_few_and_known() -> None:
    assert 0 < len(held_out_types(WORDS)) < len(WORDS) / 20
