"""Every way of running a network: close to the reference, and the same bits in every company."""

from collections.abc import Callable, Set
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.stats import chisquare

from models.arrays import Array
from models.backends.base import InferenceNetwork
from models.backends.load import load_inference
from models.backends.native import FEATURES, available, processor_features
from models.backends.native.network import NativeNetwork
from models.backends.torch import TorchNetwork
from models.config import Cell
from models.decoding.completion import Completion, GenerationParams
from models.decoding.sampling import Draw, SamplingParams, next_token_probabilities, sample, sample_rows
from models.decoding.scoring import log_softmax
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from tests.tiny import parts, tiny_model
from tests.tiny import random_ids as random_tensor

VOCABULARY = 150  # more than two groups of 64, and not a multiple


def random_ids(*shape: int, seed: int = 0) -> Array:
    return random_tensor(*shape, vocabulary_size=VOCABULARY, seed=seed).numpy()


def random_logits(*shape: int, seed: int) -> Array:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).numpy()


def shaped(cell: Cell = "lstm") -> LanguageModel:
    """Widths that are no multiples of anything the kernels like. `<eos>`, id 1, comes now and then."""
    model = tiny_model(VOCABULARY, cell, hidden_sizes=(24, 37), embedding_size=19, projection_size=21)
    model.output.bias[1] = 5.0
    return model


def native(number_type: str, threads: int = 2, features: Set[str] = FEATURES) -> Callable[[], InferenceNetwork]:
    return lambda: NativeNetwork(*parts(shaped()), number_type, threads, features)


def plain(cell: Cell) -> Callable[[], InferenceNetwork]:
    return lambda: TorchNetwork(*parts(shaped(cell)))


needs_kernels = pytest.mark.skipif(not available(), reason="the native kernels were not built")

BACKENDS = [
    pytest.param(native("float32"), "lstm", 1e-4, id="native-float32", marks=needs_kernels),
    pytest.param(native("bfloat16"), "lstm", 0.15, id="native-bfloat16", marks=needs_kernels),
    pytest.param(native("int8"), "lstm", 0.3, id="native-int8", marks=needs_kernels),
    pytest.param(native("float32", features=set()), "lstm", 1e-4, id="portable-float32", marks=needs_kernels),
    pytest.param(native("bfloat16", features=set()), "lstm", 0.15, id="portable-bfloat16", marks=needs_kernels),
    pytest.param(native("int8", features=set()), "lstm", 0.3, id="portable-int8", marks=needs_kernels),
    pytest.param(native("int8", features={"avx512"}), "lstm", 0.3, id="avx512-int8", marks=needs_kernels),
    pytest.param(plain("lstm"), "lstm", 1e-4, id="torch-lstm"),
    pytest.param(plain("gru"), "gru", 1e-4, id="torch-gru"),
    pytest.param(plain("rnn"), "rnn", 1e-4, id="torch-rnn"),
    pytest.param(plain("lstm_peephole"), "lstm_peephole", 1e-4, id="torch-lstm_peephole"),
]
every_backend = pytest.mark.parametrize(("make", "cell", "tolerance"), BACKENDS)


def start(cell: Cell, rows: int) -> Array:
    """Random states."""
    size = shaped(cell).config.state_layout.size
    return torch.rand(rows, size, generator=torch.Generator().manual_seed(5)).numpy() - 0.5


