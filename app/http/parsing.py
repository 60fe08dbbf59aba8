"""What a request brings: the API key, the body as JSON, and what handlers take from the application."""

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.deadline import Deadline
from app.errors import (
    BodyTooLargeError,
    ClientGoneError,
    MalformedJsonError,
    OverloadedError,
    RequestTimeoutError,
    ServiceError,
    validation_error,
)
from app.http.errors import answer_error
from app.keys import Key, Keys
from app.metrics import Metrics
from app.registry import LANGUAGE_MODEL, Registry, ServedModel
from app.settings import Settings
from app.tasks.beside import SHORT
from app.tasks.task import Call, Limit
from models.decoding.saved_state import SavedState

Body = TypeVar("Body", bound=BaseModel)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

SLOWEST_BODY = 4_000
"""Bytes a second at which a large body may go on to come after its time."""

# Coroutines, though they wait for nothing: FastAPI would call plain functions in a thread, at every request.


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


SettingsDep = Annotated[Settings, Depends(_settings)]
RegistryDep = Annotated[Registry, Depends(_registry)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]


async def api_key_required(request: Request) -> Key | None:
    """`key_of` for routes that are not a `TaskRoute`."""
    return key_of(request)


async def call_of(
    request: Request,
    model: str | None,
    timeout_seconds: float | None = None,
    task: str = LANGUAGE_MODEL,
    state: str | None = None,
) -> Call:
    """What a request is answered with; its time began when it arrived. The model is held until the answer has left.

    state: the state that the body brings along. Raises what `Registry.find` raises.
    """
    app, key = request.app.state, request.state.key
    deadline = Deadline.after(timeout_seconds or app.settings.timeout_seconds, request.state.arrived)
    made_by = SavedState.model_of(state) if state is not None else None
    served: ServedModel = await app.registry.find(model, task, key, made_by)
    served.take()
    request.state.held.callback(served.give_back)
    request.state.model_name, request.state.deadline = served.name, deadline
    return Call(served, app.settings, deadline, key.name if key else "", app.workers)


def key_of(request: Request) -> Key | None:
    """The key that a request bears; None where none is needed. Raises `UnauthorizedError`."""
    keys: Keys = request.app.state.keys
    key = keys.find(request.headers.get("authorization", ""))
    request.state.key, request.state.key_name = key, key.name if key else ""
    return key


KeyDep = Annotated[Key | None, Depends(api_key_required)]


async def key_where_closed(request: Request) -> None:
    """For routes that are open without a key unless the settings close them."""
    if not request.app.state.settings.public:
        key_of(request)


def limited(*limits: Limit) -> Callable[[Endpoint], Endpoint]:
    """Says what limits a `TaskRoute` looks at before it looks at what lists and objects of the body hold."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.limits = limits  # type: ignore[attr-defined]
        return endpoint

    return mark


def runs_a_model(endpoint: Endpoint) -> Endpoint:
    """Says that a `TaskRoute` asks an engine, so that nothing need be read of a request when all engines are full."""
    endpoint.runs_a_model = True  # type: ignore[attr-defined]
    return endpoint


class TaskRoute(APIRoute):
    """A route whose endpoint takes `(body, request)`, body being a pydantic model.

    It asks for an API key before anything else, reads the body as JSON as the standard defines it, whatever its content
    type says, and calls the endpoint: what FastAPI would do about forms, dependencies and background tasks takes longer
    than a small network needs for a request. The OpenAPI document is made from the signature, as for any route.
    """

    @property
    def _runs_a_model(self) -> bool:
        return getattr(self.endpoint, "runs_a_model", False)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]
        limits: tuple[Limit, ...] = getattr(endpoint, "limits", ())

        async def handle(request: Request) -> Response:
            request.state.arrived = time.monotonic()
            if key := key_of(request):
                key.enter()
                request.state.held.callback(key.leave)
            body = await _read(request, model, limits)
            answer: Response = await endpoint(body, request)
            return answer

        return handle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers; what the request holds is given back when the answer has left, a stream's last event included."""
        if self._runs_a_model and (refused := _refused(Request(scope))):
            await answer_error(Request(scope), refused)(scope, receive, send)
            return
        with ExitStack() as held:
            scope.setdefault("state", {})["held"] = held
            await super().handle(scope, receive, send)


