"""Learning rates, averages of weights, and when they begin."""

import pytest
import torch

from training.optimisation import Average, averaging_starts, rate_factor


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


def test_plain_average_is_the_mean_of_all() -> None:
    weights = {"w": torch.tensor([1.0, 2.0])}
    average = Average(weights, None)
    for value in (3.0, 5.0, 10.0):
        average.update({"w": torch.tensor([value, -value])})
    torch.testing.assert_close(average.weights["w"], torch.tensor([6.0, -6.0]))
    assert average.count == 3


def test_exponential_average_forgets_the_beginning() -> None:
    average = Average({"w": torch.zeros(1)}, 0.9)
    for _ in range(200):
        average.update({"w": torch.ones(1)})
    assert average.weights["w"].item() == pytest.approx(1, abs=1e-6)


def test_average_stands_in_only_meanwhile() -> None:
    weights = {"w": torch.tensor([4.0])}
    average = Average({"w": torch.tensor([1.0])}, None)
    with average.in_place_of(weights):
        assert weights["w"].item() == 1
    assert weights["w"].item() == 4
    assert average.weights["w"].item() == 1


def test_averaging_waits_until_validation_is_no_better_than_long_before() -> None:
    falling = [5.0, 4.0, 3.0, 2.5, 2.2, 2.0, 1.9]
    assert not any(averaging_starts(falling[:n]) for n in range(len(falling) + 1))
    assert not averaging_starts([2.0, 2.1, 2.2, 2.3, 2.4, 2.5])  # too few to tell
    assert averaging_starts([2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6])
    assert not averaging_starts([2.6, 2.1, 2.2, 2.3, 2.4, 2.5, 2.55])  # better than all but those five
