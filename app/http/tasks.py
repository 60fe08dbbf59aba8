"""The tasks over HTTP: a POST route for each entry of `app.tasks.TASKS`."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.errors import ErrorResponse
from app.http.errors import RESPONSES
from app.http.parsing import TaskRoute, call_of, limited, runs_a_model
from app.http.streaming import event_stream, json_response, note_usage, while_connected
from app.tasks import TASKS
from app.tasks.task import Stream, Task

router = APIRouter(route_class=TaskRoute, responses=RESPONSES, tags=["tasks"])


def endpoint(task: Task[Any, Any]) -> Callable[[Any, Request], Awaitable[Response]]:
    """The function of a task's route: checks the limits, then answers at once or as a stream."""

    @runs_a_model
    @limited(*task.limits)
    async def post(body: Any, request: Request) -> Response:
        state = getattr(body, "state", None)
        call = await call_of(request, body.model, body.timeout_seconds, task.kind, state)
        task.check(body, call)
        call.served.engine.check_room()
        if task.stream is not None and body.stream:
            return await event_stream(request, task.stream.events(body, call))
        answer: BaseModel = await while_connected(request, task.answer(body, call))
        note_usage(request, answer)
        return await call.beside(task.characters(answer), lambda: json_response(answer))

    post.__annotations__["body"] = task.request  # from which the route and the OpenAPI document take it
    return post


def _stream_response(stream: Stream[Any]) -> dict[int | str, dict[str, Any]]:
    kinds: tuple[type[BaseModel], ...] = (*stream.kinds, ErrorResponse)
    refs = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds]
    content = {"text/event-stream": {"schema": {"oneOf": refs}}}
    return {200: {"content": content, "description": stream.meaning}}


for task in TASKS:
    router.add_api_route(
        task.path,
        endpoint(task),
        methods=["POST"],
        name=f"post_{task.path.strip('/')}",
        summary=task.summary,
        response_model=task.response,
        responses=_stream_response(task.stream) if task.stream else None,
    )
