"""Sampling, on distributions of four tokens that a reader can check by hand.

`HAND` holds the probabilities 1/2, 1/4, 1/8, 1/8: halves and quarters, so that sums are exact.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax

from models.arrays import Array
from models.decoding.sampling import Draw, SamplingParams, inverse_cdf, next_token_probabilities, sample, uniforms
from tests.tiny import random_ids, tiny_model

HAND = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
EQUAL = np.zeros(4, np.float32)

SIGNIFICANCE = 1e-3
"""Seeds are fixed, so that these tests always give the same answer."""


def distribution(
    logits: Array,
    prompt: Sequence[int] = (),
    completion: Sequence[int] = (),
    banned: Sequence[int] = (),
    **params: Any,
) -> list[float]:
    draw = Draw(SamplingParams(**params), seed=0, prompt=prompt, completion=completion, banned=banned)
    probabilities = next_token_probabilities(logits[None], [draw])[0]
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    return list(map(float, probabilities))


def expect(found: list[float], expected: Sequence[float]) -> None:
    assert [p == 0 for p in found] == [p == 0 for p in expected]  # what is filtered is exactly 0
    assert found == pytest.approx(expected, rel=1e-5)


# Each step by itself


def test_without_parameters_the_distribution_is_the_models() -> None:
    expect(distribution(HAND), [0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(0.5, [16 / 22, 4 / 22, 1 / 22, 1 / 22]), (1.0, [0.5, 0.25, 0.125, 0.125])],
)
def test_temperature_raises_probabilities_to_its_inverse(temperature: float, expected: list[float]) -> None:
    expect(distribution(HAND, temperature=temperature), expected)


def test_high_temperature_approaches_uniform() -> None:
    assert distribution(HAND, temperature=10_000.0) == pytest.approx([0.25] * 4, abs=1e-4)


@pytest.mark.parametrize(
    ("logits", "best"),
    [(HAND, 0), (EQUAL, 0), (np.array([0, 3, 3, 1], np.float32), 1), (np.array([-9, -8, -7, -6], np.float32), 3)],
    ids=["likeliest", "all equal", "tie", "negative"],
)
def test_temperature_zero_takes_the_likeliest_and_the_lowest_id_among_equals(logits: Array, best: int) -> None:
    expect(distribution(logits, temperature=0.0), [float(i == best) for i in range(4)])


def test_temperature_zero_ignores_the_filters() -> None:
    expect(distribution(HAND, temperature=0.0, top_k=3, top_p=0.1, min_p=0.9), [1, 0, 0, 0])


def test_very_low_temperature_is_greedy_without_overflow() -> None:
    logits = np.array([1e4, 1e4 - 1, -1e4, 0.0], np.float32)
    expect(distribution(logits, temperature=1e-3), [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (0, [0.5, 0.25, 0.125, 0.125]),
        (1, [1, 0, 0, 0]),
        (2, [2 / 3, 1 / 3, 0, 0]),
        (3, [4 / 7, 2 / 7, 1 / 7, 0]),
        (4, [0.5, 0.25, 0.125, 0.125]),
        (1000, [0.5, 0.25, 0.125, 0.125]),
    ],
    ids=["off", "one", "two", "tie: lower id", "V", "more than V"],
)
def test_top_k_keeps_the_k_likeliest(top_k: int, expected: list[float]) -> None:
    expect(distribution(HAND, top_k=top_k), expected)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (1e-9, [1, 0, 0, 0]),
        (0.49, [1, 0, 0, 0]),
        (0.51, [2 / 3, 1 / 3, 0, 0]),
        (0.76, [4 / 7, 2 / 7, 1 / 7, 0]),
        (0.88, [0.5, 0.25, 0.125, 0.125]),
        (1.0, [0.5, 0.25, 0.125, 0.125]),
    ],
)
def test_top_p_keeps_the_fewest_tokens_whose_mass_reaches_it(top_p: float, expected: list[float]) -> None:
    expect(distribution(HAND, top_p=top_p), expected)


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3)])
def test_a_mass_exactly_equal_to_top_p_is_enough(top_p: float, kept: int) -> None:
    """Four equal tokens: 1/4 each, exactly; among equals the lower ids are kept."""
    expect(distribution(EQUAL, top_p=top_p), [1 / kept] * kept + [0] * (4 - kept))


@pytest.mark.parametrize(
    ("min_p", "expected"),
    [
        (0.0, [0.5, 0.25, 0.125, 0.125]),
        (0.24, [0.5, 0.25, 0.125, 0.125]),
        (0.26, [2 / 3, 1 / 3, 0, 0]),
        (0.51, [1, 0, 0, 0]),
        (0.999, [1, 0, 0, 0]),
    ],
)
def test_min_p_keeps_what_is_that_share_of_the_likeliest(min_p: float, expected: list[float]) -> None:
    expect(distribution(HAND, min_p=min_p), expected)


def test_min_p_keeps_equals_of_the_likeliest() -> None:
    expect(distribution(EQUAL, min_p=0.999), [0.25] * 4)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = np.array([2.0, -1.0, 0.0, 1.0], np.float32)
    penalised = np.array([1.0, -2.0, 0.0, 1.0], np.float32)
    found = distribution(logits, prompt=[0, 0, 2], completion=[1, 0], repetition_penalty=2.0)
    expect(found, softmax(penalised).tolist())


def test_presence_and_frequency_penalties_look_at_the_completion_alone() -> None:
    presence = distribution(EQUAL, prompt=[3], completion=[0, 0, 1], presence_penalty=math.log(2))
    expect(presence, [1 / 6, 1 / 6, 1 / 3, 1 / 3])
    frequency = distribution(EQUAL, prompt=[3], completion=[0, 0, 1], frequency_penalty=math.log(2))
    expect(frequency, [1 / 11, 2 / 11, 4 / 11, 4 / 11])


def test_negative_penalties_encourage() -> None:
    expect(distribution(EQUAL, completion=[2], presence_penalty=-math.log(2)), [0.2, 0.2, 0.4, 0.2])


def test_bias_is_added_to_logits() -> None:
    expect(distribution(HAND, logit_bias={3: math.log(4)}), [4 / 11, 2 / 11, 1 / 11, 4 / 11])
    assert distribution(HAND, logit_bias={3: 100.0})[3] == pytest.approx(1.0)


def test_banned_tokens_have_probability_zero_and_the_rest_keeps_its_proportions() -> None:
    expect(distribution(HAND, banned=[0]), [0, 0.5, 0.25, 0.25])
    expect(distribution(HAND, banned=[0, 2]), [0, 2 / 3, 0, 1 / 3])


def test_no_bias_lifts_a_ban() -> None:
    expect(distribution(HAND, banned=[0], logit_bias={0: 100.0}, temperature=0.0), [0, 1, 0, 0])


@pytest.mark.parametrize("params", [{"top_k": 10}, {"top_p": 10 / 4096}], ids=["top_k", "top_p"])
def test_lower_ids_are_kept_among_many_equals(params: dict[str, Any]) -> None:
    kept = np.flatnonzero(distribution(np.zeros(4096, np.float32), **params))
    assert kept.tolist() == list(range(10))


# The order of the steps


def test_penalties_come_before_the_filters() -> None:
    expect(distribution(HAND, completion=[0], presence_penalty=2.0, top_k=1), [0, 1, 0, 0])


def test_penalties_come_before_the_bias() -> None:
    """(1 + 2) / 2 would be 1.5; 1 / 2 + 2 is 2.5."""
    logits = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    found = distribution(logits, prompt=[0], repetition_penalty=2.0, logit_bias={0: 2.0})
    expect(found, softmax(np.array([2.5, 0.0, 0.0, 0.0])).tolist())


def test_unk_removal_comes_before_the_filters() -> None:
    expect(distribution(HAND, banned=[0], top_k=2), [0, 2 / 3, 1 / 3, 0])
    expect(distribution(HAND, banned=[0], top_p=0.51), [0, 2 / 3, 1 / 3, 0])
    expect(distribution(HAND, banned=[0], min_p=0.5), [0, 0.5, 0.25, 0.25])


def test_temperature_comes_before_top_p_and_min_p() -> None:
    """At temperature 1/2 the likeliest has 16/22 of the mass; at 1 it would have half."""
    expect(distribution(HAND, temperature=0.5, top_p=0.7), [1, 0, 0, 0])
    expect(distribution(HAND, temperature=0.5, min_p=0.26), [1, 0, 0, 0])


def test_top_p_is_taken_on_what_top_k_left() -> None:
    """Of three quarters left, the first is two thirds: enough for 0.6, though it is only half of the whole."""
    expect(distribution(HAND, top_k=2, top_p=0.6), [1, 0, 0, 0])


# Rows


MIXED = [
    Draw(SamplingParams(), seed=1),
    Draw(SamplingParams(temperature=0.0), seed=2, banned=[4]),
    Draw(SamplingParams(temperature=0.7, top_k=5, top_p=0.8), seed=3, choice=2, position=9),
    Draw(SamplingParams(min_p=0.1, repetition_penalty=1.3), seed=4, prompt=[1, 2, 2], completion=[3]),
    Draw(SamplingParams(frequency_penalty=0.5, presence_penalty=-0.2), seed=5, completion=[1, 1, 7], banned=[0]),
    Draw(SamplingParams(temperature=10.0, logit_bias={3: -100.0, 5: 1.5}), seed=2**63 - 1, position=10**6),
]


def mixed_logits() -> Array:
    return 3 * np.random.default_rng(0).normal(size=(len(MIXED), 12)).astype(np.float32)


def test_a_row_of_a_mixed_batch_equals_the_row_alone() -> None:
    logits = mixed_logits()
    together = next_token_probabilities(logits, MIXED)
    drawn = sample(logits, MIXED)
    for row, draw in enumerate(MIXED):
        assert np.array_equal(next_token_probabilities(logits[row : row + 1], [draw])[0], together[row])
        assert sample(logits[row : row + 1], [draw]) == drawn[row]
    assert np.array_equal(sample(logits[::-1], MIXED[::-1]), drawn[::-1])


def test_a_token_is_drawn_by_the_number_of_its_seed_choice_and_position() -> None:
    logits = mixed_logits()
    numbers = np.array([one_uniform(d.seed, d.choice, d.position) for d in MIXED])
    assert np.array_equal(sample(logits, MIXED), inverse_cdf(next_token_probabilities(logits, MIXED), numbers))
    draws = [Draw(SamplingParams(), seed=1, choice=choice) for choice in range(64)]
    assert len(set(sample(np.zeros((64, 1000), np.float32), draws).tolist())) > 50


def test_sampling_leaves_its_inputs_as_they_are() -> None:
    logits = mixed_logits()
    before, copies = logits.copy(), [repr(draw) for draw in MIXED]
    sample(logits, MIXED)
    assert np.array_equal(logits, before)
    assert [repr(draw) for draw in MIXED] == copies


def test_sampling_is_a_function_of_its_arguments_not_of_a_generator() -> None:
    logits = mixed_logits()
    np.random.seed(1)
    first = sample(logits, MIXED)
    np.random.seed(2)
    assert np.array_equal(sample(logits, MIXED), first)


@given(
    st.lists(st.integers(-400, 400), min_size=2, max_size=8),
    st.floats(0.01, 10),
    st.integers(0, 10),
    st.floats(0.01, 1),
    st.floats(0, 0.99),
)
@settings(max_examples=100, deadline=None)
def test_filters_always_leave_the_likeliest_and_a_distribution(
    eighths: list[int], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    values = np.array(eighths, np.float32) / 8
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probabilities = next_token_probabilities(values[None], [Draw(params, seed=0)])[0]
    assert probabilities[values.argmax()] > 0
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    if top_k:
        assert int((probabilities > 0).sum()) <= top_k


# Random numbers

MASK = (1 << 64) - 1


def reference_splitmix64(bits: int) -> int:
    """Steele et al. 2014, figure 17, on Python's own integers."""
    bits = (bits + 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def reference_uniform(seed: int, choice: int, position: int) -> float:
    bits = reference_splitmix64(reference_splitmix64(reference_splitmix64(seed) ^ choice) ^ position)
    return (bits >> 11) * 2.0**-53


def one_uniform(seed: int, choice: int, position: int) -> float:
    return float(uniforms([seed], [choice], [position])[0])


def test_splitmix64_reference_is_the_published_one() -> None:
    """The first outputs for seed 0, as Java's SplittableRandom and the literature's test vectors give them."""
    assert reference_splitmix64(0) == 0xE220A8397B1DCDAF
    assert reference_splitmix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31), st.integers(0, 2**40))
