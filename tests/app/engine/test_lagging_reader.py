"""A reader of a stream that lags: what waits for it is bounded, and it still gets every token's text in order."""

import asyncio

from app.deadline import Deadline
from app.engine.sequence import LAG, Progress, Request, Sequence

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
