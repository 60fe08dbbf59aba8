"""Text to ids and back, at four levels."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.text.levels import EOS, LEVELS, UNK, Level
from models.text.tokenizer import BOUNDARIES, Boundary, Encoding, Tokenizer
from models.text.words import ends_in_space
from tests.tiny import TEXTS, tiny_tokenizer

TOKENIZERS = {level: tiny_tokenizer(level) for level in LEVELS}

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
QUICK = settings(max_examples=100, deadline=None)


def shown(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.tokens[token_id] for token_id in ids]


def slices(text: str, encoding: Encoding) -> list[str]:
    return [text[start:end] for start, end in encoding.offsets]


def word_tokenizer(text: str, boundary: Boundary = "document", size: int | None = None, count: int = 1) -> Tokenizer:
    return Tokenizer.train([text], "word", boundary, vocabulary_size=size, min_count=count)


# Levels


@pytest.mark.parametrize(
    ("level", "tokens"),
    [
        ("char", ["h", "e", " ", "s", "a", "t", "."]),
        ("word", ["The", " cat", " ate", " fish", "."]),
        ("split", ["the", "cat", "sat", "."]),
    ],
)
def test_level_decides_what_a_token_is(level: Level, tokens: list[str]) -> None:
    text = {"char": "he sat.", "word": "The cat ate fish.", "split": "the  cat\tsat ."}[level]
    assert shown(TOKENIZERS[level], TOKENIZERS[level].encode(text).ids) == tokens


def test_bpe_joins_what_is_common_and_spells_what_is_not() -> None:
    tokenizer = TOKENIZERS["bpe"]
    assert len(tokenizer.encode(" newest").ids) < len(" newest")
    assert len(tokenizer.encode("\u732b").ids) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't", ["I", " don't"]),
        ("Emma's hat", ["Emma", "'s", " hat"]),
        ("Emma’s hat", ["Emma", "’s", " hat"]),
        ("we'll 'twas", ["we'll", " '", "twas"]),
        ("dogs' tails", ["dogs", "'", " tails"]),
        ("wait... no--yes", ["wait", "...", " no", "--", "yes"]),
        ("in 1813,", ["in", " 1813", ","]),
        ("B2B", ["B", "2", "B"]),
        ("a  b", ["a", " ", " b"]),
        ("naïve cafe\u0301", ["naïve", " cafe\u0301"]),
        ("a\tb", ["a", "\t", "b"]),
    ],
)
def test_word_level_cuts_english_where_a_reader_would(text: str, words: list[str]) -> None:
    tokenizer = word_tokenizer(text)
    assert shown(tokenizer, tokenizer.encode(text).ids) == words


# Round trips and offsets


@given(st.text(st.sampled_from(sorted(set(TEXTS["char"]))), max_size=30))
@QUICK
def test_char_decode_inverts_encode(text: str) -> None:
    tokenizer = TOKENIZERS["char"]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@given(
    st.lists(st.sampled_from(["The", " cat", " cats", "pear", " pear", " ate", " fish", ".", "!", "\n"]), max_size=20)
)
@QUICK
def test_word_decode_inverts_encode(pieces: list[str]) -> None:
    tokenizer = TOKENIZERS["word"]
    text = "".join(pieces)
    encoding = tokenizer.encode(text)
    if tokenizer.unk_id not in encoding.ids:  # pieces may join into an unknown word, such as "pearpear"
        assert tokenizer.decode(encoding.ids) == tokenizer.reader.read(text).text


@given(ANY_TEXT)
@QUICK
def test_word_decode_inverts_encode_for_any_text_it_was_trained_on(text: str) -> None:
    tokenizer = word_tokenizer(text)
    text = text.replace(UNK, "").replace(EOS, "")
    encoding = tokenizer.encode(text)
    if tokenizer.unk_id not in encoding.ids:
        assert tokenizer.decode(encoding.ids) == tokenizer.reader.read(text).text


@given(ANY_TEXT)
@QUICK
def test_bpe_decode_inverts_encode_for_any_unicode(text: str) -> None:
    tokenizer = Tokenizer(TOKENIZERS["bpe"].inner, "bpe", "document")
    if EOS not in text:
        encoding = tokenizer.encode(text)
        assert tokenizer.decode(encoding.ids) == tokenizer.reader.read(text).text
        assert tokenizer.unk_id not in encoding.ids or UNK in text


@given(ANY_TEXT)
@QUICK
def test_line_boundaries_are_rendered_as_newlines(text: str) -> None:
    tokenizer = TOKENIZERS["bpe"]
    if EOS not in text:
        assert tokenizer.decode(tokenizer.encode(text).ids) == tokenizer.reader.read(text).text


@pytest.mark.parametrize("boundary", ["line", "paragraph", "document"])
@pytest.mark.parametrize("level", ["char", "word"])
@given(text=st.text(st.sampled_from("Te cat.\n\t's<unk>é\u0301猫2"), max_size=40))
@QUICK
def test_every_character_is_in_exactly_one_token(level: Level, boundary: Boundary, text: str) -> None:
    """Unknown words and boundaries included; of the text as it is read."""
    tokenizer = Tokenizer(TOKENIZERS[level].inner, level, boundary)
    text = tokenizer.reader.read(text).text
    encoding = tokenizer.encode(text)
    assert "".join(slices(text, encoding)) == text
    starts = [start for start, _ in encoding.offsets]
    assert starts == [0, *(end for _, end in encoding.offsets)][: len(starts)]
    assert all(start < end for start, end in encoding.offsets)


@given(text=ANY_TEXT)
@QUICK
def test_bpe_offsets_cover_the_text_in_order(text: str) -> None:
    """Tokens that share a character, as its bytes do, share its offsets."""
    covered, text = 0, TOKENIZERS["bpe"].reader.read(text).text
    for start, end in TOKENIZERS["bpe"].encode(text).offsets:
        assert start <= covered <= end
        assert start < end
        covered = end
    assert covered == len(text)


@given(text=st.text(st.sampled_from("the cat. \n\t"), max_size=40))
@QUICK
def test_split_offsets_are_those_of_the_words(text: str) -> None:
    tokenizer = Tokenizer(TOKENIZERS["split"].inner, "split", "document")
    assert slices(text, tokenizer.encode(text)) == text.split()


def test_known_tokens_are_slices_of_the_text() -> None:
    text = "The cats ate pear.\nThe cat sat!"
    encoding = TOKENIZERS["word"].encode(text)
    shows = [EOS if piece == "\n" else piece for piece in slices(text, encoding)]
    assert shows == shown(TOKENIZERS["word"], encoding.ids)


def test_offsets_count_code_points() -> None:
    text = "𝔘😀 cat"
    encoding = TOKENIZERS["word"].encode(text)
    assert slices(text, encoding)[-1] == " cat"


# Unknown words and special tokens


def test_an_unknown_word_is_one_unk_with_its_leading_space() -> None:
    text = "The zebra ate marzipan."
    encoding = TOKENIZERS["word"].encode(text)
    assert shown(TOKENIZERS["word"], encoding.ids) == ["The", UNK, " ate", UNK, "."]
    assert slices(text, encoding) == ["The", " zebra", " ate", " marzipan", "."]


def test_unknown_words_in_a_row_are_one_unk_each() -> None:
    for level, text, count in (("word", "xx yy zz", 3), ("split", "xx yy zz", 3), ("char", "xyz", 3)):
        tokenizer = TOKENIZERS[level]  # type: ignore[index]
        assert tokenizer.encode(text).ids == [tokenizer.unk_id] * count


@pytest.mark.parametrize("level", LEVELS)
def test_literal_special_tokens_are_the_special_tokens(level: Level) -> None:
    tokenizer = TOKENIZERS[level]
    assert tokenizer.encode("<unk>").ids == [tokenizer.unk_id]
    assert tokenizer.encode("<eos>").ids == [tokenizer.eos_id]
    assert tokenizer.encode("<unk><eos>").offsets == [(0, 5), (5, 10)]


def test_literal_unk_at_word_level_takes_its_space_along() -> None:
    text = "The <unk> sat"
    encoding = TOKENIZERS["word"].encode(text)
    assert slices(text, encoding) == ["The", " <unk>", " sat"]
    assert TOKENIZERS["word"].decode(encoding.ids) == text


@pytest.mark.parametrize("level", LEVELS)
def test_specials_are_never_counted_as_words(level: Level) -> None:
    marked = Tokenizer.train(["<unk> a b <eos>\na c <unk>"], level, "line", 300 if level == "bpe" else None)
    pieces = {"<", ">", "unk", "eos", " <", "<unk", "k", "o", "u"} if level != "bpe" else {"un", "eo", "nk", "os"}
    assert not pieces & set(marked.tokens)
    assert (marked.tokens.count(UNK), marked.tokens.count(EOS)) == (1, 1)
    assert (marked.unk_id, marked.eos_id) == (0, 1)


# Boundaries


@pytest.mark.parametrize(
    ("boundary", "text", "tokens"),
    [
        ("line", "a\nb", ["a", EOS, "b"]),
        ("line", "a\n\nb\n", ["a", EOS, EOS, "b", EOS]),
        ("paragraph", "a\nb\n\n\na", ["a", "\n", "b", EOS, "a"]),
        ("document", "a\nb", ["a", "\n", "b"]),
    ],
)
def test_boundaries_inside_a_text_are_eos_and_none_is_added(boundary: Boundary, text: str, tokens: list[str]) -> None:
    tokenizer = Tokenizer.train(["a\nb"], "char", "document")
    tokenizer = Tokenizer(tokenizer.inner, "char", boundary)
    assert shown(tokenizer, tokenizer.encode(text).ids) == tokens


@pytest.mark.parametrize("boundary", ["line", "paragraph", "document"])
@pytest.mark.parametrize("level", LEVELS)
@given(text=st.text(st.sampled_from("the a\n"), max_size=20))
@QUICK
def test_a_document_is_its_encoding_closed_by_exactly_one_eos(level: Level, boundary: Boundary, text: str) -> None:
    tokenizer = Tokenizer(TOKENIZERS[level].inner, level, boundary)
    ids = tokenizer.encode(text).ids
    read = tokenizer.reader.read(text).text
    ends_at_boundary = {"line": read.endswith("\n"), "paragraph": read.endswith("\n\n"), "document": False}[boundary]
    assert tokenizer.encode_document(text) == ids + ([] if ends_at_boundary else [tokenizer.eos_id])


def test_an_empty_text_has_no_tokens_and_an_empty_document_one() -> None:
    for tokenizer in TOKENIZERS.values():
        assert tokenizer.encode("") == Encoding([], [])
        assert tokenizer.encode_document("") == [tokenizer.eos_id]


# Vocabulary


def test_vocabulary_holds_the_commonest_types_and_counts_the_specials() -> None:
    tokenizer = word_tokenizer("a a a b b c", size=4)
    assert len(tokenizer) == 4
    assert set(tokenizer.tokens) == {UNK, EOS, " a", " b"}


def test_min_count_leaves_out_rare_types() -> None:
    assert set(word_tokenizer("x a a b b c", count=2).tokens) == {UNK, EOS, " a", " b"}


def test_vocabulary_does_not_depend_on_how_the_texts_are_cut() -> None:
    whole = Tokenizer.train(["b a a\nc c b\n"], "word", "line")
    lines = Tokenizer.train(["b a a\n", "c c b\n"], "word", "line")
    assert whole.tokens == lines.tokens


def test_bpe_vocabulary_size_is_kept_to() -> None:
    assert len(TOKENIZERS["bpe"]) == 268


# Text from tokens that come one by one


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.data())
@QUICK
def test_incremental_decoding_equals_decode(level: Level, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[level]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=20))
    decoder = tokenizer.decoder()
    assert "".join([decoder.feed(token_id) for token_id in ids]) + decoder.flush() == tokenizer.decode(ids)


def test_an_unfinished_character_is_held_back() -> None:
    tokenizer = TOKENIZERS["bpe"]
    decoder = tokenizer.decoder()
    assert [decoder.feed(token_id) for token_id in tokenizer.encode("猫é").ids] == ["", "", "猫", "", "é"]


def test_an_unfinished_character_at_the_end_is_a_replacement_character() -> None:
    tokenizer = TOKENIZERS["bpe"]
    decoder = tokenizer.decoder()
    first = tokenizer.encode("猫").ids[0]
    assert decoder.feed(first) + decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


def test_split_words_are_single_spaced_and_lines_start_without_a_space() -> None:
    tokenizer = TOKENIZERS["split"]
    assert tokenizer.decode(tokenizer.encode(" the  cat\tsat .\nthe pear").ids) == "the cat sat .\nthe pear"


@pytest.mark.parametrize(
    ("after", "expected"), [("", "cat"), ("the", " cat"), ("the ", "cat"), ("the\n", "cat")], ids=repr
)
def test_split_word_continues_a_text_with_one_space(after: str, expected: str) -> None:
    tokenizer = TOKENIZERS["split"]
    assert tokenizer.decoder(at_start=ends_in_space(after)).feed(tokenizer.vocabulary["cat"]) == expected


def test_generated_unk_is_set_off_by_a_space_at_word_level() -> None:
    tokenizer = TOKENIZERS["word"]
    the, unk, eos = tokenizer.vocabulary["The"], tokenizer.unk_id, tokenizer.eos_id
    assert tokenizer.decode([unk, unk, eos, unk, the]) == "<unk> <unk>\n<unk>The"


def test_surface_shows_a_token_as_it_looks_in_a_text() -> None:
    assert TOKENIZERS["word"].surface(TOKENIZERS["word"].vocabulary[" cat"]) == " cat"
    assert TOKENIZERS["split"].surface(TOKENIZERS["split"].vocabulary["cat"]) == " cat"
    bpe = TOKENIZERS["bpe"]
    assert bpe.surface(bpe.encode("猫").ids[0]) == "\ufffd"


def test_boundary_decides_how_eos_is_written() -> None:
    inner = TOKENIZERS["char"].inner
    written = {b: Tokenizer(inner, "char", b).decode([1]) for b in BOUNDARIES}
    assert written == {"line": "\n", "paragraph": "\n\n", "document": ""}


# Files


@pytest.mark.parametrize("level", LEVELS)
@given(text=st.text(st.sampled_from(string.printable + "é猫"), max_size=40))
@settings(max_examples=30, deadline=None)
def test_a_reloaded_tokenizer_agrees(level: Level, text: str) -> None:
    tokenizer = TOKENIZERS[level]
    reloaded = Tokenizer.from_bytes(tokenizer.inner.to_str().encode(), level, tokenizer.boundary)
    assert reloaded.tokens == tokenizer.tokens
    assert reloaded.encode(text) == tokenizer.encode(text)
    assert reloaded.encode_document(text) == tokenizer.encode_document(text)
    ids = tokenizer.encode(text).ids
    assert reloaded.decode(ids) == tokenizer.decode(ids)


def _edited(level: Level, **vocabulary: int | None) -> bytes:
    """The file of a tiny tokenizer with ids changed, or (None) entries taken out."""
    content = json.loads(TOKENIZERS[level].inner.to_str())
    for token, token_id in vocabulary.items():
        del content["model"]["vocab"][token]
        if token_id is not None:
            content["model"]["vocab"][token] = token_id
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a tokenizer file"),
        (b"{}", "not a tokenizer file"),
        (b"\xff\xfe", "not a tokenizer file"),
        (TOKENIZERS["char"].inner.to_str().encode()[:-40], "not a tokenizer file"),
        (_edited("char", a=None), "ids"),
        (_edited("char", a=3), "ids"),
        (_edited("char", a=99), "ids"),
    ],
    ids=["empty", "no model", "not text", "truncated", "token missing", "id twice", "id too large"],
)
def test_a_damaged_tokenizer_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_bytes(content, "char", "document")


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    content = json.loads(TOKENIZERS["char"].inner.to_str())
    content["added_tokens"] = []
    content["model"]["vocab"] = {"[UNK]": 0, "a": 1}
    with pytest.raises(ValueError, match="has no <unk>"):
        Tokenizer.from_bytes(json.dumps(content).encode(), "char", "document")


@pytest.mark.parametrize("claimed", LEVELS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_tokenizer_of_another_level_is_refused(level: Level, claimed: Level) -> None:
    content = TOKENIZERS[level].inner.to_str().encode()
    if level == claimed:
        assert Tokenizer.from_bytes(content, claimed, "line").level == level
    else:
        with pytest.raises(ValueError, match="level"):
            Tokenizer.from_bytes(content, claimed, "line")


def test_unknown_level_and_boundary_are_refused() -> None:
    inner = TOKENIZERS["char"].inner
    with pytest.raises(ValueError, match="level: 'letters'"):
        Tokenizer(inner, "letters", "line")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boundary: 'page'"):
        Tokenizer(inner, "char", "page")  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["word", "split"])
def test_noted_unknown_words_are_those_that_became_unk(level: Level) -> None:
    tokenizer = tiny_tokenizer(level)
    text = "The dog ate.\nA dog!\n<unk> cat ran"
    ids, unknown = tokenizer.encode_noting(text)
    encoding = tokenizer.encode(text)
    assert ids == encoding.ids
    surfaces = [text[a:b] for i, (a, b) in zip(ids, encoding.offsets, strict=True) if i == tokenizer.unk_id]
    assert unknown == [surface for surface in surfaces if surface.strip() != "<unk>"]
    assert unknown
    if level == "word":
        assert unknown == [" dog", "A", " dog", " ran"]


class TestSpeech:
    """Text as recognisers write it: no case, no punctuation."""

    TEXT = "“Mr. Brown's dog,” she said—“isn't OLD!”\nThe dogs' to-day: it's 15.\n"

    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.train([self.TEXT], "split", "line", normalization="speech")

    def test_case_and_punctuation_make_no_difference(self, tokenizer: Tokenizer) -> None:
        plain = "MISTER BROWN'S DOG SHE SAID ISN'T OLD\nthe dogs to day it's 15\n"
        assert tokenizer.encode_ids(self.TEXT) == tokenizer.encode_ids(plain)
        assert tokenizer.unk_id not in tokenizer.encode_ids(plain)
        assert tokenizer.decode(tokenizer.encode_ids(plain)) == plain.lower()

    def test_offsets_are_those_of_the_text_as_it_was(self, tokenizer: Tokenizer) -> None:
        encoding = tokenizer.encode(self.TEXT)
        shown = [self.TEXT[start:end] for start, end in encoding.offsets]
        assert shown[:4] == ["Mr", "Brown's", "dog", "she"]
        assert "isn't" in shown

    def test_unknown_words_are_noted_as_they_are_read(self, tokenizer: Tokenizer) -> None:
        ids, unknown = tokenizer.encode_noting("Mr. QUILTER's dog, <unk> Zeppelin!")
        assert unknown == ["quilter's", "zeppelin"]
        assert ids.count(tokenizer.unk_id) == 3

    def test_it_is_kept_in_the_file(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        tokenizer.save(tmp_path / "tokenizer.json")
        again = Tokenizer.from_bytes((tmp_path / "tokenizer.json").read_bytes(), "split", "line")
        assert again.normalization == "speech"
        assert again.encode_ids(self.TEXT) == tokenizer.encode_ids(self.TEXT)
