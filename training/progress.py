"""How long work says how far it is, whoever shows it (training/display.py on a terminal). Nothing is printed here."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Advance(Protocol):
    """Says that more work is done."""

    def __call__(self, count: int, total: int | None = None, /) -> None:
        """count: units done since the last call. total: units in all, where they are known only now."""


Progress = Callable[[str, int | None], AbstractContextManager[Advance]]
"""(name of the work, units in all or None) -> what the work calls as it goes on."""


def ignore(_count: int, _total: int | None = None) -> None:
    """An `Advance` that shows nothing."""


def no_progress(_name: str, _total: int | None) -> AbstractContextManager[Advance]:
    """A `Progress` that shows nothing."""
    return nullcontext(ignore)
