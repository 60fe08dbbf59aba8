"""What is read, what is held out, what is refused."""

from pathlib import Path

import pytest

from training.corpus import (
    CorpusConfig,
    CorpusError,
    Texts,
    hold_out,
    load_splits,
    make_splits,
    read_files,
    read_text,
    save_splits,
    shuffle_lines,
    tokenize,
    unwrap_lines,
)
from training.recipe import Recipe, override
from training.run import read_corpus


def test_held_out_file_inside_a_folder_is_never_trained_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "notes"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}\n")
    texts, files = read_files([tmp_path], [tmp_path / "b.txt"], [tmp_path / "." / "c.txt"], ["notes*"])
    assert texts == Texts(["text a\n"], ["text b\n"], ["text c\n"])
    assert [file.name for file in files["train"]] == ["a.txt"]


def test_vocabulary_comes_from_the_training_split_alone(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("abc\n" * 50)
    (tmp_path / "valid.txt").write_text("abz\n" * 50)
    recipe = override(Recipe(), {"corpus": {"train": ["train.txt"], "valid": ["valid.txt"], "level": "char"}})
    _, tokenizer, splits, _, _ = read_corpus(recipe, tmp_path)
    assert "z" not in tokenizer.vocabulary
    assert (splits["valid"].ids == tokenizer.unk_id).sum() == 50


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
    splits = make_splits(Texts([text], [], []), CorpusConfig())
    assert splits.train[0] + splits.valid[0] + splits.test[0] == text
    assert splits.valid[0].startswith(" word")


@pytest.mark.parametrize("part", ["start", "end"])
def test_one_end_of_a_text_is_held_out_at_a_line(part: str) -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    rest, held = hold_out([text], 0.1, "start" if part == "start" else "end")
    joined = held + rest if part == "start" else rest + held
    assert "".join(joined) == text
    assert abs(len(held[0]) / len(text) - 0.1) < 0.01
    assert rest[0].startswith("line ")
    assert held[0].startswith("line ")
    assert rest[0].endswith("\n")
    assert held[0].endswith("\n")


def test_fractions_are_shares_of_the_whole_corpus() -> None:
    text = "".join(f"line {i:05}\n" for i in range(2000))
    splits = make_splits(Texts([text], [], []), CorpusConfig(valid_fraction=0.2, test_fraction=0.2))
    sizes = [len("".join(part)) / len(text) for part in (splits.train, splits.valid, splits.test)]
    assert sizes == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    assert "".join(splits.train + splits.valid + splits.test) == text


def test_whole_documents_are_held_out_when_there_are_many() -> None:
    documents = [f"document {i:03}\n" for i in range(100)]
    rest, held = hold_out(documents, 0.1)
    assert len(held) == 10
    assert sorted(rest + held) == documents


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(CorpusError, match="too short"):
        hold_out(["abc"], 0.1)


def test_wrapped_lines_are_joined() -> None:
    assert unwrap_lines("one\ntwo\n\n\nthree\n  four\n") == "one two\nthree four\n"


def test_test_text_alone_can_be_unwrapped() -> None:
    splits = make_splits(Texts(["a\nb\n"], ["c\nd\n"], ["e\nf\n"]), CorpusConfig(test_unwrap=True))
    assert splits == Texts(["a\nb\n"], ["c\nd\n"], ["e f\n"])


def test_lines_are_shuffled_the_same_way_every_time() -> None:
    text = "".join(f"{i:02}\n" for i in range(50))
    once = shuffle_lines(text)
    assert once == shuffle_lines(text) != text
    assert sorted(once) == sorted(text)


def test_tokenized_splits_come_back_from_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words here\nand there\n" * 20)
    recipe = override(Recipe(), {"corpus": {"train": ["a.txt"]}})
    _, tokenizer, splits, _, _ = read_corpus(recipe, tmp_path)
    save_splits(splits, tmp_path / "corpus.safetensors")
    loaded = load_splits(tmp_path / "corpus.safetensors")
    assert list(loaded) == ["train", "valid", "test"]
    assert all((loaded[name].ids == split.ids).all() for name, split in splits.items())
    assert loaded["train"].words == splits["train"].words
    assert len(tokenize([], tokenizer).ids) == 0
