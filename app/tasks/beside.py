"""Work too long for the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

SHORT = 20_000
"""Characters of text, or of answer, that are handled within some milliseconds."""


async def beside(characters: int, work: Callable[[], Result]) -> Result:
    """Do `work` at once when it is short; in a thread when it would keep the event loop from other requests."""
    return work() if characters <= SHORT else await asyncio.to_thread(work)
