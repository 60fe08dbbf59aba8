"""Who is examined: one network in one number type, the requests that it gets, and its servers."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.progress import Progress

from benchmarks.invariance.answers import AskError, Body, Finding, ask, differences, told
from benchmarks.invariance.company import SETTINGS
from benchmarks.servers import Server
from benchmarks.workloads import Texts
from models.checkpoint.format import load_checkpoint

LONGEST_PROMPT = 48
TIMEOUT_SECONDS = 3600
"""The servers' limit: no request is to end by the clock."""


@dataclass
class Subject:
    """checkpoint: by itself in its folder. seeds, tokens: how many requests, and how many tokens each draws.

    alone: answers to `bodies`, one after another, log-probabilities reported: what everything is compared with.
    """

    shape: str
    dtype: str
    checkpoint: Path
    seeds: int
    tokens: int
    progress: Progress
    bodies: list[Body] = field(init=False)
    alone: list[Body] = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.checkpoint.parents[1] / f"{self.shape}-{self.dtype}.log"
        self.tokenizer = load_checkpoint(self.checkpoint).tokenizer
        self.texts = Texts(self.tokenizer, seed=0)
        lengths = Random(0)
        self.bodies = [
            self.body(seed, self.texts.text(lengths.randrange(LONGEST_PROMPT))) for seed in range(self.seeds)
        ]

    def body(self, seed: int, prompt: str) -> Body:
        """A third of the requests draw in some other way than the plain one."""
        settings = SETTINGS[seed // 3 % len(SETTINGS)] if seed % 3 == 0 else {}
        body = {"prompt": prompt, "seed": seed, "max_tokens": self.tokens, "ignore_eos": True, "return_state": True}
        return body | {"logprobs": 0} | settings

    def server(self, **settings: str) -> Server:
        settings |= {"CAROUSEL_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS)}
        return Server("ours", self.checkpoint, self._log, self.dtype, **settings)

    async def ask(
        self, what: str, server: Server, bodies: list[Body], at_once: int = 1, spread_seconds: float = 0.0
    ) -> list[Body]:
        """Answers to all, in order: so many `at_once`, each after a random pause of up to `spread_seconds`.

        Raises `AskError`, with the end of the log when the server is gone.
        """
        task = self.progress.add_task(f"{self.shape} {self.dtype}: {what}", total=len(bodies))
        gate, random = asyncio.Semaphore(at_once), Random(0)

        async def one(body: Body, pause: float) -> Body:
            async with gate:
                await asyncio.sleep(pause)
                answer = await ask(server.port, "/score" if "text" in body else "/generate", body)
            self.progress.advance(task)
            return answer

        try:
            return await asyncio.gather(*(one(body, spread_seconds * random.random()) for body in bodies))
        except ConnectionError as error:
            raise AskError(f"{what}: {error}; log: {self._log.read_text(errors='replace')[-2000:]}") from error
        finally:
            self.progress.remove_task(task)

    def finding(self, axis: str, what: str, expected: list[Body], found: list[Body]) -> Finding:
        """Compare answers in pairs. what: they are, in words."""
        backend = str(self.alone[0]["backend"])
        return Finding(axis, self.shape, backend, f"{len(found)} {what}", differences(expected, found))

    def as_alone(self, axis: str, answers: list[Body], compared: tuple[str, ...], also: str = "") -> Finding:
        """Compare answers to the first so many requests with those that they got alone."""
        expected = told(self.alone[: len(answers)], compared)
        return self.finding(axis, self.in_words(compared) + also, expected, told(answers, compared))

    def in_words(self, compared: tuple[str, ...]) -> str:
        """What is compared of answers to the requests."""
        return f"answers of {self.tokens} tokens: text, {'logprobs, ' if 'tokens' in compared else ''}state"
