"""The path for GPUs: its plan, its sampler, and its stages.

Where there is no GPU the stages run on the CPU, as they are and recorded and played back, as a graph would be.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.backends.cuda import CudaNetwork, agreeing_sizes, pieces
from models.backends.cuda.sampling import draw_tokens, keep_likeliest, token_probabilities, uniforms
from models.backends.cuda.stages import STEPS, WARM_UPS, Block, Linear, Stage, Weights, Wish, capturing
from models.config import Cell
from models.decoding.completion import Completion, GenerationParams
from models.decoding.sampling import Draw, SamplingParams, inverse_cdf, next_token_probabilities, sample, sample_rows
from models.decoding.sampling import uniforms as reference_uniforms
from models.decoding.scoring import score_targets
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from tests.tiny import every_device, needs_gpu, random_ids, tiny_model, tiny_tokenizer

VOCABULARY = 150
SIZES = (8, 64)


def shaped(cell: Cell = "lstm") -> LanguageModel:
    return tiny_model(VOCABULARY, cell, hidden_sizes=(24, 37), embedding_size=19, projection_size=21)


def random_states(model: LanguageModel, rows: int, device: str = "cpu") -> Tensor:
    states = torch.rand(rows, model.config.state_layout.size, generator=torch.Generator().manual_seed(5)) - 0.5
    return states.to(device)


# Cutting a batch, and the sizes that may be used


@pytest.mark.parametrize(
    ("rows", "plan"),
    [
        (0, []),
        (1, [(slice(0, 1), 8)]),
        (8, [(slice(0, 8), 8)]),
        (9, [(slice(0, 9), 64)]),
        (64, [(slice(0, 64), 64)]),
        (67, [(slice(0, 64), 64), (slice(64, 67), 8)]),
        (200, [(slice(0, 64), 64), (slice(64, 128), 64), (slice(128, 192), 64), (slice(192, 200), 8)]),
    ],
)
def test_a_batch_is_cut_into_pieces_of_the_allowed_sizes(rows: int, plan: list[tuple[slice, int]]) -> None:
    assert pieces(rows, SIZES) == plan


def test_one_size_serves_every_batch() -> None:
    assert pieces(3, (64,)) == [(slice(0, 3), 64)]
    assert pieces(65, (64,)) == [(slice(0, 64), 64), (slice(64, 65), 64)]


def test_sizes_that_differ_from_the_base_in_any_bit_are_dropped() -> None:
    def outcome(size: int, shift: int) -> Tensor:
        off = {8: 1e-7, 256: 1e-7 * (shift > 0)}.get(size, 0.0)  # 256: a row's result depends on its place
        return torch.ones(5) + off

    assert agreeing_sizes((8, 64, 256, 1024), 64, outcome) == (64, 1024)


def test_a_base_that_does_not_agree_with_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="among 64 rows"):
        agreeing_sizes((64,), 64, lambda size, shift: torch.tensor([size, shift]))


def test_a_size_whose_products_are_summed_differently_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a matrix library may do: another kernel, and so another last bit, for another number of rows."""
    honest = Linear.__call__
    monkeypatch.setattr(Linear, "__call__", lambda self, x: honest(self, x) * (1 + 1e-6 * (len(x) == 256)))
    network = CudaNetwork(shaped(), "cpu", torch.float32, (64, 256))
    assert list(network.sizes) == [64]


def test_a_large_vocabulary_leaves_the_large_sizes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.backends.cuda.MAX_LOGITS", 256 * 192 - 1)
    assert max(CudaNetwork(shaped(), "cpu", torch.float32).sizes) == 64
    monkeypatch.setattr("models.backends.cuda.MAX_LOGITS", 1)
    assert list(CudaNetwork(shaped(), "cpu", torch.float32, (16, 64)).sizes) == [16]


# Features, logits, scores and states


