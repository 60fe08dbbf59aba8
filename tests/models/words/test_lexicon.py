"""The lexicon: a unigram model that a file holds in few bytes."""

import math

import numpy as np
import pytest

from models.arrays import Array
from models.words.lexicon import Lexicon

COUNTS = {"catfish": 2, "cat": 5, "category": 1, "dog": 300, "été": 4, "étage": 4, "北京": 1, " cat": 7, "a" * 255: 1}


def test_probabilities_are_counts_and_sum_to_one() -> None:
    lexicon = Lexicon(COUNTS)
    assert len(lexicon) == len(COUNTS)
    assert lexicon.probability("cat") == 5 / 325
    assert [lexicon.probability(word) for word in ("ca", "cats", "", "zebra")] == [0] * 4
    assert math.fsum(map(lexicon.probability, COUNTS)) == pytest.approx(1)


def test_draws_fall_on_words_as_often_as_they_were_seen() -> None:
    lexicon = Lexicon(COUNTS)
    drawn = [lexicon.draw((k + 0.5) / 325) for k in range(325)]
    assert {word: drawn.count(word) for word in COUNTS} == COUNTS
    assert lexicon.draw(math.nextafter(1, 0)) in COUNTS
    assert lexicon.draw(0.0) in COUNTS


def test_beginnings() -> None:
    lexicon = Lexicon(COUNTS)
    assert lexicon.beginning("cat", 2) == (8 / 325, ["cat", "catfish"])
    assert lexicon.beginning("ét", 9) == (8 / 325, ["étage", "été"])
    assert lexicon.beginning("x", 9) == (0, [])
    assert lexicon.beginning("", 1) == (1, ["dog"])


def test_a_file_holds_it() -> None:
    arrays = Lexicon(COUNTS).to_arrays()
    again = Lexicon.from_arrays(arrays)
    assert all(again.probability(word) == Lexicon(COUNTS).probability(word) for word in COUNTS)
    assert len(again) == len(COUNTS)
    english = Lexicon({f"inter{stem}{end}": 1 for stem in ("act", "sect", "est") for end in ("", "s", "ed", "ing")})
    assert sum(array.nbytes for array in english.to_arrays().values()) < 6.5 * len(english)


@pytest.mark.parametrize("counts", [{}, {"": 1}, {"a" * 256: 1}, {"cat": 0}])
def test_what_is_no_lexicon_is_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="lexicon"):
        Lexicon(counts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rest", np.array([1], np.uint8)),
        ("bytes", np.zeros(3, np.uint8)),
        ("bytes", np.full(len(Lexicon(COUNTS).to_arrays()["bytes"]), 0xFF, np.uint8)),
        ("counts", np.zeros(len(COUNTS), np.uint8)),
        ("counts", None),
    ],
)
def test_a_damaged_file_is_refused(name: str, value: Array | None) -> None:
    arrays = {**Lexicon(COUNTS).to_arrays(), **({name: value} if value is not None else {})}
    if value is None:
        del arrays[name]
    with pytest.raises(ValueError, match="lexicon"):
        Lexicon.from_arrays(arrays)
