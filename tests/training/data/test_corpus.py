"""What is read, what is held out, what is refused."""

from pathlib import Path

import pytest

from models.documents import text as documents
from models.documents.text import CorpusError, Document, FilePart, cut, pieces, read_text, unwrap_lines, whole_file
from models.text.levels import Level
from models.text.tokenizer import Boundary, Tokenizer
from training.data import tokens
from training.data.corpus import CorpusConfig, SplitDocuments, hold_out, make_splits, read_files, shuffle_lines
from training.data.reader import read_corpus
from training.data.tokens import load_tokenized, positions_of, tokenize
from training.recipe import Recipe, override
from training.run import SPLITS


def contents(found: list[Document]) -> list[str]:
    return ["".join(pieces(document)) for document in found]


def test_held_out_file_inside_a_folder_is_never_trained_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "notes"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}\n")
    texts, files = read_files([tmp_path], [tmp_path / "b.txt"], [tmp_path / "." / "c.txt"], ["notes*"])
    assert [contents(part) for part in (texts.train, texts.validation, texts.test)] == [
        ["text a\n"], ["text b\n"], ["text c\n"],
    ]  # fmt: skip
    assert [file.name for file in files["train"]] == ["a.txt"]


def test_vocabulary_comes_from_the_training_split_alone(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("abc\n" * 50)
    (tmp_path / "valid.txt").write_text("abz\n" * 50)
    recipe = override(Recipe(), {"corpus": {"train": ["train.txt"], "valid": ["valid.txt"], "level": "char"}})
    _, tokenizer, splits, _ = read_corpus(recipe, tmp_path, tmp_path)
    assert "z" not in tokenizer.vocabulary
    assert (splits["validation"].ids == tokenizer.unk_id).sum() == 50


def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "dos.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9\n", "not UTF-8 text .byte 3.; convert it"), (b"a\0b", "binary file"), ("a".encode("utf-16"), "UTF-")],
)
def test_what_is_not_utf8_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "strange.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as error:
        read_text(path)
    assert "strange.txt" in str(error.value)


def test_empty_and_missing_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(CorpusError, match=r"empty\.txt: is empty"):
        read_files([tmp_path / "empty.txt"], [], [])
    with pytest.raises(CorpusError, match="no such file"):
        read_files([tmp_path / "nothing.txt"], [], [])
    with pytest.raises(CorpusError, match="every file is validation"):
        read_files([tmp_path / "empty.txt"], [tmp_path / "empty.txt"], [])


def test_one_line_is_cut_between_words() -> None:
    text = " ".join(["word"] * 200)
    splits = make_splits(SplitDocuments([text], [], []), CorpusConfig())
    train, valid, test = (contents(part)[0] for part in (splits.train, splits.validation, splits.test))
    assert train + valid + test == text
    assert valid.startswith(" word")


@pytest.mark.parametrize("part", ["start", "end"])
def test_one_end_of_a_text_is_held_out_at_a_line(part: str) -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    rest, held = map(contents, hold_out([text], 0.1, "start" if part == "start" else "end"))
    joined = held + rest if part == "start" else rest + held
    assert "".join(joined) == text
    assert abs(len(held[0]) / len(text) - 0.1) < 0.01
    assert rest[0].startswith("line ")
    assert held[0].startswith("line ")
    assert rest[0].endswith("\n")
    assert held[0].endswith("\n")


def test_fractions_are_shares_of_the_whole_corpus() -> None:
    text = "".join(f"line {i:05}\n" for i in range(2000))
    splits = make_splits(SplitDocuments([text], [], []), CorpusConfig(valid_fraction=0.2, test_fraction=0.2))
    parts = ["".join(contents(part)) for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) / len(text) for part in parts] == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    assert "".join(parts) == text


def test_whole_documents_are_held_out_when_there_are_many() -> None:
    texts = [f"document {i:03}\n" for i in range(100)]
    rest, held = map(contents, hold_out(list[Document](texts), 0.1))
    assert len(held) == 10
    assert sorted(rest + held) == texts


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(CorpusError, match="too short"):
        hold_out(["abc"], 0.1)


def test_wrapped_lines_are_joined() -> None:
    assert unwrap_lines("one\ntwo\n\n\nthree\n  four\n") == "one two\nthree four\n"


def test_test_text_alone_can_be_unwrapped() -> None:
    splits = make_splits(SplitDocuments(["a\nb\n"], ["c\nd\n"], ["e\nf\n"]), CorpusConfig(test_unwrap=True))
    assert splits == SplitDocuments(["a\nb\n"], ["c\nd\n"], ["e f\n"])


