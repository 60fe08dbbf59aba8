"""The recurrent language model: token ids and a state in, logits and the next state out. Nothing is kept on the module.

Axes: B sequences in the batch, T tokens in the window, V vocabulary, E embedding, H hidden, P features that meet the
output matrix, S floats of one sequence's state (models/state.py).
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from models.state import StateLayout

Cell = Literal["rnn", "gru", "lstm"]

MAX_SIZE = 1 << 24
"""No width or vocabulary is larger: a configuration that says so is damaged."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network. Raises `ValueError`, naming the field, when the shape is impossible."""

    vocabulary_size: int
    embedding_size: int
    hidden_sizes: tuple[int, ...]
    cell: Cell = "lstm"
    projection_size: int | None = None
    """Width of a linear layer between the last recurrent layer and the output matrix; None: there is none."""
    tied: bool = False
    """The output matrix is the embedding matrix (Press & Wolf 2017, Inan et al. 2017)."""

    def __post_init__(self) -> None:
        if self.cell not in get_args(Cell):
            raise ValueError(f"cell: {self.cell!r} is not one of {', '.join(get_args(Cell))}")
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes: at least one layer is needed")
        sizes = {"vocabulary_size": self.vocabulary_size, "embedding_size": self.embedding_size}
        sizes |= {f"hidden_sizes[{i}]": size for i, size in enumerate(self.hidden_sizes)}
        if self.projection_size is not None:
            sizes["projection_size"] = self.projection_size
        for name, size in sizes.items():
            if type(size) is not int or not 0 < size <= MAX_SIZE:
                raise ValueError(f"{name}: {size!r} is not a whole number from 1 to {MAX_SIZE}")
        if type(self.tied) is not bool:
            raise ValueError(f"tied: {self.tied!r} is not true or false")
        if self.tied and self.feature_size != self.embedding_size:
            raise ValueError(
                f"tied: the output matrix needs {self.embedding_size} features (embedding_size) but gets "
                f"{self.feature_size}; set projection_size to {self.embedding_size}"
            )

    @property
    def feature_size(self) -> int:
        """P, the width of what meets the output matrix."""
        return self.projection_size or self.hidden_sizes[-1]

    @property
    def state_layout(self) -> StateLayout:
        return StateLayout(self.hidden_sizes, has_cell=self.cell == "lstm")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"hidden_sizes": list(self.hidden_sizes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NetworkConfig":
        """Inverse of `to_json`. Raises `ValueError` on unknown or missing fields."""
        try:
            return cls(**{**values, "hidden_sizes": tuple(values.get("hidden_sizes", ()))})
        except TypeError as error:
            raise ValueError(f"network: {error}") from None


class LayerWeights(NamedTuple):
    """One recurrent layer with G gates (4 for the LSTM, in the order i, f, g, o; 3 for the GRU: r, z, n; 1).

    from_input: (G * H, inputs). from_hidden: (G * H, H). input_bias, hidden_bias: (G * H,).
    """

    from_input: Tensor
    from_hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor


class Noise(Protocol):
    """What training does to values on their way through the network (training/regularisation.py)."""

    def embeddings(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """x: (B, T, E), of token_ids: (B, T)."""

    def connections(self, x: Tensor, depth: int) -> Tensor:
        """x: (B, T, width), what layer `depth` is about to get; depth L: what the last one has given."""

    def recurrent(self, from_hidden: Tensor) -> Tensor:
        """from_hidden: (G * H, H), a layer's recurrent weights."""


_RUN_LAYER: dict[Cell, Any] = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}
"""torch's fused layers, which nn.LSTM and its kin call, with weights that need not be parameters."""


class LanguageModel(nn.Module):
    """Embedding -> stack of recurrent layers -> optional projection -> logits.

    `forward` is `features` followed by `logits`; training and scoring call the two apart, so that the (B, T, V) logits
    need never exist in one piece.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        widths = (config.embedding_size, *config.hidden_sizes)
        layer = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[config.cell]
        self.layers = nn.ModuleList(layer(width, hidden, batch_first=True) for width, hidden in pairwise(widths))
        self.projection = (
            nn.Linear(config.hidden_sizes[-1], config.projection_size) if config.projection_size else nn.Identity()
        )
        self.output = nn.Linear(config.feature_size, config.vocabulary_size)
        # Unit variance at the first layer, once `features` has multiplied by sqrt(E).
        nn.init.normal_(self.embedding.weight, std=config.embedding_size**-0.5)
        nn.init.zeros_(self.output.bias)
        if config.tied:
            self.output.weight = self.embedding.weight

    def layer_weights(self) -> list[LayerWeights]:
        """The recurrent layers' weights, first layer first, for whoever runs them without torch's modules."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [LayerWeights(*(layer.get_parameter(name) for name in names)) for layer in self.layers]

    def features(self, token_ids: Tensor, state: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """What the output matrix is multiplied with, and the state after the last token.

        token_ids: (B, T), int64. state: (B, S), float32. noise: in training alone.
        Returns (B, T, P) and (B, S).
        """
        x = self.embedding(token_ids) * self.config.embedding_size**0.5  # (B, T, E)
        if noise:
            x = noise.embeddings(x, token_ids)
        finals = []
        for depth, (weights, initial) in enumerate(
            zip(self.layer_weights(), self.config.state_layout.split(state), strict=True)
        ):
            if noise:
                x = noise.connections(x, depth)
                weights = weights._replace(from_hidden=noise.recurrent(weights.from_hidden))
            x, final = self._run_layer(x, weights, initial)
            finals.append(final)
        if noise:
            x = noise.connections(x, len(finals))
        return self.projection(x), self.config.state_layout.join(finals).float()

    def _run_layer(
        self, x: Tensor, weights: LayerWeights, initial: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x: (B, T, inputs) -> h of each token, (B, T, H), and the layer's last state, (B, H) each."""
        before = tuple(part.unsqueeze(0).contiguous() for part in initial)  # torch wants (1, B, H)
        options = {
            "has_biases": True,
            "num_layers": 1,
            "dropout": 0.0,
            "train": torch.is_grad_enabled(),
            "bidirectional": False,
            "batch_first": True,
        }
        run = _RUN_LAYER[self.config.cell]
        x, *final = run(x, before if len(before) == 2 else before[0], list(weights), **options)
        return x, tuple(part.squeeze(0) for part in final)

    def logits(self, features: Tensor) -> Tensor:
        """(..., P) -> (..., V), unnormalised."""
        return self.output(features)  # type: ignore[no-any-return]

    def forward(self, token_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B, S) -> logits (B, T, V) of the token that follows each position, state (B, S)."""
        features, state = self.features(token_ids, state)
        return self.logits(features), state

    def num_parameters(self) -> int:
        """Distinct numbers that are learned; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