@settings(max_examples=200, deadline=None)
def test_uniforms_equal_the_reference_on_python_integers(seed: int, choice: int, position: int) -> None:
    assert one_uniform(seed, choice, position) == reference_uniform(seed, choice, position)


def test_uniforms_do_not_depend_on_their_place_in_the_batch() -> None:
    seeds = np.arange(50)
    together = uniforms(seeds, seeds % 3, seeds * 7)
    assert together.tolist() == [one_uniform(i, i % 3, i * 7) for i in range(50)]


@pytest.mark.parametrize("axis", ["seed", "choice", "position"])
def test_uniforms_are_uniform_along_each_axis(axis: str) -> None:
    counter, fixed = np.arange(100_000), np.full(100_000, 5)
    numbers = uniforms(**{name: counter if name == axis else fixed for name in ("seed", "choice", "position")})
    assert bool(((numbers >= 0) & (numbers < 1)).all())
    assert stats.kstest(numbers, "uniform").pvalue > SIGNIFICANCE
    pairs, _, _ = np.histogram2d(numbers[::2], numbers[1::2], bins=16, range=[[0.0, 1.0], [0.0, 1.0]])
    assert stats.chisquare(pairs.flatten()).pvalue > SIGNIFICANCE  # neighbours are independent


def test_neighbouring_counters_share_no_number() -> None:
    grid = np.indices((20, 20, 50)).reshape(3, -1)
    numbers = uniforms(*grid)
    assert len(set(numbers.tolist())) == grid.shape[1]


