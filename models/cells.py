"""The recurrent cells, for one token of each row, once the matrix products are made."""

from collections.abc import Callable

from torch import Tensor

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
    """Gates that see the cell: input and forget gate the one before, the output gate the new one (Gers & Schmidhuber
    2000, equations 1 to 4). x, h: as for `lstm`. peepholes: (3, H), of i, f, o."""
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


CELLS: dict[Cell, Step] = {"lstm": lstm, "lstm_peephole": lstm_peephole, "gru": gru, "rnn": rnn}
