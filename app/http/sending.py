"""How answers leave: JSON at once or server-sent events, and only while somebody waits for them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel

from app.errors import ClientGoneError, InternalError, ServiceError, count_error
from app.schemas import ErrorResponse

logger = logging.getLogger("carousel")

Answer = TypeVar("Answer")

Event = TypeVar("Event", bound=BaseModel)


async def while_connected(request: Request, answer: Awaitable[Answer]) -> Answer:
    """Wait for an answer, but not longer than the client does: its work is cancelled when it goes away.

    Raises `ClientGoneError`, which nobody is there to read.
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


def json_response(answer: BaseModel) -> Response:
    """What was not set is left out."""
    return Response(encode(answer), media_type="application/json")


def encode(answer: BaseModel) -> str:
    return answer.model_dump_json(exclude_unset=True)


async def event_stream(
    request: Request, events: AsyncGenerator[list[Event]], encode: Callable[[Event], str] = encode
) -> Response:
    """Events as they come, those of a list together, then `[DONE]`. Waits for the first, so that a refusal still has
    its status code."""
    first = await while_connected(request, anext(events))
    # A proxy that buffers would hold the stream back.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_encoded(request, first, events, encode), headers=headers)


async def _encoded(
    request: Request, first: list[Event], events: AsyncGenerator[list[Event]], encode: Callable[[Event], str]
) -> AsyncGenerator[bytes]:
    """Server-sent events. A status cannot change once a response has started: a late failure is an event."""
    async with aclosing(events):
        yield _events(list(map(encode, first)))
        try:
            async for together in events:
                yield _events(list(map(encode, together)))
        except ServiceError as error:
            count_error(request, error.code)
            yield _events([ErrorResponse.model_validate(error.body()).model_dump_json()])
        except Exception:
            logger.exception("a stream failed")
            count_error(request, InternalError.code)
            late = InternalError("an unexpected error; the server's log has the details")
            yield _events([ErrorResponse.model_validate(late.body()).model_dump_json()])
        yield _events(["[DONE]"])


def _events(contents: Sequence[str]) -> bytes:
    """What came together is sent together."""
    return b"".join([format_sse_event(data_str=content) for content in contents])
