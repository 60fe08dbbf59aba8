"""What a request brings: the API key, the body as JSON, and what handlers take from the application."""

import json
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_type_hints

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from app.deadline import Deadline
from app.errors import BodyTooLargeError, MalformedJsonError, UnauthorizedError, validation_error
from app.metrics import Metrics
from app.registry import LANGUAGE_MODEL, Registry
from app.settings import Settings
from app.tasks.task import Call

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


def call_of(
    request: Request, model: str | None, timeout_seconds: float | None = None, task: str = LANGUAGE_MODEL
) -> Call:
    """What a request is answered with; its time began when it arrived.

    Raises `UnknownModelError` or `WrongTaskError`.
    """
    state = request.app.state
    deadline = Deadline.after(timeout_seconds or state.settings.timeout_seconds, request.state.arrived)
    served = state.registry.find(model, task)
    request.state.model_name = served.name
    return Call(served, state.settings, deadline, workers=state.workers)


def require_api_key(request: Request) -> None:
    """Raises `UnauthorizedError` when the settings name keys and the request bears none of them."""
    keys = request.app.state.settings.api_keys
    if not keys:
        return
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    content = sent.encode("latin-1")  # as headers are decoded
    known = any(secrets.compare_digest(content, key.get_secret_value().encode()) for key in keys)
    if scheme.lower() != "bearer" or not known:
        raise UnauthorizedError


async def api_key_required(request: Request) -> None:
    """`require_api_key` for routes that are not a `TaskRoute`."""
    require_api_key(request)


class TaskRoute(APIRoute):
    """A route whose endpoint takes `(body, request)`, body being a pydantic model.

    It asks for an API key before anything else, reads the body as JSON as the standard defines it, whatever its content
    type says, and calls the endpoint: what FastAPI would do about forms, dependencies and background tasks takes longer
    than a small network needs for a request. The OpenAPI document is made from the signature, as for any route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            request.state.arrived = time.monotonic()
            require_api_key(request)
            content = _parsed(await _body(request))
            try:
                body = model.model_validate(content)
            except ValidationError as error:
                raise validation_error([dict(e) for e in error.errors(include_url=False)], content) from None
            answer: Response = await endpoint(body, request)
            return answer

        return handle


async def _body(request: Request) -> bytes:
    """Raises `BodyTooLargeError` as soon as more has come, or is announced, than the settings allow."""
    limit = request.app.state.settings.max_body_bytes
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    chunks = []
    if size <= limit:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                break
            chunks.append(chunk)
    if size > limit:
        raise BodyTooLargeError(limit)
    return b"".join(chunks)


def _parsed(body: bytes) -> Any:
    """Raises `MalformedJsonError`, also for NaN, for numbers of absurd length and for absurd nesting. No body: None."""
    try:
        return json.loads(body, parse_constant=_refuse_constant) if body else None
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
