"""Next words and completions: by hand where a token is a word, against brute force where words are spelled."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.arrays import Array
from models.decoding.completion import prompt_inputs
from models.decoding.scoring import log_softmax
from models.network import LanguageModel
from models.text.levels import LEVELS, Level
from models.text.tokenizer import Tokenizer
from models.text.words import JOINTS, is_word_character
from models.words.next_words import Begun, NextWords, WordIndex, WordPieces, WordSearch, split_begun
from tests.tiny import tiny_model, tiny_tokenizer

WORD, CHAR, BPE = tiny_tokenizer("word"), tiny_tokenizer("char"), tiny_tokenizer("bpe")


# Where the last word begins


@pytest.mark.parametrize(
    ("level", "text", "expected"),
    [
        ("word", "", Begun("", "", None, starts_sentence=True)),
        ("word", "The", Begun("", "", "The")),
        ("word", "The ", Begun("The", " ", None)),
        ("word", "The pe", Begun("The", " ", "pe")),
        ("word", "The  pe", Begun("The ", " ", "pe")),
        ("word", "The cat.", Begun("The cat.", "", None)),
        ("word", "The cat. ", Begun("The cat.", " ", None, starts_sentence=True)),
        ("word", "ate.pe", Begun("ate.", "", "pe")),
        ("word", "I don't", Begun("I", " ", "don't")),
        ("word", "Emma's", Begun("", "", "Emma's")),
        ("word", "I don’", Begun("I", " ", "don’")),
        ("word", "so well-kno", Begun("so", " ", "well-kno")),
        ("word", "she said 'pe", Begun("she said '", "", "pe")),
        ("word", "fish\npe", Begun("fish\n", "", "pe")),
        ("word", "in 18", Begun("in", " ", "18")),
        ("split", "the pe", Begun("the", " ", "pe")),
        ("split", "the (pe", Begun("the", " ", "(pe")),
        ("split", "the .", Begun("the .", "", None)),
        ("char", "the h", Begun("the h", "", "h", consumed="h")),
        ("char", "the ", Begun("the ", "", None)),
        ("char", "the hen.", Begun("the hen.", "", None)),
        ("char", "don't", Begun("don't", "", "t", consumed="t")),
        ("bpe", "the lo", Begun("the", " ", "lo")),
        ("bpe", "the ", Begun("the", " ", None)),
        ("bpe", "lo", Begun("", "", "lo")),
        ("char", "cafe\u0301", Begun("", "", "cafe\u0301")),
        ("word", "un cafe\u0301", Begun("un", " ", "cafe\u0301")),
        ("char", "हिन्दी", Begun("", "", "हिन्दी")),
    ],
)
def test_begun_word_is_split_off(level: Level, text: str, expected: Begun) -> None:
    assert replace(split_begun(tiny_tokenizer(level), text), after_space=False) == expected


@pytest.mark.parametrize("level", LEVELS)
@given(text=st.text(st.sampled_from("Te cat.\n\t'é\u03012猫"), max_size=20))
@settings(max_examples=100, deadline=None)
def test_split_text_joins_to_the_text(level: Level, text: str) -> None:
    begun = split_begun({"char": CHAR, "word": WORD, "bpe": BPE, "split": SPLIT}[level], text)
    assert begun.context + begun.lead + (begun.completing or "").removeprefix(begun.consumed) == text
    assert begun.context.endswith(begun.consumed)
    last = text.rstrip("".join(JOINTS))[-1:] if text[-1:] in JOINTS else text[-1:]
    assert begun.completing is None or is_word_character(last)


SPLIT = tiny_tokenizer("split")


# Words that are tokens


def by_hand(**probabilities: float) -> Array:
    """Log-probabilities over the word vocabulary; `_pear` stands for " pear"; what is not named is impossible."""
    row = np.zeros(len(WORD), np.float32)
    names = {"dot": ".", "bang": "!", "unk": "<unk>", "eos": "<eos>"}
    for name, probability in probabilities.items():
        row[WORD.vocabulary[names.get(name, name.replace("_", " "))]] = probability
    assert float(row.sum()) == pytest.approx(1)
    with np.errstate(divide="ignore"):
        return np.log(row)


HAND = by_hand(_pear=0.2, pear=0.1, _cat=0.16, _cats=0.04, The=0.05, dot=0.25, unk=0.15, eos=0.05)


def completed(index: WordIndex, logprobs: Array, begun: Begun, top: int = 10) -> NextWords:
    (path,) = begun.paths()
    return index.complete([(path, 0.0, logprobs)], begun, top)


def listed(found: NextWords) -> dict[str, float]:
    probabilities = probabilities_of(found)
    assert found.coverage == pytest.approx(sum(probabilities))
    assert probabilities == sorted(probabilities, reverse=True)
    return {word: pytest.approx(p) for (word, _), p in zip(found.words, probabilities, strict=True)}  # type: ignore[misc]


def probabilities_of(found: NextWords) -> list[float]:
    return [math.exp(logprob) for _, logprob in found.words]


def test_forms_that_differ_in_the_leading_space_are_one_word() -> None:
    found = listed(WordIndex(WORD).find(HAND, Begun("", "", None), top=10, punctuation=False))
    assert found == {"pear": 0.3, "cat": 0.16, "The": 0.05, "cats": 0.04}


def test_punctuation_is_offered_only_when_asked_for() -> None:
    found = WordIndex(WORD).find(HAND, Begun("", "", None), top=2, punctuation=True)
    assert listed(found) == {"pear": 0.3, ".": 0.25}
    assert found.coverage == pytest.approx(0.55)


def test_unk_and_eos_are_never_offered() -> None:
    index = WordIndex(WORD)
    assert index.find(by_hand(unk=0.5, eos=0.5), Begun("", "", None), top=10, punctuation=True).words == []
    assert index.find(by_hand(unk=0.5, eos=0.5), Begun("", "", None), top=10, punctuation=True).coverage == 0


@pytest.mark.parametrize(
    ("completing", "expected"),
    [
        ("cat", {"cat": 0.8, "cats": 0.2}),
        ("c", {"cat": 0.8, "cats": 0.2}),
        ("cats", {"cats": 1.0}),
        ("pe", {"pear": 1.0}),
        ("T", {"The": 1.0}),
        ("t", {"The": 1.0}),
        ("CA", {"CAT": 0.8, "CATS": 0.2}),
        ("zebra", {}),
        ("fish", {}),
    ],
    ids=["whole word", "begun", "longer", "both forms", "case", "other case", "all capitals", "none", "impossible"],
)
def test_completions_are_renormalised_over_the_words_that_begin_so(completing: str, expected: dict[str, float]) -> None:
    assert listed(completed(WordIndex(WORD), HAND, Begun("The", " ", completing))) == expected


def test_case_is_ignored_only_where_no_word_begins_in_this_case() -> None:
    tokenizer = Tokenizer.train(["Pear pear Pears"], "word", "line")
    uniform = np.full(len(tokenizer), -math.log(len(tokenizer)), np.float32)
    index = WordIndex(tokenizer)
    assert set(listed(completed(index, uniform, Begun("a", " ", "P")))) == {"Pears"}
    assert set(listed(completed(index, uniform, Begun("a", " ", "p")))) == {"pear"}
    assert set(listed(completed(index, uniform, Begun("a", " ", "PE")))) == {"PEARS", "PEAR"}


def test_a_word_is_completed_in_the_form_that_was_typed_and_in_the_other_where_there_is_none() -> None:
    tokenizer = Tokenizer.train(["Pear pear Pears"], "word", "line")
    uniform = np.full(len(tokenizer), -math.log(len(tokenizer)), np.float32)
    index = WordIndex(tokenizer)
    assert set(listed(completed(index, uniform, Begun("", "", "P")))) == {"Pear"}
    assert set(listed(completed(index, uniform, Begun("(", "", "Pears")))) == {"Pears"}


def test_top_limits_the_list_and_coverage_says_what_it_covers() -> None:
    found = completed(WordIndex(WORD), HAND, Begun("The", " ", "c"), top=1)
    assert listed(found) == {"cat": 0.8}
    assert found.coverage == pytest.approx(0.8)


def test_split_level_words_have_no_leading_space_anyway() -> None:
    uniform = np.full(len(SPLIT), -math.log(len(SPLIT)), np.float32)
    found = listed(completed(WordIndex(SPLIT), uniform, Begun("the", " ", "ca")))
    assert found == {"cat": 0.5, "cats": 0.5}


def test_typed_capitals_give_capitals_and_forms_become_one() -> None:
    tokenizer = Tokenizer.train(["Pear pear Pears the"], "word", "line")
    probabilities = {"Pear": 0.0, " pear": 0.3, " Pears": 0.2, " the": 0.4, "<eos>": 0.1}
    values = [probabilities.get(token, 0.0) for token in tokenizer.tokens]
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.array(values, np.float32))
    index = WordIndex(tokenizer)
    assert listed(completed(index, logprobs, Begun("a", " ", "PE"))) == {"PEAR": 0.6, "PEARS": 0.4}
    found = index.find(logprobs, Begun("", "", None, starts_sentence=True), 10, punctuation=False)
    assert listed(found) == {"The": 0.4, "Pear": 0.3, "Pears": 0.2}


def test_a_begun_word_with_an_apostrophe_may_be_cut_at_it() -> None:
    begun = Begun("by", " ", "O'Br")
    assert begun.paths() == [("by", "", "O'Br"), ("by O", "O", "'Br"), ("by O'", "O'", "Br")]
    tokenizer = Tokenizer.train(["by O ' Brien Brown Brien"], "word", "line")
    uniform = np.full(len(tokenizer), -math.log(len(tokenizer)), np.float32)
    paths = [(path, 0.0, uniform) for path in begun.paths()]
    assert WordIndex(tokenizer).complete(paths, begun, 10).words == []  # known after a space alone


# Words that are spelled


def distributions(model: LanguageModel, ids: Tensor, state: Tensor) -> tuple[Array, Tensor]:
    """(B,) ids, (B, S) -> log-probabilities (B, V), state (B, S)."""
    logits, state = model(ids[:, None], state)
    return log_softmax(logits[:, -1].numpy()), state


def after(model: LanguageModel, tokenizer: Tokenizer, context: str) -> tuple[Array, Tensor]:
    logits, state = model(torch.tensor([prompt_inputs(tokenizer, context)]), model.config.state_layout.zeros(1))
    return log_softmax(logits[:, -1].numpy())[0], state


class Expansions:
    """Drives a search with the model itself, and counts the distributions that it asks for."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pieces = WordPieces(tokenizer)
        self.count = 0

    def find(
        self, text: str, top: int = 10, punctuation: bool = False, max_expansions: int = 20_000, width: int = 32
    ) -> NextWords:
        begun = split_begun(self.tokenizer, text)
        search = WordSearch(self.pieces, begun, top, punctuation, max_expansions)
        search.expand_root(*after(self.model, self.tokenizer, begun.context))
        self.count = 0
        while nodes := search.frontier(width):
            self.count += len(nodes)
            ids = torch.tensor([node.token_id for node in nodes])
            rows, states = distributions(self.model, ids, torch.cat([node.state for node in nodes]))
            for i, node in enumerate(nodes):
                search.expand(node, rows[i], states[i : i + 1])
        return search.result()


