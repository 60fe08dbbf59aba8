"""The training script that people start from: the loop of PyTorch's word_language_model example, written anew.

float32 `nn.LSTM`, logits of every token at once, log-softmax, clipping at 0.25, plain SGD by hand, torch's own settings
of threads and memory. Weights are tied, and the network has a projection, where the one it is compared with has. Prints
its speed and its memory as JSON; benchmarks/training.py runs it.
"""

import json
import resource
import time
from itertools import pairwise
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

WARMUP_STEPS = 3
CLIP, RATE = 0.25, 20.0


class ScriptModel(nn.Module):
    """Encoder, LSTM layers, decoder; dropout as the example has it."""

    def __init__(
        self, vocabulary_size: int, embedding_size: int, hidden_sizes: list[int], projection_size: int
    ) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocabulary_size, embedding_size)
        self.drop = nn.Dropout(0.2)
        self.layers = nn.ModuleList(nn.LSTM(*widths) for widths in pairwise([embedding_size, *hidden_sizes]))
        self.projection = nn.Linear(hidden_sizes[-1], projection_size) if projection_size else nn.Identity()
        self.decoder = nn.Linear(embedding_size, vocabulary_size)
        self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor, states: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """ids: (T, B). Returns log-probabilities, (T * B, V), and the states."""
        x = self.drop(self.encoder(ids))
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, final = layer(x, state)
            x = self.drop(x)
            after.append(final)
        logits = self.decoder(self.projection(x)).view(-1, self.decoder.out_features)
        return torch.log_softmax(logits, dim=1), after


def peak_mib() -> float:
    """Most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    vocabulary_size: Annotated[int, typer.Option()],
    embedding_size: Annotated[int, typer.Option()],
    hidden_sizes: Annotated[str, typer.Option()],
    projection_size: Annotated[int, typer.Option()],
    batch_size: Annotated[int, typer.Option()],
    bptt_length: Annotated[int, typer.Option()],
    steps: Annotated[int, typer.Option()],
) -> None:
    """Time some steps on random tokens."""
    before = peak_mib()
    torch.manual_seed(0)
    widths = [int(width) for width in hidden_sizes.split(",")]
    model = ScriptModel(vocabulary_size, embedding_size, widths, projection_size)
    ids = torch.randint(vocabulary_size, (bptt_length + 1, batch_size))
    states = [(torch.zeros(1, batch_size, width),) * 2 for width in widths]
    seconds = []
    for _ in range(WARMUP_STEPS + steps):
        began = time.perf_counter()
        states = [(h.detach(), c.detach()) for h, c in states]
        model.zero_grad()
        logprobs, states = model(ids[:-1], states)
        loss = nn.functional.nll_loss(logprobs, ids[1:].reshape(-1))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-RATE)
        loss.item()
        seconds.append(time.perf_counter() - began)
    speed = batch_size * bptt_length / median(seconds[WARMUP_STEPS:])
    print(json.dumps({"tokens_per_second": speed, "peak_mib": peak_mib(), "libraries_mib": before}))  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
