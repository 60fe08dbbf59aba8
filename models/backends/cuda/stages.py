"""One step of generation as four stages between tensors that stay where they are, so that each can be a CUDA graph.

    token_ids, state --advance--> state --project--> features --output--> logits --draw--> token_ids

A stage is captured once and then launched whole; its results are the next one's inputs. What a stage makes on the way
is gone when it ends, so all graphs may share one pool of memory. Stages never ask the host for anything.

This has not been run on a GPU: the stages are tested on the CPU, where they run uncaptured.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backends.cuda.sampling import draw_tokens, keep_likeliest, token_probabilities, uniforms
from models.cells import CELLS
from models.decoding.sampling import GREEDY_BELOW, SamplingParams
from models.network import LanguageModel

STEPS = 8
"""Draws that random numbers are made for at a time."""

WARM_UPS = 3
"""Runs before a capture, in which libraries set themselves up and allocate what they keep."""

Stage = Callable[[], None]
Value = TypeVar("Value")


def capturing(device: torch.device) -> Callable[[Stage], Stage]:
    """How a stage becomes one launch: on a GPU a CUDA graph, elsewhere the stage as it is.

    One stream captures everything, as sharing a pool asks for; graphs are then launched on the caller's stream, one
    after another. They share cuBLAS's workspace for that stream, which torch may free when one of them goes: they must
    all live equally long. `thread_local`: what other threads do on the GPU meanwhile does not disturb a capture.
    """
    if device.type != "cuda":
        return lambda stage: stage
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(stage: Stage) -> Stage:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                stage()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            stage()
        return graph.replay

    return capture


class Wish(NamedTuple, Generic[Value]):
    """How a row is to be drawn, and until when: an int each, or int64 (rows,) each. Token id V, which is none, may be
    banned."""

    seed: Value
    choice: Value
    position: Value
    """Of the next draw; drawing counts it up."""
    top_k: Value
    banned: Value
    eos: Value
    eos_from: Value
    """`<eos>` may be drawn from this position on."""
    ends_at: Value
    """The row has ended when its next position is this one."""
    ends_on: Value
    """The row has ended when this token is drawn."""


class Linear(NamedTuple):
    """weight: (O, I), in the type of the products. bias: (O,), float32."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O), summed and returned in float32."""
        x = x.to(self.weight.dtype)
        if x.dtype == torch.float32:
            return F.linear(x, self.weight, self.bias)
        if x.is_cuda:
            return torch.mm(x, self.weight.t(), out_dtype=torch.float32) + self.bias
        return F.linear(x.float(), self.weight.float(), self.bias)  # there are no such products: the same, slowly


class Weights:
    """The weights on a device, in float32 or bfloat16.

    The vocabulary is padded to a multiple of 64, for the matrix kernels and so that all rows of logits are aligned
    alike. There is at least one token of padding, `nothing`; padding has probability 0.
    """

    def __init__(self, model: LanguageModel, device: torch.device, dtype: torch.dtype) -> None:
        def linear(weight: Tensor, bias: Tensor) -> Linear:
            return Linear(weight.detach().to(device, dtype), bias.detach().to(device))

        self.config = model.config
        self.nothing = model.config.vocabulary_size
        padding = 64 - self.nothing % 64
        self.columns = self.nothing + padding
        self.embedding = model.embedding.weight.detach().to(device, dtype) * model.config.embedding_size**0.5  # (V, E)
        self.layers = [
            (
                linear(layer.from_input, layer.input_bias),
                linear(layer.from_hidden, layer.hidden_bias),
                layer.peepholes.detach().to(device) if layer.peepholes is not None else None,
            )
            for layer in model.layer_weights()
        ]
        self.projection = linear(*model.projection.parameters()) if model.config.projection_size else None
        self.output_layers = [linear(*layer.parameters()) for layer in model.output_layers]
        self.output = linear(
            F.pad(model.output.weight, (0, 0, 0, padding)), F.pad(model.output.bias, (0, padding), value=-torch.inf)
        )


