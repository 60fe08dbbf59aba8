"""Everything that can go wrong while serving, and the one table from error to status and code.

ServiceError
├── InvalidValueError      a value that is wrong; names the field
├── MalformedJsonError     a body that is not JSON
├── UnknownModelError      no model of that name is served
├── UnauthorizedError      an API key is asked for and this is none
├── OverloadedError        too many requests are waiting
├── DeadlineError          the request's time is over
├── UnavailableError       starting up or shutting down
├── ClientGoneError        nobody waits for the answer any more
└── InternalError          our own fault
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

logger = logging.getLogger("carousel")

SHOWN_CHARACTERS = 64
"""Of a wrong value, this much is shown in the message."""


class ServiceError(Exception):
    """An error with a place in the one error shape. param: dotted path of the field, where one is to blame."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def body(self) -> dict[str, Any]:
        return error_body(self.message, self.type, self.param, self.code)


class InvalidValueError(ServiceError):
    """A value that is wrong. The message names field, value and limit."""

    status, type, code = 422, "invalid_request_error", "invalid_value"


class MalformedJsonError(ServiceError):
    status, type, code = 400, "invalid_request_error", "malformed_json"


class UnknownModelError(ServiceError):
    status, type, code = 404, "invalid_request_error", "model_not_found"


class UnauthorizedError(ServiceError):
    status, type, code = 401, "authentication_error", "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class OverloadedError(ServiceError):
    """retry_after: whole seconds, at least 1."""

    status, type, code = 429, "overloaded_error", "too_many_requests"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class UnavailableError(ServiceError):
    status, code = 503, "unavailable"


class DeadlineError(ServiceError):
    status, type, code = 504, "timeout_error", "deadline_exceeded"


class ClientGoneError(ServiceError):
    status, type, code = 499, "client_error", "client_gone"


class InternalError(ServiceError):
    pass


_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def error_body(message: str, type_: str, param: str | None, code: str) -> dict[str, Any]:
    """The one error shape."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def shown(value: object) -> str:
    """A value as a message shows it, cut to a bearable length."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def validation_error(errors: Sequence[dict[str, Any]], body: object = None) -> InvalidValueError:
    """The first of pydantic's complaints as one of ours. body: what was sent."""
    first = errors[0]
    path = [part for part in first["loc"] if part != "body"]
    if len(path) == 2 and path[1] == 0 and isinstance(body, dict) and isinstance(body.get(path[0]), str):
        path = path[:1]  # one text where several may stand: the client sent no list
    path = [str(part)[:SHOWN_CHARACTERS] for part in path]
    message = first["msg"].removeprefix("Value error, ")
    if not path and not isinstance(body, dict):
        message = "a JSON object is required"
    elif first["type"] == "missing":
        message = "this field is required"
    elif first["type"] == "extra_forbidden":
        message = "there is no such field"
    else:
        message += f" (got {shown(first['input'])})"
    param = ".".join(path) or None
    error = InvalidValueError(f"{param}: {message}" if param else message, param)
    error.code = {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(first["type"], error.code)
    return error


def count_error(request: Request, code: str) -> None:
    """In the metrics: of the model that was asked, where it came to that."""
    model_name = getattr(request.state, "model_name", "")
    request.app.state.metrics.errors.labels(model_name, code).inc()


def install_error_handlers(app: FastAPI) -> None:
    """Every failure of a route leaves as the one error shape, and is counted."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        count_error(request, error.code)
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        count_error(request, code)
        message = f"{request.method} {request.url.path}: {error.detail}"
        body = error_body(message, "invalid_request_error", None, code)
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        count_error(request, InternalError.code)
        return JSONResponse(InternalError("an unexpected error; the server's log has the details").body(), 500)
