"""The network, its state, and the shapes that it refuses."""

import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from models.cells import lstm_peephole
from models.config import Cell, NetworkConfig
from models.network import LanguageModel
from models.state import StateLayout
from tests.tiny import needs_gpu, random_ids, tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"hidden_sizes": [8]},
    "three layers": {"hidden_sizes": [8, 8, 8]},
    "unequal widths": {"hidden_sizes": [12, 5, 7], "embedding_size": 6},
    "projection": {"hidden_sizes": [8, 8], "projection_size": 3},
    "tied": {"hidden_sizes": [8, 8], "tied": True},
    "tied, unequal widths": {"hidden_sizes": [12, 6], "embedding_size": 6, "tied": True},
    "tied through projection": {"hidden_sizes": [8, 5], "projection_size": 8, "tied": True},
    "output layers": {"hidden_sizes": [8], "output_layers": [5, 9]},
    "one-hot": {"hidden_sizes": [8], "one_hot": True},
}
CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm", "lstm_peephole")

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
every_cell = pytest.mark.parametrize("cell", CELLS)


def zeros(model: LanguageModel, rows: int = 1) -> torch.Tensor:
    return model.config.state_layout.zeros(rows)


@every_shape
@every_cell
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_one_pass_equals_single_steps_carrying_the_state(
    cell: Cell, shape: dict[str, Any], dtype: torch.dtype, error: float
) -> None:
    model = tiny_model(cell=cell, **shape).to(dtype)  # some of these amplify what is rounded away
    ids = random_ids(3, 9)
    whole, whole_state = model(ids, zeros(model, 3).to(dtype))
    state, steps = zeros(model, 3).to(dtype), []
    for t in range(9):
        logits, state = model(ids[:, t : t + 1], state)
        steps.append(logits)
    assert_close(torch.cat(steps, dim=1), whole, rtol=error, atol=error)
    assert_close(state, whole_state, rtol=error, atol=error)


@every_cell
def test_windows_of_any_length_carry_on_where_the_last_ended(cell: Cell) -> None:
    model = tiny_model(cell=cell)
    ids = random_ids(2, 12)
    whole, whole_state = model(ids, zeros(model, 2))
    first, state = model(ids[:, :5], zeros(model, 2))
    second, state = model(ids[:, 5:], state)
    assert_close(torch.cat([first, second], dim=1), whole)
    assert_close(state, whole_state)


@every_shape
@every_cell
def test_a_row_batched_with_strangers_equals_the_row_alone(cell: Cell, shape: dict[str, Any]) -> None:
    model = tiny_model(cell=cell, **shape)
    ids = random_ids(4, 9)
    states = torch.randn(4, model.config.state_layout.size, generator=torch.Generator().manual_seed(0))
    together, together_state = model(ids, states)
    for row in range(4):
        alone, alone_state = model(ids[row : row + 1], states[row : row + 1])
        assert_close(alone[0], together[row])
        assert_close(alone_state[0], together_state[row])


@every_cell
def test_what_comes_later_does_not_change_what_was_predicted(cell: Cell) -> None:
    model = tiny_model(cell=cell)
    ids = random_ids(1, 8)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 12
    before, after = model(ids, zeros(model))[0], model(changed, zeros(model))[0]
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@every_cell
def test_next_token_probabilities_sum_to_one(cell: Cell) -> None:
    model = tiny_model(cell=cell)
    logits, _ = model(random_ids(3, 7), zeros(model, 3))
    assert_close(logits.double().softmax(-1).sum(-1), torch.ones(3, 7, dtype=torch.float64))


def test_nothing_is_kept_on_the_module_and_the_given_state_is_left_alone() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.ones(1, model.config.state_layout.size)
    first = model(random_ids(1, 5), state)
    second = model(random_ids(1, 5), state)
    assert torch.equal(first[0], second[0])
    assert torch.equal(state, torch.ones_like(state))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_forward_is_features_then_logits() -> None:
    model = tiny_model(projection_size=5)
    features, state = model.features(random_ids(2, 3), zeros(model, 2))
    assert features.shape == (2, 3, 5)
    logits, same_state = model(random_ids(2, 3), zeros(model, 2))
    assert torch.equal(model.logits(features), logits)
    assert torch.equal(state, same_state)


