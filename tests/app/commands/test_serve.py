"""The server as a process: signals, and what it does when it cannot go on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from models.checkpoint.format import save_checkpoint
from tests.app.commands.running import ROOT
from tests.tiny import tiny_model, tiny_tokenizer

if not hasattr(signal, "SIGHUP"):
    pytest.skip("signals are those of Unix", allow_module_level=True)


class Process:
    """A server on a free port, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self.client = httpx.Client(base_url=self._url(), timeout=60)

    def _url(self) -> str:
        port = self.until(r"running on http://[\d.]+:(\d+)")
        return f"http://127.0.0.1:{port}"

    def until(self, pattern: str) -> str:
        """Wait until the log says so; the first group of the match."""
        assert self.process.stderr is not None
        while not (match := re.search(pattern, self.said)):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        return match[1] if match.re.groups else match[0]


@contextmanager
def server(checkpoints: Path, code: str = "", **settings: str) -> Iterator[Process]:
    """code: what is done in the process before it serves."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAROUSEL_")}
    environment |= {"CAROUSEL_CHECKPOINTS": str(checkpoints), "CAROUSEL_THREADS": "1", **settings}
    start = f"import sys; sys.argv = ['app', 'serve', '--port', '0']\n{code}\nimport app.__main__"
    process = subprocess.Popen(
        [sys.executable, "-c", start], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    try:
        running = Process(process)
        with running.client:
            yield running
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer("word")
    save_checkpoint(tmp_path / "models" / "word", tiny_model(len(tokenizer)), tokenizer)
    return tmp_path / "models"


def test_sighup_takes_up_checkpoints_and_keys(folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    tokenizer = tiny_tokenizer("word")
    with server(folder) as running:
        save_checkpoint(folder / "added", tiny_model(len(tokenizer), seed=1), tokenizer)
        running.process.send_signal(signal.SIGHUP)
        running.until("reloaded")
        assert running.client.post("/score", json={"text": "The", "model": "added"}).status_code == 200
    line = subprocess.run(
        [sys.executable, "-m", "app", "key", "ann"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    key, entry = line.splitlines()
    keys.write_text(entry + "\n")
    with server(folder, CAROUSEL_API_KEYS_FILE=str(keys)) as running:
        body, bearer = {"text": "The"}, {"authorization": f"Bearer {key}"}
        assert running.client.post("/score", json=body, headers=bearer).status_code == 200
        keys.write_text("broken\n")
        running.process.send_signal(signal.SIGHUP)
        running.until("the keys stay as they were: .*line 1")
        assert running.client.post("/score", json=body, headers=bearer).status_code == 200
        keys.write_text(entry.replace("sha256:", "sha256:" + "0" * 8)[: len(entry)] + "\n")
        running.process.send_signal(signal.SIGHUP)
        running.until("(?s)reloaded.*reloaded")
        assert running.client.post("/score", json=body, headers=bearer).status_code == 401


def test_a_server_whose_engine_has_failed_says_so_and_ends(folder: Path) -> None:
    """Whoever runs it starts it again: the exit status is not zero."""
    break_soon = (
        "from app.engine.runner import Runner\n"
        "whole = Runner.decode\n"
        "def decode(self, sequences, seconds):\n"
        "    if sequences[0].completion.params.seed == 666: raise SystemExit\n"
        "    return whole(self, sequences, seconds)\n"
        "Runner.decode = decode"
    )
    with server(folder, break_soon) as running:
        body = {"prompt": "The", "max_tokens": 5}
        assert running.client.post("/generate", json=body).status_code == 200
        assert running.client.post("/generate", json=body | {"seed": 666}).status_code == 500
        assert running.process.wait(5) == 1
        running.until("the engine of word has failed; the server ends")


@pytest.mark.parametrize(("grace", "status"), [("20", "length"), ("0.2", "error")])
def test_sigterm_lets_what_runs_end_within_the_grace(folder: Path, grace: str, status: str) -> None:
    limits = {"CAROUSEL_MAX_TOKENS": "100000000", "CAROUSEL_MAX_SAMPLED_TOKENS": "100000000"}
    tokens = 20_000 if status == "length" else 100_000_000
    with server(folder, CAROUSEL_GRACE_SECONDS=grace, **limits) as running:
        body = {"prompt": "The", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        with running.client.stream("POST", "/generate", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        if status == "length":
            assert '"finish_reason":"length"' in events[-3]
        else:
            assert '"unavailable"' in events[-2]
        assert running.process.wait(30) in (0, -signal.SIGTERM)


def test_an_open_server_that_others_can_reach_warns(folder: Path) -> None:
    with server(folder, CAROUSEL_HOST="0.0.0.0") as running:
        assert "asks for no API key" in running.said
    with server(folder, CAROUSEL_HOST="0.0.0.0", CAROUSEL_API_KEYS="secret") as running:
        assert "asks for no API key" not in running.said
