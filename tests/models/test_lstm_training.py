"""The LSTM layer that training runs: against torch's, in float32."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.native import lstm, processor_features
from models.network import LanguageModel, NetworkConfig

pytestmark = pytest.mark.skipif("avx512_bf16" not in processor_features(), reason="needs AVX-512 bfloat16")

Results = dict[str, Tensor]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


def test_the_number_of_threads_changes_nothing() -> None:
    torch.set_num_threads(1)
    one = both_ways(True, 40, 12, 33, 70)
    torch.set_num_threads(3)
    three = both_ways(True, 40, 12, 33, 70)
    assert all(torch.equal(one[name], three[name]) for name in one)


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
