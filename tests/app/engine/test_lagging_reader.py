"""A reader of a stream that lags: what waits for it is bounded, and it still gets every token's text in order."""

import asyncio

from app.deadline import Deadline
from app.engine.sequence import LAG, Progress, Request, Sequence
from models.decoding.completion import GenerationParams
from models.decoding.reference import generate
from tests.app.engine.test_engine import Tiny, load, running, sequence_for, until

SEQUENCES = 3


def test_tokens_of_a_reader_that_lags_are_joined_and_none_is_lost() -> None:
    async def main() -> None:
        request = Request([], Deadline.after(60), asyncio.get_running_loop(), followed=True)
        told = [""] * SEQUENCES
        for number in range(20_000):
            event = [Progress(i, number, f"{number},", None, number == 19_999) for i in range(SEQUENCES)]
            for progress in event:
                told[progress.index] += progress.text
            request.tell(event)
        request.tell(None)
        assert request.events.qsize() < LAG

        texts, tokens, waiting = [""] * SEQUENCES, 0, 0
        while (events := await request.next_event()) is not None:
            assert isinstance(events, list)
            waiting += len(events)
            for progress in events:
                texts[progress.index] += progress.text
                tokens += progress.tokens
        assert (texts, tokens) == (told, SEQUENCES * 20_000)
        assert waiting <= LAG + 2 * SEQUENCES

    asyncio.run(main())


def test_a_reader_that_keeps_up_again_gets_each_token_by_itself() -> None:
    async def main() -> None:
        request = Request([Sequence([])], Deadline.after(60), asyncio.get_running_loop(), followed=True)
        for _ in range(2):
            for number in range(2 * LAG):
                request.tell([Progress(0, number, "x", None, False)])
            seen = 0
            while seen < 2 * LAG:
                events = await request.next_event()
                assert isinstance(events, list)
                seen += sum(progress.tokens for progress in events)
            request.tell([Progress(0, 0, "x", None, False)])
            single = await request.next_event()
            assert isinstance(single, list)
            assert [progress.tokens for progress in single] == [1]

    asyncio.run(main())


def test_a_stream_that_nobody_reads_rests_and_goes_on_when_it_is_read(tiny_word: Tiny) -> None:
    """It takes no time from others meanwhile, and its text is what it would have been."""
    params = GenerationParams(max_tokens=20 * LAG, seed=4, ignore_eos=True)

    async def main() -> None:
        async with running(tiny_word[0], max_rows=4) as engine:
            unread = engine.stream([sequence_for(tiny_word, "The cat", params)], Deadline.after(60))
            pieces = [progress.text for progress in await anext(unread)]
            await until(lambda: load(engine, "num_requests_running") == 0)
            made = load(engine, "generation_tokens_total")
            assert made < 10 * LAG
            other = sequence_for(tiny_word, "The cat", GenerationParams(max_tokens=5, seed=1))
            await engine.run([other], Deadline.after(60))
            async for event in unread:
                pieces += [progress.text for progress in event]
            assert "".join(pieces) == generate(*tiny_word, "The cat", params)[0]

    asyncio.run(main())


def test_a_stream_that_rests_can_be_cancelled_and_runs_out_of_time(tiny_word: Tiny) -> None:
    params = GenerationParams(max_tokens=20 * LAG, seed=4, ignore_eos=True)

    async def main() -> None:
        async with running(tiny_word[0], max_rows=4) as engine:
            for seconds in (60.0, 0.3):
                unread = engine.stream([sequence_for(tiny_word, "The cat", params)], Deadline.after(seconds))
                await anext(unread)
                await until(lambda: load(engine, "num_requests_running") == 0)
                if seconds == 60.0:
                    await unread.aclose()
                await until(lambda: load(engine, "requests_in_flight") == 0)
                await unread.aclose()

    asyncio.run(main())
