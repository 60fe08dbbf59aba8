"""The recurrent cells: what each one computes for a token of every row, and the table of all of them.

A new cell is a function here, an entry of `CELLS`, and its name in `models.config.Cell`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.config import Cell

State = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, State, Tensor | None], State]
"""(what the inputs contribute, what h contributes, the layer's state, its peepholes) -> the new state, h first."""


def lstm(x: Tensor, h: Tensor, state: State, _peepholes: Tensor | None = None) -> State:
    """(Hochreiter & Schmidhuber 1997; Gers et al. 2000.) x, h: (B, 4H), gates i, f, g, o."""
    i, f, g, o = (x + h).chunk(4, dim=1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def lstm_peephole(x: Tensor, h: Tensor, state: State, peepholes: Tensor | None = None) -> State:
    """An LSTM whose gates see the cell: the input and forget gates see its value before the token, the output gate its
    new value (Gers & Schmidhuber 2000, equations 1 to 4). x, h: as for `lstm`. peepholes: (3, H), of i, f, o."""
    assert peepholes is not None
    to_input, to_forget, to_output = peepholes.unbind()
    i, f, g, o = (x + h).chunk(4, dim=1)
    c = (f + to_forget * state[1]).sigmoid() * state[1] + (i + to_input * state[1]).sigmoid() * g.tanh()
    return (o + to_output * c).sigmoid() * c.tanh(), c


def gru(x: Tensor, h: Tensor, state: State, _peepholes: Tensor | None = None) -> State:
    """(Cho et al. 2014, with the reset gate after the product.) x, h: (B, 3H), gates r, z, n."""
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, dim=1), h.chunk(3, dim=1)
    z = (xz + hz).sigmoid()
    return ((1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * state[0],)


def rnn(x: Tensor, h: Tensor, _state: State, _peepholes: Tensor | None = None) -> State:
    """(Elman 1990.) x, h: (B, H)."""
    return ((x + h).tanh(),)


class PeepholeLSTM(nn.LSTM):
    """The weights of a layer with peepholes. Their names are torch's but for `weight_peephole`."""

    def __init__(self, inputs: int, hidden: int, batch_first: bool) -> None:
        super().__init__(inputs, hidden, batch_first=batch_first)
        self.weight_peephole = nn.Parameter(torch.empty(3, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))


@dataclass(frozen=True)
class Kind:
    """What differs between layers of one cell and of another.

    gates: blocks of H rows in the weights. weights: the module that holds the weights of a layer. fused: torch's
    function that runs a whole layer, which nn.LSTM and its kin call, and which takes weights that are not parameters;
    None: the layer is run token by token with `step`. has_forget_gate: the second gate is a forget gate, whose bias
    can be set.
    """

    step: Step
    gates: int
    weights: Callable[..., nn.RNNBase]
    fused: Callable[..., Any] | None = None
    has_forget_gate: bool = False


CELLS: dict[Cell, Kind] = {
    "rnn": Kind(rnn, 1, nn.RNN, torch.rnn_tanh),
    "gru": Kind(gru, 3, nn.GRU, torch.gru),
    "lstm": Kind(lstm, 4, nn.LSTM, torch.lstm, has_forget_gate=True),
    "lstm_peephole": Kind(lstm_peephole, 4, PeepholeLSTM, has_forget_gate=True),
}
"""Every `models.config.Cell`, in its order."""
