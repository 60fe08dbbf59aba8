"""Texts that meet: a context and what follows it, a prompt and its completion, a state and what goes on from it."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carousel
from carousel import LanguageModel

CHECKPOINTS = Path(__file__).parents[3] / "checkpoints"


@pytest.fixture(scope="module")
def lm() -> Iterator[LanguageModel]:
    with carousel.load(CHECKPOINTS / "english-word") as model:
        yield model


def scored(lm: LanguageModel, context: str, text: str) -> tuple[int, float]:
    (score,) = lm.score(text, context=context, eos=False)
    return score.tokens, score.logprob


@pytest.mark.parametrize(
    ("whole", "token"),
    [
        ("She poured the tea into the cup", " cup"),
        ("The old man sat", " sat"),
        ("I don't know", " don't"),
        ("It cost 15 dollars", " 15"),
        ("He’s “well‑known”", "known"),
        ("A  wide\u00a0 gap", " wide"),
    ],
)
def test_all_cuts_inside_a_token_charge_it_to_the_text(lm: LanguageModel, whole: str, token: str) -> None:
    end = whole.index(token.strip()) + len(token.strip())
    begin = end - len(token)
    charged = {scored(lm, whole[:cut], whole[cut:]) for cut in range(begin, end)}
    assert len(charged) == 1
    assert scored(lm, whole[:end], whole[end:]) not in charged or whole[end:] == ""


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_cut_anywhere_leaves_whole_tokens_that_add_up(lm: LanguageModel, data: st.DataObject) -> None:
    words = ["The", " old", " man", "'s", " don’t", ",", " 15", " “tea”", " zorblax", "  wide", "."]
    whole = "".join(data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=8)))
    cut = data.draw(st.integers(0, len(whole)))
    encoding = lm.tokenizer.encode(whole)
    (own,) = lm.score(whole[cut:], context=whole[:cut], eos=False, tokens=True)
    assert own.details is not None
    assert [detail.id for detail in own.details] == [
        token_id for token_id, (_, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > cut
    ]
    if own.details:
        assert own.details[0].start >= 0


def test_an_unknown_word_that_two_texts_share_is_spelled_whole(lm: LanguageModel) -> None:
    (whole,) = lm.score("a Zorblax", eos=False, tokens=True)
    (part,) = lm.score("blax", context="a Zor", eos=False, tokens=True)
    assert whole.details is not None
    assert part.details is not None
    assert part.details[-1].spelling_logprob == whole.details[-1].spelling_logprob
    assert (part.details[0].start, part.details[0].text) == (0, "blax")


def test_an_open_space_belongs_to_the_next_token_and_is_not_given_twice(lm: LanguageModel) -> None:
    for seed in range(20):
        (choice,) = lm.generate("The old man ", seed=seed, max_tokens=6, logprobs=0)
        assert choice.text
        assert not choice.text[0].isspace()
        assert choice.tokens is not None
        assert "".join(token.text for token in choice.tokens) == choice.text
        assert lm.tokenizer.tokens[choice.tokens[0].id].startswith(" ")
        streamed = "".join(event.text for event in lm.stream("The old man ", seed=seed, max_tokens=6))
        assert streamed == choice.text


def test_what_follows_an_open_space_is_what_follows_without_it(lm: LanguageModel) -> None:
    (after_space,) = lm.generate("She looked ", temperature=0, max_tokens=5)
    (without,) = lm.generate("She looked", temperature=0, max_tokens=5)
    assert " " + after_space.text == without.text


def test_a_state_remembers_the_open_space(lm: LanguageModel) -> None:
    state = lm.state("The old man ")
    assert lm.state("", state=state) == state
    assert state != lm.state("The old man")
    (after_state,) = lm.score("sat down.", state=state)
    (after_context,) = lm.score("sat down.", context="The old man ")
    assert after_state.logprob == after_context.logprob
    assert lm.generate("", state=state, seed=1)[0].text == lm.generate("The old man ", seed=1)[0].text
    assert lm.next("", state=state, top=5) == lm.next("The old man ", top=5)
    assert lm.next("s", state=state, top=5) == lm.next("The old man s", top=5)
    (score,) = lm.score("The old man ", eos=False, return_state=True)
    assert score.state == state


def test_a_boundary_that_a_text_begins_with_is_the_start_symbol(lm: LanguageModel) -> None:
    (plain,), (begun,) = lm.score("The men are here."), lm.score("\nThe men are here.")
    assert (begun.logprob, begun.tokens) == (plain.logprob, plain.tokens)
    assert lm.generate("\nThe", seed=3)[0].text == lm.generate("The", seed=3)[0].text
    assert lm.state("\nThe") == lm.state("The")


# A word being typed


@pytest.fixture(scope="module")
def english() -> Iterator[LanguageModel]:
    with carousel.load(CHECKPOINTS / "english") as model:
        yield model


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("I don'", "don't"),
        ("I don’", "don’t"),
        ("you'", "you're"),
        ("you'r", "you're"),
        ("It'", "It's"),
        ("WE'R", "WE'RE"),
        ("O'Br", "O'Brien"),
        ("a well-kno", "well-known"),
        ("See you TOMOR", "TOMORROW"),
        ("I AM GO", "GOING"),
        ("I dont", "don't"),
        ("im", "I'm"),
        ("she said 'he", "her"),
    ],
)
def test_a_begun_word_is_completed_as_it_is_typed(english: LanguageModel, text: str, word: str) -> None:
    assert english.next(text, top=3)[0].word == word


def test_the_first_word_of_a_sentence_has_a_capital(english: LanguageModel) -> None:
    for text in ("", "He left. ", "What?! ", '"Go!" ', "He left.\n"):
        assert all(found.word[0].isupper() for found in english.next(text, top=5)), text
    assert not all(found.word[0].isupper() for found in english.next("He left, ", top=5))


def test_no_latin_ending_is_offered_on_letters_of_another_script(english: LanguageModel) -> None:
    for text in ("שלו", "приве", "καλη"):
        assert not any(letter.isascii() for found in english.next(text, top=10) for letter in found.word)


# Words


@given(st.text(st.sampled_from("a The’s \n“zq”,.\t"), max_size=30))
@settings(deadline=None, max_examples=40)
def test_the_surprisals_of_the_words_add_up_to_the_total(lm: LanguageModel, text: str) -> None:
    (score,) = lm.score(text, words=True)
    assert score.words_detail is not None
    assert score.logprob_open is not None
    total = sum(word.surprisal_bits for word in score.words_detail)
    assert total == pytest.approx(-score.logprob_open / math.log(2))
    assert [word.word for word in score.words_detail if word.word] == text.split()
    assert all(text[word.start : word.end] == word.word for word in score.words_detail if word.word)
    assert score.perplexity_open == pytest.approx(math.exp(-score.logprob_open / score.tokens))


def test_the_unknown_word_by_its_symbol_is_no_cheaper_than_spelled(lm: LanguageModel) -> None:
    known, symbol, spelled = lm.score(["The cat sat.", "The <unk> sat.", "The zorblax sat."])
    assert symbol.logprob == spelled.logprob
    assert symbol.logprob_open is not None
    assert symbol.logprob - symbol.logprob_open == pytest.approx(14.16, abs=0.01)  # as its checkpoint says
    best = lm.rescore([("The cat sat.", 0.0), ("The <unk> sat.", 0.0)], weight=1.0)[0]
    assert best.text == known.text