def test_lines_are_shuffled_the_same_way_every_time() -> None:
    text = "".join(f"{i:02}\n" for i in range(50))
    once = shuffle_lines(text)
    assert once == shuffle_lines(text) != text
    assert sorted(once) == sorted(text)


def test_tokenized_splits_come_back_from_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words here\nand there\n" * 20)
    recipe = override(Recipe(), {"corpus": {"train": ["a.txt"]}})
    _, tokenizer, splits, _ = read_corpus(recipe, tmp_path, tmp_path)
    loaded = {name: load_tokenized(tmp_path / stem) for name, stem in SPLITS.items()}
    assert all((loaded[name].ids == split.ids).all() for name, split in splits.items())
    assert loaded["train"].words == splits["train"].words
    assert loaded["train"].sentences == splits["train"].sentences
    assert len(tokenize([], tokenizer).ids) == 0


STRANGE = "one  two\n\n\nthree é北 four\n five\r\nsix\rseven \n\n eight"


@pytest.fixture(params=[24, 31, 40])
def small_pieces(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pieces of some bytes, so that everything happens at their ends."""
    monkeypatch.setattr(documents, "PIECE_BYTES", request.param)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("unwrap", [False, True])
def test_a_file_in_pieces_is_the_whole_file(tmp_path: Path, unwrap: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + STRANGE.encode())
    whole = STRANGE.replace("\r\n", "\n").replace("\r", "\n")
    part = FilePart(path, 0, path.stat().st_size, unwrap)
    assert len(list(pieces(part))) > 1
    assert "".join(pieces(part)) == (unwrap_lines(whole) if unwrap else whole)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("boundary", ["line", "paragraph", "document"])
@pytest.mark.parametrize("level", ["char", "word", "split", "bpe"])
def test_tokens_do_not_depend_on_pieces(tmp_path: Path, level: Level, boundary: Boundary) -> None:
    path = tmp_path / "a.txt"
    text = STRANGE.replace("\r\n", "\n").replace("\r", "\n")
    path.write_text(text * 3)
    tokenizer = Tokenizer.train([text.replace("four", "")], level, boundary, 300 if level == "bpe" else None)
    split = tokenize([whole_file(path), "one"], tokenizer, tmp_path / "kept")
    assert split.ids.tolist() == tokenizer.encode_document(text * 3) + tokenizer.encode_document("one")
    assert split.starts == [0, len(tokenizer.encode_document(text * 3))]
    assert split.characters == 3 * len(text) + 3
    assert split.words == len((text * 3).split()) + 1
    assert split.oov == (split.ids == tokenizer.unk_id).sum()
    assert sum(split.unknown.values()) == (split.oov if level in ("word", "split") else 0)


@pytest.mark.usefixtures("small_pieces")
def test_a_line_without_end_and_without_spaces_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("北京" * 40)
    assert "".join(pieces(whole_file(path))) == "北京" * 40
    before, after = cut(whole_file(path), 61)  # inside a character
    assert "".join(contents([before, after])) == "北京" * 40
    assert contents([after])[0]


@pytest.mark.usefixtures("small_pieces")
def test_a_wrong_byte_is_named_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode() * 9 + b"\xff" + b"abc")
    with pytest.raises(CorpusError, match="byte 18"):
        read_text(path)


def test_files_are_cut_at_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(1000)))
    rest, held = map(contents, hold_out([whole_file(path)], 0.1))
    assert rest[0] + held[0] == path.read_text()
    assert held[0].startswith("line ")
    assert len(held[0]) / len(rest[0] + held[0]) == pytest.approx(0.1, abs=0.01)


def test_no_more_is_held_out_of_a_large_text_than_can_be_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.corpus.MOST_HELD_OUT", 100)
    splits = make_splits(SplitDocuments(["line\n" * 2000], [], []), CorpusConfig())
    assert [len("".join(contents(part))) for part in (splits.validation, splits.test)] == pytest.approx(
        [100, 100], abs=10
    )


@pytest.mark.parametrize(("size", "kind"), [(200, "uint8"), (300, "int16"), (40_000, "int32")])
def test_ids_take_no_more_bytes_than_the_vocabulary_asks_for(size: int, kind: str) -> None:
    assert tokens._smallest_type(size).name == kind


def test_positions_are_found_block_by_block() -> None:
    ids = tokenize(["a b a b b a"], Tokenizer.train(["a b"], "char", "document")).ids
    wanted = int(ids[0])
    assert positions_of(wanted, ids, block=4).tolist() == [i for i, found in enumerate(ids.tolist()) if found == wanted]
