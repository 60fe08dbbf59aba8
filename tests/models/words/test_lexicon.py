"""The lexicon: a unigram model that a file holds in few bytes."""

import math

import pytest
import torch

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
    tensors = Lexicon(COUNTS).to_tensors()
    again = Lexicon.from_tensors(tensors)
    assert all(again.probability(word) == Lexicon(COUNTS).probability(word) for word in COUNTS)
    assert len(again) == len(COUNTS)
    english = Lexicon({f"inter{stem}{end}": 1 for stem in ("act", "sect", "est") for end in ("", "s", "ed", "ing")})
    assert sum(tensor.nbytes for tensor in english.to_tensors().values()) < 6.5 * len(english)


@pytest.mark.parametrize("counts", [{}, {"": 1}, {"a" * 256: 1}, {"cat": 0}])
def test_what_is_no_lexicon_is_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="lexicon"):
        Lexicon(counts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rest", torch.tensor([1], dtype=torch.uint8)),
        ("bytes", torch.zeros(3, dtype=torch.uint8)),
        ("bytes", torch.full((len(Lexicon(COUNTS).to_tensors()["bytes"]),), 0xFF, dtype=torch.uint8)),
        ("counts", torch.zeros(len(COUNTS), dtype=torch.uint8)),
        ("counts", None),
    ],
)
def test_a_damaged_file_is_refused(name: str, value: torch.Tensor | None) -> None:
    tensors = {**Lexicon(COUNTS).to_tensors(), **({name: value} if value is not None else {})}
    if value is None:
        del tensors[name]
    with pytest.raises(ValueError, match="lexicon"):
        Lexicon.from_tensors(tensors)