# Drawing


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 1), (0.249, 1), (0.25, 3), (0.5, 3), (0.999, 3), (1 - 2.0**-53, 3)],
)
def test_inverse_cdf_by_hand(number: float, token: int) -> None:
    probabilities = np.array([[0.0, 0.25, 0.0, 0.75, 0.0]], np.float32)
    assert inverse_cdf(probabilities, np.array([number])).tolist() == [token]


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-30, 1e3)), min_size=1, max_size=10).filter(any),
    st.one_of(st.sampled_from([0.0, 1 - 2.0**-53]), st.floats(0, 1, exclude_max=True)),
)
@settings(max_examples=200, deadline=None)
def test_inverse_cdf_never_returns_a_token_of_probability_zero(masses: list[float], number: float) -> None:
    probabilities = np.array([masses], np.float32)
    [token] = inverse_cdf(probabilities, np.array([number]))
    assert probabilities[0, token] > 0


COUNT = 100_000


def tokens_drawn(logits: Array, params: SamplingParams, banned: Sequence[int] = (), seed: int = 0) -> Array:
    """Counts of 100,000 draws, (V,)."""
    draws = [Draw(params, seed, position=position, banned=banned) for position in range(COUNT)]
    return np.bincount(sample(np.broadcast_to(logits, (COUNT, len(logits))), draws), minlength=len(logits))


