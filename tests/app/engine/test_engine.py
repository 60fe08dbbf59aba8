"""The engine against the obvious loop, and what happens when something goes wrong on the way."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.deadline import Deadline
from app.engine.engine import Engine, Pace
from app.engine.runner import Runner
from app.engine.sequence import Sequence
from app.errors import DeadlineError, InternalError, OverloadedError, UnavailableError
from app.metrics import DECLARED, Metrics
from models.backends.load import load_inference
from models.decoding.completion import Completion, GenerationParams, prompt_inputs
from models.decoding.reference import generate
from models.decoding.sampling import SamplingParams
from models.decoding.scoring import scoring_plan
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from models.text.words import ends_in_space
from tests.tiny import parts

Tiny = tuple[LanguageModel, Tokenizer]

ENDLESS = GenerationParams(max_tokens=1_000_000, ignore_eos=True)


@asynccontextmanager
async def running(model: LanguageModel, max_rows: int = 64, max_requests: int = 64) -> AsyncGenerator[Engine]:
    runner = Runner(load_inference(*parts(model), "cpu", "float32"), model.config, max_rows)
    engine = Engine("tiny", runner, Metrics(), max_rows, max_requests, prompt_tokens_per_step=64)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def sequence_for(tiny: Tiny, prompt: str, params: GenerationParams) -> Sequence:
    closed, open_space = tiny[1].cut_open_space(prompt)
    inputs = prompt_inputs(tiny[1], closed)
    completion = Completion(params, tiny[1], ends_in_space(prompt), inputs[1:], len(inputs), open_space)
    return Sequence(inputs, completion=completion)


async def text_of(engine: Engine, sequence: Sequence) -> str:
    return "".join([p.text async for event in engine.stream([sequence], Deadline.after(60)) for p in event])


def load(engine: Engine, name: str) -> float:
    attribute = next(attribute for attribute, metric in DECLARED.items() if metric.name == f"carousel_{name}")
    value: float = getattr(engine._metrics, attribute)._value.get()
    return value


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the worker thread to have got somewhere."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_sixty_four_completions_at_once_equal_the_obvious_loop(tiny_word: Tiny) -> None:
    prompts = ["", "The cat", "The cats sat", "a", "The cat sat! The cats ate pear. The cat ate fish! The cats sat"]
    jobs = [
        (prompts[i % len(prompts)], GenerationParams(max_tokens=5 + i, seed=i, choice=i % 3, ignore_eos=i % 2 == 0))
        for i in range(64)
    ]

    async def main() -> None:
        async with running(tiny_word[0], max_rows=17) as engine:
            texts = await asyncio.gather(*(text_of(engine, sequence_for(tiny_word, *job)) for job in jobs))
        assert texts == [generate(*tiny_word, *job)[0] for job in jobs]

    run(main())


def test_long_prompts_run_in_pieces_and_give_the_same(tiny_word: Tiny) -> None:
    prompt = "The cat ate fish. " * 40
    params = GenerationParams(max_tokens=20, seed=3, sampling=SamplingParams(temperature=0.7))

    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            assert (
                await text_of(engine, sequence_for(tiny_word, prompt, params))
                == generate(*tiny_word, prompt, params)[0]
            )

    run(main())


def test_scores_equal_one_pass_over_the_text(tiny_word: Tiny) -> None:
    model, tokenizer = tiny_word
    texts = ["The cat ate fish and cats.", "The", "", "The cats " * 50]

    async def main() -> None:
        plans = [scoring_plan(tokenizer.encode(text).ids, tokenizer.eos_id, bos=True, eos=True) for text in texts]
        sequences = [Sequence(inputs, targets=targets, top=2) for inputs, targets in plans]
        async with running(model, max_rows=3) as engine:
            await engine.run(sequences, Deadline.after(60))
        for sequence, (inputs, targets) in zip(sequences, plans, strict=True):
            with torch.inference_mode():
                logits, _ = model(torch.tensor([inputs]), model.config.state_layout.zeros(1))
            logprobs = torch.log_softmax(logits[0], dim=-1)
            expected = [float(logprobs[k - 1, t]) for k, t in enumerate(targets) if t is not None]
            assert [s.logprob for s in sequence.scores] == pytest.approx(expected, rel=1e-5)
            assert [s.token_id for s in sequence.scores] == [t for t in targets if t is not None]
            assert all(len(s.top) == 2 for s in sequence.scores)

    run(main())


def test_a_cancelled_request_frees_its_rows(tiny_word: Tiny) -> None:
    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            sequences = [sequence_for(tiny_word, "", ENDLESS) for _ in range(3)]
            async with asyncio.TaskGroup() as group:
                task = group.create_task(engine.run(sequences, Deadline.after(60)))
                await until(lambda: load(engine, "num_requests_running") == 3)
                task.cancel()
            await until(lambda: load(engine, "num_requests_running") == 0)
            assert load(engine, "requests_cancelled_total") == 1
            assert load(engine, "requests_in_flight") == 0

    run(main())


def test_one_request_too_many_is_refused_at_once_and_room_comes_back(tiny_word: Tiny) -> None:
    async def main() -> None:
        async with running(tiny_word[0], max_rows=1, max_requests=2) as engine:
            streams = [engine.stream([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60)) for _ in range(2)]
            await anext(streams[0])
            second = asyncio.ensure_future(anext(streams[1]))
            await until(lambda: load(engine, "requests_in_flight") == 2)
            with pytest.raises(OverloadedError) as refused:
                await engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60))
            assert refused.value.retry_after >= 1
            await streams[0].aclose()
            await second
            await streams[1].aclose()
            short = GenerationParams(max_tokens=1)
            await until(lambda: load(engine, "num_requests_running") == 0)
            await engine.run([sequence_for(tiny_word, "", short)], Deadline.after(60))

    run(main())


def test_a_request_that_takes_too_long_is_ended(tiny_word: Tiny) -> None:
    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            with pytest.raises(DeadlineError):
                await engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(0.05))
            await until(lambda: load(engine, "num_requests_running") == 0)

    run(main())


def test_requests_under_way_are_told_when_the_engine_stops(tiny_word: Tiny) -> None:
    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            stream = engine.stream([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60))
            await anext(stream)
            await asyncio.to_thread(engine.stop)
            with pytest.raises(UnavailableError):
                async for _ in stream:
                    pass
            with pytest.raises(UnavailableError):
                await engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60))

    run(main())


def test_an_exception_in_the_network_fails_its_requests_and_not_the_engine(
    tiny_word: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            with monkeypatch.context() as broken:
                broken.setattr(engine._runner, "decode", lambda *_: 1 / 0)
                with pytest.raises(InternalError):
                    await engine.run([sequence_for(tiny_word, "", GenerationParams(max_tokens=5))], Deadline.after(60))
            assert await text_of(engine, sequence_for(tiny_word, "", GenerationParams(max_tokens=5, seed=1)))

    run(main())


def test_a_request_that_cannot_be_prepared_fails_alone(tiny_word: Tiny) -> None:
    """Whatever is wrong with it: here an id outside the vocabulary, and a number that no kernel takes."""
    good = GenerationParams(max_tokens=30, seed=1, ignore_eos=True)
    huge = replace(good, sampling=SamplingParams(top_k=1 << 40))

    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            alone = await text_of(engine, sequence_for(tiny_word, "The cat", good))
            outside = sequence_for(tiny_word, "The cat", good)
            outside.inputs[1] = 1 << 20
            sequences = [outside, sequence_for(tiny_word, "The cat", huge)]
            asked = [engine.run([sequence], Deadline.after(60)) for sequence in sequences]
            *failed, text = await asyncio.gather(
                *asked, text_of(engine, sequence_for(tiny_word, "The cat", good)), return_exceptions=True
            )
            assert [type(error) for error in failed] == [InternalError, InternalError]
            assert text == alone
            await until(lambda: load(engine, "requests_in_flight") == 0)

    run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_thread_dies_everyone_is_told_at_once(tiny_word: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            assert engine.fault is None
            monkeypatch.setattr(engine._runner, "decode", die)
            asked = [engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60)) for _ in range(3)]
            errors = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
            assert {type(error) for error in errors} <= {InternalError, UnavailableError}
            assert engine.fault is not None
            with pytest.raises(UnavailableError):
                await engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60))

    run(main())


def test_a_deadline_holds_while_the_engine_hangs(tiny_word: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("app.engine.engine.LATE_SECONDS", 0.0)
    monkeypatch.setattr("app.engine.engine.STALL_SECONDS", 0.0)

    def hang(*_: object) -> None:
        over.wait(60)
        raise RuntimeError

    async def main() -> None:
        async with running(tiny_word[0]) as engine:
            monkeypatch.setattr(engine._runner, "decode", hang)
            try:
                with pytest.raises(DeadlineError):
                    await engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(0.05))
                assert engine.fault is not None
            finally:
                over.set()

    run(main())


def test_taking_turns_changes_no_bit(tiny_word: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are put aside at every opportunity: while prompts are read, while tokens are sampled, before the end."""
    monkeypatch.setattr("app.engine.scheduler.TURN_SECONDS", -1.0)
    jobs = [
        (
            "The cat ate fish. " * (10 * (i % 3)),
            GenerationParams(
                max_tokens=20 + i,
                seed=i,
                ignore_eos=True,
                sampling=SamplingParams(frequency_penalty=0.5 if i % 4 == 0 else 0.0),
            ),
        )
        for i in range(24)
    ]

    async def main() -> None:
        async with running(tiny_word[0], max_rows=4) as engine:
            texts = await asyncio.gather(*(text_of(engine, sequence_for(tiny_word, *job)) for job in jobs))
            first = sequence_for(tiny_word, "The cat", GenerationParams(max_tokens=5, seed=1))
            first.keep_state = True
            await engine.run([first], Deadline.after(60))
        assert texts == [generate(*tiny_word, *job)[0] for job in jobs]

    run(main())