@every_backend
def test_features_logits_scores_and_states_are_those_of_the_reference(
    make: Callable[[], InferenceNetwork], cell: Cell, tolerance: float
) -> None:
    network, model = make(), shaped(cell)
    ids, slots = random_ids(5, 9), np.array([7, 0, 3, 6, 1])
    before = start(cell, 8)
    states = before.copy()
    features = network.run(ids, states, slots)
    expected, expected_state = model.features(torch.from_numpy(ids), torch.from_numpy(before[slots]))
    np.testing.assert_allclose(features, expected, atol=tolerance, rtol=0)
    np.testing.assert_allclose(states[slots], expected_state, atol=tolerance, rtol=0)
    assert_array_equal(states[[2, 4, 5]], before[[2, 4, 5]])
    assert_array_equal(network.readout(states, slots), features[:, -1])

    flat = features.reshape(45, -1)
    logits = network.logits(flat)
    np.testing.assert_allclose(logits, model.logits(expected).flatten(0, 1), atol=8 * tolerance, rtol=0)
    targets = random_ids(45, seed=3)
    logprobs, ranks = network.score(flat, targets)
    chosen = logits[np.arange(45), targets, None]
    np.testing.assert_allclose(logprobs, log_softmax(logits)[np.arange(45), targets], rtol=1e-5, atol=1e-5)
    assert ranks.tolist() == ((logits > chosen).sum(1) + 1).tolist()


@every_backend
def test_a_row_gets_the_same_bits_alone_and_in_every_company(
    make: Callable[[], InferenceNetwork], cell: Cell, tolerance: float
) -> None:
    assert tolerance
    network = make()
    rows, length = 70, 12
    ids = random_ids(rows, length)
    targets = random_ids(rows, seed=8)
    draws = [Draw(SamplingParams(temperature=0.9, top_p=0.8 if i % 2 else 1.0), seed=i) for i in range(rows)]
    together = start(cell, rows)
    features = network.run(ids, together, np.arange(rows))
    logits = network.logits(features[:, -1])
    scores, ranks = network.score(features[:, -1], targets)
    drawn = network.sample(logits.copy(), draws)
    for row in (0, 1, 15, 16, 17, 63, 64, 69):
        alone = start(cell, rows)
        slot = np.array([row])
        pieces = [network.run(ids[row : row + 1, a:b], alone, slot) for a, b in ((0, 1), (1, 2), (2, 9), (9, 12))]
        assert_array_equal(np.concatenate(pieces, 1), features[row : row + 1])
        assert_array_equal(alone[row], together[row])
        last = pieces[-1][:, -1]
        assert_array_equal(network.logits(last), logits[row : row + 1])
        score, rank = network.score(last, targets[row : row + 1])
        assert (score.item(), rank.item()) == (scores[row].item(), ranks[row].item())
        assert network.sample(network.logits(last), [draws[row]]) == [drawn[row]]


@cache
def letters() -> Tokenizer:
    """A character vocabulary as large as the network's."""
    return Tokenizer.train(["".join(chr(0x4E00 + i) for i in range(VOCABULARY - 2))], "char", boundary="document")


def completions_for(count: int) -> list[Completion]:
    """Completions of every kind that `decode` is for, each with its first token drawn."""
    samplings = [
        SamplingParams(),
        SamplingParams(temperature=0.7, top_k=20),
        SamplingParams(top_p=0.8),
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.3, min_p=0.02),
    ]
    completions = []
    for i in range(count):
        params = GenerationParams(
            max_tokens=2 + 5 * i % 83,
            min_tokens=3 * i % 7,
            ignore_eos=i % 3 == 0,
            allow_unk=i % 4 == 0,
            seed=1000 + i,
            choice=i % 3,
            sampling=samplings[i % len(samplings)],
        )
        completion = Completion(params, letters(), at_start=True, prompt_ids=[], position=5 + i)
        completion.accept_all([2 + i])
        completions.append(completion)
    return completions


def by_single_steps(network: InferenceNetwork, completion: Completion, state: Array) -> None:
    """Draw a completion to its end, alone, a token at a time. state: (1, S), updated."""
    while completion.finish_reason is None:
        features = network.run(np.array([completion.token_ids[-1:]]), state, np.array([0]))
        completion.accept_all(network.sample(network.logits(features[:, -1]), [completion.next_draw()]))


