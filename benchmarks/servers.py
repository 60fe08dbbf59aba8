"""Servers in processes of their own, on free ports of the loopback interface, with their default settings."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from benchmarks.client import HOST

Kind = Literal["ours", "naive"]

ROOT = Path(__file__).parents[1]
START_SECONDS = 120
"""Longest time that a server may take until it is ready."""


def environment(**settings: str) -> dict[str, str]:
    """The environment without settings of the product, but for the given ones: what is measured are its defaults."""
    return {key: value for key, value in os.environ.items() if not key.startswith("CAROUSEL_")} | settings


class Server:
    """One server of one checkpoint. A context manager; `restart` drops whatever it was doing."""

    def __init__(self, kind: Kind, checkpoint: Path, log: Path, dtype: str = "auto", **settings: str) -> None:
        """checkpoint: alone in its folder. log: where its output goes. dtype: our CAROUSEL_DTYPE; settings: others of
        ours, as `CAROUSEL_THREADS="1"`."""
        self.kind = kind
        self.port = _free_port()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = environment(CAROUSEL_CHECKPOINTS=str(checkpoint.parent), CAROUSEL_DTYPE=dtype, **settings)
        command = ["-m", "app", "serve"] if kind == "ours" else ["-m", "benchmarks.naive", str(checkpoint)]
        self._command = [sys.executable, *command, "--port", str(self.port)]

    def __enter__(self) -> Self:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, cwd=ROOT, env=self._environment
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def restart(self) -> None:
        self._stop()
        self.__enter__()

    @property
    def pid(self) -> int:
        """The process that serves, while it runs."""
        assert self._process is not None
        return self._process.pid

    def metric(self, name: str) -> float:
        """The value of one of our metrics; 0 where the server has none."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
        except urllib.error.URLError:
            return 0.0
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the {self.kind} server did not start: {tail}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _stop(self) -> None:
        """At once: there is nothing to save, and a thread pool would work on for clients that have gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
