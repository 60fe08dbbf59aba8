"""What is typed one way or another, and read alike."""

import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint.format import load_checkpoint
from models.text.levels import Level
from models.text.tokenizer import Boundary, Tokenizer

CHECKPOINTS = Path(__file__).parents[3] / "checkpoints"

PLAIN = """"Don't," she said -- it's 5 o'clock... the café's naïve fiancé; well-known -- isn't it?"""


@cache
def english() -> Tokenizer:
    return load_checkpoint(CHECKPOINTS / "english-word").tokenizer


def trained(text: str, level: Level = "word", boundary: Boundary = "line") -> Tokenizer:
    return Tokenizer.train([text], level, boundary)


TWINS = {
    "'": "'’‘ʼ＇´",
    '"': '"“”„＂',
    "--": ["--", "—"],
    "...": ["...", "…"],
    "-": "-‐‑",
    " ": [" ", "\u00a0", "\u202f", "\t", "  ", " \u2009 "],
    "\n": ["\n", "\r\n", "\r", " \n", "\t\r\n"],
    "fi": ["fi", "ﬁ"],
    "a": ["a", "\u00ada", "a\u200b", "ａ"],
}
"""What is typed for what."""


@st.composite
def typed_texts(draw: st.DrawFn) -> tuple[str, str]:
    """A text and the same text typed another way."""
    pieces = st.sampled_from([*TWINS, "The", " man", " said", " don't", " café", "é", " fine", ".", ",", " 1914", "s"])
    plain = draw(st.lists(pieces, min_size=1, max_size=20))
    typed = []
    for piece in plain:
        if piece in TWINS:
            typed.append(draw(st.sampled_from(list(TWINS[piece]))))
        else:
            typed.append(draw(st.sampled_from([piece, unicodedata.normalize("NFD", piece)])))
    return "".join(plain), "".join(typed)


@given(typed_texts())
@settings(deadline=None, max_examples=300)
def test_texts_typed_with_twins_have_the_same_tokens(texts: tuple[str, str]) -> None:
    plain, typed = texts
    assert english().encode_ids(typed) == english().encode_ids(plain)
    assert english().encode(typed).ids == english().encode(plain).ids


@given(typed_texts())
@settings(deadline=None, max_examples=300)
def test_offsets_are_those_of_the_text_as_typed(texts: tuple[str, str]) -> None:
    typed = texts[1]
    encoding = english().encode(typed)
    starts, ends = [start for start, _ in encoding.offsets], [end for _, end in encoding.offsets]
    assert (starts, ends) == (sorted(starts), sorted(ends))
    assert all(0 <= start < end <= len(typed) for start, end in encoding.offsets)
    for (start, end), token_id in zip(encoding.offsets, encoding.ids, strict=True):
        if token_id not in (english().unk_id, english().eos_id):
            assert english().reader.read(typed[start:end]).text.strip() == english().tokens[token_id].strip()


@given(typed_texts(), st.sampled_from(["line", "paragraph", "document"]), st.sampled_from(["char", "word", "bpe"]))
@settings(deadline=None, max_examples=300)
def test_what_has_been_read_is_read_as_it_is(texts: tuple[str, str], boundary: Boundary, level: Level) -> None:
    reader = trained(PLAIN, level, boundary).reader
    read = reader.read(texts[1]).text
    assert reader.read(read).text == read


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("I don’t know what you’re doing.", "I don't know what you're doing."),
        ("“Hello,” she said.", '"Hello," she said.'),
        ("It was… odd — very", "It was... odd -- very"),
        ("1914–18", "1914-18"),
        ("a ﬁne day", "a fine day"),
        ("co\u00adop", "coop"),
        ("well‑known", "well-known"),
        ("It\u00a0was\u202fthe\tbest  of times. ", "It was the best of times."),
        ("One.\r\nTwo.\rThree.\r\n", "One.\nTwo.\nThree.\n"),
        ("One.\n \t\nTwo.", "One.\n\nTwo."),
        ("＇Ｔｈｅ　ｍａｎ！", "'The man!"),
        ("naïve", "nai\u0308ve"),
    ],
)
def test_the_default_vocabulary_reads(typed: str, plain: str) -> None:
    assert english().encode_ids(typed) == english().encode_ids(plain)


def test_white_space_is_never_an_unknown_word() -> None:
    for text in ("a  b", "a b ", "\t", "\u00a0", " \n \n", "a \u3000 b\u2028"):
        assert english().unk_id not in english().encode_ids(text), text


@pytest.mark.parametrize("level", ["char", "word", "split"])
def test_a_vocabulary_of_curly_marks_reads_straight_ones_as_its_own(level: Level) -> None:
    text = "“I don’t,” she said ‘it isn’t’ — no " * 20
    straight = text.replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'")
    tokenizer = trained(text, level)
    assert tokenizer.encode_ids(straight.replace("—", "--")) == tokenizer.encode_ids(text)


def test_three_dots_are_the_ellipsis_that_the_vocabulary_has() -> None:
    tokenizer = trained("well… no. " * 20)
    assert tokenizer.encode_ids("well... no.") == tokenizer.encode_ids("well… no.")


def test_a_word_is_known_by_the_marks_with_which_the_vocabulary_has_it() -> None:
    tokenizer = trained("don't isn’t don't isn’t well-known re‐read ' ’ - ‐")
    assert tokenizer.encode_ids("don’t isn't") == tokenizer.encode_ids("don't isn’t")
    assert tokenizer.unk_id not in tokenizer.encode_ids("don’t isn't")


def test_what_a_vocabulary_has_as_it_is_typed_stays() -> None:
    text = '“curly” and "straight", it’s and it\'s, … and ..., — and --, a\u00a0b, ﬁ and fi, \t'
    for level in ("char", "word", "bpe"):
        assert trained(text * 50, level).reader.read(text).text == text


def test_subwords_read_a_mark_that_their_text_never_had_as_its_twin() -> None:
    tokenizer = trained("it's what he didn't say, \"she\" said " * 50, "bpe")
    assert tokenizer.encode_ids("it’s “she”") == tokenizer.encode_ids('it\'s "she"')
    assert tokenizer.decode(tokenizer.encode_ids("naïve ½ 🙂")) == "naïve ½ 🙂"


def test_chinese_and_ascii_marks_are_twins() -> None:
    chinese, ascii_marks = trained("你好，世界。“好”！？：", "char"), trained('你好,世界."好"!?:', "char")
    assert chinese.encode_ids('你好,世界."好"!') == chinese.encode_ids("你好，世界。“好”！")
    assert ascii_marks.encode_ids("你好，世界。「好」！") == ascii_marks.encode_ids('你好,世界."好"!')


def test_speech_is_read_without_marks_whatever_they_are() -> None:
    tokenizer = Tokenizer.train(["i don't know it's fine"], "split", "line", normalization="speech")
    assert tokenizer.encode_ids("“I donʼt know” — It’s ﬁne…") == tokenizer.encode_ids("i don't know it's fine")


def test_a_text_alone_and_among_others_is_read_alike() -> None:
    texts = ["don’t", "don't", "“Well‑known”", "plain text", "tab\tand\u00a0nbsp"]
    alone = [english().encode_ids(text) for text in texts]
    shuffled = random.Random(0).sample(range(5), 5)
    together = english().encode_ids("\n".join(texts[i] for i in shuffled))
    expected = [token_id for i in shuffled for token_id in [*alone[i], english().eos_id]][:-1]
    assert together == expected