@pytest.fixture(scope="module")
def spelling() -> Expansions:
    """A character model whose words are short: a space is likely everywhere."""
    model = tiny_model(len(CHAR), seed=5)
    model.output.bias[LETTERS] = 0.0
    model.output.bias[CHAR.vocabulary[" "]] = 2.5
    return Expansions(model, CHAR)


LETTERS = [CHAR.vocabulary[letter] for letter in "ehntaos"]
ENDS = [CHAR.vocabulary[mark] for mark in (" ", "\n", ".", "<eos>")]


def spelled(model: LanguageModel, context: str, begun: str = "", longest: int = 5) -> Iterator[tuple[str, float]]:
    """Every word of up to `longest` more letters with its log-probability, by brute force, a length at a time.

    The letters of `begun` are taken as given: probabilities are over what begins so.
    """
    row, state = after(model, CHAR, context + begun)
    rows, states, words, totals = row[None], state, [begun], np.zeros(1)
    for length in range(longest + 1):
        if begun or length:
            ended = totals + np.log(np.exp(rows[:, ENDS]).sum(1))
            yield from zip(words, ended.tolist(), strict=True)
        words = [word + CHAR.tokens[letter] for word in words for letter in LETTERS]
        totals = (totals[:, None] + rows[:, LETTERS]).flatten()
        rows, states = distributions(
            model, torch.tensor(LETTERS).repeat(len(rows)), states.repeat_interleave(len(LETTERS), dim=0)
        )


