"""The shape of a network, as a value that a checkpoint stores. No tensors here."""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from models.state import StateLayout

Cell = Literal["rnn", "gru", "lstm", "lstm_peephole"]
"""Kinds of recurrent layer: models/cells.py."""

NumberType = Literal["float32", "bfloat16", "int8"]
"""Of weights, as they are stored and as they are multiplied."""

NUMBER_TYPES: tuple[NumberType, ...] = get_args(NumberType)

Task = Literal["language_model"]
"""What a checkpoint's network is for."""

GATES: dict[Cell, int] = {"rnn": 1, "gru": 3, "lstm": 4, "lstm_peephole": 4}
"""Blocks of rows of a recurrent layer's matrices, each as high as the layer is wide."""

MAX_VOCABULARY, MAX_WIDTH, MAX_LAYERS, MAX_PARAMETERS = 1 << 24, 1 << 16, 128, 1 << 30
"""No network is larger: a configuration that says so is damaged."""

MAX_ONE_HOT = 1 << 13
"""Types of a vocabulary that may be read one-hot: the identity matrix is held in memory."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network. Raises `ValueError`, naming the field, when the shape is impossible."""

    vocabulary_size: int
    embedding_size: int
    """Width of a token's vector."""
    hidden_sizes: tuple[int, ...]
    """Width of each recurrent layer."""
    cell: Cell = "lstm"
    """Kind of recurrent layer."""
    projection_size: int | None = None
    """Width of a linear layer between the last recurrent layer and the output matrix; None: without such a layer."""
    tied: bool = False
    """The output matrix is the embedding matrix. (Press & Wolf 2017, Inan et al. 2017.)"""
    one_hot: bool = False
    """Inputs are one-hot vectors instead of learned ones; embedding_size is then the vocabulary's."""
    output_layers: tuple[int, ...] = ()
    """Widths of layers with tanh between the recurrent part and the output matrix."""
    outputs: int | None = None
    """How many numbers a network gives that does not predict tokens; None: one for each token of the vocabulary."""

    def __post_init__(self) -> None:
        if self.cell not in get_args(Cell):
            raise ValueError(f"cell: {self.cell!r} is not one of {', '.join(get_args(Cell))}")
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes: at least one layer is needed")
        for name in ("hidden_sizes", "output_layers"):
            if len(getattr(self, name)) > MAX_LAYERS:
                raise ValueError(f"{name}: {len(getattr(self, name))} layers are more than {MAX_LAYERS}, the most here")
        sizes = {"vocabulary_size": self.vocabulary_size, "embedding_size": self.embedding_size}
        sizes |= {f"hidden_sizes[{i}]": size for i, size in enumerate(self.hidden_sizes)}
        sizes |= {f"output_layers[{i}]": size for i, size in enumerate(self.output_layers)}
        sizes |= {name: size for name in ("projection_size", "outputs") if (size := getattr(self, name)) is not None}
        for name, size in sizes.items():
            most = MAX_VOCABULARY if name == "vocabulary_size" else MAX_WIDTH
            if type(size) is not int or not 0 < size <= most:
                raise ValueError(f"{name}: {size!r} is not a whole number from 1 to {most}")
        for name in ("tied", "one_hot"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not true or false")
        if self.one_hot and self.tied:
            raise ValueError("one_hot: there is no embedding matrix that the output could be tied to")
        if self.one_hot and (self.embedding_size != self.vocabulary_size or self.vocabulary_size > MAX_ONE_HOT):
            raise ValueError(
                f"one_hot: embedding_size has to be the vocabulary's {self.vocabulary_size}, at most {MAX_ONE_HOT}"
            )
        if self.tied and self.outputs is not None:
            raise ValueError("tied: the output matrix gives other numbers than one for each token")
        if self.tied and self.feature_size != self.embedding_size:
            raise ValueError(
                f"tied: the output matrix needs {self.embedding_size} features (embedding_size) but gets "
                f"{self.feature_size}; "
                + ("make the last of output_layers " if self.output_layers else "set projection_size to ")
                + str(self.embedding_size)
            )
        if self.num_parameters > MAX_PARAMETERS:
            raise ValueError(f"network: {self.num_parameters} parameters are more than {MAX_PARAMETERS}, the most here")

    @property
    def feature_size(self) -> int:
        """P, the width of what meets the output matrix."""
        return self.output_layers[-1] if self.output_layers else self.projection_size or self.hidden_sizes[-1]

    @property
    def output_size(self) -> int:
        """Rows of the output matrix."""
        return self.outputs or self.vocabulary_size

    @property
    def state_layout(self) -> StateLayout:
        return StateLayout(self.hidden_sizes, has_cell=self.cell in ("lstm", "lstm_peephole"))

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint stores; a tied matrix is the embedding's alone."""
        shapes: dict[str, tuple[int, ...]] = {}
        if not self.one_hot:
            shapes["embedding.weight"] = (self.vocabulary_size, self.embedding_size)
        widths = (self.embedding_size, *self.hidden_sizes)
        for depth, (inputs, hidden) in enumerate(pairwise(widths)):
            rows = GATES[self.cell] * hidden
            shapes |= {f"layers.{depth}.weight_ih_l0": (rows, inputs), f"layers.{depth}.weight_hh_l0": (rows, hidden)}
            shapes |= {f"layers.{depth}.bias_ih_l0": (rows,), f"layers.{depth}.bias_hh_l0": (rows,)}
            if self.cell == "lstm_peephole":
                shapes[f"layers.{depth}.weight_peephole"] = (3, hidden)
        if self.projection_size is not None:
            shapes["projection.weight"] = (self.projection_size, self.hidden_sizes[-1])
            shapes["projection.bias"] = (self.projection_size,)
        dense = (self.projection_size or self.hidden_sizes[-1], *self.output_layers)
        for depth, (inputs, outputs) in enumerate(pairwise(dense)):
            shapes |= {f"output_layers.{depth}.weight": (outputs, inputs), f"output_layers.{depth}.bias": (outputs,)}
        if not self.tied:
            shapes["output.weight"] = (self.output_size, self.feature_size)
        return shapes | {"output.bias": (self.output_size,)}

    @property
    def num_parameters(self) -> int:
        """Distinct numbers that are learned; a tied matrix counts once."""
        return sum(math.prod(shape) for shape in self.weight_shapes.values())

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"hidden_sizes": list(self.hidden_sizes), "output_layers": list(self.output_layers)}
        return {name: value for name, value in values.items() if name != "outputs" or value is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NetworkConfig":
        """Inverse of `to_json`. Raises `ValueError` on unknown or missing fields."""
        try:
            return cls(
                **{
                    **values,
                    "hidden_sizes": tuple(values.get("hidden_sizes", ())),
                    "output_layers": tuple(values.get("output_layers", ())),
                }
            )
        except TypeError as error:
            raise ValueError(f"network: {error}") from None
