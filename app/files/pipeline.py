"""The run of a file's batches over the engine: several at once, results in order."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

Batch = TypeVar("Batch")

Result = TypeVar("Result")

IN_FLIGHT = 4
"""Batches at once: while a batch is parsed or written, others are computed."""


async def in_order(
    batches: Iterable[list[Batch]], work: Callable[[list[Batch]], Coroutine[Any, Any, Result]]
) -> AsyncGenerator[tuple[list[Batch], Result]]:
    """Each batch with the result of `work`, in the order of the batches, of which several run at once.

    The batches are read in a thread, so that neither a slow pipe nor a busy model waits for the other. An error while
    reading is raised after the results of the batches before it. A caller that leaves early must close the generator
    (`aclosing`).
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[list[Batch] | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(IN_FLIGHT)

    def hand_over(item: list[Batch] | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody reads on
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def read() -> None:
        end: Exception | None = None
        try:
            for batch in batches:
                room.acquire()
                hand_over(batch)
        except Exception as error:
            end = error
        hand_over(end)

    # A daemon: it may still wait for its input when Ctrl-C ends the command.
    threading.Thread(target=read, name="reading", daemon=True).start()
    working: deque[tuple[list[Batch], asyncio.Task[Result]]] = deque()
    coming: asyncio.Task[list[Batch] | Exception | None] | None = asyncio.create_task(arrived.get())
    end: list[Batch] | Exception | None = None
    try:
        while coming or working:
            waits: set[asyncio.Task[Any]] = {task for _, task in list(working)[:1]} | ({coming} if coming else set())
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if coming and coming.done():
                end = coming.result()
                coming = None
                if isinstance(end, list):
                    working.append((end, asyncio.create_task(work(end))))
                    coming = asyncio.create_task(arrived.get())
            while working and working[0][1].done():
                batch, task = working.popleft()
                yield batch, task.result()
                room.release()
    finally:  # the caller may have left early
        if coming:
            coming.cancel()
        for _, unwanted in working:
            unwanted.cancel()
        await asyncio.gather(*(task for _, task in working), return_exceptions=True)
    if isinstance(end, Exception):
        raise end