def best(words: dict[str, float], top: int) -> list[tuple[str, float]]:
    return sorted(words.items(), key=lambda item: -item[1])[:top]


@pytest.mark.parametrize("top", [1, 5, 20])
@pytest.mark.parametrize("text", ["h", "the h", "the hen sat on the ne", "tttt"])
def test_completions_equal_brute_force(spelling: Expansions, text: str, top: int) -> None:
    """Probabilities too, and for every `top` the same: they are over all that begins so, not over what is listed."""
    context, begun = text[: text.rfind(" ") + 1], text[text.rfind(" ") + 1 :]
    truth = {word: math.exp(logprob) for word, logprob in spelled(spelling.model, context, begun)}
    expected = best(truth, top)
    found = spelling.find(text, top)
    assert [word for word, _ in found.words] == [word for word, _ in expected]
    assert probabilities_of(found) == pytest.approx([p for _, p in expected], rel=1e-4)
    assert found.coverage == pytest.approx(sum(p for _, p in expected), rel=1e-4)


@pytest.mark.parametrize("text", ["", "the ", "the hen."])
def test_next_words_equal_brute_force(spelling: Expansions, text: str) -> None:
    """After white space exactly; elsewhere a word may come with or without a space before it, and the two are one word.

    The form that is less likely than the last word listed may be left out of a word's probability.
    """
    truth = {word: math.exp(logprob) for word, logprob in spelled(spelling.model, text)}
    after_space = not text or text.endswith(" ")
    if not after_space:
        space = float(after(spelling.model, CHAR, text)[0][CHAR.vocabulary[" "]])
        for word, logprob in spelled(spelling.model, text + " "):
            truth[word] += math.exp(space + logprob)
    found = spelling.find(text, top=200)
    last = math.exp(found.words[-1][1])
    for (word, _), probability in zip(found.words, probabilities_of(found), strict=True):
        if word in truth:  # else it is longer than brute force goes
            assert truth[word] - (0 if after_space else last) <= probability * 1.0001
            assert probability <= truth[word] * 1.0001
    assert [word for word, _ in found.words[:5]] == [word for word, _ in best(truth, 5)]
    assert {word for word, p in truth.items() if p > 2.1 * last} <= {word for word, _ in found.words}


