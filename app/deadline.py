"""The time by which a request must be answered."""

import time
from dataclasses import dataclass

from app.errors import ClientGoneError, DeadlineError


@dataclass
class Deadline:
    """Made when a request arrives, and asked by everything that works on it.

    timeout_seconds: how long the request may take. at: when that is over, of `time.monotonic`. gone: whether nobody
    waits for the answer any more; a thread that works on the request then ends at its next check.
    """

    timeout_seconds: float
    at: float
    gone: bool = False

    @classmethod
    def after(cls, timeout_seconds: float, arrived: float | None = None) -> "Deadline":
        """The deadline of a request. arrived: when it came, of `time.monotonic`; None: now."""
        return cls(timeout_seconds, (time.monotonic() if arrived is None else arrived) + timeout_seconds)

    @property
    def remaining(self) -> float:
        """Seconds that are left; negative once the time is over."""
        return self.at - time.monotonic()

    def error(self) -> DeadlineError:
        return DeadlineError(f"the request exceeded timeout_seconds={self.timeout_seconds:g}")

    def check(self) -> None:
        """Raises `DeadlineError` once the time is over, `ClientGoneError` once nobody waits."""
        if self.gone:
            raise ClientGoneError("the client went away")
        if self.remaining < 0:
            raise self.error()
