"""Many clients at once: each gets its own text, and those that hang up free their rows."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.app.conftest import metric

CLIENTS = 64


def body(i: int) -> dict[str, Any]:
    return {"prompt": "The cat sat", "max_tokens": 100, "ignore_eos": True, "seed": i, "stream": True}


async def read(client: httpx.AsyncClient, request: dict[str, Any], limit: int | None = None) -> str:
    """The streamed text, or what came of it before hanging up after `limit` events."""
    text = ""
    async with client.stream("POST", "/generate", json=request) as response:
        assert response.status_code == 200
        count = 0
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: ")).get("text", "")
                count += 1
                if count == limit:
                    break
    return text


def test_sixty_four_streams_each_get_their_own_text_and_half_hang_up(client: httpx.Client) -> None:
    alone = [
        client.post("/generate", json=body(i) | {"stream": False}).json()["choices"][0]["text"] for i in range(CLIENTS)
    ]
    cancelled = metric(client, "carousel_requests_cancelled_total")

    async def main() -> list[str]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60, limits=limits) as clients:
            endless = {"max_tokens": 4096, "n": 64}
            return await asyncio.gather(
                *(
                    read(clients, body(i)) if i % 2 == 0 else read(clients, body(i) | endless, limit=5)
                    for i in range(CLIENTS)
                )
            )

    texts = asyncio.run(main())
    assert texts[::2] == alone[::2]
    wait_until_free(client)
    assert metric(client, "carousel_requests_cancelled_total") == cancelled + CLIENTS // 2


@pytest.mark.parametrize(
    ("request_body", "rows"),
    [
        ({"max_tokens": 4096, "ignore_eos": True, "n": 64}, 64),
        ({"prompt": "The cat ate fish. " * 25_000, "stream": True}, 1),
    ],
    ids=["during a whole answer", "before the first token of a stream"],
)
def test_a_client_that_hangs_up_frees_its_rows(client: httpx.Client, request_body: dict[str, Any], rows: int) -> None:
    cancelled = metric(client, "carousel_requests_cancelled_total")

    async def main() -> None:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as impatient:
            waiting = asyncio.ensure_future(impatient.post("/generate", json=request_body))
            while metric(client, "carousel_num_requests_running") < rows:
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.wait({waiting})

    asyncio.run(main())
    wait_until_free(client)
    assert metric(client, "carousel_requests_cancelled_total") == cancelled + 1


def wait_until_free(client: httpx.Client) -> None:
    for _ in range(10_000):
        if metric(client, "carousel_num_requests_running") == metric(client, "carousel_requests_in_flight") == 0:
            return
    raise AssertionError("rows are still held")