@every_backend
def test_decoding_many_steps_at_once_gives_what_single_steps_give(
    make: Callable[[], InferenceNetwork], cell: Cell, tolerance: float
) -> None:
    """Text, and state, bit for bit, though rows end at different times and go on in any company."""
    assert tolerance
    network, count = make(), 70
    states, slots = start(cell, 80), np.random.default_rng(3).permutation(80)[:count].tolist()
    expected_states, expected = states[slots], completions_for(count)
    for i, completion in enumerate(expected):
        by_single_steps(network, completion, expected_states[i : i + 1])
    decoded = completions_for(count)
    left = list(zip(decoded, slots, strict=True))
    seconds = 0.0  # one step, then as many as fit
    while left:
        feeds = [completion.token_ids[-1:] for completion, _ in left]
        drawn = network.decode([c for c, _ in left], feeds, states, [slot for _, slot in left], seconds)
        for (completion, _), (consumed, token_ids) in zip(left, drawn, strict=True):
            assert consumed == 1
            assert token_ids
            completion.accept_all(token_ids)
        left = [(completion, slot) for completion, slot in left if completion.finish_reason is None]
        seconds = 10.0
    assert [c.token_ids for c in decoded] == [c.token_ids for c in expected]
    assert {c.finish_reason for c in decoded} == {"eos", "length"}
    assert_array_equal(states[slots], expected_states)


@every_backend
def test_rows_of_unequal_length_get_what_each_gets_alone(
    make: Callable[[], InferenceNetwork], cell: Cell, tolerance: float
) -> None:
    assert tolerance
    network, lengths = make(), [19, 12, 12, 7, 3, *[2] * 20, 1, 1]
    ids = random_ids(len(lengths), 19)
    together, alone = start(cell, len(lengths)), start(cell, len(lengths))
    features = network.run(ids, together, np.arange(len(lengths)), lengths)
    for row, length in enumerate(lengths):
        expected = network.run(ids[row : row + 1, :length], alone, np.array([row]))
        assert_array_equal(features[row, :length], expected[0])
    assert_array_equal(together, alone)


@needs_kernels
@pytest.mark.parametrize("number_type", ["float32", "int8"])
def test_prompts_that_ride_along_draw_what_they_draw_after_a_pass_of_their_own(number_type: str) -> None:
    network, count = native(number_type)(), 40
    prompts = [random_ids(1 + 7 * i % 30, seed=i).tolist() for i in range(count)]
    expected_states, expected, together = start("lstm", count), completions_for(count), completions_for(count)
    for completions in (expected, together):
        for completion in completions:
            completion.token_ids.clear()
    for i, completion in enumerate(expected):
        state = expected_states[i : i + 1]
        features = network.run(np.array([prompts[i]]), state, np.array([0]))
        completion.accept_all(network.sample(network.logits(features[:, -1]), [completion.next_draw()]))
        by_single_steps(network, completion, state)
    states, fed, seconds = start("lstm", count), [0] * count, 0.0
    while left := [i for i in range(count) if together[i].finish_reason is None]:
        feeds = [prompts[i][fed[i] :] or together[i].token_ids[-1:] for i in left]
        drawn = network.decode([together[i] for i in left], feeds, states, left, seconds)
        for i, (consumed, token_ids) in zip(left, drawn, strict=True):
            fed[i] += consumed
            if token_ids:
                together[i].accept_all(token_ids)
        seconds = 0.0 if seconds else 0.0005
    assert [c.token_ids for c in together] == [c.token_ids for c in expected]
    assert_array_equal(states, expected_states)


@needs_kernels
@pytest.mark.parametrize("number_type", ["float32", "bfloat16", "int8"])
def test_the_number_of_threads_changes_nothing(number_type: str) -> None:
    ids, slots = random_ids(33, 7), np.arange(33)
    results = []
    for threads in (1, 2, 5):
        network, states = native(number_type, threads)(), start("lstm", 33)
        features = network.run(ids, states, slots)
        results.append(np.concatenate([states.ravel(), network.logits(features.reshape(33 * 7, -1)).ravel()]))
    assert_array_equal(results[0], results[1])
    assert_array_equal(results[0], results[2])