def test_coverage_grows_towards_one_with_the_list(spelling: Expansions) -> None:
    coverages = [spelling.find("the h", top).coverage for top in (1, 10, 100, 1000)]
    assert coverages == sorted(coverages)
    assert 0.9 < coverages[-1] <= 1


def test_a_long_and_unlikely_beginning_is_still_completed(spelling: Expansions) -> None:
    """However improbable what was typed, it is what was typed."""
    text = "oaoaoaoaoaoaoaoaoaoaoaoaoaoaoaoaoaoaoaoa"
    found = spelling.find(text, top=3)
    truth = {word: math.exp(logprob) for word, logprob in spelled(spelling.model, "", text, longest=3)}
    assert [word for word, _ in found.words] == [word for word, _ in best(truth, 3)]
    assert probabilities_of(found) == pytest.approx([p for _, p in best(truth, 3)], rel=1e-3)


def test_what_the_vocabulary_cannot_spell_has_no_completion(spelling: Expansions) -> None:
    assert spelling.find("xyz").words == []


def test_case_is_ignored_where_this_case_cannot_be_spelled(spelling: Expansions) -> None:
    lower, upper = spelling.find("he", top=5), spelling.find("HE", top=5)
    assert [word for word, _ in upper.words] == [word for word, _ in lower.words]
    assert probabilities_of(upper) == pytest.approx(probabilities_of(lower), rel=1e-4)


def test_unk_and_eos_are_never_part_of_a_spelled_word(spelling: Expansions) -> None:
    for text in ("", "the ", "h"):
        for word, _ in spelling.find(text, top=100, punctuation=True).words:
            assert word == "." or set(word) <= set("ehntaos")


def test_spelled_punctuation_is_offered_only_when_asked_for(spelling: Expansions) -> None:
    without, with_marks = spelling.find("the hen", top=50), spelling.find("the hen ", top=50, punctuation=True)
    assert "." not in dict(without.words)
    probability = float(np.exp(after(spelling.model, CHAR, "the hen ")[0][CHAR.vocabulary["."]]))
    assert math.exp(dict(with_marks.words)["."]) == pytest.approx(probability, rel=1e-4)


