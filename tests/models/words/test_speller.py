"""The speller: a distribution over all strings, the same answers in every company, and deterministic draws."""

import itertools
import math

import pytest

from models.arrays import Array
from models.config import NetworkConfig
from models.words.lexicon import Lexicon
from models.words.speller import VOCABULARY_SIZE, Speller
from tests.tiny import parts, tiny_model
from training.speller import share_of_lexicon, train_speller

WORDS = ["".join(letters) for n in (1, 2, 3, 4) for letters in itertools.product("abc", repeat=n)]


@pytest.fixture(scope="module")
def speller() -> Speller:
    """Taught all strings of up to four letters out of three, some of them seen often, and others in held-out text."""
    return train_speller({word: 1 + len(word) % 3 for word in WORDS}, {"abc": 3, "ca": 1, "zebra": 2})


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
    alone = {word: Speller(*tiny_bytes()).logprobs([word])[0] for word in ("cat", "catfish", "é")}
    together = dict(zip(WORDS + list(alone), Speller(*tiny_bytes()).logprobs(WORDS + list(alone)), strict=True))
    assert all(together[word] == value for word, value in alone.items())


def tiny_bytes() -> tuple[NetworkConfig, dict[str, Array]]:
    return parts(tiny_model(VOCABULARY_SIZE, hidden_sizes=(16,)))


def test_a_draw_is_a_function_of_seed_choice_and_position(speller: Speller) -> None:
    drawn = [speller.spell(seed, 0, 7) for seed in range(30)]
    assert drawn == [speller.spell(seed, 0, 7) for seed in range(30)]
    assert len(set(drawn)) > 10
    assert speller.spell(0, 1, 7) != speller.spell(0, 0, 7) or speller.spell(0, 0, 8) != speller.spell(0, 0, 7)
    assert sum(word in WORDS for word in drawn) >= 25


def test_completions_are_the_likeliest_strings_that_begin_so(speller: Speller) -> None:
    # Of the lexicon's words `completions` takes the commonest, and those that the search finds.
    speller = speller.with_lexicon(None, 0.0)
    mass, found = speller.completions("ab", 5)
    strings = ["ab" + "".join(s) for n in range(5) for s in itertools.product("abc", repeat=n)]
    scores = dict(zip(strings, speller.logprobs(strings), strict=True))
    assert [word for word, _ in found] == sorted(scores, key=lambda word: -scores[word])[:5]
    assert [value for _, value in found] == pytest.approx([scores[word] for word, _ in found], abs=1e-4)
    assert math.exp(mass) == pytest.approx(math.fsum(map(math.exp, scores.values())), rel=0.05)
    assert math.exp(mass) >= math.fsum(math.exp(value) for _, value in found)


def test_network_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="257"):
        Speller(*parts(tiny_model(12)))


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        train_speller({"one": 1, "two": 5}, {})


def test_a_lexicon_makes_its_words_likelier_and_all_others_less_likely() -> None:
    alone, both = Speller(*tiny_bytes()), Speller(*tiny_bytes(), Lexicon({"cat": 3, "cow": 1}), 0.75)
    words = ["cat", "cow", "czt"]
    spelled, mixed = ([math.exp(value) for value in one.logprobs(words)] for one in (alone, both))
    assert mixed == pytest.approx([0.75 * 0.75 + spelled[0] / 4, 0.25 * 0.75 + spelled[1] / 4, spelled[2] / 4])


def test_a_share_of_draws_is_of_the_lexicon() -> None:
    speller = Speller(*tiny_bytes(), Lexicon({"cat": 3, "cow": 1}), 0.5)
    drawn = [speller.spell(seed, 0, 0) for seed in range(400)]
    assert drawn.count("cat") == pytest.approx(150, abs=40)
    assert drawn.count("cow") == pytest.approx(50, abs=30)


def test_completions_of_a_lexicon_are_among_the_likeliest() -> None:
    speller = Speller(*tiny_bytes(), Lexicon({"cat": 3, "catfish": 2, "cow": 1, "dog": 9}), 0.5)
    mass, found = speller.completions("ca", 4)
    assert [word for word, _ in found[:2]] == ["cat", "catfish"]
    assert [value for _, value in found[:2]] == speller.logprobs(["cat", "catfish"])
    assert math.exp(mass) == pytest.approx(0.5 * 5 / 15, rel=0.01)


def test_held_out_text_decides_how_much_the_lexicon_has_to_say(speller: Speller) -> None:
    """Expectation maximisation finds the best of all shares, the two words that are assumed beside counted in."""
    assert speller.lexicon is not None
    bytes_alone = speller.with_lexicon(None, 0.0)

    def likelihood(share: float, held_out: dict[str, int]) -> float:
        mixed = speller.with_lexicon(speller.lexicon, share)
        logprobs = mixed.logprobs(list(held_out))
        seen = math.fsum(n * value for n, value in zip(held_out.values(), logprobs, strict=True))
        return seen + math.log(share) + math.log(1 - share)

    for held_out in ({"abc": 30, "zebra": 10}, {"zebra": 20, "yak": 20}, {}):
        share = share_of_lexicon(bytes_alone, speller.lexicon, held_out)
        grid = max((k / 100 for k in range(1, 100)), key=lambda share: likelihood(share, held_out))
        assert share == pytest.approx(grid, abs=0.011)


@pytest.mark.parametrize(("share", "listed"), [(1.0, True), (-0.1, True), (0.5, False), (0.0, True), (math.nan, True)])
def test_a_share_without_a_lexicon_and_a_lexicon_without_a_share_are_refused(share: float, listed: bool) -> None:
    with pytest.raises(ValueError, match="share"):
        Speller(*tiny_bytes(), Lexicon({"cat": 1}) if listed else None, share)
