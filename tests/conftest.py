"""Fixtures that all tests share. Nothing is trained or downloaded; what is session-scoped is read-only."""

from pathlib import Path

import pytest
import torch

from models.checkpoint.format import save_checkpoint
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_word() -> tuple[LanguageModel, Tokenizer]:
    """A word-level LSTM and its tokenizer; `<eos>` is a line end."""
    tokenizer = tiny_tokenizer("word")
    return tiny_model(len(tokenizer)), tokenizer


@pytest.fixture(scope="session")
def tiny_char() -> tuple[LanguageModel, Tokenizer]:
    """A character-level LSTM and its tokenizer; `<eos>` is the end of a document."""
    tokenizer = tiny_tokenizer("char")
    return tiny_model(len(tokenizer), seed=1), tokenizer


@pytest.fixture(scope="session")
def checkpoints_dir(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_word: tuple[LanguageModel, Tokenizer],
    tiny_char: tuple[LanguageModel, Tokenizer],
) -> Path:
    """A folder of two real checkpoints, `word` and `char`. Copy it before damaging anything."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, (model, tokenizer) in (("word", tiny_word), ("char", tiny_char)):
        save_checkpoint(root / name, model, tokenizer, about={"corpus": "a toy"}, card=f"# {name}\n\nA toy model.\n")
    return root
