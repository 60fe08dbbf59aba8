"""What handlers need, each named once, so that they read as plain signatures."""

import json
import secrets
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from app.errors import UnauthorizedError
from app.metrics import Metrics
from app.registry import Registry
from app.settings import Settings

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


def require_api_key(request: Request) -> None:
    """Raises `UnauthorizedError` when keys are configured and the request bears none of them."""
    keys = request.app.state.settings.api_keys
    if not keys:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    given = key.encode("latin-1")  # as headers are decoded
    known = any(secrets.compare_digest(given, one.get_secret_value().encode()) for one in keys)
    if scheme.lower() != "bearer" or not known:
        raise UnauthorizedError("an API key is needed: send it as 'Authorization: Bearer KEY'")


class _StrictRequest(Request):
    """A request whose body is JSON as the standard defines it, whatever its content type says."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        super().__init__({**scope, "headers": [*headers, (b"content-type", b"application/json")]}, receive)

    async def body(self) -> bytes:
        """Raises a 413 as soon as more has come, or is announced, than the settings allow."""
        if not hasattr(self, "_body"):
            limit = self.app.state.settings.max_body_bytes
            announced = self.headers.get("content-length", "")
            size = int(announced) if announced.isdecimal() else 0
            chunks = []
            if size <= limit:
                size = 0
                async for chunk in self.stream():
                    size += len(chunk)
                    if size > limit:
                        break
                    chunks.append(chunk)
            if size > limit:
                raise HTTPException(413, f"the body has more than {limit} bytes")
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        """Raises `json.JSONDecodeError`, also for NaN, for numbers of absurd length and for absurd nesting."""
        body = await self.body()
        try:
            return json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


class StrictRoute(APIRoute):
    """A route that asks for an API key before anything else, and reads its body with `_StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            require_api_key(request)
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict
