"""Texts as long as they may be: bounded before work begins, worked on beside the event loop, ended in time."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from app.deadline import Deadline
from app.errors import ClientGoneError, DeadlineError, OverloadedError
from app.tasks.beside import LONG, Workers
from tests.app.conftest import post

SENTENCE = "The cat ate fish. "


@pytest.mark.parametrize("top_k", [12, 2**31 - 1, 2**31, 2**63, 10**30])
def test_more_tokens_than_there_are_is_all_of_them(client: httpx.Client, top_k: int) -> None:
    body = {"prompt": "The", "max_tokens": 20, "seed": 3, "ignore_eos": True}
    expected = post(client, "/generate", **body)["choices"][0]["text"]
    assert post(client, "/generate", **body, top_k=top_k)["choices"][0]["text"] == expected
    assert client.post("/v1/completions", json=body | {"top_k": top_k}).status_code == 200


@pytest.mark.parametrize(
    ("route", "body", "limit"),
    [
        ("/generate", {"prompt": SENTENCE * 40_000, "max_tokens": 1}, 131_072),
        ("/v1/completions", {"prompt": SENTENCE * 40_000, "max_tokens": 1}, 131_072),
        ("/score", {"text": SENTENCE * 40_000}, 131_072),
        ("/detokenize", {"tokens": [1] * 200_000}, 131_072),
        ("/next", {"text": SENTENCE * 10_000}, 100_000),
        ("/generate", {"prompt": "The", "n": 64, "max_tokens": 4097}, 4096),
        ("/generate", {"prompt": ["The"] * 1024, "max_tokens": 1000}, 262_144),
    ],
)
def test_what_is_too_much_is_refused_with_the_limit(
    client: httpx.Client, route: str, body: dict[str, Any], limit: int
) -> None:
    answer = client.post(route, json=body)
    assert answer.status_code == 422, answer.text[:200]
    assert str(limit) in answer.json()["error"]["message"]


def test_a_deadline_reaches_the_planning_of_a_long_request(client: httpx.Client) -> None:
    body = {"text": [SENTENCE * 30 + str(i) for i in range(1000)], "timeout_seconds": 0.02}
    began = time.monotonic()
    assert client.post("/score", json=body).status_code == 504
    assert time.monotonic() - began < 5


def test_many_choices_of_a_long_prompt_equal_one_choice_each(client: httpx.Client) -> None:
    body = {"prompt": SENTENCE * 200, "max_tokens": 5, "seed": 9, "ignore_eos": True}
    together = post(client, "/generate", **body, n=4)
    assert together["choices"][0]["text"] == post(client, "/generate", **body)["choices"][0]["text"]
    assert together["usage"]["prompt_tokens"] == len(post(client, "/tokenize", prompt=body["prompt"])["tokens"])


def test_no_more_is_held_beside_the_loop_than_may_be() -> None:
    async def main() -> None:
        workers = Workers(max_held=2)
        slow = [asyncio.create_task(workers.do(LONG, lambda: time.sleep(0.05), Deadline.after(60))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await workers.do(LONG, lambda: None, Deadline.after(60))
        await asyncio.gather(*slow)
        assert await workers.do(LONG, lambda: 7, Deadline.after(60)) == 7

    asyncio.run(main())


def test_work_that_nobody_waits_for_ends_at_its_next_check() -> None:
    deadline = Deadline.after(60)
    ended: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                deadline.check()
        except ClientGoneError as error:
            ended.append(error)

    async def main() -> None:
        task = asyncio.create_task(Workers().do(LONG, work, deadline))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while not ended:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_work_that_waited_until_its_time_was_over_does_not_begin() -> None:
    async def main() -> None:
        with pytest.raises(DeadlineError):
            await Workers().do(LONG, lambda: 7, Deadline.after(-1))

    asyncio.run(main())
