"""The model's tasks over HTTP: POST /generate, /score and /next."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel

from app import limits
from app.answers import generate, next, score  # noqa: A004 — named after the route
from app.answers.beside import beside
from app.dependencies import TaskRoute
from app.errors import ClientGoneError, InternalError, ServiceError
from app.registry import ServedModel
from app.schemas import (
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    NextRequest,
    NextResponse,
    ScoreRequest,
    ScoreResponse,
    StreamedText,
    StreamEnd,
)
from app.settings import Settings

logger = logging.getLogger("carousel")

Answer = TypeVar("Answer")

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The body is not JSON.",
        401: "No valid API key.",
        404: "No such model.",
        413: "The body is too large.",
        422: "A value is wrong; the message names field, value and limit.",
        429: "Too many requests; `Retry-After` says when to come back.",
        503: "Starting up or shutting down.",
        504: "The request's time is over.",
    }.items()
}

router = APIRouter(route_class=TaskRoute, responses=_ERRORS, tags=["tasks"])


@router.post(
    "/generate",
    response_model=GenerateResponse,
    summary="Continue a text",
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "The completions; with `stream`, an event for each token and `data: [DONE]` at the end.",
        }
    },
)
async def post_generate(body: GenerateRequest, request: Request) -> Response:
    settings, served = _service(request, body.model)
    limits.check_generate(body, settings, len(served.checkpoint.tokenizer))
    timeout = body.timeout_seconds or settings.timeout_seconds
    if body.stream:
        events = generate.stream(body, served, timeout)
        # Wait for the first event, so that a refusal still has its status code.
        first = await while_connected(request, anext(events))
        return EventSourceResponse(_encoded(first, events))
    return _json(await while_connected(request, generate.answer(body, served, timeout)))


@router.post("/score", response_model=ScoreResponse, summary="How probable is a text?")
async def post_score(body: ScoreRequest, request: Request) -> Response:
    settings, served = _service(request, body.model)
    limits.check_score(body, settings)
    answer = await while_connected(request, score.answer(body, served, settings))
    details = sum(len(one.details or ()) for one in answer.scores)
    return await beside(20 * details * (1 + body.top), lambda: _json(answer))


@router.post("/next", response_model=NextResponse, summary="Which word comes next?")
async def post_next(body: NextRequest, request: Request) -> Response:
    settings, served = _service(request, body.model)
    limits.check_next(body, settings)
    timeout = body.timeout_seconds or settings.timeout_seconds
    return _json(await while_connected(request, next.answer(body, served, timeout)))


def _service(request: Request, model: str | None) -> tuple[Settings, ServedModel]:
    """Raises `UnknownModelError`."""
    state = request.app.state
    return state.settings, state.registry.find(model)


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


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")


async def _encoded(
    first: list[StreamedText | StreamEnd], events: AsyncGenerator[list[StreamedText | StreamEnd]]
) -> AsyncGenerator[bytes]:
    """Server-sent events. A status cannot change once a response has started: a late failure is an event."""
    async with aclosing(events):
        yield _events(first)
        try:
            async for together in events:
                yield _events(together)
        except ServiceError as error:
            yield _event(ErrorResponse.model_validate(error.body()).model_dump_json())
        except Exception:
            logger.exception("a stream failed")
            late = InternalError("an unexpected error; the server's log has the details")
            yield _event(ErrorResponse.model_validate(late.body()).model_dump_json())
        yield _event("[DONE]")


def _events(events: list[StreamedText | StreamEnd]) -> bytes:
    """What came together is sent together."""
    return b"".join([_event(event.model_dump_json(exclude_unset=True)) for event in events])


def _event(data: str) -> bytes:
    return format_sse_event(data_str=data)
