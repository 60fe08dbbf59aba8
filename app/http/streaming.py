"""How answers leave: as JSON at once or as server-sent events, and only while the client waits for them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel

from app.errors import ClientGoneError, ServiceError
from app.http.errors import count_error, unexpected

Answer = TypeVar("Answer")

Event = TypeVar("Event", bound=BaseModel)


async def while_connected(request: Request, answer: Awaitable[Answer]) -> Answer:
    """Wait for an answer, but not longer than the client does: its work is cancelled when the client hangs up.

    Raises `ClientGoneError`, whose response nobody reads.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await answer
    except asyncio.CancelledError:
        if gone and working.uncancel() == 0:
            raise ClientGoneError("the client went away") from None
        raise
    finally:
        watching.cancel()


def note_usage(request: Request, answer: BaseModel) -> None:
    """Have the log name how many tokens a request took, where its answer says so."""
    if usage := getattr(answer, "usage", None):
        request.state.usage = usage


def json_response(answer: BaseModel) -> Response:
    return Response(encode(answer), media_type="application/json")


def encode(answer: BaseModel) -> str:
    """As JSON; fields that were not set are left out."""
    return answer.model_dump_json(exclude_unset=True)


async def event_stream(
    request: Request, events: AsyncGenerator[list[Event]], encode: Callable[[Event], str] = encode
) -> Response:
    """Events as they come, those of a list together, then `[DONE]`. Waits for the first event, so that a refusal still
    has its status code."""
    first = await while_connected(request, anext(events))
    # A proxy that buffers would hold the stream back.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_encoded(request, first, events, encode), headers=headers)


async def _encoded(
    request: Request, first: list[Event], events: AsyncGenerator[list[Event]], encode: Callable[[Event], str]
) -> AsyncGenerator[bytes]:
    """Server-sent events. A status cannot change once a response has started: a late failure is an event."""
    async with aclosing(events):
        note_usage(request, first[-1])
        yield _events(list(map(encode, first)))
        try:
            async for together in events:
                note_usage(request, together[-1])
                yield _events(list(map(encode, together)))
        except Exception as error:
            late = error if isinstance(error, ServiceError) else unexpected(request, error)
            count_error(request, late.code)
            yield _events([late.response().model_dump_json()])
        yield _events(["[DONE]"])


def _events(contents: Sequence[str]) -> bytes:
    """Events that came together leave in one piece."""
    return b"".join([format_sse_event(data_str=content) for content in contents])