@pytest.mark.parametrize(
    ("cell", "dtype", "tolerance"),
    [
        pytest.param("lstm", torch.float32, 1e-4, id="lstm-float32"),
        pytest.param("gru", torch.float32, 1e-4, id="gru-float32"),
        pytest.param("rnn", torch.float32, 1e-4, id="rnn-float32"),
        pytest.param("lstm", torch.bfloat16, 0.15, id="lstm-bfloat16"),
        pytest.param("gru", torch.bfloat16, 0.15, id="gru-bfloat16"),
        pytest.param("rnn", torch.bfloat16, 0.4, id="rnn-bfloat16"),
    ],
)
@every_device
def test_results_are_those_of_the_reference(device: str, cell: Cell, dtype: torch.dtype, tolerance: float) -> None:
    model = shaped(cell)
    network = CudaNetwork(model, device, dtype, SIZES)
    assert network.backend == f"{device}-{str(dtype)[6:]}"
    ids, slots = random_ids(5, 9, vocabulary_size=VOCABULARY), torch.tensor([7, 0, 3, 6, 1])
    before = random_states(model, 8)
    states = before.to(device, copy=True)
    features = network.run(ids.numpy(), states, slots.numpy())
    expected, expected_state = model.features(ids, before[slots])
    torch.testing.assert_close(features.float().cpu(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(states.cpu()[slots], expected_state, atol=tolerance, rtol=0)
    assert states.cpu()[[2, 4, 5]].equal(before[[2, 4, 5]])
    assert network.readout(states, slots.numpy()).equal(features[:, -1])

    flat = features.flatten(0, 1)
    logits = network.logits(flat).cpu()
    torch.testing.assert_close(logits, model.logits(expected).flatten(0, 1), atol=8 * tolerance, rtol=0)
    targets = random_ids(45, vocabulary_size=VOCABULARY, seed=3)
    logprobs, ranks = map(torch.from_numpy, network.score(flat, targets.numpy()))
    chosen = logits.gather(1, targets[:, None])
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0])
    assert ranks.tolist() == ((logits > chosen).sum(1) + 1).tolist()


def test_a_network_without_projection_and_with_tied_weights_is_run_too() -> None:
    model = tiny_model(VOCABULARY, hidden_sizes=(24, 24), embedding_size=24, tied=True)
    ids, slots = random_ids(3, 4, vocabulary_size=VOCABULARY), torch.arange(3)
    network = CudaNetwork(model, "cpu", torch.float32, SIZES)
    logits = network.logits(network.run(ids.numpy(), random_states(model, 3), slots.numpy())[:, -1])
    torch.testing.assert_close(logits, model(ids, random_states(model, 3))[0][:, -1])


def test_nothing_asked_is_nothing_answered() -> None:
    network = CudaNetwork(shaped(), "cpu", torch.float32, SIZES)
    features = network.readout(random_states(shaped(), 2), np.zeros(0, np.int64))
    assert features.shape == (0, 21)
    assert network.logits(features).shape == (0, VOCABULARY)
    assert network.sample(network.logits(features), []) == []


@every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_row_gets_the_same_bits_alone_and_in_every_company(device: str, dtype: torch.dtype, cell: Cell) -> None:
    model = shaped(cell)
    network = CudaNetwork(model, device, dtype, SIZES)
    rows, length = 150, 12
    ids = random_ids(rows, length, vocabulary_size=VOCABULARY).numpy()
    targets = random_ids(rows, vocabulary_size=VOCABULARY, seed=8).numpy()
    draws = [Draw(SamplingParams(temperature=0.9, top_p=0.8 if i % 2 else 1.0), seed=i) for i in range(rows)]
    together = random_states(model, rows, device)
    features = network.run(ids, together, np.arange(rows))
    logits = network.logits(features[:, -1])
    scores, ranks = network.score(features[:, -1], targets)
    drawn = network.sample(logits, draws)
    for row in (0, 1, 63, 64, 149):
        alone = random_states(model, rows, device)
        slot = np.array([row])
        parts = [network.run(ids[row : row + 1, a:b], alone, slot) for a, b in ((0, 1), (1, 2), (2, 9), (9, 12))]
        assert torch.cat(parts, 1).equal(features[row : row + 1])
        assert alone[row].equal(together[row])
        last = parts[-1][:, -1]
        assert network.logits(last).equal(logits[row : row + 1])
        score, rank = network.score(last, targets[row : row + 1])
        assert (score.item(), rank.item()) == (scores[row].item(), ranks[row].item())
        assert network.sample(network.logits(last), [draws[row]]) == [drawn[row]]