@pytest.fixture(scope="module")
def model_logits() -> Array:
    """What the tiny model says after a few tokens; token 0 is made as likely as `<unk>` can be."""
    model = tiny_model()
    logits: Array = model(random_ids(1, 5), model.config.state_layout.zeros(1))[0][0, -1].numpy()
    logits[0] += 2
    return logits


@pytest.mark.parametrize("unk_removed", [False, True], ids=["with <unk>", "<unk> removed"])
def test_samples_match_the_models_distribution(model_logits: Array, unk_removed: bool) -> None:
    expected = softmax(model_logits.astype(np.float64))
    if unk_removed:
        expected[0] = 0
        expected /= expected.sum()
    counts = tokens_drawn(model_logits, SamplingParams(), banned=[0] if unk_removed else [])
    possible = expected > 0
    assert int(counts[~possible].sum()) == 0
    found = stats.chisquare(counts[possible], expected[possible] * COUNT)
    assert found.pvalue > SIGNIFICANCE


def test_samples_match_the_filtered_distribution(model_logits: Array) -> None:
    params = SamplingParams(temperature=0.8, top_k=8, top_p=0.9)
    expected = next_token_probabilities(model_logits[None], [Draw(params, seed=0)])[0].astype(np.float64)
    tokens = sample(
        np.broadcast_to(model_logits, (10_000, 12)), [Draw(params, seed=0, position=i) for i in range(10_000)]
    )
    counts = np.bincount(tokens, minlength=len(expected))
    kept = expected > 0
    assert int(counts[~kept].sum()) == 0
    assert stats.chisquare(counts[kept], expected[kept] / expected.sum() * 10_000).pvalue > SIGNIFICANCE


def test_unk_removal_equals_rejection_resampling_in_distribution(model_logits: Array) -> None:
    """Draw again whenever `<unk>` is drawn; compare with one draw from the distribution without it."""
    probabilities = np.broadcast_to(softmax(model_logits), (COUNT, 12))
    pending, rejected = np.arange(COUNT), np.zeros(COUNT, np.int64)
    for attempt in range(1000):
        if not len(pending):
            break
        numbers = uniforms(np.full_like(pending, 1), np.full_like(pending, attempt), pending)
        rejected[pending] = inverse_cdf(probabilities[pending], numbers)
        pending = pending[rejected[pending] == 0]
    assert not len(pending)
    resampled = np.bincount(rejected, minlength=12)
    removed = tokens_drawn(model_logits, SamplingParams(), banned=[0], seed=2)
    assert resampled[0] == removed[0] == 0
    table = np.stack([resampled[1:], removed[1:]])
    assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE
