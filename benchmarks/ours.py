"""Our server with settings of its own: what compares servers that are set differently, or looks at one from outside."""

from pathlib import Path

from benchmarks.servers import Server


class OurServer(Server):
    """settings: environment variables, as `CAROUSEL_THREADS="1"`. dtype: CAROUSEL_DTYPE."""

    def __init__(self, checkpoint: Path, log: Path, dtype: str = "auto", **settings: str) -> None:
        super().__init__("ours", checkpoint, log, dtype)
        self._environment |= settings

    @property
    def pid(self) -> int:
        """The process that serves, while it runs."""
        assert self._process is not None
        return self._process.pid
