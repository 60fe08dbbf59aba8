"""What a number type costs in quality: perplexity of a text in float32, bfloat16 and int8, by the kernels that serve.

    python -m benchmarks.quality CHECKPOINT TEXT… [--tokens 50000] [--unwrap]

The text is cut into 64 streams, each from the zero state and <eos>; every token is predicted.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.arrays import Array
from models.backends.base import InferenceNetwork
from models.backends.load import load_inference
from models.checkpoint.format import load_checkpoint
from models.config import NUMBER_TYPES
from models.decoding.scoring import perplexity
from models.documents.text import read_text
from models.process import cores

STREAMS, WINDOW = 64, 64


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint directory.", exists=True, file_okay=False)],
    texts: Annotated[list[Path], typer.Argument(help="Held-out text files.", exists=True, dir_okay=False)],
    tokens: Annotated[int, typer.Option(help="Tokens to predict, at most.")] = 50_000,
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Join lines wrapped at a fixed width.")] = False,
) -> None:
    """Perplexity by number type."""
    loaded = load_checkpoint(checkpoint)
    ids = [i for text in texts for i in loaded.tokenizer.encode_document(read_text(text, unwrap))][:tokens]
    length = len(ids) // STREAMS
    stream = np.array([loaded.tokenizer.eos_id, *ids])
    positions = np.arange(STREAMS)[:, None] * length + np.arange(length)
    results: dict[str, float] = {}
    for number_type in track(NUMBER_TYPES, "predicting", console=Console(stderr=True)):
        network = load_inference(loaded.config, loaded.weights(), "cpu", number_type, cores())
        results[number_type] = _logprob(network, stream[positions], stream[positions + 1])
    count = STREAMS * length
    reference = perplexity(results["float32"], count) or 0.0
    table = Table("number type", "perplexity", "against float32", title=f"{checkpoint.name}, {count:,} tokens")
    for name, logprob in results.items():
        figure = perplexity(logprob, count) or 0.0
        table.add_row(name, f"{figure:.4f}", f"{figure / reference - 1:+.3%}")
    Console().print(table)


def _logprob(network: InferenceNetwork, inputs: Array, targets: Array) -> float:
    """Sum over all targets, in nats. inputs, targets: (B, T)."""
    states, slots = network.zeros(len(inputs)), np.arange(len(inputs))
    total = 0.0
    for start in range(0, inputs.shape[1], WINDOW):
        window = slice(start, start + WINDOW)
        features = network.run(inputs[:, window], states, slots)
        logprobs, _ = network.score(features.reshape(-1, features.shape[2]), targets[:, window].flatten())
        total += float(logprobs.sum(dtype=np.float64))
    return total


if __name__ == "__main__":
    typer.run(main)
