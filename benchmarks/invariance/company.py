"""Random company for whoever is measured: clients that send requests of every kind, at random moments, without end."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from benchmarks.client import Connection
from benchmarks.invariance.answers import AskError, Body
from benchmarks.workloads import Texts
from models.text.tokenizer import Tokenizer

CLIENTS = 8

SETTINGS: tuple[Body, ...] = (
    {"top_p": 0.9},
    {"top_k": 50},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 1.3, "min_p": 0.02},
    {"temperature": 0},
    {"top_k": 20, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
)
"""Ways to draw, beside the plain one; the last, which looks at the text so far, does not go on from a state alone."""

MEAN_PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 0.05
"""How long those wait who hang up."""


@dataclass
class Company:
    """How many requests were answered, and how many were broken off by their clients before."""

    answered: int = 0
    broken_off: int = 0


@asynccontextmanager
async def company(port: int, tokenizer: Tokenizer, seed: int) -> AsyncGenerator[Company]:
    """Some clients that ask until the block is left. What they ask is seeded; when, is chance."""
    seen = Company()
    async with asyncio.TaskGroup() as group:
        own_seeds = range(seed * CLIENTS, (seed + 1) * CLIENTS)
        clients = [group.create_task(_client(port, Texts(tokenizer, own), Random(own), seen)) for own in own_seeds]
        try:
            yield seen
        finally:
            for client in clients:
                client.cancel()


async def _client(port: int, texts: Texts, random: Random, seen: Company) -> None:
    while True:
        await asyncio.sleep(random.expovariate(1 / MEAN_PAUSE_SECONDS))
        path, body = _request(texts, random)
        connection = Connection(port)
        patience = PATIENCE_SECONDS if random.random() < 0.1 else None
        try:
            async with asyncio.timeout(patience):
                answer = await connection.post(path, json.dumps(body).encode())
            if answer.status != 200:
                raise AskError(f"POST {path}: {answer.status}: {answer.body[:300].decode(errors='replace')}")
            seen.answered += 1
        except TimeoutError:
            seen.broken_off += 1
        finally:
            connection.close()


def _request(texts: Texts, random: Random) -> tuple[str, Body]:
    """Mostly completions; scores of one text or several; next words."""
    kind = random.random()
    if kind < 0.1:
        return "/next", {"text": texts.text(random.randint(1, 30))}
    if kind < 0.3:
        count = random.choice([1, 2, 10])
        return "/score", {"text": texts.variants(count), "tokens": random.random() < 0.5, "top": random.choice([0, 3])}
    body: Body = {
        "prompt": [texts.text(random.choice([0, 3, 30, 300])) for _ in range(random.choice([1, 1, 1, 3]))],
        "max_tokens": random.randint(1, 100),
        "n": random.choice([1, 1, 1, 4]),
        "stream": random.random() < 0.5,
        "return_state": random.random() < 0.3,
        "logprobs": random.choice([None, None, 0, 5]),
        "stop": random.choice([[], [], ["e"]]),
        "seed": random.getrandbits(60),
    }
    return "/generate", body | random.choice([{}, *SETTINGS])
