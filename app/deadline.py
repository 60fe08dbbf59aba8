"""The time by which a request must be answered."""

import time
from dataclasses import dataclass

from app.errors import DeadlineError


@dataclass(frozen=True)
class Deadline:
    """Made when a request arrives, and asked by everything that works on it.

    timeout_seconds: how long the request may take. at: when that is over, of `time.monotonic`.
    """

    timeout_seconds: float
    at: float

    @classmethod
    def after(cls, timeout_seconds: float) -> "Deadline":
        """The deadline of a request that arrives now."""
        return cls(timeout_seconds, time.monotonic() + timeout_seconds)

    @property
    def remaining(self) -> float:
        """Seconds that are left; negative once the time is over."""
        return self.at - time.monotonic()

    def error(self) -> DeadlineError:
        return DeadlineError(f"the request exceeded timeout_seconds={self.timeout_seconds:g}")

    def check(self) -> None:
        """Raises `DeadlineError` once the time is over."""
        if self.remaining < 0:
            raise self.error()
