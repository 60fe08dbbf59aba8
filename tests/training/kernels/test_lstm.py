"""The LSTM layer that training runs: against torch's, in float32."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models.config import NetworkConfig
from models.network import LanguageModel
from training.config import TrainingConfig
from training.data.batching import Truncation
from training.kernels import lstm
from training.kernels.library import trains
from training.loss import WindowLoss

pytestmark = pytest.mark.skipif(not trains(), reason="needs AVX-512 bfloat16")

Results = dict[str, Tensor]


def both_ways(native: bool, batch: int, tokens: int, inputs: int, hidden: int) -> Results:
    """Outputs, last state and all gradients, of a loss that uses outputs and last state."""
    torch.manual_seed(0)
    layer = nn.LSTM(inputs, hidden, batch_first=True)
    from_input, from_hidden, input_bias, hidden_bias = layer.parameters()
    x, h, c = (torch.randn(*shape) for shape in ((batch, tokens, inputs), (batch, hidden), (batch, hidden)))
    for value in (x, h, c):
        value.requires_grad_()
    if native:
        made, last_h, last_c = lstm.run_layer(x, from_input, from_hidden, input_bias + hidden_bias, h, c)
    else:
        made, (last_h, last_c) = layer(x, (h[None], c[None]))
        last_h, last_c = last_h[0], last_c[0]
    outputs = [made, last_h, last_c]
    leaves = [x, h, c, from_input, from_hidden, input_bias]
    gradients = torch.autograd.grad(outputs, leaves, [torch.randn_like(value) for value in outputs])
    names = ("made", "last h", "last c", "of x", "of h", "of c", "of from_input", "of from_hidden", "of the bias")
    return dict(zip(names, (*(value.detach() for value in outputs), *gradients), strict=True))


@pytest.mark.parametrize(
    ("batch", "tokens", "inputs", "hidden"),
    [(1, 1, 3, 1), (3, 5, 6, 7), (17, 9, 20, 48), (40, 12, 33, 70), (64, 3, 64, 128)],
)
def test_outputs_and_gradients_are_those_of_float32_up_to_bfloat16(
    batch: int, tokens: int, inputs: int, hidden: int
) -> None:
    expected = both_ways(False, batch, tokens, inputs, hidden)
    found = both_ways(True, batch, tokens, inputs, hidden)
    for name, value in expected.items():
        error = (found[name].float() - value).norm() / value.norm()
        assert error < 0.02, f"{name}: {error:.4f}"  # bfloat16 has 8 bits; torch's own layer comes as close


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", partial(int, threads))
        results.append(both_ways(True, 40, 12, 33, 70))
    assert all(torch.equal(one, other) for one, other in zip(*(r.values() for r in results), strict=True))


def test_what_is_not_a_number_stays_so() -> None:
    x, state = torch.zeros(2, 3, 4), torch.zeros(2, 5)
    bias = torch.zeros(20)
    bias[7] = torch.nan
    made, _, _ = lstm.run_layer(x, torch.randn(20, 4), torch.randn(20, 5), bias, state, state)
    assert made.isnan().any()


def test_what_is_not_a_number_stays_so_on_the_way_back() -> None:
    x, state = torch.zeros(2, 3, 4, requires_grad=True), torch.zeros(2, 5)
    made, _, _ = lstm.run_layer(x, torch.randn(20, 4), torch.randn(20, 5), torch.zeros(20), state, state)
    given = torch.zeros(2, 3, 5)
    given[0, 1, 2] = torch.nan
    (gradient,) = torch.autograd.grad(made, x, given.bfloat16())
    assert gradient.isnan().flatten(2).any(2).tolist() == [[True, True, False], [False, False, False]]


def test_nothing_is_left_of_the_layer_before() -> None:
    expected = both_ways(True, 3, 5, 6, 7)
    x, state = torch.zeros(20, 2, 4, requires_grad=True), torch.zeros(20, 70)
    lost = torch.full((280, 70), torch.nan)
    made, _, _ = lstm.run_layer(x, torch.zeros(280, 4), lost, torch.zeros(280), state, state)
    torch.autograd.grad(made, x, torch.ones_like(made))
    found = both_ways(True, 3, 5, 6, 7)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("far", [30.0, 200.0, 1e30, torch.inf])
def test_gates_may_be_as_open_or_closed_as_they_like(far: float) -> None:
    x, before, weights = torch.zeros(1, 1, 4), torch.full((1, 3), 0.5), (torch.zeros(12, 4), torch.zeros(12, 3))
    for i, f, g, o in [(far, -far, far, far), (-far, far, -far, far), (far, far, far, -far)]:
        bias = torch.tensor([i, f, g, o]).repeat_interleave(3)
        _, h, c = lstm.run_layer(x, *weights, bias, before, before)
        expected = (i > 0) * (1 if g > 0 else -1) + (f > 0) * 0.5
        torch.testing.assert_close(c, torch.full((1, 3), expected))
        torch.testing.assert_close(h, (o > 0) * torch.full((1, 3), expected).tanh(), rtol=2**-8, atol=1e-9)


def test_cells_are_exact_to_float32() -> None:
    torch.manual_seed(0)
    hidden = 1000
    x, h, c, bias = torch.zeros(1, 1, 4), torch.zeros(1, hidden), torch.randn(1, hidden), 4 * torch.randn(4 * hidden)
    _, _, found = lstm.run_layer(x, torch.zeros(4 * hidden, 4), torch.zeros(4 * hidden, hidden), bias, h, c)
    i, f, g, _ = bias.double().chunk(4)
    expected = f.sigmoid() * c + i.sigmoid() * g.tanh()
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("truncation", ["fixed", "randomised"])
def test_a_window_under_noise_has_the_gradients_of_torch_s_layers(
    truncation: Truncation, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NetworkConfig(vocabulary_size=30, embedding_size=16, hidden_sizes=(24, 40), projection_size=16, tied=True)
    config = TrainingConfig(
        steps=1,
        bptt_length=12,
        batch_size=8,
        truncation=truncation,
        locked=True,
        dropout=0.3,
        dropconnect=0.4,
        word_dropout=0.1,
        activation_l2=1.0,
    )
    torch.manual_seed(0)
    model = LanguageModel(network)
    loss = WindowLoss(model, config, torch.bfloat16)
    inputs, targets = torch.randint(30, (2, 8, 12)).unbind()
    state = torch.randn(8, network.state_layout.size)

    def gradients() -> list[Tensor]:
        torch.manual_seed(1)  # of the noise
        nats, penalty, _ = loss(inputs, targets, state)
        return list(torch.autograd.grad(nats + penalty, list(model.parameters())))

    ours = gradients()
    monkeypatch.setattr(lstm, "usable", lambda _x: False)
    for (name, _), one, other in zip(model.named_parameters(), ours, gradients(), strict=True):
        assert (one - other).norm() < 0.02 * other.norm(), name


def test_a_language_model_trains_with_it_under_autocast_alone() -> None:
    model = LanguageModel(NetworkConfig(vocabulary_size=11, embedding_size=8, hidden_sizes=(12, 12)))
    token_ids, state = torch.randint(0, 11, (4, 6)), model.config.state_layout.zeros(4, torch.device("cpu"))
    plain, _ = model.features(token_ids, state)
    assert not lstm.usable(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert lstm.usable(plain)
        features, _ = model.features(token_ids, state)
        with torch.no_grad():
            assert not lstm.usable(plain)
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), plain, rtol=0.02, atol=0.02)


def test_the_way_back_is_gone_once() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    state = torch.zeros(2, 5)
    made, _, _ = lstm.run_layer(x, torch.randn(20, 4), torch.randn(20, 5), torch.randn(20), state, state)
    torch.autograd.grad(made, x, torch.ones_like(made), retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        torch.autograd.grad(made, x, torch.ones_like(made))
