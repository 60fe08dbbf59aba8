"""kill -9 at two random moments of a training; `python -m benchmarks.interruptions` has more."""

from benchmarks.interruptions import measure


def test_killed_at_random_moments_a_training_ends_with_the_same_bits() -> None:
    for killed in measure(kills=2, seed=0, steps=200):
        assert killed.loadable
        assert killed.resumed
        assert killed.exported