SAMPLINGS = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.5),
    "top-k": SamplingParams(top_k=5),
    "top-k beyond the vocabulary": SamplingParams(top_k=10_000),
    "top-p": SamplingParams(top_p=0.7),
    "top-p nearly all": SamplingParams(temperature=2, top_p=0.98),
    "top-k of many": SamplingParams(temperature=3, top_k=300),
    "min-p": SamplingParams(min_p=0.2),
    "all": SamplingParams(temperature=1.5, top_k=40, top_p=0.9, min_p=0.05),
    "penalties": SamplingParams(
        repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.3, logit_bias={4: 2.0}
    ),
    "greedy": SamplingParams(temperature=0),
}


@needs_kernels
@pytest.mark.parametrize("features", [FEATURES, set()], ids=["fastest", "portable"])
@pytest.mark.parametrize("vocabulary", [12, 700], ids=["one group of logits", "several"])
@pytest.mark.parametrize("params", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_the_kernels_draw_from_the_distribution_of_the_reference(
    params: SamplingParams, vocabulary: int, features: Set[str]
) -> None:
    network = NativeNetwork(*parts(tiny_model(vocabulary)), "float32", 2, features)
    count = 20_000
    logits = -np.sort(-2 * random_logits(1, vocabulary, seed=1))  # by frequency, as ids of vocabularies are
    draws = [Draw(params, seed=i, prompt=[3], completion=[4, 4], banned=[0, 7]) for i in range(count)]
    expected = next_token_probabilities(logits, draws[:1])[0]
    drawn = sample_rows(network, logits.repeat(count, 0), draws)
    counts = np.bincount(drawn, minlength=vocabulary).astype(float)
    assert not counts[expected == 0].any()
    assert counts[[0, 7]].sum() == 0
    common = expected * count >= 10  # the chi-square test wants some of each; the rare are one class
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()).astype(float) * count
    kept = wanted > 0.5
    if kept.sum() > 1:
        statistic = chisquare(observed[kept], wanted[kept] * (observed[kept].sum() / wanted[kept].sum()))
        assert statistic.pvalue > 1e-4


@needs_kernels
def test_the_kernels_draw_with_the_random_numbers_of_the_reference() -> None:
    """Same seed, same text: also on a machine without kernels, but where a number falls on a rounding."""
    network = NativeNetwork(*parts(tiny_model(700)), "float32", 2)
    logits = random_logits(500, 700, seed=2)
    draws = [Draw(SamplingParams(), seed=2**63 - 1 - i, choice=i % 7, position=10**9 * i) for i in range(500)]
    same = sum(
        a == b for a, b in zip(network.sample(logits.copy(), draws), sample(logits, draws).tolist(), strict=True)
    )
    assert same >= 498


@needs_kernels
def test_equal_logits_are_taken_in_the_order_of_their_ids() -> None:
    network = NativeNetwork(*parts(tiny_model(700)), "float32", 1)
    logits = np.zeros((1, 700), np.float32)
    assert network.sample(logits.copy(), [Draw(SamplingParams(temperature=0), seed=1, banned=[0])]) == [1]
    kept = {network.sample(logits.copy(), [Draw(SamplingParams(top_k=3), seed=seed)])[0] for seed in range(100)}
    assert kept == {0, 1, 2}


def test_what_cannot_be_had_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.backends.native.available", lambda: True)
    with pytest.raises(ValueError, match="lstm, not gru"):
        load_inference(*parts(shaped("gru")), "cpu", "int8")
    monkeypatch.setattr("models.backends.native.available", lambda: False)
    with pytest.raises(ValueError, match="not built"):
        load_inference(*parts(shaped()), "cpu", "bfloat16")
    assert load_inference(*parts(shaped()), "cpu").backend == "cpu-float32"


