"""The networks that are measured, as checkpoint directories: trained ones or random weights of their shape."""

import shutil
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from models.checkpoint.format import load_checkpoint, save_checkpoint
from models.config import NetworkConfig
from models.network import LanguageModel
from models.text.levels import Level
from models.text.tokenizer import Tokenizer

TRAINED = Path(__file__).parents[1] / "checkpoints" / "english-word"

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Shape:
    """trained: a checkpoint of this shape, used instead of random weights when it is there."""

    name: str
    level: Level
    network: NetworkConfig
    trained: Path | None = None

    def step_weights(self) -> int:
        """Entries of the matrices that one step reads; of the embedding, unless it is tied, that is a row or so."""
        config = self.network
        widths = (config.embedding_size, *config.hidden_sizes)
        recurrent = sum(4 * hidden * (width + hidden) for width, hidden in pairwise(widths))
        projection = config.hidden_sizes[-1] * (config.projection_size or 0)
        return recurrent + projection + config.feature_size * config.vocabulary_size


SHAPES = (
    Shape("char", "char", NetworkConfig(100, 128, (512, 512))),
    Shape("default", "word", NetworkConfig(20_000, 256, (512, 512), projection_size=256, tied=True), TRAINED),
    Shape("awd", "word", NetworkConfig(33_278, 400, (1150, 1150, 400), tied=True)),
)

TINY_SHAPES = (
    Shape("tiny-char", "char", NetworkConfig(50, 8, (16, 16))),
    Shape("tiny-word", "word", NetworkConfig(500, 16, (24, 32), projection_size=16, tied=True)),
)


def write_checkpoint(shape: Shape, folder: Path) -> Shape:
    """Put the shape's checkpoint at folder/NAME; returns the shape as it is there."""
    target = folder / shape.name
    if shape.trained and (shape.trained / "config.json").is_file():
        shutil.copytree(shape.trained, target)
        return replace(shape, network=load_checkpoint(target).model.config)
    save_checkpoint(target, _random_model(shape.network), _tokenizer(shape))
    return shape


def _random_model(config: NetworkConfig) -> LanguageModel:
    """Random weights under which next tokens are as unequally likely as a trained model finds them: a power law whose
    perplexity is near 90 at word level, with 200 tokens in the likeliest 90 %.

    The time of samplers may depend on that. `<unk>`, the first id, is as rare as a fitting vocabulary makes it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LanguageModel(config)
    ranks = torch.arange(config.vocabulary_size).float() + 3
    ranks[0] = 0.01 * config.vocabulary_size + 30
    with torch.no_grad():
        model.output.bias.copy_(-1.5 * ranks.log())
    return model.eval()


def _tokenizer(shape: Shape) -> Tokenizer:
    types = shape.network.vocabulary_size - 2  # beside <unk> and <eos>
    text = "".join([chr(32 + i) for i in range(types)] if shape.level == "char" else map(_word, range(types)))
    tokenizer = Tokenizer.train([text], shape.level, boundary="line")
    assert len(tokenizer) == shape.network.vocabulary_size
    return tokenizer


def _word(number: int) -> str:
    """Four letters after a space: one token at word level."""
    letters = [chr(ord("a") + number // 26**place % 26) for place in (3, 2, 1, 0)]
    return " " + "".join(letters)
