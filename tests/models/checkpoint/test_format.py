"""Checkpoints on disk: what is saved is what is loaded, and every kind of damage is refused by name."""

import ast
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close

import models.files
from models.checkpoint.format import (
    CARD,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    CheckpointError,
    find_checkpoints,
    load_checkpoint,
    save_checkpoint,
    update_about,
)
from models.config import NumberType
from models.decoding.reference import score_sequences
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from tests.tiny import random_ids, tiny_model, tiny_tokenizer

Tiny = tuple[LanguageModel, Tokenizer]

GOLDEN = Path(__file__).parents[2] / "data" / "golden-checkpoint"
FILES = [CARD, CONFIG, WEIGHTS, TOKENIZER]


def logits_of(model: LanguageModel) -> Tensor:
    logits: Tensor = model(random_ids(2, 9), model.config.state_layout.zeros(2))[0]
    return logits


@pytest.fixture
def word(checkpoints_dir: Path, tmp_path: Path) -> Path:
    """A private copy of the checkpoint `word`."""
    return shutil.copytree(checkpoints_dir / "word", tmp_path / "word")


def edit_config(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((directory / CONFIG).read_text("utf-8"))
    change(config)
    (directory / CONFIG).write_text(json.dumps(config), "utf-8")


def fix_digests(directory: Path) -> None:
    """What someone who edits a file with care would do."""
    digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in (WEIGHTS, TOKENIZER)}
    edit_config(directory, lambda config: config.update(sha256=digests))


def edit_weights(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = safetensors.torch.load((directory / WEIGHTS).read_bytes())
    change(weights)
    (directory / WEIGHTS).write_bytes(safetensors.torch.save(weights))
    fix_digests(directory)


def refusal(directory: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(directory)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.reason}"
    return caught.value


# Save, then load


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"cell": "gru"},
        {"cell": "rnn", "hidden_sizes": [5]},
        {"hidden_sizes": [12, 5], "embedding_size": 6},
        {"projection_size": 3},
        {"tied": True},
    ],
    ids=["lstm", "gru", "rnn", "unequal", "projection", "tied"],
)
def test_float32_checkpoint_gives_identical_logits(tiny_word: Tiny, tmp_path: Path, shape: dict[str, Any]) -> None:
    model = tiny_model(**shape)
    save_checkpoint(tmp_path / "toy", model, tiny_word[1], about={"steps": 3}, card="# toy\n")
    loaded = load_checkpoint(tmp_path / "toy")
    assert torch.equal(logits_of(loaded.model), logits_of(model))
    assert loaded.model.config == model.config
    assert loaded.tokenizer.tokens == tiny_word[1].tokens
    assert (loaded.tokenizer.level, loaded.tokenizer.boundary) == ("word", "line")
    assert (loaded.name, loaded.storage, loaded.about, loaded.card) == ("toy", "float32", {"steps": 3}, "# toy\n")


def matrices(model: LanguageModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.dim() == 2}