class Halves:
    """Noise without chance: every value that passes is halved."""

    def embeddings(self, x: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return x / 2

    def connections(self, x: torch.Tensor, depth: int) -> torch.Tensor:  # noqa: ARG002
        return x / 2

    def recurrent(self, from_hidden: torch.Tensor, depth: int) -> torch.Tensor:  # noqa: ARG002
        return from_hidden / 2


def test_noise_is_off_unless_asked_for_also_in_training_mode() -> None:
    model = tiny_model().train()
    ids = random_ids(1, 5)
    assert torch.equal(model(ids, zeros(model))[0], model.eval()(ids, zeros(model))[0])


@every_cell
def test_noise_meets_embeddings_connections_and_recurrent_weights(cell: Cell) -> None:
    model, halved = tiny_model(cell=cell, hidden_sizes=(8,)), tiny_model(cell=cell, hidden_sizes=(8,))
    ids = random_ids(2, 5)
    with torch.no_grad():
        halved.embedding.weight.div_(4)  # once as an embedding, once as what the layer gets
        halved.layer_weights()[0].from_hidden.div_(2)
    features, _ = model.features(ids, zeros(model, 2), Halves())
    expected, _ = halved.features(ids, zeros(model, 2))
    torch.testing.assert_close(features, expected / 2)


@every_shape
@every_cell
def test_num_parameters_counts_tied_weights_once(cell: Cell, shape: dict[str, Any]) -> None:
    model = tiny_model(cell=cell, **shape)
    config = model.config
    gates = {"rnn": 1, "gru": 3, "lstm": 4, "lstm_peephole": 4}[cell]
    widths = [config.embedding_size, *config.hidden_sizes]
    recurrent = sum(gates * h * (w + h + 2) for w, h in pairwise(widths))
    projection = (config.hidden_sizes[-1] + 1) * (config.projection_size or 0)
    peepholes = 3 * sum(config.hidden_sizes) if cell == "lstm_peephole" else 0
    embedding = 0 if config.one_hot else 12 * config.embedding_size
    dense = [config.projection_size or config.hidden_sizes[-1], *config.output_layers]
    between = sum((a + 1) * b for a, b in pairwise(dense))
    output = (0 if config.tied else 12 * config.feature_size) + 12
    assert model.num_parameters() == embedding + recurrent + peepholes + projection + between + output


def test_tied_weights_are_one_tensor() -> None:
    model = tiny_model(tied=True)
    assert model.output.weight is model.embedding.weight


# State


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    has_cell=st.booleans(),
    rows=st.integers(1, 5),
)
@settings(max_examples=50, deadline=None)
def test_join_inverts_split(sizes: list[int], has_cell: bool, rows: int) -> None:
    layout = StateLayout(tuple(sizes), has_cell)
    state = torch.randn(rows, layout.size)
    parts = layout.split(state)
    assert [tuple(part.shape for part in layer) for layer in parts] == [
        ((rows, size),) * (2 if has_cell else 1) for size in sizes
    ]
    assert torch.equal(layout.join(parts), state)


def test_state_columns_are_h_then_c_layer_by_layer() -> None:
    layout = StateLayout((2, 1), has_cell=True)
    (h0, c0), (h1, c1) = layout.split(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]))
    assert [part.tolist() for part in (h0, c0, h1, c1)] == [[[1, 2]], [[3, 4]], [[5]], [[6]]]


def test_lstm_state_holds_the_hidden_vector_that_torch_returns() -> None:
    model = tiny_model(hidden_sizes=[8])
    x = model.embedding(random_ids(1, 4)) * 8**0.5
    _, (h, c) = model.layers[0](x)
    _, state = model(random_ids(1, 4), zeros(model))
    ((own_h, own_c),) = model.config.state_layout.split(state)
    assert_close(own_h, h[0])
    assert_close(own_c, c[0])


def test_rows_of_states_can_be_stacked_and_selected() -> None:
    model = tiny_model()
    _, a = model(random_ids(1, 4, seed=1), zeros(model))
    _, b = model(random_ids(1, 4, seed=2), zeros(model))
    _, both = model(random_ids(2, 1), torch.cat([a, b]))
    _, swapped = model(random_ids(2, 1).flip(0), torch.cat([b, a]))
    assert_close(both, swapped.flip(0))


