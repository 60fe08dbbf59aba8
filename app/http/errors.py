"""How errors leave: every failure of a route has the one shape of app/errors.py, and is counted."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import BY_STATUS, ErrorResponse, InternalError, ServiceError, error_response

logger = logging.getLogger("carousel")

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": kind.description} for status, kind in sorted(BY_STATUS.items())
}
"""The errors that a task may answer, for the OpenAPI document."""

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def install_error_handlers(app: FastAPI) -> None:
    """Answer a `ServiceError` as it says, Starlette's own errors in the same shape, and any other exception as ours."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        return answer_error(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        count_error(request, code)
        message = f"{request.method} {request.url.path}: {error.detail}"
        response = error_response(message, ServiceError.type, None, code)
        return JSONResponse(response.model_dump(), error.status_code, _with_head(error.headers))

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> JSONResponse:
        return answer_error(request, unexpected(request, error))


def answer_error(request: Request, error: ServiceError) -> JSONResponse:
    """The response of an error, which is counted."""
    count_error(request, error.code)
    return JSONResponse(error.response().model_dump(), error.status, error.headers)


def unexpected(request: Request, error: Exception) -> InternalError:
    """Logs an exception that nothing foresaw; clients learn only that it happened."""
    logger.error("unexpected error in request %s", getattr(request.state, "request_id", "-"), exc_info=error)
    return InternalError()


def count_error(request: Request, code: str) -> None:
    """Counts an error for the model that was asked, where the request got as far, and has the log name it."""
    request.state.error = code
    request.app.state.metrics.count_error(getattr(request.state, "model_name", ""), code)


def _with_head(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Where there is GET there is HEAD."""
    return {name: "GET, HEAD" if value == "GET" else value for name, value in (headers or {}).items()}