class Block:
    """The tensors of `size` rows, and the stages between them. No stage makes one row depend on another.

    Rows that are not in use hold leftovers. `alive`: whose state and token a stage may change.
    """

    def __init__(self, weights: Weights, size: int, capture: Callable[[Stage], Stage]) -> None:
        device, config = weights.embedding.device, weights.config
        self._weights = weights
        self._layout = config.state_layout
        self.token_ids = torch.zeros(size, dtype=torch.int64, device=device)
        self.state = self._layout.zeros(size, device)  # (size, S)
        self.features = torch.zeros(size, config.feature_size, dtype=weights.embedding.dtype, device=device)
        self.logits = torch.zeros(size, weights.columns, device=device)
        self.logits[:, weights.nothing :].fill_(-torch.inf)
        self.alive = torch.zeros(size, dtype=torch.bool, device=device)
        self.number = torch.zeros(size, dtype=torch.float64, device=device)
        """What the next draw draws with."""
        self.numbers = torch.zeros(STEPS, size, dtype=torch.float64, device=device)
        self.drawn = torch.zeros(size, dtype=torch.int64, device=device)
        """The tokens of the last draw; -1 where the row was not alive."""
        self._integers = torch.zeros(len(Wish._fields), size, dtype=torch.int64, device=device)
        self._wish = Wish(*self._integers.unbind())
        self._shares = torch.zeros(3, size, dtype=torch.float64, device=device)  # temperature, top_p, min_p
        self._ahead = torch.arange(STEPS, device=device)[:, None]
        self.look_ahead = capture(self._look_ahead)
        self.advance = capture(self._advance)
        self.project = capture(self._project)
        self.output = capture(self._output)
        self._plain_draw = capture(partial(self._draw, filtering=False))
        # Not captured: beside the sort of a vocabulary its launches cost little, and not every sort can be captured.
        self._filtering_draw = partial(self._draw, filtering=True)

    def use(self, count: int) -> None:
        """The first `count` rows are in use."""
        self.alive.zero_()
        self.alive[:count] = True

    def ask(self, wishes: Sequence[Wish[int]], params: Sequence[SamplingParams]) -> Stage:
        """Say how the first rows are to be drawn; returns the stage that does it."""
        shares = [(p.temperature, p.top_p, p.min_p) for p in params]
        self._integers[:, : len(wishes)] = torch.tensor(wishes).T.to(self.state.device)
        self._shares[:, : len(shares)] = torch.tensor(shares, dtype=torch.float64).T.to(self.state.device)
        return self._filtering_draw if any(p.filters and not p.greedy for p in params) else self._plain_draw

    def _look_ahead(self) -> None:
        """Put the random numbers of the next draws into `numbers`."""
        self.numbers.copy_(uniforms(self._wish.seed, self._wish.choice, self._wish.position + self._ahead))

    def _advance(self) -> None:
        x = F.embedding(self.token_ids, self._weights.embedding)
        layers = []
        for layer, parts in zip(self._weights.layers, self._layout.split(self.state), strict=True):
            from_input, from_hidden, peepholes = layer
            new = CELLS[self._weights.config.cell].step(from_input(x), from_hidden(parts[0]), parts, peepholes)
            layers.append(new)
            x = new[0]
        torch.where(self.alive[:, None], self._layout.join(layers), self.state, out=self.state)

    def _project(self) -> None:
        hidden = self._layout.split(self.state)[-1][0]
        features = self._weights.projection(hidden) if self._weights.projection else hidden
        for layer in self._weights.output_layers:
            features = layer(features).tanh()
        self.features.copy_(features)

    def _output(self) -> None:
        self.logits.copy_(self._weights.output(self.features))

    def _draw(self, filtering: bool) -> None:
        wish, (temperatures, top_p, min_p) = self._wish, self._shares.unbind()
        early = wish.eos.masked_fill(wish.position >= wish.eos_from, self._weights.nothing)
        self.logits.scatter_(1, torch.stack((wish.banned, early), dim=1), -torch.inf)
        likeliest = self.logits.max(dim=1)  # the first of equals
        probabilities = token_probabilities(self.logits, likeliest.values, temperatures)
        if filtering:
            probabilities = keep_likeliest(probabilities, wish.top_k, top_p, min_p)
        chosen = torch.where(temperatures < GREEDY_BELOW, likeliest.indices, draw_tokens(probabilities, self.number))
        chosen = chosen.clamp_max(self._weights.nothing - 1)  # NaN, when a state overflows, has no likeliest token
        self.drawn.copy_(chosen.masked_fill(~self.alive, -1))
        torch.where(self.alive, chosen, self.token_ids, out=self.token_ids)
        wish.position.add_(1)
        self.alive &= (chosen != wish.ends_on) & (wish.position < wish.ends_at)
