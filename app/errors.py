"""Everything that can go wrong while serving: the one table of status, type, code and what the API reference says.

ServiceError
├── MalformedJsonError     400  the body is not JSON
├── MalformedHttpError     400  the request is not HTTP
├── UnauthorizedError      401  the server asks for an API key, and the request bears no valid one
├── ForbiddenError         403  not for this client
├── UnknownModelError      404  no served model has that name
├── RequestTimeoutError    408  the request was sent too slowly
├── BodyTooLargeError      413  the body has more bytes than the server takes
├── InvalidValueError      422  a value is wrong; names the field
│   └── WrongTaskError     422  the model is made for another task
├── OverloadedError        429  too many requests are waiting
├── HeaderTooLargeError    431  request line and headers have more bytes than the server takes
├── ClientGoneError        499  the client hung up
├── InternalError          500  our own fault
├── UnavailableError       503  starting up, shutting down, or all connections are taken
└── DeadlineError          504  the request took longer than it may
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, ClassVar

from pydantic import BaseModel

SHOWN_CHARACTERS = 64
"""A message shows this many characters of a wrong value."""


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class ServiceError(Exception):
    """An error that a client is told about. param: dotted path of the field to blame; None: no field is.

    description: what the API reference says of the status; empty: the reference does not list it.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "invalid_request_error"
    code: str = "internal_error"
    description: ClassVar[str] = ""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def response(self) -> ErrorResponse:
        return error_response(self.message, self.type, self.param, self.code)


class MalformedJsonError(ServiceError):
    status, code = 400, "malformed_json"
    description = "The body is not JSON."


class MalformedHttpError(ServiceError):
    status, code = 400, "malformed_http"

    def __init__(self, message: str = "the request is not HTTP/1.1") -> None:
        super().__init__(message)


class UnauthorizedError(ServiceError):
    status, type, code = 401, "authentication_error", "invalid_api_key"
    description = "No valid API key."

    def __init__(self) -> None:
        super().__init__("an API key is needed: send it as 'Authorization: Bearer KEY'")

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ServiceError):
    status, type, code = 403, "permission_error", "forbidden"
    description = "Not for this client."


class UnknownModelError(ServiceError):
    status, code = 404, "model_not_found"
    description = "No such model."


class RequestTimeoutError(ServiceError):
    status, type, code = 408, "timeout_error", "request_timeout"
    description = "The request was sent too slowly."

    @property
    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class BodyTooLargeError(ServiceError):
    """limit: bytes that the server takes."""

    status, code = 413, "body_too_large"
    description = "The body is too large."

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body has more than {limit} bytes")


class InvalidValueError(ServiceError):
    """A value is wrong. The message names field, value and limit."""

    status, code = 422, "invalid_value"
    description = "A value is wrong; the message names field, value and limit."


class WrongTaskError(InvalidValueError):
    """The model cannot do what is asked. able: the served models that can."""

    code = "wrong_task"

    def __init__(self, name: str | None, task: str, able: Iterable[str]) -> None:
        who = "no served model is" if name is None else f"{shown(name)} is not"
        others = ", ".join(able)
        super().__init__(f"model: {who} made for {task}" + (f"; models that are: {others}" if others else ""), "model")


class OverloadedError(ServiceError):
    """retry_after: whole seconds, at least 1."""

    status, type, code = 429, "overloaded_error", "too_many_requests"
    description = "Too many requests; `Retry-After` says when to come back."

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class HeaderTooLargeError(ServiceError):
    """limit: bytes that the server takes."""

    status, code = 431, "header_too_large"
    description = "Request line and headers are too large."

    def __init__(self, limit: int) -> None:
        super().__init__(f"request line and headers have more than {limit} bytes")


class ClientGoneError(ServiceError):
    status, type, code = 499, "client_error", "client_gone"


class InternalError(ServiceError):
    type = "server_error"

    def __init__(self, message: str = "an unexpected error; the server's log has the details") -> None:
        super().__init__(message)


class UnavailableError(ServiceError):
    """retry_after: whole seconds, at least 1; None: the client is not told."""

    status, type, code = 503, "server_error", "unavailable"
    description = "Starting up, shutting down, or all connections are taken."

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message, param)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class DeadlineError(ServiceError):
    status, type, code = 504, "timeout_error", "deadline_exceeded"
    description = "The request took longer than `timeout_seconds`."


def _table(kinds: Iterable[type[ServiceError]]) -> dict[int, type[ServiceError]]:
    return {kind.status: kind for kind in kinds if kind.description}


BY_STATUS = _table(ServiceError.__subclasses__())
"""The errors that the API reference lists."""


def error_response(message: str, kind: str, param: str | None, code: str) -> ErrorResponse:
    """The one shape of an error."""
    return ErrorResponse(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def shown(value: object) -> str:
    """A value as a message shows it, cut to `SHOWN_CHARACTERS`."""
    text = repr(_beginning(value, [SHOWN_CHARACTERS]))
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _beginning(value: object, left: list[int]) -> object:
    """As much of a value as is shown, each part of which has a character at least: there may be a million parts.
    left: how many may be looked at."""
    left[0] -= 1
    if isinstance(value, str):
        return value[: SHOWN_CHARACTERS + 1]
    if isinstance(value, list):
        return [_beginning(item, left) for item in takewhile(lambda _: left[0] > 0, value)]
    if isinstance(value, dict):
        items = takewhile(lambda _: left[0] > 0, value.items())
        return {_beginning(key, left): _beginning(item, left) for key, item in items}
    return value


def at_most(param: str, value: float, limit: float, what: str = "") -> None:
    """Raises `InvalidValueError` when a value is above its limit. what: the unit, for the message."""
    if value > limit:
        raise InvalidValueError(f"{param}: {shown(value)}{what} is more than the limit of {limit}", param)


def validation_error(errors: Sequence[dict[str, Any]], body: object = None) -> InvalidValueError:
    """The first of pydantic's complaints as an error of ours. body: what the client sent."""
    first = errors[0]
    path = [part for part in first["loc"] if part != "body"]
    if len(path) == 2 and path[1] == 0 and isinstance(body, dict) and isinstance(body.get(path[0]), str):
        path = path[:1]  # the client sent a text where a list of texts may stand, too
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
