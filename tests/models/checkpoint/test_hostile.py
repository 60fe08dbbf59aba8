"""Checkpoints whose sums are right and whose content is not: refused with a reason, and nothing of them is run."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models.checkpoint.format as form
from models.checkpoint.format import CARD, CONFIG, SPELLER, TOKENIZER, WEIGHTS, find_checkpoints, save_checkpoint
from models.checkpoint.speller import pack_speller, unpack_speller
from models.checkpoint.tensors import from_bytes, to_bytes
from models.config import NetworkConfig
from models.files import read_file
from models.text.levels import Level
from models.text.tokenizer import Tokenizer
from models.words.lexicon import Lexicon
from models.words.speller import Speller
from tests.models.checkpoint.test_format import edit_config, edit_weights, fix_digests, refusal
from tests.tiny import TEXTS, parts, tiny_model, tiny_tokenizer

Json = dict[str, Any]


@pytest.fixture
def word(checkpoints_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoints_dir / "word", tmp_path / "word")


# Tokenizers

PADDING = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_id": 1_000_000, "pad_type_id": 0, "pad_token": "x"}
TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
TEMPLATE = {"type": "BertProcessing", "sep": ["x", 999_999], "cls": ["y", 999_998]}
ADDED = {"id": 12, "content": "cat", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def put(part: str, value: Any) -> Callable[[Json], Any]:
    return lambda content: content.__setitem__(part, value)


def put_in_model(name: str, value: Any) -> Callable[[Json], Any]:
    return lambda content: content["model"].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("padding", PADDING), "padding: is not what training writes"),
        (put("truncation", TRUNCATION), "truncation: is not"),
        (put("post_processor", TEMPLATE), "post_processor: is not"),
        (put("post_processor", {"type": "ByteLevel", "add_prefix_space": True}), "post_processor: is not"),
        (put("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}), "normalizer: is not"),
        (put("normalizer", {"type": "NFKC"}), "normalizer: is not"),
        (put("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}), "normalizer: is not"),
        (put("decoder", None), "decoder: is not"),
        (lambda t: t["pre_tokenizer"]["pattern"].update(Regex="((a|aa)+)+$"), "pre_tokenizer.pattern.Regex: is not"),
        (lambda t: t["added_tokens"].append(ADDED), "added_tokens: is not"),
        (lambda t: t["added_tokens"][0].update(id=1_000_000), "added_tokens[0].id: is not"),
        (lambda t: t["added_tokens"][0].update(special=False), "added_tokens[0].special: is not"),
        (put_in_model("type", "Unigram"), "model.type: is not"),
        (put_in_model("unk_token", "absent"), "model.unk_token: is not"),
        (put("extra", {"anything": 1}), "extra: is not"),
        (put("pre_tokenizer", None), "pre_tokenizer: is not"),
        (lambda t: t["model"]["vocab"].update(cat=1_000_000), "ids are not 0 … V-1"),
        (lambda t: t["model"]["vocab"].update(cat=-1), "ids are not 0 … V-1"),
        (lambda t: t["model"]["vocab"].update(cat=2.0), "ids are not 0 … V-1"),
        (lambda t: t["model"]["vocab"].update({"<unk>": 1, "<eos>": 0}), "has no <unk> with the id 0"),
        (put_in_model("vocab", []), "has no vocabulary"),
        (put("model", None), "has no vocabulary"),
    ],
)
def test_a_tokenizer_that_training_does_not_write_is_refused(
    word: Path, change: Callable[[Json], Any], reason: str
) -> None:
    content = json.loads((word / TOKENIZER).read_bytes())
    change(content)
    (word / TOKENIZER).write_text(json.dumps(content))
    fix_digests(word)
    error = refusal(word)
    assert error.path == word / TOKENIZER
    assert reason in error.reason


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"model": {"vocab": {"\xff": 0}}}', b"[]", b"null", b'"' * 99])
def test_what_is_no_tokenizer_file_is_refused(word: Path, content: bytes) -> None:
    (word / TOKENIZER).write_bytes(content)
    fix_digests(word)
    assert "not a tokenizer file" in refusal(word).reason


@pytest.mark.parametrize(("index", "new", "reason"), [(-1, "日", "stands for no byte"), (40, "AA", "has no '")])
def test_subwords_are_made_of_all_bytes_and_of_nothing_else(tmp_path: Path, index: int, new: str, reason: str) -> None:
    tokenizer = tiny_tokenizer("bpe")
    save_checkpoint(tmp_path / "bpe", tiny_model(len(tokenizer)), tokenizer)
    content = json.loads((tmp_path / "bpe" / TOKENIZER).read_bytes())
    replaced = tokenizer.tokens[index]
    content["model"]["vocab"][new] = content["model"]["vocab"].pop(replaced)
    content["model"]["merges"] = []
    (tmp_path / "bpe" / TOKENIZER).write_text(json.dumps(content))
    fix_digests(tmp_path / "bpe")
    assert reason in refusal(tmp_path / "bpe").reason


@pytest.mark.parametrize("level", TEXTS)
@pytest.mark.parametrize("normalization", ["none", "speech"])
@pytest.mark.parametrize("pretty", [True, False])
def test_every_tokenizer_of_training_is_read_as_it_was_written(level: Level, normalization: Any, pretty: bool) -> None:
    size = 268 if level == "bpe" else None
    trained = Tokenizer.train([TEXTS[level]], level, "line", size, normalization=normalization)
    read = Tokenizer.from_bytes(trained.inner.to_str(pretty=pretty).encode(), level, "line")
    assert read.inner.to_str() == trained.inner.to_str()
    assert read.normalization == normalization


def test_the_first_normalizer_of_speech_is_still_read() -> None:
    content = json.loads(Tokenizer.train(["mister st"], "word", "line", normalization="speech").inner.to_str())
    whole = ["mr", "mrs", "dr", "st"]
    for step, word, read in zip(content["normalizer"]["normalizers"][3:], whole, SPOKEN, strict=True):
        step.update(pattern={"Regex": rf"\b{word}\b"}, content=read)
    tokenizer = Tokenizer.from_bytes(json.dumps(content).encode(), "word", "line")
    assert tokenizer.normalized("Dr St") == "doctor saint"


SPOKEN = ["mister", "missus", "doctor", "saint"]


# Files


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)  # in the folder where we are: a socket's name is short


def a_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TOKENIZER, CARD])
@pytest.mark.parametrize("make", [a_pipe, a_device, a_loop, a_folder, a_socket, a_huge_file])
def test_a_file_that_is_no_file_is_refused_by_name(
    word: Path, name: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(word)
    (word / name).unlink()
    make(word / name)
    error = refusal(word)
    assert error.path == word / name
    assert "cannot be read" in error.reason


def test_a_checkpoint_of_links_is_read(word: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    for file in word.iterdir():
        (tmp_path / "linked" / file.name).symlink_to(file)
    assert form.load_checkpoint(tmp_path / "linked").name == "linked"


def test_links_that_lead_nowhere_are_found_and_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert find_checkpoints(tmp_path) == [tmp_path / "loop", tmp_path / "nowhere"]
    assert "cannot be read" in refusal(tmp_path / "loop").reason
    assert refusal(tmp_path / "nowhere").reason == "is missing"


# What is told on


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "about: is nested deeper than 32"),
        ('{"a": ' + "[" * 90_000 + "]" * 90_000 + "}", "cannot be read as JSON"),
        ('{"a": ' + "1" * 9_000 + "}", "cannot be read as JSON"),
    ],
    ids=["value", "key", "deep", "deeper", "digits"],
)
def test_what_cannot_be_told_on_as_json_is_refused(word: Path, about: str, reason: str) -> None:
    edit_config(word, lambda config: config.update(about="HERE"))
    (word / CONFIG).write_text((word / CONFIG).read_text().replace('"HERE"', about))
    assert reason in refusal(word).reason


def test_numbers_that_json_has_not_are_told_on_as_none(word: Path) -> None:
    edit_config(word, lambda config: config.update(about={"a": float("nan"), "b": [float("inf"), 1.5]}))
    (word / CONFIG).write_text((word / CONFIG).read_text().replace("1.5", "1e999, -Infinity, 1.5"))
    assert form.load_checkpoint(word).about == {"a": None, "b": [None, None, None, 1.5]}


@pytest.mark.parametrize("name", [b"w\nERROR forged", b"\xff\xfe", b"a\x1b[2J", "a\u2028b".encode(), b"a\x7f"])
def test_a_name_that_cannot_be_told_on_is_refused_and_shown_in_one_line(word: Path, name: bytes) -> None:
    error = refusal(word.rename(word.parent / os.fsdecode(name)))
    assert "rename the folder" in error.reason
    assert str(error).isprintable()
    str(error.path).encode()


def test_a_reason_is_one_short_line_whatever_it_quotes(word: Path) -> None:
    edit_config(word, lambda config: config["network"].update({"\nERROR forged \x1b[2J\ud800": 1}))
    error = refusal(word)
    assert "\\nERROR forged" in error.reason
    assert str(error).isprintable()
    edit_config(word, lambda config: config.update(storage="x" * 1_000_000))
    assert len(refusal(word).reason) <= 500


def test_names_in_any_script_are_served(word: Path) -> None:
    assert form.load_checkpoint(word.rename(word.with_name("größer 中文 می‌شود"))).name.startswith("größer")


# Weights and spellers


@pytest.mark.parametrize("value", [1e7, -3e38])
def test_weights_that_would_overflow_are_refused(word: Path, value: float) -> None:
    edit_weights(word, lambda w: w["output.weight"][1, 1].fill_(value))
    assert "tensor output.weight: holds values beyond 1000000" in refusal(word).reason


def test_double_weights_that_are_too_large_for_a_float_are_refused(word: Path) -> None:
    edit_weights(word, lambda w: w.update({"output.bias": torch.full((12,), 1e300, dtype=torch.float64)}))
    assert "not finite" in refusal(word).reason


def tiny_speller(lexicon: Lexicon | None) -> Speller:
    return Speller(*parts(tiny_model(257)), lexicon, 0.5 if lexicon else 0.0)


SPELLER_CONFIG = NetworkConfig(257, 8, (8, 8))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("shared", np.zeros(2, np.float32), "no list of whole numbers"),
        ("shared", np.zeros((2, 1), np.uint8), "no list of whole numbers"),
        ("counts", np.array([-1, 2]), "no list of whole numbers"),
        ("counts", np.full(2, 1 << 63, np.uint64), "its sum is more than"),
        ("counts", np.array([0, 1], np.uint8), "seen at least once"),
        ("rest", np.full(2, 255, np.uint8), "do not fit together"),
        ("share", np.array(np.nan), "is not from"),
        ("share", np.array(1e-300), "is not from"),
        ("share", np.array(1.0), "is not from"),
        ("share", np.zeros(2), "one number is needed"),
        ("share", np.array(1), "one number is needed"),
        ("more", np.zeros(1, np.uint8), "lexicon: has tensors"),
    ],
)
def test_a_lexicon_that_cannot_be_counted_with_is_refused(name: str, value: Any, reason: str) -> None:
    content = pack_speller(tiny_speller(Lexicon({"cat": 3, "dog": 1})))
    assert unpack_speller(content, SPELLER_CONFIG).lexicon is not None
    with pytest.raises(ValueError, match=reason):
        unpack_speller(to_bytes(from_bytes(content) | {f"lexicon.{name}": value}), SPELLER_CONFIG)


def test_a_speller_that_is_a_pipe_is_refused(word: Path) -> None:
    form.add_speller(word, tiny_speller(None))
    assert form.load_checkpoint(word).speller
    (word / SPELLER).unlink()
    os.mkfifo(word / SPELLER)
    assert refusal(word).path == word / SPELLER


# Faults that nobody thought of


class PanicError(BaseException):
    """As a library written in Rust raises it."""


@pytest.mark.parametrize("fault", [MemoryError(), PanicError("index out of bounds\nERROR forged"), RuntimeError("odd")])
def test_any_fault_while_loading_is_a_refusal(
    word: Path, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(form, "from_bytes", fail)
    error = refusal(word)
    assert error.path == word
    assert type(fault).__name__ in error.reason
    assert str(error).isprintable()


def test_an_interruption_while_loading_is_none(word: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(form, "from_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        form.load_checkpoint(word)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(
    word: Path, checkpoints_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[Path] = []

    def late(path: Path, most: int) -> bytes:
        content = read_file(path, most)
        if path.name == CONFIG and not replaced:
            replaced.append(word.rename(word.with_name("before")))
            shutil.copytree(checkpoints_dir / "char", word)
        return content

    monkeypatch.setattr(form, "read_file", late)
    assert form.load_checkpoint(word).tokenizer.level == "char"
