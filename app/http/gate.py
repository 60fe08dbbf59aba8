"""What every request passes first, and what every answer bears, whatever route it is for."""

import re
import time
import uuid
from ipaddress import ip_address

from fastapi import Request
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ForbiddenError, shown
from app.http.errors import answer_error
from app.logs import log_request
from app.settings import Settings

_API_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_POLICY = b"content-security-policy"

_NO_SNIFFING = (b"x-content-type-options", b"nosniff")

HEADERS = [_NO_SNIFFING, (_POLICY, _API_POLICY.encode())]
"""Of every answer. A page that loads something has a policy of its own."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_JSON = re.compile(rb"application/(json|[a-z0-9.!#$&^_-]+\+json)[ \t]*(;.*)?", re.IGNORECASE | re.DOTALL)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def new_request_id() -> str:
    return uuid.uuid4().hex


def gated(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The application behind its `Gate`; origins that are allowed are told so."""
    if settings.allowed_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    return Gate(app, settings)


class Gate:
    """Gives each request an id and a line in the log, and each answer its headers. Where there is GET there is HEAD; a
    slash at the end of a path changes nothing.

    Keeps web pages of other origins from putting load on a server that their visitor can reach: a browser sends what is
    not JSON without asking, so such a body is refused, and what is JSON only after it has been allowed to, which only
    listed origins are.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in settings.allowed_origins)
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._root = settings.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, method = time.perf_counter(), 499, scope["method"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        state = scope.setdefault("state", {})
        given = headers.get(b"x-request-id", b"")
        request_id = given if _SANE_ID.fullmatch(given) else new_request_id().encode()
        state["request_id"] = request_id.decode()
        scope["root_path"] = self._root  # which a path may begin with, and need not
        path: str = scope["path"]
        if path[-1:] == "/" and path not in ("/", f"{self._root}/"):
            scope["path"] = path[:-1]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server, which has its own, sends no body

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, own = message["status"], message["headers"]
                added = [_NO_SNIFFING] if any(name == _POLICY for name, _ in own) else HEADERS
                message["headers"] = [*own, *added, (b"x-request-id", request_id)]
            await send(message)

        try:
            if refused := self._refused(scope, headers):
                await answer_error(Request(scope), refused)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        finally:
            _log(scope, method, status, time.perf_counter() - began)

    def _refused(self, scope: Scope, headers: dict[bytes, bytes]) -> ForbiddenError | None:
        host = headers.get(b"host", b"")
        if self._hosts and not self._is_own(host):
            return ForbiddenError(f"{_shown(host)} is not among CAROUSEL_ALLOWED_HOSTS")
        origin = headers.get(b"origin")
        if origin is None or self._is_allowed(origin) or origin.rpartition(b"://")[2].lower() == host.lower():
            return None
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            return ForbiddenError(f"{_shown(origin)} is not among CAROUSEL_ALLOWED_ORIGINS")
        if scope["method"] not in _READING and not _JSON.fullmatch(headers.get(b"content-type", b"")):
            message = "declare the body as JSON (Content-Type: application/json): a page of another origin sent it"
            return ForbiddenError(f"{message}, {_shown(origin)}, which is not among CAROUSEL_ALLOWED_ORIGINS")
        return None

    def _is_allowed(self, origin: bytes) -> bool:
        return origin in self._origins or b"*" in self._origins

    def _is_own(self, host: bytes) -> bool:
        """Whether a server may be asked by that name. It may by its addresses, which nobody else can give a name."""
        name = re.sub(r":\d*$", "", host.decode("latin-1").lower())
        try:
            return name in self._hosts or name == "localhost" or bool(ip_address(name.strip("[]")))
        except ValueError:
            return False


def _log(scope: Scope, method: str, status: int, seconds: float) -> None:
    state, route = scope["state"], scope.get("route")
    usage = state.get("usage")
    log_request(
        method,
        route.path if route is not None else "-",
        status,
        state["request_id"],
        milliseconds=round(1000 * seconds, 1),
        model=state.get("model_name"),
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        key=state.get("key_name"),
        error=state.get("error"),
    )


def _shown(header: bytes) -> str:
    return shown(header.decode("latin-1"))