def test_bfloat16_checkpoint_holds_exactly_the_rounded_matrices(tiny_word: Tiny, tmp_path: Path) -> None:
    model, tokenizer = tiny_word
    save_checkpoint(tmp_path / "toy", model, tokenizer, storage="bfloat16")
    loaded = dict(load_checkpoint(tmp_path / "toy").model.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(loaded[name], weight.bfloat16().float() if weight.dim() == 2 else weight), name


def test_int8_checkpoint_is_within_half_a_quantisation_step(tiny_word: Tiny, tmp_path: Path) -> None:
    model, tokenizer = tiny_word
    save_checkpoint(tmp_path / "toy", model, tokenizer, storage="int8")
    loaded = dict(load_checkpoint(tmp_path / "toy").model.named_parameters())
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert torch.equal(loaded[name], weight), name
        else:
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            assert bool(((loaded[name] - weight).abs() <= step * 0.5001).all()), name
            assert len(((loaded[name] / step).round()).unique()) > 10  # type: ignore[no-untyped-call]


def test_int8_keeps_a_row_of_zeros_and_a_tiny_row(tiny_word: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    model.output.weight[3] = 0
    model.output.weight[4] *= 1e-30
    save_checkpoint(tmp_path / "toy", model, tiny_word[1], storage="int8")
    loaded = load_checkpoint(tmp_path / "toy").model.output.weight
    assert torch.equal(loaded[3], model.output.weight[3])
    assert_close(loaded[4], model.output.weight[4], rtol=0, atol=1e-31)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_saving_a_loaded_checkpoint_again_changes_no_weight(
    tiny_word: Tiny, tmp_path: Path, storage: NumberType
) -> None:
    save_checkpoint(tmp_path / "one", *tiny_word, storage=storage)
    first = load_checkpoint(tmp_path / "one")
    save_checkpoint(tmp_path / "two", first.model, first.tokenizer, storage=storage)
    second = load_checkpoint(tmp_path / "two")
    for name, weight in matrices(first.model).items():
        assert_close(matrices(second.model)[name], weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_tied_weights_are_stored_once_and_tied_again(tiny_word: Tiny, tmp_path: Path, storage: NumberType) -> None:
    save_checkpoint(tmp_path / "toy", tiny_model(tied=True), tiny_word[1], storage=storage)
    names = safetensors.torch.load((tmp_path / "toy" / WEIGHTS).read_bytes()).keys()
    assert "embedding.weight" in names
    assert not any(name.startswith("output.weight") for name in names)
    model = load_checkpoint(tmp_path / "toy").model
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize("level", ["char", "word", "split", "bpe"])
def test_every_level_is_reloaded(level: Any, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(level)
    save_checkpoint(tmp_path / level, tiny_model(len(tokenizer)), tokenizer)
    loaded = load_checkpoint(tmp_path / level).tokenizer
    assert (loaded.level, loaded.boundary, loaded.tokens) == (level, tokenizer.boundary, tokenizer.tokens)


def test_a_loaded_model_is_ready_to_serve(word: Path) -> None:
    model = load_checkpoint(word).model
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_fingerprint_is_that_of_the_weights(word: Path, tiny_char: Tiny, tmp_path: Path) -> None:
    fingerprint = load_checkpoint(word).fingerprint
    assert fingerprint == hashlib.sha256((word / WEIGHTS).read_bytes()).hexdigest()
    save_checkpoint(tmp_path / "other", *tiny_char)
    assert load_checkpoint(tmp_path / "other").fingerprint != fingerprint


def test_about_and_card_can_be_replaced_without_touching_the_model(word: Path) -> None:
    before = load_checkpoint(word)
    update_about(word, {"perplexity": 82.0, "corpus": "größer"}, "# new card\n")
    after = load_checkpoint(word)
    assert (after.about, after.card) == ({"perplexity": 82.0, "corpus": "größer"}, "# new card\n")
    assert after.fingerprint == before.fingerprint
    assert sorted(path.name for path in word.iterdir()) == sorted(FILES)


def test_the_card_may_be_missing(word: Path) -> None:
    (word / CARD).unlink()
    assert load_checkpoint(word).card == ""


def test_a_checkpoint_is_named_after_its_directory(word: Path) -> None:
    assert load_checkpoint(word.rename(word.with_name("renamed"))).name == "renamed"


# Damage


def _delete(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _rename(name: str) -> Callable[[Path], Any]:
    return lambda directory: (directory / name).rename(directory / f"old-{name}")


def _write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda directory: (directory / name).write_bytes(content)


def _cut(name: str, keep: float) -> Callable[[Path], Any]:
    def cut(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(len(content) * keep)])

    return cut


def _flip_bit(name: str) -> Callable[[Path], Any]:
    def flip(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[-3] ^= 1
        (directory / name).write_bytes(content)

    return flip


def _directory_in_place_of(name: str) -> Callable[[Path], Any]:
    def replace(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).mkdir()

    return replace


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (_delete(CONFIG), CONFIG, "is missing"),
        (_delete(WEIGHTS), WEIGHTS, "is missing"),
        (_delete(TOKENIZER), TOKENIZER, "is missing"),
        (_rename(CONFIG), CONFIG, "is missing"),
        (_rename(WEIGHTS), WEIGHTS, "is missing"),
        (_directory_in_place_of(CONFIG), CONFIG, "cannot be read"),
        (_directory_in_place_of(WEIGHTS), WEIGHTS, "cannot be read"),
        (_cut(WEIGHTS, 0.9), WEIGHTS, "SHA-256"),
        (_cut(WEIGHTS, 0), WEIGHTS, "SHA-256"),
        (_flip_bit(WEIGHTS), WEIGHTS, "SHA-256"),
        (_cut(TOKENIZER, 0.9), TOKENIZER, "SHA-256"),
        (_flip_bit(TOKENIZER), TOKENIZER, "SHA-256"),
        (_cut(CONFIG, 0.9), CONFIG, "JSON"),
        (_write(CONFIG, b""), CONFIG, "JSON"),
        (_write(CONFIG, b"\xff\xfe{}"), CONFIG, "JSON"),
        (_write(CONFIG, b"[]"), CONFIG, "not a JSON object"),
        (_write(CONFIG, b"{}"), CONFIG, "format_version"),
        (_write(CONFIG, b"[" * 100_000), CONFIG, "JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_damaged_file_is_refused_by_name(word: Path, damage: Callable[[Path], Any], file: str, reason: str) -> None:
    damage(word)
    error = refusal(word)
    assert error.path == word / file
    assert reason in error.reason


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing").reason == "is missing"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "newer"),
        ({"format_version": "1"}, "format_version"),
        ({"format_version": True}, "format_version"),
        ({"format_version": 0}, "format_version"),
        ({"network": None}, "network"),
        ({"network": {}}, "network"),
        ({"tokenizer": "word"}, "tokenizer"),
        ({"storage": "float8"}, "storage: 'float8'"),
        ({"storage": ["int8"]}, "storage"),
        ({"sha256": None}, "sha256"),
        ({"sha256": {}}, "sha256: has none of model.safetensors"),
        ({"sha256": {WEIGHTS: "../x"}}, "sha256: '../x' of model.safetensors is no SHA-256"),
        ({"about": "words"}, "about"),
    ],
    ids=str,
)
def test_edited_config_is_refused(word: Path, changes: dict[str, Any], reason: str) -> None:
    edit_config(word, lambda config: config.update(changes))
    error = refusal(word)
    assert error.path == word / CONFIG
    assert reason in error.reason


@pytest.mark.parametrize(
    ("changes", "file", "reason"),
    [
        ({"cell": "transformer"}, CONFIG, "cell: 'transformer'"),
        ({"cell": "gru"}, WEIGHTS, "layers.0.bias_hh_l0"),
        ({"cell": ["lstm"]}, CONFIG, "cell"),
        ({"hidden_sizes": [8, 9]}, WEIGHTS, "shape"),
        ({"hidden_sizes": [8]}, WEIGHTS, "layers.1"),
        ({"hidden_sizes": [8, 8, 8]}, WEIGHTS, "missing"),
        ({"hidden_sizes": [8, 0]}, CONFIG, "hidden_sizes[1]"),
        ({"hidden_sizes": 8}, CONFIG, "network"),
        ({"embedding_size": 1 << 16}, WEIGHTS, "embedding.weight"),
        ({"embedding_size": 1 << 24}, CONFIG, "embedding_size: 16777216 is not a whole number from 1 to 65536"),
        ({"hidden_sizes": [8] * 100_000}, CONFIG, "hidden_sizes: 100000 layers are more than 128"),
        ({"outputs": 5}, CONFIG, "outputs: 5 is given, but a language model predicts the tokens"),
        ({"output_layers": [8] * 129}, CONFIG, "output_layers: 129 layers are more than 128"),
        ({"hidden_sizes": [1 << 16, 1 << 16]}, CONFIG, "parameters are more than 1073741824"),
        ({"embedding_size": 10**30}, CONFIG, "embedding_size"),
        ({"embedding_size": "8"}, CONFIG, "embedding_size"),
        ({"projection_size": 8}, WEIGHTS, "projection"),
        ({"tied": True}, WEIGHTS, "output.weight"),
        ({"tied": "no"}, CONFIG, "tied"),
        ({"attention_heads": 4}, CONFIG, "attention_heads"),
        ({"vocabulary_size": 13}, TOKENIZER, "has 12 tokens where config.json says 13"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_edited_network_is_refused(word: Path, changes: dict[str, Any], file: str, reason: str) -> None:
    edit_config(word, lambda config: config["network"].update(changes))
    error = refusal(word)
    assert error.path == word / file
    assert reason in error.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"level": "char"}, "level"),
        ({"level": "bpe"}, "level"),
        ({"level": "letters"}, "level: 'letters'"),
        ({"level": None}, "level"),
        ({"level": ["word"]}, "level"),
        ({"boundary": "page"}, "boundary: 'page'"),
        ({"boundary": {}}, "boundary"),
    ],
    ids=str,
)
def test_edited_level_or_boundary_is_refused(word: Path, changes: dict[str, Any], reason: str) -> None:
    edit_config(word, lambda config: config["tokenizer"].update(changes))
    assert reason in refusal(word).reason


@pytest.mark.parametrize("file", [WEIGHTS, TOKENIZER])
def test_a_file_of_another_model_is_refused(word: Path, checkpoints_dir: Path, file: str) -> None:
    shutil.copy(checkpoints_dir / "char" / file, word / file)
    error = refusal(word)
    assert error.path == word / file
    assert "of another model" in error.reason


def test_a_swapped_tokenizer_is_refused_also_with_its_digest(word: Path, checkpoints_dir: Path) -> None:
    """It has as many tokens, but cuts text otherwise."""
    shutil.copy(checkpoints_dir / "char" / TOKENIZER, word / TOKENIZER)
    fix_digests(word)
    error = refusal(word)
    assert error.path == word / TOKENIZER
    assert "level" in error.reason


def test_a_vocabulary_of_another_size_is_refused(word: Path) -> None:
    Tokenizer.train(["a few other words"], "word", "line").save(word / TOKENIZER)
    fix_digests(word)
    error = refusal(word)
    assert error.path == word / TOKENIZER
    assert error.reason == "has 6 tokens where config.json says 12"


def test_a_damaged_tokenizer_is_refused_also_with_its_digest(word: Path) -> None:
    (word / TOKENIZER).write_text("{}")
    fix_digests(word)
    error = refusal(word)
    assert error.path == word / TOKENIZER
    assert "not a tokenizer file" in error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w["output.weight"].view(-1)[5].fill_(torch.nan), "tensor output.weight: holds values that are not"),
        (lambda w: w["output.bias"][2].fill_(torch.inf), "tensor output.bias: holds values that are not finite"),
        (lambda w: w.pop("output.bias"), "tensor output.bias: has shape none (it is missing)"),
        (lambda w: w.update(extra=torch.zeros(1)), "tensor extra"),
        (lambda w: w.update({"output.bias": torch.zeros(11)}), "tensor output.bias: has shape (11,)"),
    ],
    ids=["NaN", "infinite", "missing", "extra", "misshapen"],
)
def test_wrong_weights_are_refused_by_tensor_also_with_their_digest(
    word: Path, change: Callable[[dict[str, Tensor]], Any], reason: str
) -> None:
    edit_weights(word, change)
    error = refusal(word)
    assert error.path == word / WEIGHTS
    assert reason in error.reason


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 100], ids=["empty", "text", "huge header"])
def test_what_is_no_safetensors_file_is_refused(word: Path, content: bytes) -> None:
    (word / WEIGHTS).write_bytes(content)
    fix_digests(word)
    error = refusal(word)
    assert error.path == word / WEIGHTS
    assert "not a safetensors file" in error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.pop("output.weight.scale"), "output.weight.scale"),
        (lambda w: w.update({"output.weight.scale": torch.ones(3)}), "output.weight.scale"),
        (lambda w: w["output.weight.scale"][1].fill_(torch.nan), "output.weight"),
    ],
    ids=["missing", "misshapen", "NaN"],
)
def test_wrong_scales_of_int8_are_refused(
    tiny_word: Tiny, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], reason: str
) -> None:
    save_checkpoint(tmp_path / "toy", *tiny_word, storage="int8")
    edit_weights(tmp_path / "toy", change)
    assert reason in refusal(tmp_path / "toy").reason


