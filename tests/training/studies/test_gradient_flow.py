"""Why gradients vanish or explode, as numbers; and the textbook's recurrence, by hand."""

import math

import pytest
import torch

from models.cells import rnn
from training.studies.gradient_flow import KINDS, Kind, Unrolled, gradient_norms, measure_flows

IDS = torch.randint(20, (3000,), generator=torch.Generator().manual_seed(0))
PROBE = IDS[: 16 * 61].reshape(16, 61)


def factor(kind: Kind, scale: float = 1.0, forget_bias: float | None = None) -> float:
    """By which the gradient's norm changes from token to token, between 20 and 60 tokens away."""
    network = Unrolled(kind, 20, 64, "orthogonal" if scale != 1 else "uniform", forget_bias)
    network.layer.from_hidden.mul_(scale)
    norms = gradient_norms(network, PROBE)
    return float((norms[-1] / norms[20]) ** (1 / (len(norms) - 21)))


def test_simple_network_forgets_within_a_sentence() -> None:
    assert factor("rnn-tanh") < 0.7  # 0.7 ** 20 is below a thousandth


def test_simple_network_explodes_where_its_matrix_stretches() -> None:
    torch.manual_seed(0)
    assert factor("rnn-relu", scale=2.0) > 1.2
    assert factor("rnn-tanh", scale=0.5) < 0.6


def test_lstm_with_forget_bias_carries_the_gradient() -> None:
    """At about the rate of the gate, 0.95 and 0.99 a token."""
    assert 0.93 < factor("lstm", forget_bias=3.0) < 1.05
    assert 0.97 < factor("lstm", forget_bias=5.0) < 1.05
    assert factor("lstm", forget_bias=0.0) < 0.75


def test_every_cell_is_measured_before_and_after_training() -> None:
    steps_done: list[int] = []
    flows = measure_flows(IDS, 20, KINDS, 8, 12, 3, "xavier", 1.0, lambda count, _=None: steps_done.append(count))
    assert [(flow.kind, flow.steps) for flow in flows] == [(kind, steps) for kind in KINDS for steps in (0, 3)]
    assert all(len(flow.norms) == 12 and all(norm > 0 for norm in flow.norms) for flow in flows)
    assert steps_done == [1] * 12


def test_textbook_example_by_hand() -> None:
    """One unit, x = 0.5, 0.1, -0.3: h = tanh(0.8 x + 0.3 h + 0.1), y = h + 0.2."""
    h, found = torch.zeros(1, 1), []
    for x in (0.5, 0.1, -0.3):
        (h,) = rnn(torch.tensor([[0.8 * x + 0.1]]), 0.3 * h, (h,))
        found.append((h.item(), 1.0 * h.item() + 0.2))
    first = math.tanh(0.5)  # 0.8 * 0.5 + 0.1
    second = math.tanh(0.18 + 0.3 * first)
    third = math.tanh(-0.14 + 0.3 * second)
    assert [value for value, _ in found] == pytest.approx([first, second, third], abs=1e-6)
    assert [value for value, _ in found] == pytest.approx([0.46212, 0.30827, -0.04748], abs=5e-6)
    assert [y for _, y in found] == pytest.approx([0.66212, 0.50827, 0.15252], abs=5e-6)