# Configuration


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("vocabulary_size", {"vocabulary_size": 0}),
        ("vocabulary_size", {"vocabulary_size": 1 << 30}),
        ("vocabulary_size", {"vocabulary_size": 12.0}),
        ("vocabulary_size", {"vocabulary_size": True}),
        ("embedding_size", {"embedding_size": -8}),
        ("embedding_size", {"embedding_size": None}),
        ("hidden_sizes", {"hidden_sizes": ()}),
        ("hidden_sizes[1]", {"hidden_sizes": (8, 0)}),
        ("hidden_sizes[0]", {"hidden_sizes": ("8", 8)}),
        ("projection_size", {"projection_size": 0}),
        ("cell", {"cell": "transformer"}),
        ("cell", {"cell": None}),
        ("tied", {"tied": True, "hidden_sizes": (8, 7)}),
        ("tied", {"tied": True, "projection_size": 5}),
        ("tied", {"tied": "no"}),
    ],
)
def test_impossible_shape_is_refused_naming_the_field(field: str, values: dict[str, Any]) -> None:
    possible: dict[str, Any] = {"vocabulary_size": 12, "embedding_size": 8, "hidden_sizes": (8, 8)}
    with pytest.raises(ValueError, match=f"^{re.escape(field)}: "):
        NetworkConfig(**(possible | values))


@every_shape
def test_json_round_trip_keeps_the_configuration(shape: dict[str, Any]) -> None:
    config = tiny_model(**shape).config
    assert NetworkConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("edit", "named"),
    [({"layers": 2}, "layers"), ({"hidden_sizes": 8}, "network"), ({"hidden_sizes": None}, "network")],
)
def test_json_of_another_shape_is_refused(edit: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NetworkConfig.from_json(tiny_model().config.to_json() | edit)


def test_missing_field_is_refused_by_name() -> None:
    values = tiny_model().config.to_json()
    del values["embedding_size"]
    with pytest.raises(ValueError, match="embedding_size"):
        NetworkConfig.from_json(values)


def test_peepholes_by_hand() -> None:
    """Gers & Schmidhuber's equations for one unit: gates i and f see the old cell, o the new one."""

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    x, h = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.zeros(1, 4)
    new_h, new_c = lstm_peephole(x, h, (torch.zeros(1, 1), torch.tensor([[2.0]])), torch.tensor([[0.5], [-0.5], [1.0]]))
    cell = sigmoid(0.2 - 0.5 * 2) * 2 + sigmoid(0.1 + 0.5 * 2) * math.tanh(0.3)
    assert new_c.item() == pytest.approx(cell)
    assert new_h.item() == pytest.approx(sigmoid(0.4 + cell) * math.tanh(cell))


def test_one_hot_inputs_select_a_column_of_the_first_layer() -> None:
    model = tiny_model(hidden_sizes=[8], one_hot=True)
    weights = model.layer_weights()[0]
    features, _ = model.features(torch.tensor([[5]]), zeros(model))
    i, f, g, o = (weights.from_input[:, 5] + weights.input_bias + weights.hidden_bias).chunk(4)
    del f
    assert_close(features[0, 0], o.sigmoid() * (i.sigmoid() * g.tanh()).tanh())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"one_hot": True, "embedding_size": 4}, "one_hot"),
        ({"one_hot": True, "embedding_size": 12, "tied": True, "hidden_sizes": (12,)}, "one_hot"),
        ({"output_layers": (0,)}, r"output_layers\[0\]"),
        ({"vocabulary_size": 10_000, "embedding_size": 10_000, "one_hot": True}, "at most"),
    ],
)
def test_impossible_inputs_and_outputs_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**dict[str, Any](vocabulary_size=12, embedding_size=8, hidden_sizes=(8,)) | fields)


@needs_gpu
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_on_a_gpu_autocast_loses_no_gradient_of_a_mean_over_many_tokens(cell: Cell) -> None:
    model = tiny_model(40, cell, hidden_sizes=(16, 16)).cuda().requires_grad_()
    ids = random_ids(4, 20, vocabulary_size=40).cuda()
    found = []
    for enabled in (False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            features, state = model.features(ids, model.config.state_layout.zeros(4, torch.device("cuda")))
        assert state.dtype == torch.float32
        loss = features.float().square().sum() / 1e9  # float16 holds nothing below 6e-8
        found.append(torch.autograd.grad(loss, list(model.layers.parameters())))
    for exact, rounded in zip(*found, strict=True):
        assert (rounded - exact).norm() < 0.15 * exact.norm()
