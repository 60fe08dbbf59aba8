"""What ends a completion, how its tokens become text, and the reference loop."""

import random
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding.completion import Completion, CompletionText, GenerationParams, prompt_inputs
from models.decoding.reference import generate
from models.decoding.sampling import SamplingParams
from models.network import LanguageModel
from models.text.levels import Level
from models.text.tokenizer import TextDecoder, Tokenizer
from models.text.words import ends_in_space
from tests.tiny import tiny_tokenizer

Tiny = tuple[LanguageModel, Tokenizer]

QUICK = settings(max_examples=300, deadline=None)


class Pieces:
    """Stands in for a decoder: token i is the i-th of the given pieces of text."""

    def __init__(self, pieces: Sequence[str], rest: str = "") -> None:
        self.pieces = pieces
        self.rest = rest

    def feed(self, token_id: int, spelled: str | None = None) -> str:
        assert spelled is None
        return self.pieces[token_id]

    def flush(self) -> str:
        return self.rest


def released(pieces: Sequence[str], stop: Sequence[str], rest: str = "") -> tuple[list[str], bool]:
    """What comes out after each piece until a stop string is met, and at the end; and whether one was met."""
    text = CompletionText(cast(TextDecoder, Pieces(pieces, rest)), stop)
    out = []
    for token_id in range(len(pieces)):
        out.append(text.feed(token_id))
        if text.stopped:
            break
    return [*out, text.finish()], text.stopped


# Stop strings


@pytest.mark.parametrize(
    ("pieces", "stop", "out", "stopped"),
    [
        (["a", "b"], [], ["a", "b", ""], False),
        (["a", "STOP", "b"], ["STOP"], ["a", "", ""], True),
        (["aST", "OPb"], ["STOP"], ["a", "", ""], True),
        (["a", "S", "T", "O", "P"], ["STOP"], ["a", "", "", "", "", ""], True),
        (["aST", "ART"], ["STOP"], ["a", "START", ""], False),
        (["aST"], ["STOP"], ["a", "ST"], False),
        (["xxyz"], ["yz", "xy"], ["x", ""], True),
        (["ab"], ["abc", "b"], ["a", ""], True),
        (["aab", "c"], ["aabaa", "bc"], ["", "aa", ""], True),
        (["aaa", "ab"], ["aab"], ["a", "aa"[:1], ""], True),
        (["stop", "a"], ["stop"], ["", ""], True),
    ],
    ids=[
        "no stop strings",
        "one token",
        "across a token boundary",
        "letter by letter",
        "held back and released",
        "held back to the end",
        "earliest wins",
        "the one that is complete wins",
        "another one completes",
        "overlap with itself",
        "at the start",
    ],
)
def test_stop_string_ends_the_text_before_it(pieces: list[str], stop: list[str], out: list[str], stopped: bool) -> None:
    assert released(pieces, stop) == (out, stopped)


def reference(pieces: Sequence[str], stop: Sequence[str]) -> tuple[str, bool]:
    """The whole text, cut before the first stop string once a piece has completed one."""
    text = ""
    for piece in pieces:
        text += piece
        found = [text.index(s) for s in stop if s in text]
        if found:
            return text[: min(found)], True
    return text, False


