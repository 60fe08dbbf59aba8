"""The model's tasks over HTTP: POST /generate, /score, /next and /rescore."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app import limits
from app.http.dependencies import TaskRoute
from app.http.sending import event_stream, json_response, while_connected
from app.registry import ServedModel
from app.schemas import (
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    NextRequest,
    NextResponse,
    RescoreRequest,
    RescoreResponse,
    ScoreRequest,
    ScoreResponse,
    StreamedText,
    StreamEnd,
)
from app.settings import Settings
from app.tasks import generate, next, rescore, score  # noqa: A004 — named after the route
from app.tasks.beside import beside

ERRORS: dict[int | str, dict[str, Any]] = {
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

router = APIRouter(route_class=TaskRoute, responses=ERRORS, tags=["tasks"])


@router.post(
    "/generate",
    response_model=GenerateResponse,
    summary="Continue a text",
    responses={
        200: {
            "content": {
                "text/event-stream": {
                    "schema": {
                        "oneOf": [
                            {"$ref": f"#/components/schemas/{event.__name__}"}
                            for event in (StreamedText, StreamEnd, ErrorResponse)
                        ]
                    }
                }
            },
            "description": "The completions; with `stream`, an event for each token of each choice, then one with the "
            "usage, then `data: [DONE]`. What fails on the way is an event before that.",
        }
    },
)
async def post_generate(body: GenerateRequest, request: Request) -> Response:
    settings, served = find_service(request, body.model)
    limits.check_generate(body, settings, len(served.checkpoint.tokenizer))
    timeout = body.timeout_seconds or settings.timeout_seconds
    if body.stream:
        return await event_stream(request, generate.stream(body, served, timeout))
    return json_response(await while_connected(request, generate.answer(body, served, timeout)))


@router.post("/score", response_model=ScoreResponse, summary="How probable is a text?")
async def post_score(body: ScoreRequest, request: Request) -> Response:
    settings, served = find_service(request, body.model)
    limits.check_score(body, settings)
    answer = await while_connected(request, score.answer(body, served, settings))
    details = sum(len(one.details or ()) for one in answer.scores)
    return await beside(20 * details * (1 + body.top), lambda: json_response(answer))


@router.post("/next", response_model=NextResponse, summary="Which word comes next?")
async def post_next(body: NextRequest, request: Request) -> Response:
    settings, served = find_service(request, body.model)
    limits.check_next(body, settings)
    timeout = body.timeout_seconds or settings.timeout_seconds
    return json_response(await while_connected(request, next.answer(body, served, timeout)))


@router.post("/rescore", response_model=RescoreResponse, summary="Which hypothesis is it?")
async def post_rescore(body: RescoreRequest, request: Request) -> Response:
    settings, served = find_service(request, body.model)
    limits.check_rescore(body, settings)
    return json_response(await while_connected(request, rescore.answer(body, served, settings)))


def find_service(request: Request, model: str | None) -> tuple[Settings, ServedModel]:
    """Raises `UnknownModelError`."""
    state = request.app.state
    served: ServedModel = state.registry.find(model)
    request.state.model_name = served.name
    return state.settings, served
