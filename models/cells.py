"""The recurrent cells, for one token of each row, once the matrix products are made."""

from collections.abc import Callable

from torch import Tensor

from models.network import Cell


def lstm(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(Hochreiter & Schmidhuber 1997; Gers et al. 2000.) x, h: (B, 4H), gates i, f, g, o."""
    i, f, g, o = (x + h).chunk(4, dim=1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(Cho et al. 2014, with the reset gate after the product.) x, h: (B, 3H), gates r, z, n."""
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, dim=1), h.chunk(3, dim=1)
    z = (xz + hz).sigmoid()
    return ((1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * state[0],)


def rnn(x: Tensor, h: Tensor, _state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(Elman 1990.) x, h: (B, H)."""
    return ((x + h).tanh(),)


CELLS: dict[Cell, Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
}
"""(what the inputs contribute, what h contributes, the layer's state) -> the layer's new state, h first."""
