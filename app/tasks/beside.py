"""Work that grows with what a request brings: beside the event loop, and no more of it than the server holds."""

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

from app.deadline import Deadline
from app.errors import OverloadedError
from models.process import cores, release_memory

Result = TypeVar("Result")

SHORT = 20_000
"""Characters of text, or of answer, that are handled within some milliseconds."""

LONG = SHORT + 1
"""As many as work has whose length is not known in characters."""

LARGE = 50_000
"""Characters whose handling takes so much memory that it is handed back to the system afterwards."""

TIDY_EVERY, TIDY_AT_LAST = 0.5, 30.0
"""Seconds between two looks at whether there is memory to hand back; and after which it is, though others are busy."""


class Workers:
    """Threads for work too long for the event loop. They are started when there is some."""

    def __init__(self, max_held: int | None = None, threads: int | None = None) -> None:
        """max_held: pieces of work, running and waiting, beyond which more is refused; None: all is taken. threads:
        how many pieces are worked on at once; None: one for each core, and one."""
        self._threads = threads
        self._max_held = max_held
        self._held = 0
        self._untidy = False
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads or cores() + 1, thread_name_prefix="beside")

    async def do(self, characters: int, work: Callable[[], Result], deadline: Deadline) -> Result:
        """Do `work` at once when it is short, else in a thread.

        A caller that is cancelled marks the deadline: work that has begun ends at its next `Deadline.check`.

        Raises `OverloadedError` when too much is waiting, `DeadlineError` when the time is over before it begins.
        """
        if characters <= SHORT:
            return work()
        self._take()
        self._untidy |= characters > LARGE
        future = self._pool.submit(self._run, work, deadline)
        future.add_done_callback(lambda _: self._release())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            deadline.gone = True
            raise

    def _take(self) -> None:
        with self._lock:
            if self._max_held is not None and self._held >= self._max_held:
                raise OverloadedError(f"{self._held} long texts are already being read; try again later", retry_after=1)
            self._held += 1

    def _release(self) -> None:
        with self._lock:
            self._held -= 1

    async def tidy(self, busy: Callable[[], bool]) -> None:
        """For as long as the server runs: hand back the memory of large requests once they are over. busy: whether
        requests are under way."""
        waited = 0.0
        while True:
            await asyncio.sleep(TIDY_EVERY)
            waited += TIDY_EVERY
            if self._untidy and (not (self._held or busy()) or waited > TIDY_AT_LAST):
                self._untidy, waited = False, 0.0
                await asyncio.to_thread(tidy_memory)

    @staticmethod
    def _run(work: Callable[[], Result], deadline: Deadline) -> Result:
        deadline.check()
        return work()


def tidy_memory() -> None:
    """Hand back what large requests, or models that were let go, have left. What is in cycles goes first: the collector
    comes by too seldom for it."""
    gc.collect()
    release_memory()


UNLIMITED = Workers()
"""For commands and the library, whose only user waits."""