@needs_kernels
def test_the_fastest_type_is_chosen_for_the_processor() -> None:
    has_integers = processor_features() & {"avx512_vnni", "amx_int8"}
    assert load_inference(*parts(shaped())).backend == ("cpu-int8" if has_integers else "cpu-float32")
    assert load_inference(*parts(shaped("gru"))).backend == "cpu-float32"


@pytest.mark.parametrize(
    "options", [{"output_layers": (9, 7)}, {"one_hot": True}, {"cell": "lstm_peephole", "output_layers": (5,)}]
)
def test_every_network_option_can_be_served(options: dict[str, Any]) -> None:
    model = tiny_model(**options)
    network = load_inference(*parts(model))
    ids, states = random_tensor(3, 6), network.zeros(3)
    features = network.run(ids.numpy(), states, np.arange(3))
    expected, state = model.features(ids, model.config.state_layout.zeros(3))
    close = 0.05 if "int8" in network.backend else 1e-5
    np.testing.assert_allclose(network.logits(features[:, -1]), model.logits(expected[:, -1]), rtol=0.05, atol=0.3)
    np.testing.assert_allclose(states, state, rtol=0, atol=close)
    if network.backend == "cpu-float32":
        np.testing.assert_allclose(features, expected, rtol=0, atol=close)


# What must never reach a matrix


@needs_kernels
@pytest.mark.parametrize("wrong", [-1, VOCABULARY, 1_000_000, 1 << 62, -(1 << 62)])
def test_a_token_id_outside_the_vocabulary_is_refused_before_anything_is_read(wrong: int) -> None:
    network = native("float32")()
    states, ids = network.zeros(2), np.array([[1, 2, 3], [4, wrong, 5]])
    with pytest.raises(ValueError, match="a token id is not from 0 to 149"):
        network.run(ids, states, np.arange(2))
    network.run(ids, states, np.arange(2), [3, 1])  # where there are no tokens, anything may stand
    features = network.readout(states, np.arange(2))
    with pytest.raises(ValueError, match="token id"):
        network.score(features, np.array([7, wrong]))
    before = states.copy()
    completion = Completion(GenerationParams(max_tokens=3), letters(), at_start=True, prompt_ids=[], position=0)
    with pytest.raises(ValueError, match="token id"):
        network.decode([completion, completion], [[1], [2, wrong]], states, [0, 1], 0.0)
    assert_array_equal(states, before)


NO_NUMBERS = {
    "one of many": lambda logits: logits.__setitem__(70, np.nan),
    "the first": lambda logits: logits.__setitem__(0, np.nan),
    "all": lambda logits: logits.fill(np.nan),
    "all but one": lambda logits: logits.__setitem__(slice(1, None), np.nan),
    "infinite": lambda logits: logits.__setitem__(5, np.inf),
    "none may be drawn": lambda logits: logits.fill(-np.inf),
    "a group of none": lambda logits: logits.__setitem__(slice(0, 64), -np.inf),
}


@needs_kernels
@pytest.mark.parametrize("features", [FEATURES, set()], ids=["fastest", "portable"])
@pytest.mark.parametrize("spoil", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
@pytest.mark.parametrize("params", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary(
    params: SamplingParams, spoil: Callable[[Array], None], features: Set[str]
) -> None:
    network = native("float32", features=features)()
    for seed in range(20):
        logits = random_logits(1, VOCABULARY, seed=seed)
        spoil(logits[0])
        [token_id] = network.sample(logits, [Draw(params, seed, 0, 0, banned=(0, 1))])
        assert 0 <= token_id < VOCABULARY


@needs_kernels
@pytest.mark.parametrize("params", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_a_vocabulary_of_which_nothing_may_be_drawn_gives_one_of_its_tokens(params: SamplingParams) -> None:
    network = NativeNetwork(*parts(tiny_model(2)), "float32", 1)
    assert network.sample(np.zeros((1, 2), np.float32), [Draw(params, 1, 0, 0, banned=(0, 1))]) == [0]
