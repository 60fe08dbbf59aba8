"""Learning rates over a schedule."""

import pytest

from training.optimisation import rate_factor


def test_cosine_warms_up_and_falls_to_a_hundredth() -> None:
    rates = [rate_factor("cosine", step / 100, step, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == max(rates[8:12])
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.42, abs=0.01)
    assert rates[100] == pytest.approx(0.01)


def test_one_cycle_rises_for_a_third_and_falls_to_nothing() -> None:
    assert rate_factor("one-cycle", 0.0, 0, 0) == pytest.approx(1 / 25)
    assert rate_factor("one-cycle", 0.3, 30, 0) == pytest.approx(1)
    assert rate_factor("one-cycle", 1.0, 100, 0) == pytest.approx(1e-4)


def test_constant_stays_and_range_spans_five_decades() -> None:
    assert rate_factor("constant", 0.9, 500, 100) == 1
    assert rate_factor("range", 0.0, 0, 0) == pytest.approx(1e-5)
    assert rate_factor("range", 1.0, 9, 0) == 1