@pytest.mark.parametrize("bound", [0, 1, 7, 50])
def test_expansions_are_bounded(spelling: Expansions, bound: int) -> None:
    found = spelling.find("the ", top=1000, max_expansions=bound)
    assert spelling.count == bound
    assert len(found.words) <= bound
    assert found.coverage <= 1


def test_search_stops_as_soon_as_the_best_are_certain(spelling: Expansions) -> None:
    spelling.find("the ", top=1, width=1)
    for_one = spelling.count
    spelling.find("the ", top=50, width=1)
    assert 0 < for_one < spelling.count < 2000


@pytest.mark.parametrize("width", [1, 8, 500])
def test_looking_at_more_nodes_at_once_changes_nothing(spelling: Expansions, width: int) -> None:
    one, other = spelling.find("the h", top=10), spelling.find("the h", top=10, width=width)
    assert [word for word, _ in one.words] == [word for word, _ in other.words]
    assert [p for _, p in one.words] == pytest.approx([p for _, p in other.words], rel=1e-4)


# Words made of subwords


@pytest.fixture(scope="module")
def subwords() -> Expansions:
    model = tiny_model(len(BPE), seed=7)
    for token, token_id in BPE.vocabulary.items():
        if token.lstrip("Ġ") in {"lo", "we", "wide", "ne", "st", "e", "w", "n", "Ġ"}:
            model.output.bias[token_id] += 4.0
    return Expansions(model, BPE)


def probability_of(model: LanguageModel, pieces: WordPieces, context: str, text: str) -> float:
    """Of `text` and a boundary after it: summed over every way to put it together."""

    def rest(remaining: str, row: Array, state: Tensor) -> float:
        if not remaining:
            return float(np.exp(row[pieces.ends]).sum())
        total = 0.0
        for token_id, surface in enumerate(pieces.surfaces):
            if surface and remaining.startswith(surface):
                next_row, next_state = distributions(model, torch.tensor([token_id]), state)
                total += float(np.exp(row[token_id])) * rest(remaining.removeprefix(surface), next_row[0], next_state)
        return total

    return rest(text, *after(model, BPE, context))


def test_a_words_probability_is_summed_over_the_ways_to_put_it_together(subwords: Expansions) -> None:
    found = subwords.find("wide ", top=20)
    last = probabilities_of(found)[-1]
    assert len(found.words) == 20
    for (word, _), probability in zip(found.words, probabilities_of(found), strict=True):
        truth = probability_of(subwords.model, subwords.pieces, "wide", " " + word)
        assert probability <= truth * 1.0001
        assert truth <= probability * 1.0001 + 4 * last  # ways less likely than the last word may be left out


def test_subword_completions_begin_with_what_was_begun(subwords: Expansions) -> None:
    found = subwords.find("wide lo", top=10)
    assert len(found.words) == 10
    assert all(word.startswith("lo") for word, _ in found.words)
    assert 0 < found.coverage <= 1


def test_bytes_of_an_unfinished_character_are_neither_words_nor_ends() -> None:
    pieces = WordPieces(BPE)
    partial = BPE.encode("猫").ids[0]
    for mask in (pieces.starts, pieces.continues, pieces.ends, pieces.marks):
        assert not mask[partial]


def test_roles_of_pieces() -> None:
    pieces = WordPieces(BPE)
    roles = {
        token: tuple(bool(mask[BPE.vocabulary[token]]) for mask in (pieces.starts, pieces.continues, pieces.ends))
        for token in ("a", "Ġ", "Ġwide", "de", "!", "<eos>", "<unk>")
    }
    assert roles == {
        "a": (True, True, False),
        "Ġ": (True, False, True),
        "Ġwide": (True, False, True),
        "de": (True, True, False),
        "!": (False, False, True),
        "<eos>": (False, False, True),
        "<unk>": (False, False, False),
    }


def test_what_came_before_the_text_says_whether_a_word_needs_a_space() -> None:
    assert split_begun(CHAR, "").after_space
    assert not split_begun(CHAR, "", at_start=False).after_space
    assert split_begun(CHAR, "the ").after_space
    assert not split_begun(CHAR, "the hen.").after_space
    assert not split_begun(BPE, "the ").after_space  # the space is the next token's own