@given(
    st.lists(st.text("ab", max_size=3), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
@QUICK
def test_released_pieces_join_to_the_text_cut_at_the_first_stop_string(pieces: list[str], stop: list[str]) -> None:
    """Nothing is lost at the end, nothing of a stop string comes out, and nothing is taken back."""
    out, stopped = released(pieces, stop)
    assert ("".join(out), stopped) == reference(pieces, stop)


@given(
    st.lists(st.text("ab", max_size=3), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
@QUICK
def test_only_what_may_still_become_a_stop_string_is_held_back(pieces: list[str], stop: list[str]) -> None:
    text = CompletionText(cast(TextDecoder, Pieces(pieces)), stop)
    fed = out = ""
    for token_id, piece in enumerate(pieces):
        fed += piece
        out += text.feed(token_id)
        if text.stopped:
            return
        held = fed.removeprefix(out)
        assert held == "" or any(s.startswith(held) and s != held for s in stop)


def test_a_stop_string_completed_by_the_last_bytes_still_counts() -> None:
    out, stopped = released(["a"], ["b\ufffd", "\ufffd"], rest="\ufffd")
    assert (out, stopped) == (["a", ""], True)


def test_bytes_of_an_unfinished_character_are_held_back_and_not_lost() -> None:
    tokenizer = tiny_tokenizer("bpe")
    ids = tokenizer.encode("a猫").ids[:-1]
    text = CompletionText(tokenizer.decoder(), [])
    assert [text.feed(token_id) for token_id in ids] == ["a", "", ""]
    assert text.finish() == "\ufffd"


# What ends a completion


def complete(tiny: Tiny, prompt: str = "", **params: object) -> tuple[str, list[int]]:
    return generate(*tiny, prompt, GenerationParams(**params))  # type: ignore[arg-type]


def favouring(*token_ids: int) -> SamplingParams:
    """All but certain to draw one of these."""
    return SamplingParams(logit_bias=dict.fromkeys(token_ids, 100.0))


def accepted(tokenizer: Tokenizer, tokens: list[str], params: GenerationParams) -> tuple[str, str | None]:
    completion = Completion(params, tokenizer, True, [], position=1)
    text = ""
    for token in tokens:
        assert completion.finish_reason is None
        text += completion.accept(tokenizer.vocabulary[token])
    return text, completion.finish_reason


@pytest.mark.parametrize(
    ("tokens", "params", "text", "reason"),
    [
        (["The", " cat"], GenerationParams(max_tokens=3), "The cat", None),
        (["The", " cat", " ate"], GenerationParams(max_tokens=3), "The cat ate", "length"),
        (["The", " cat", "<eos>"], GenerationParams(max_tokens=9), "The cat", "eos"),
        (["The", " cat", "<eos>"], GenerationParams(max_tokens=3), "The cat", "eos"),
        (["The", "<eos>", "The"], GenerationParams(max_tokens=3, ignore_eos=True), "The\nThe", "length"),
        (["The", " cat", "."], GenerationParams(max_tokens=9, stop=["t."]), "The ca", "stop"),
        (["The", " cat", "."], GenerationParams(max_tokens=3, stop=["t."]), "The ca", "stop"),
        (["The", " cat"], GenerationParams(max_tokens=2, stop=["t."]), "The cat", "length"),
        (["The", " cat", "<eos>"], GenerationParams(stop=["t."]), "The cat", "eos"),
        (["The", "<eos>", "The"], GenerationParams(stop=["\nT"], ignore_eos=True), "The", "stop"),
    ],
)
def test_finish_reason_and_text(
    tiny_word: Tiny, tokens: list[str], params: GenerationParams, text: str, reason: str | None
) -> None:
    assert accepted(tiny_word[1], tokens, params) == (text, reason)


def test_max_tokens_zero_generates_nothing(tiny_word: Tiny) -> None:
    assert complete(tiny_word, "The cat", max_tokens=0) == ("", [])
    assert Completion(GenerationParams(max_tokens=0), tiny_word[1], True, [], 1).finish_reason == "length"


@pytest.mark.parametrize("max_tokens", [1, 2, 25])
def test_ignore_eos_gives_exactly_max_tokens(tiny_word: Tiny, max_tokens: int) -> None:
    for seed in range(10):
        text, ids = complete(tiny_word, "The cat", max_tokens=max_tokens, ignore_eos=True, seed=seed)
        assert len(ids) == max_tokens
        assert text.count("\n") == ids.count(tiny_word[1].eos_id)


def test_eos_ends_the_text_and_is_the_last_token(tiny_word: Tiny) -> None:
    eos = tiny_word[1].eos_id
    text, ids = complete(tiny_word, "The cat", sampling=favouring(eos))
    assert (text, ids) == ("", [eos])


@pytest.mark.parametrize("min_tokens", [0, 1, 5])
def test_eos_cannot_be_drawn_before_min_tokens(tiny_word: Tiny, min_tokens: int) -> None:
    eos = tiny_word[1].eos_id
    _, ids = complete(tiny_word, min_tokens=min_tokens, sampling=favouring(eos))
    assert ids.index(eos) == min_tokens == len(ids) - 1


def test_min_tokens_above_max_tokens_ends_by_length(tiny_word: Tiny) -> None:
    _, ids = complete(tiny_word, min_tokens=9, max_tokens=4, sampling=favouring(tiny_word[1].eos_id))
    assert len(ids) == 4
    assert tiny_word[1].eos_id not in ids


def test_unk_is_never_drawn_unless_allowed(tiny_word: Tiny) -> None:
    unk = tiny_word[1].unk_id
    text, ids = complete(tiny_word, max_tokens=50, ignore_eos=True, sampling=favouring(unk))
    assert unk not in ids
    assert "<unk>" not in text
    text, ids = complete(tiny_word, max_tokens=3, allow_unk=True, sampling=favouring(unk))
    assert (text, ids) == ("<unk> <unk> <unk>", [unk] * 3)


def test_generate_stops_at_a_stop_string(tiny_word: Tiny) -> None:
    whole, _ = complete(tiny_word, "The", max_tokens=60, ignore_eos=True, seed=3)
    stop = whole[17:21]
    cut, ids = complete(tiny_word, "The", max_tokens=60, ignore_eos=True, seed=3, stop=[stop])
    assert cut == whole[: whole.index(stop)]
    assert stop in tiny_word[1].decode(ids)


# Seeds


def test_same_seed_same_text_and_another_seed_or_choice_another_text(tiny_word: Tiny) -> None:
    def ids(seed: int, choice: int) -> tuple[int, ...]:
        params = GenerationParams(max_tokens=30, ignore_eos=True, seed=seed, choice=choice)
        return tuple(generate(*tiny_word, "The cat", params)[1])

    assert ids(7, 0) == ids(7, 0)
    assert len({ids(seed, choice) for seed in range(5) for choice in range(4)}) == 20


def test_random_numbers_belong_to_the_place_in_the_sequence(tiny_char: Tiny) -> None:
    """So that a text that is continued from its own first half comes out the same."""
    model, tokenizer = tiny_char
    params = GenerationParams(max_tokens=40, seed=11, ignore_eos=True)
    whole, ids = generate(model, tokenizer, "the hen", params)
    assert tokenizer.encode(whole).ids == [i for i in ids if i != tokenizer.eos_id]
    first = tokenizer.decode(ids[:15])
    if tokenizer.eos_id not in ids[:15]:
        rest, rest_ids = generate(model, tokenizer, "the hen" + first, GenerationParams(25, seed=11, ignore_eos=True))
        assert (first + rest, ids[15:]) == (whole, rest_ids)


# The loop


def test_greedy_generation_is_argmax_over_the_whole_prefix_each_time(tiny_word: Tiny) -> None:
    model, tokenizer = tiny_word
    params = GenerationParams(max_tokens=12, ignore_eos=True, allow_unk=True, sampling=SamplingParams(temperature=0))
    _, ids = generate(model, tokenizer, "The cats", params)
    prefix = [tokenizer.eos_id, *tokenizer.encode("The cats").ids]
    for token_id in ids:
        logits, _ = model(torch.tensor([prefix]), model.config.state_layout.zeros(1))
        assert token_id == int(logits[0, -1].argmax())
        prefix.append(token_id)


def test_an_empty_prompt_continues_from_eos(tiny_word: Tiny) -> None:
    tokenizer = tiny_word[1]
    assert prompt_inputs(tokenizer, "") == [tokenizer.eos_id]
    assert prompt_inputs(tokenizer, "The cat") == [tokenizer.eos_id, *tokenizer.encode("The cat").ids]


def test_penalties_see_prompt_and_completion_as_documented(tiny_word: Tiny) -> None:
    _, tokenizer = tiny_word
    completion = Completion(GenerationParams(min_tokens=2), tokenizer, False, [2], position=2)
    completion.accept(3)
    draw = completion.next_draw()
    assert (list(draw.prompt), list(draw.completion), draw.position) == ([2], [3], 3)
    assert set(draw.banned) == {tokenizer.unk_id, tokenizer.eos_id}


def test_a_split_level_completion_is_joined_to_its_prompt_by_a_space() -> None:
    tokenizer = tiny_tokenizer("split")
    for prompt, text in (("the", " cat sat"), ("the ", "cat sat"), ("", "cat sat")):
        completion = Completion(GenerationParams(), tokenizer, ends_in_space(prompt), [], position=1)
        ids = [tokenizer.vocabulary[word] for word in ("cat", "sat")]
        assert "".join(completion.accept(token_id) for token_id in ids) == text


@pytest.mark.parametrize("level", ["word", "char", "split", "bpe"])
@pytest.mark.parametrize("stop", [[], ["t"], ["e c", "zz"]], ids=["no stop string", "common", "rare"])
@pytest.mark.parametrize("ignore_eos", [True, False])
def test_tokens_taken_several_at_a_time_make_the_text_of_tokens_taken_one_by_one(
    level: Level, stop: list[str], ignore_eos: bool
) -> None:
    tokenizer = tiny_tokenizer(level)
    generator = random.Random(level)
    for _ in range(50):
        params = GenerationParams(max_tokens=generator.randrange(1, 12), stop=stop, ignore_eos=ignore_eos)
        at_start = generator.random() < 0.5
        drawn = [generator.randrange(len(tokenizer)) for _ in range(params.max_tokens)]
        one_by_one, at_once = (Completion(params, tokenizer, at_start, [], 1) for _ in range(2))
        for token_id in drawn:
            if one_by_one.finish_reason is None:
                one_by_one.accept(token_id)
        ended = one_by_one.token_ids  # whoever draws stops at the end, but for stop strings
        left = drawn if stop else ended
        while left and at_once.finish_reason is None:
            size = generator.randrange(1, 5)
            at_once.accept_all(left[:size])
            left = left[size:]
            if generator.random() < 0.3:
                assert one_by_one.text.startswith(at_once.text)
        assert at_once.token_ids == one_by_one.token_ids
        assert (at_once.text, at_once.finish_reason) == (one_by_one.text, one_by_one.finish_reason)
        assert (at_once.at_start, at_once.position) == (one_by_one.at_start, one_by_one.position)
