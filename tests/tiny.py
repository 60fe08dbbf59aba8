"""Tiny real models and tokenizers, built in memory in milliseconds, seeded: every test sees the same numbers."""

from collections.abc import Sequence

import pytest
import torch

from models.arrays import Array
from models.config import Cell, NetworkConfig
from models.network import LanguageModel, to_arrays
from models.text.levels import Level
from models.text.tokenizer import Tokenizer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])

WORD_TEXT = "The cat ate fish.\nThe cat sat!\nThe cats ate pear.\npear\n"
CHAR_TEXT = "he sat on\nthe hen. "

TEXTS: dict[Level, str] = {
    "word": WORD_TEXT,
    "char": CHAR_TEXT,
    "split": "the cat sat .\nthe cats ate fish .\nthe pear\n",
    "bpe": "low lower lowest new newer newest wide wider widest\n",
}


def tiny_tokenizer(level: Level) -> Tokenizer:
    """About 12 tokens (`bpe`: 268); `<eos>` stands for a line end, at character level for the end of the document."""
    return Tokenizer.train(
        [TEXTS[level]],
        level,
        boundary="document" if level == "char" else "line",
        vocabulary_size=268 if level == "bpe" else None,
    )


def tiny_model(
    vocabulary_size: int = 12,
    cell: Cell = "lstm",
    hidden_sizes: Sequence[int] = (8, 8),
    embedding_size: int = 8,
    projection_size: int | None = None,
    tied: bool = False,
    seed: int = 0,
    output_layers: Sequence[int] = (),
    one_hot: bool = False,
) -> LanguageModel:
    """A network with random weights, some tokens much likelier than others, and what it says dependent on the text."""
    config = NetworkConfig(
        vocabulary_size,
        vocabulary_size if one_hot else embedding_size,
        tuple(hidden_sizes),
        cell,
        projection_size,
        tied,
        one_hot,
        tuple(output_layers),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LanguageModel(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(("layers.", "projection.", "output_layers.", "output.weight")):
                    parameter.mul_(4.0)
            model.output.bias.normal_()
    return model.eval().requires_grad_(False)


def parts(model: LanguageModel) -> tuple[NetworkConfig, dict[str, Array]]:
    """What a backend is made from."""
    return model.config, to_arrays(model)


def random_ids(*shape: int, vocabulary_size: int = 12, seed: int = 0) -> torch.Tensor:
    """Token ids, int64."""
    return torch.randint(vocabulary_size, shape, generator=torch.Generator().manual_seed(seed))
