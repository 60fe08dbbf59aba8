"""An event loop in a thread of its own, for callers that are not asynchronous. No models here."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from app.errors import UnavailableError

Result = TypeVar("Result")


class Worker:
    """Runs coroutines for any number of threads that wait for them."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of `work()`, awaited in the loop. An interrupt cancels it. Raises what it raises, and
        `UnavailableError` once the worker is closed, or in a forked child, where no thread is left to do it."""
        if self._closed:
            raise UnavailableError("the model is closed")
        if os.getpid() != self._process:
            raise UnavailableError("the model was loaded before this process was forked: load it in the child")
        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise UnavailableError("the model was closed before the answer came") from None
        except BaseException:
            future.cancel()
            raise

    def iterate(self, work: Callable[[], AsyncGenerator[Result]]) -> Iterator[Result]:
        """The items of `work()`, as they come. Leaving early closes the generator."""
        items = work()

        async def step() -> tuple[Result, ...]:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return ()

        try:
            while found := self.run(step):
                yield from found
        finally:
            if not self._closed:
                self.run(items.aclose)

    def close(self) -> None:
        """End the thread; what is under way is cancelled."""
        self._closed = True
        if os.getpid() == self._process:
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_others() -> None:
    """Cancel what else is under way in this loop, and wait until it has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