def test_a_claimed_storage_that_is_not_the_files_is_refused(tiny_word: Tiny, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "toy", *tiny_word, storage="int8")
    edit_config(tmp_path / "toy", lambda config: config.update(storage="float32"))
    assert refusal(tmp_path / "toy").path == tmp_path / "toy" / WEIGHTS


# Writing


def test_a_checkpoint_is_four_readable_files(checkpoints_dir: Path) -> None:
    assert sorted(path.name for path in (checkpoints_dir / "word").iterdir()) == sorted(FILES)
    assert (checkpoints_dir / "word").stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (checkpoints_dir / "word").iterdir())


def test_only_whole_checkpoints_are_visible_under_the_name(
    tiny_word: Tiny, tiny_char: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever anything is synced, renamed or removed, the name stands for the old or the new one, or for none."""
    save_checkpoint(tmp_path / "toy", *tiny_word)
    seen: list[str | None] = []

    def look() -> None:
        found = find_checkpoints(tmp_path)
        assert found in ([], [tmp_path / "toy"])
        seen.append(load_checkpoint(found[0]).tokenizer.level if found else None)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            look()
            result = function(*args, **options)
            look()
            return result

        return call

    monkeypatch.setattr(models.files, "sync", watched(models.files.sync))
    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    monkeypatch.setattr(os, "unlink", watched(os.unlink))
    save_checkpoint(tmp_path / "toy", *tiny_char)
    assert seen[0] == "word"
    assert seen[-1] == "char"
    assert seen == sorted(seen, key=["word", None, "char"].index)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    tiny_word: Tiny, tiny_char: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "toy", *tiny_word)

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(models.files, "sync", full)
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(tmp_path / "toy", *tiny_char)
    assert load_checkpoint(tmp_path / "toy").tokenizer.level == "word"
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_hidden_directories_and_files_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / ".toy-being-written").mkdir()
    (tmp_path / "toy").mkdir()
    (tmp_path / "a-note.txt").touch()
    assert find_checkpoints(tmp_path) == [tmp_path / "toy"]
    assert find_checkpoints(tmp_path / "nowhere") == []


# No pickle


def test_a_pickle_in_place_of_the_weights_is_refused_and_not_run(word: Path, tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "mischief",)

    (word / WEIGHTS).write_bytes(pickle.dumps(Mischief()))
    fix_digests(word)
    assert "not a safetensors file" in refusal(word).reason
    assert not (tmp_path / "mischief").exists()


def test_models_never_unpickles() -> None:
    for file in sorted(Path(models.files.__file__).parent.rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not names & {"pickle", "marshal", "dill", "joblib"}
        assert not calls & {"torch.load", "torch.jit.load", "eval", "exec"}


# Yesterday's files


def test_golden_checkpoint_still_loads_and_says_the_same() -> None:
    """Written once, by format version 1, and never again: see expected.json beside it for what it said then."""
    expected = json.loads((GOLDEN.parent / "golden-checkpoint.expected.json").read_text("utf-8"))
    checkpoint = load_checkpoint(GOLDEN)
    encoding = checkpoint.tokenizer.encode(expected["text"])
    assert encoding.ids == expected["ids"]
    ids = torch.tensor([checkpoint.tokenizer.eos_id, *encoding.ids])
    logits, state = checkpoint.model(ids[None], checkpoint.model.config.state_layout.zeros(1))
    assert_close(logits[0, -1], torch.tensor(expected["logits"]), rtol=1e-4, atol=1e-5)
    assert_close(state[0], torch.tensor(expected["state"]), rtol=1e-4, atol=1e-5)
    total = score_sequences(checkpoint.model, [ids[:-1]], [ids[1:]])[0].double().sum()
    assert float(total) == pytest.approx(expected["logprob"], rel=1e-5)
    assert checkpoint.fingerprint == expected["fingerprint"]


def test_golden_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 10_000


def test_what_is_no_checkpoint_is_not_replaced(tiny_word: Tiny, tmp_path: Path) -> None:
    """`--out checkpoints/` would take all other models away."""
    save_checkpoint(tmp_path / "all" / "one", *tiny_word)
    with pytest.raises(CheckpointError, match="all: is there and no checkpoint"):
        save_checkpoint(tmp_path / "all", *tiny_word)
    assert (tmp_path / "all" / "one" / CONFIG).is_file()
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", *tiny_word)
    save_checkpoint(tmp_path / "empty", *tiny_word)