def _refused(request: Request) -> ServiceError | None:
    """Why a request gets no answer, whatever its body says: the only model is full. That is found out before the body
    is read, as many who are refused ask again and again."""
    only: ServedModel | None = request.app.state.registry.only()
    if only is None or not only.engine.full:
        return None
    try:
        key = key_of(request)
        if key is None or key.may_ask(only.name):
            request.state.model_name = only.name
        only.engine.check_room()  # there may be room by now
    except ServiceError as error:
        return error
    return None


async def _read(request: Request, model: type[Body], limits: tuple[Limit, ...]) -> Body:
    """The body of a request. Raises `ServiceError` for one that is too large, too slow, not JSON or wrong.

    A large one is read beside the event loop, one after another: parsers hold the interpreter for as long as they run.
    """
    state, raw = request.app.state, await _body(request)
    deadline = Deadline.after(state.settings.timeout_seconds, request.state.arrived)

    def read() -> Body | ServiceError:
        with _without_collector() if len(raw) > SHORT else nullcontext():
            return _checked(raw, model, limits, state.settings)

    body = await state.readers.do(len(raw), read, deadline)
    if isinstance(body, ServiceError):
        raise body
    return cast("Body", body)


@contextmanager
def _without_collector() -> Iterator[None]:
    """The collector of cycles would look at the parts of a large body again and again while they are made: three times
    as long as making them takes, during which nothing else runs. In one thread at a time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _checked(raw: bytes, model: type[Body], limits: tuple[Limit, ...], settings: Settings) -> Body | ServiceError:
    """The body, or what is wrong with it: returned, since an exception would keep all that was read alive."""
    try:
        content = _parsed(raw)
        if isinstance(content, dict):
            for limit in limits:
                limit.check_length(content, settings)
        return model.model_validate(content)
    except ValidationError as error:
        complaints = [dict(complaint) for complaint in error.errors(include_url=False)]
    except ServiceError as error:
        return error.with_traceback(None)
    return validation_error(complaints, content)


class BodyRoom:
    """How many bytes of large bodies a server holds at once, until they are answered. Small ones always find room: the
    number of connections bounds them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0

    def take(self, size: int) -> None:
        """Raises `OverloadedError` where there is no room."""
        if self._bytes + size > self._max_bytes:
            raise OverloadedError(f"{self._bytes} bytes of large bodies are held; try again later", retry_after=1)
        self._bytes += size

    def give_back(self, size: int) -> None:
        self._bytes -= size


async def _body(request: Request) -> bytes:
    """Raises `BodyTooLargeError` as soon as more has come, or is announced, than the settings allow,
    `RequestTimeoutError` when it comes too slowly, `OverloadedError` when it is large and too much is held already."""
    settings: Settings = request.app.state.settings
    room: BodyRoom = request.app.state.body_room
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > settings.max_body_bytes:
        raise BodyTooLargeError(settings.max_body_bytes)
    began, size, chunks = asyncio.get_running_loop().time(), 0, []
    taken = 0
    request.state.held.callback(lambda: room.give_back(taken))
    try:
        async with asyncio.timeout_at(began + settings.body_seconds) as patience:
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_body_bytes:
                    raise BodyTooLargeError(settings.max_body_bytes)
                chunks.append(chunk)
                if size > SHORT:
                    room.take(size - taken)
                    taken = size
                if size > SLOWEST_BODY * settings.body_seconds:
                    patience.reschedule(began + size / SLOWEST_BODY)
    except TimeoutError:
        message = (
            f"{size} bytes of the body came within {settings.body_seconds:g} seconds; a body must be whole by then"
        )
        raise RequestTimeoutError(f"{message}, or come at {SLOWEST_BODY} bytes a second") from None
    except ClientDisconnect:
        raise ClientGoneError("the client went away") from None
    return b"".join(chunks)


def _parsed(body: bytes) -> Any:
    """Raises `MalformedJsonError`, also for NaN, for numbers of absurd length and for absurd nesting. No body: None."""
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_number) if body else None
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"the body is not JSON: {error}") from None


def _number(text: str) -> float:
    """JSON does not tell 1.0 from 1: it is as good where a whole number is asked for. An integer stands for a float."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


_EXACT = 1 << 53


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
