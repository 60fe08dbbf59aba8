"""Why gradients vanish or explode: how strongly the loss of a token depends on the hidden state some tokens before it.

This is the norm of dL/dh, for a window of T + 1 tokens and the loss L of its last token, at each distance from it. In a
simple network the gradient is multiplied by the same matrix, and by slopes of at most 1, at every token it passes
(Bengio et al. 1994; Pascanu et al. 2013, equation 5): it falls, or grows, exponentially. The LSTM's cell carries it
past them, at the rate of the forget gate (Hochreiter & Schmidhuber 1997, section 3.2).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from models.cells import State, Step, gru, lstm, rnn
from models.encoder import LayerWeights
from training.initialisation import Initialisation, fill_layer
from training.progress import Advance

Kind = Literal["rnn-tanh", "rnn-relu", "gru", "lstm"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def _relu(x: Tensor, h: Tensor, _state: State, _peepholes: Tensor | None = None) -> State:
    return ((x + h).relu(),)


_CELLS: dict[Kind, tuple[int, Step]] = {
    "rnn-tanh": (1, rnn),
    "rnn-relu": (1, _relu),
    "gru": (3, gru),
    "lstm": (4, lstm),
}
"""Gates and the step of each kind."""


@dataclass(frozen=True)
class Flow:
    """norms[d]: mean over windows of the norm of dL/dh, d tokens before the token from which the last one is predicted.
    steps: of training before the measurement. loss: nats per token of the last steps; None where steps is 0."""

    kind: Kind
    initialisation: Initialisation
    forget_bias: float | None
    steps: int
    loss: float | None
    norms: list[float]

    @property
    def decay(self) -> float:
        """Factor by which the norm changes with each token of distance, the mean over the second half."""
        half = len(self.norms) // 2
        if not self.norms[half] or not self.norms[-1]:
            return 0.0
        return float((self.norms[-1] / self.norms[half]) ** (1 / (len(self.norms) - 1 - half)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"decay": self.decay}


class Unrolled:
    """One recurrent layer between an embedding and an output matrix, run token by token, so that every h is kept."""

    def __init__(
        self,
        kind: Kind,
        vocabulary_size: int,
        hidden_size: int,
        initialisation: Initialisation = "uniform",
        forget_bias: float | None = None,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.hidden_size = hidden_size
        generator = torch.Generator().manual_seed(seed)
        gates = _CELLS[kind][0] * hidden_size
        self.embedding = torch.randn(vocabulary_size, hidden_size, generator=generator)
        self.output = torch.randn(vocabulary_size, hidden_size, generator=generator) * hidden_size**-0.5
        self.layer = LayerWeights(
            torch.zeros(gates, hidden_size), torch.zeros(gates, hidden_size), torch.zeros(gates), torch.zeros(gates)
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fill_layer(self.layer, initialisation, forget_bias if kind == "lstm" else None)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.embedding, self.output, *self.layer[:4]]

    def hiddens(self, token_ids: Tensor) -> list[Tensor]:
        """h after each token, from the zero state. token_ids: (B, T). Returns T tensors (B, H)."""
        state: State = tuple(torch.zeros(len(token_ids), self.hidden_size) for _ in range(2))
        inputs = F.linear(self.embedding[token_ids], self.layer.from_input, self.layer.input_bias)
        step, hiddens = _CELLS[self.kind][1], []
        for x in inputs.unbind(1):
            h = F.linear(state[0], self.layer.from_hidden, self.layer.hidden_bias)
            state = step(x, h, state, None)
            hiddens.append(state[0])
        return hiddens

    def loss(self, token_ids: Tensor) -> Tensor:
        """Mean nats of all tokens but the first. token_ids: (B, T + 1)."""
        features = torch.stack(self.hiddens(token_ids[:, :-1]), dim=1)
        return F.cross_entropy((features @ self.output.t()).flatten(0, 1), token_ids[:, 1:].flatten())

    def train(self, token_ids: Tensor, steps: int, on_step: Advance, seed: int = 0) -> float:
        """AdamW on random windows of 48 tokens; returns the mean loss of the last tenth. token_ids: (N,)."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.parameters, lr=3e-3)
        generator = torch.Generator().manual_seed(seed)
        losses = []
        for _ in range(steps):
            loss = self.loss(windows(token_ids, 32, 48, generator))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            on_step(1)
        last = losses[-max(1, steps // 10) :]
        return sum(last) / len(last)


def windows(token_ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """(count, length + 1) tokens from random places."""
    starts = torch.randint(len(token_ids) - length, (count,), generator=generator)
    return token_ids[starts[:, None] + torch.arange(length + 1)].long()


def gradient_norms(network: Unrolled, token_ids: Tensor) -> list[float]:
    """Mean over rows of the norm of dL/dh at distance 0, 1, …, T - 1. token_ids: (B, T + 1)."""
    for parameter in network.parameters:
        parameter.requires_grad_(True)
    hiddens = network.hiddens(token_ids[:, :-1])
    loss = F.cross_entropy(hiddens[-1] @ network.output.t(), token_ids[:, -1], reduction="sum")
    gradients = torch.autograd.grad(loss, hiddens)
    # In float64, because the squares of vanished gradients are zero in float32.
    return [gradient.double().norm(dim=1).mean().item() for gradient in reversed(gradients)]


def measure_flows(
    token_ids: Tensor,
    vocabulary_size: int,
    kinds: Sequence[Kind],
    hidden_size: int,
    distance: int,
    steps: int,
    initialisation: Initialisation,
    forget_bias: float | None,
    on_step: Advance,
) -> list[Flow]:
    """Each kind at its initialisation, and after training on the text where steps is not 0. token_ids: (N,)."""
    probe = windows(token_ids, 64, distance, torch.Generator().manual_seed(1))
    flows = []
    for kind in kinds:
        network = Unrolled(kind, vocabulary_size, hidden_size, initialisation, forget_bias)
        own_bias = forget_bias if kind == "lstm" else None
        flows.append(Flow(kind, initialisation, own_bias, 0, None, gradient_norms(network, probe)))
        if steps:
            loss = network.train(token_ids, steps, on_step)
            flows.append(Flow(kind, initialisation, own_bias, steps, loss, gradient_norms(network, probe)))
    return flows