# Sampling

FILTERS = {
    "none": SamplingParams(),
    "cold": SamplingParams(temperature=0.5),
    "top-k": SamplingParams(top_k=5),
    "top-k beyond the vocabulary": SamplingParams(top_k=10_000),
    "top-p": SamplingParams(top_p=0.7),
    "top-p nothing": SamplingParams(top_p=0.0),
    "min-p": SamplingParams(min_p=0.2),
    "all": SamplingParams(temperature=1.5, top_k=40, top_p=0.9, min_p=0.05),
    "greedy": SamplingParams(temperature=0, top_k=3),
}

LOGITS = {
    "random": 2 * torch.randn(700, generator=torch.Generator().manual_seed(1)),
    "many equals": torch.randint(4, (700,), generator=torch.Generator().manual_seed(2)).float(),
    "all equal": torch.zeros(700),
    "halves and quarters": torch.cat([torch.tensor([0.5, 0.25, 0.125, 0.125]).log(), torch.full((696,), -torch.inf)]),
}


def kept(logits: Tensor, params: list[SamplingParams]) -> Tensor:
    """What the device draws from, before greedy rows are replaced: (B, V), rows sum to 1."""
    temperatures, top_p, min_p = torch.tensor(
        [(p.temperature, p.top_p, p.min_p) for p in params], dtype=torch.float64
    ).T
    top_k = torch.tensor([p.top_k for p in params])
    masses = keep_likeliest(token_probabilities(logits, logits.amax(1), temperatures), top_k, top_p, min_p)
    return masses / masses.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS.keys())
def test_rows_that_filter_differently_keep_in_one_batch_what_the_reference_keeps(logits: Tensor) -> None:
    params = [p for p in FILTERS.values() if not p.greedy] + [SamplingParams(top_p=0.75), SamplingParams(top_p=0.5)]
    batch = logits.repeat(len(params), 1)
    expected = torch.from_numpy(next_token_probabilities(batch.numpy(), [Draw(p, seed=0) for p in params]))
    found = kept(batch, params)
    assert (found > 0).equal(expected > 0)
    torch.testing.assert_close(found, expected)


def test_a_row_that_filters_nothing_is_left_bit_for_bit_as_it_was() -> None:
    probabilities = LOGITS["random"].softmax(0)[None]
    whole = torch.zeros(1, dtype=torch.int64), torch.ones(1).double(), torch.zeros(1).double()
    assert keep_likeliest(probabilities, *whole).equal(probabilities)