def test_a_short_request_is_not_starved_by_long_ones(tiny_word: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.scheduler.TURN_SECONDS", 0.02)

    async def main() -> None:
        async with running(tiny_word[0], max_rows=4) as engine:
            long = [
                asyncio.create_task(engine.run([sequence_for(tiny_word, "", ENDLESS)], Deadline.after(60)))
                for _ in range(8)
            ]
            await until(lambda: load(engine, "num_requests_running") == 4)
            short = sequence_for(tiny_word, "The cat", GenerationParams(max_tokens=5, seed=1))
            await asyncio.wait_for(engine.run([short], Deadline.after(60)), 30)
            for asked in long:
                asked.cancel()
            await asyncio.gather(*long, return_exceptions=True)

    run(main())


def test_those_who_are_refused_are_told_when_to_come_again() -> None:
    pace = Pace()
    assert pace.seconds_until_room(100) == 1  # nothing is known yet
    for _ in range(64):
        pace.note()
    assert pace.seconds_until_room(64) == 1
    pace._ended[0] -= 64.0  # about one a second
    assert pace.seconds_until_room(10) in range(30, 36)  # 10 are held, and two were told to come again
    for _ in range(100):
        last = pace.seconds_until_room(10)
    assert last == 60  # those that were refused will come again, too