def test_draws_fall_where_those_of_the_reference_fall() -> None:
    probabilities = LOGITS["random"].softmax(0).repeat(5000, 1)
    numbers = torch.rand(5000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = inverse_cdf(probabilities.numpy(), numbers.numpy())
    assert draw_tokens(probabilities, numbers).tolist() == expected.tolist()


@pytest.mark.parametrize("number", [0.0, 0.5 - 2**-53, 0.5, 1 - 2**-53])
def test_a_token_of_no_mass_is_never_drawn(number: float) -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    expected = 1 if number < 0.5 else 3
    assert draw_tokens(probabilities, torch.tensor([number], dtype=torch.float64)).tolist() == [expected]


@every_device
def test_sampling_is_that_of_the_reference_for_every_wish_at_once(device: str) -> None:
    network = CudaNetwork(tiny_model(700), device, torch.float32, SIZES)
    penalties = SamplingParams(1.2, 0, 0.9, 0.0, 1.5, 0.5, 0.3, {4: 2.0, 9: 300.0})
    wishes = [*FILTERS.values(), penalties, replace(penalties, logit_bias={})] * 10
    logits = 2 * torch.randn(len(wishes), 700, generator=torch.Generator().manual_seed(1))
    draws = [
        Draw(params, seed=2**63 - 1 - i, choice=i % 7, position=10**9 * i, prompt=[3], completion=[4, 4], banned=banned)
        for i, (params, banned) in enumerate(zip(wishes, [[], [0], [9, 1], [4]] * len(wishes), strict=False))
    ]
    assert sample_rows(network, logits.to(device, copy=True), draws) == sample(logits.numpy(), draws).tolist()


def test_random_numbers_are_those_of_the_reference() -> None:
    seed, choice, position = torch.randint(2**63 - 1, (3, 1000), generator=torch.Generator().manual_seed(4))
    expected = reference_uniforms(seed.numpy(), choice.numpy(), position.numpy())
    assert uniforms(seed, choice, position).tolist() == expected.tolist()


def test_scores_of_logits_are_those_of_the_reference() -> None:
    network, logits = CudaNetwork(tiny_model(), "cpu", torch.float32, SIZES), torch.randn(3, 12)
    for found, expected in zip(
        network.score_logits(logits, [0, 5, 11], 4), score_targets(logits.numpy(), [0, 5, 11], 4), strict=True
    ):
        assert (found.token_id, found.rank) == (expected.token_id, expected.rank)
        assert found.logprob == pytest.approx(expected.logprob, rel=1e-6)
        assert [i for i, _ in found.top] == [i for i, _ in expected.top]


def test_equal_logits_are_taken_in_the_order_of_their_ids() -> None:
    network = CudaNetwork(tiny_model(700), "cpu", torch.float32, SIZES)
    logits = torch.zeros(1, 700)
    assert network.sample(logits, [Draw(SamplingParams(temperature=0), seed=1, banned=[0])]) == [1]
    found = {network.sample(logits, [Draw(SamplingParams(top_k=3), seed=seed)])[0] for seed in range(100)}
    assert found == {0, 1, 2}


# Whole texts


def word_model(cell: Cell = "lstm") -> tuple[LanguageModel, Tokenizer]:
    tokenizer = tiny_tokenizer("word")
    return tiny_model(len(tokenizer), cell), tokenizer


WISHES = [
    GenerationParams(max_tokens=40),
    GenerationParams(max_tokens=1),
    GenerationParams(max_tokens=2),
    GenerationParams(max_tokens=9, ignore_eos=True),
    GenerationParams(max_tokens=17, ignore_eos=True, min_tokens=6),
    GenerationParams(max_tokens=30, min_tokens=30),
    GenerationParams(max_tokens=30, min_tokens=11),
    GenerationParams(max_tokens=25, allow_unk=True, ignore_eos=True),
    GenerationParams(max_tokens=25, ignore_eos=True, sampling=SamplingParams(temperature=0)),
    GenerationParams(max_tokens=12, sampling=SamplingParams(temperature=1.3, top_k=4)),
    GenerationParams(max_tokens=33, ignore_eos=True, sampling=SamplingParams(top_p=0.6)),
    GenerationParams(max_tokens=20, sampling=SamplingParams(temperature=0.8, min_p=0.1)),
]


def begun(tokenizer: Tokenizer, params: GenerationParams, seed: int) -> Completion:
    """A completion whose first token has been drawn."""
    params = replace(params, max_tokens=params.max_tokens + 1, seed=seed, choice=seed % 3)
    completion = Completion(params, tokenizer, True, [], position=1 + seed % 5)
    completion.accept(2 + seed % (len(tokenizer) - 2))
    return completion


def step_by_step(network: CudaNetwork, completion: Completion, state: Tensor) -> Tensor:
    """Finish a completion as models.decoding.reference.generate does; returns its state (1, S)."""
    states = state[None].clone()
    while completion.finish_reason is None:
        features = network.run(np.array([completion.token_ids[-1:]]), states, np.array([0]))
        logits = network.host(network.logits(features[:, -1]))
        completion.accept(int(sample(logits, [completion.next_draw()])[0]))
    return states


def decoded(
    network: CudaNetwork, completions: list[Completion], states: Tensor, slots: list[int], seconds: float
) -> int:
    """Finish completions with `decode`; returns how many calls that took."""
    calls = 0
    going = list(range(len(completions)))
    while going:
        asked = [completions[i] for i in going]
        before = [list(c.token_ids) for c in asked]
        feeds = [completion.token_ids[-1:] for completion in asked]
        drawn = [ids for _, ids in network.decode(asked, feeds, states, [slots[i] for i in going], seconds)]
        assert [c.token_ids for c in asked] == before
        for completion, token_ids in zip(asked, drawn, strict=True):
            assert token_ids
            for token_id in token_ids:
                assert completion.finish_reason is None
                completion.accept(token_id)
        going = [i for i in going if completions[i].finish_reason is None]
        calls += 1
    return calls


@pytest.fixture(params=["cpu", "cpu, recorded", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, *how = str(request.param).split(", ")
    if how:
        monkeypatch.setattr("models.backends.cuda.capturing", lambda _device: recorded)
    return name


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9], ids=["step by step", "some steps", "to the end"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_decoding_gives_the_tokens_and_states_of_single_steps(device: str, cell: Cell, seconds: float) -> None:
    model, tokenizer = word_model(cell)
    network = CudaNetwork(model, device, torch.float32, SIZES)
    wishes = WISHES * 6  # more than one piece holds
    slots = list(reversed(range(len(wishes))))
    states = random_states(model, len(wishes) + 1, device)
    completions, expected = ([begun(tokenizer, params, i) for i, params in enumerate(wishes)] for _ in range(2))
    before = states.clone()
    calls = decoded(network, completions, states, slots, seconds)
    longest = max(len(completion.token_ids) for completion in completions) - 1
    assert calls == {0.0: longest, 1e-9: -(-longest // STEPS), 1e9: 1}[seconds]
    for completion, alone, slot in zip(completions, expected, slots, strict=True):
        final = step_by_step(network, alone, before[slot])
        assert completion.token_ids == alone.token_ids
        assert completion.finish_reason == alone.finish_reason
        assert states[slot].equal(final[0])
    assert states[-1].equal(before[-1])
    assert {c.finish_reason for c in completions} == {"length", "eos"}


def test_a_text_is_the_same_alone_and_among_others_that_filter(device: str) -> None:
    model, tokenizer = word_model()
    network = CudaNetwork(model, device, torch.bfloat16, SIZES)
    together = [begun(tokenizer, params, i) for i, params in enumerate(WISHES)]
    states = random_states(model, len(WISHES), device)
    decoded(network, together, states, list(range(len(WISHES))), 1e9)
    for i, params in enumerate(WISHES):
        alone, own = begun(tokenizer, params, i), random_states(model, len(WISHES), device)
        decoded(network, [alone], own, [i], 0.0)
        assert alone.token_ids == together[i].token_ids
        assert own[i].equal(states[i])


def test_a_text_drawn_by_sample_is_the_one_that_decode_draws(device: str) -> None:
    """Which of the two draws a text depends on what is reported of it; its tokens must not."""
    model, tokenizer = word_model()
    network = CudaNetwork(model, device, torch.bfloat16, SIZES)
    for i, params in enumerate(WISHES):
        one, other = begun(tokenizer, params, i), begun(tokenizer, params, i)
        states, others = random_states(model, 1, device), random_states(model, 1, device)
        decoded(network, [one], states, [0], 1e9)
        while other.finish_reason is None:
            features = network.run(np.array([other.token_ids[-1:]]), others, np.array([0]))
            other.accept(network.sample(network.logits(features[:, -1]), [other.next_draw()])[0])
        assert one.token_ids == other.token_ids
        assert states.equal(others)


@pytest.mark.parametrize("params", FILTERS.values(), ids=FILTERS.keys())
def test_a_state_that_overflows_still_gives_tokens_of_the_vocabulary(
    params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state comes from outside, finite but as large as it likes. An id beyond the embedding would end a GPU's work
    for everyone. (Which integer NaN becomes depends on the processor: here 0, which is no mass at all.)"""
    monkeypatch.setattr("models.backends.cuda.sampling._masses", lambda p: (p.nan_to_num(0).double() * 2**52).long())
    model, tokenizer = word_model()
    network = CudaNetwork(model, "cpu", torch.float32, SIZES)
    wish = GenerationParams(max_tokens=20, ignore_eos=True, sampling=params)
    completions = [begun(tokenizer, wish, seed) for seed in range(3)]
    states = random_states(model, 3)
    states[1] = torch.nan  # what a step makes of infinities
    feeds = [completion.token_ids[-1:] for completion in completions]
    left, (_, overflown), right = network.decode(completions, feeds, states, [0, 1, 2], 1e9)
    assert len(overflown) == 20
    assert max(overflown) < len(tokenizer)
    others = completions[:1] + completions[2:]
    alone = network.decode(others, feeds[:1] + feeds[2:], random_states(model, 3), [0, 2], 1e9)
    assert alone == [left, right]


# What a captured stage may do


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A CUDA graph, played by the CPU: the operations of one run, each with its inputs and outputs where they were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            for old, new in zip(_tensors(result), _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    else:
        for item in result:
            yield from _tensors(item)


def recorded(stage: Stage) -> Stage:
    recording = Recording()
    with recording:
        stage()
    return recording.replay


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_stage_looks_at_a_value(dtype: torch.dtype) -> None:
    """Tensors of the meta device have none: whatever would have to wait for the device raises."""
    with torch.inference_mode():
        block = Block(Weights(shaped(), torch.device("meta"), dtype), 8, lambda stage: stage)
        wish = Wish(0, 0, 0, 0, 0, 0, 0, 0, 0)
        plain, filtering = (block.ask([wish], [params]) for params in (SamplingParams(), SamplingParams(top_k=2)))
        for stage in (block.look_ahead, block.advance, block.project, block.output, plain, filtering):
            stage()


def test_a_stage_is_captured_on_the_stream_that_it_was_warmed_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls, with torch.cuda played by a list of what was asked of it."""
    told: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = name if isinstance(name, str) else "side"

        def wait_stream(self, other: "Stream") -> None:
            told.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            told.append("replay")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        told.append(f"on {stream.name}")
        yield

    @contextmanager
    def graph(_graph: Graph, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        told.append(f"capture on {stream.name} into {pool}, {capture_error_mode}")
        yield
        told.append("captured")

    fakes = {"Stream": Stream, "stream": on, "CUDAGraph": Graph, "graph": graph}
    fakes |= {"current_stream": lambda _device: Stream("main"), "graph_pool_handle": lambda: "pool"}
    for name, fake in fakes.items():
        monkeypatch.setattr(f"torch.cuda.{name}", fake)
    replay = capturing(torch.device("cuda"))(lambda: told.append("stage"))
    assert told == [
        "side waits for main",
        "on side",
        *["stage"] * WARM_UPS,
        "main waits for side",
        "capture on side into pool, thread_local",
        "stage",
        "captured",
    ]
    replay()
    assert told[-1] == "replay"
