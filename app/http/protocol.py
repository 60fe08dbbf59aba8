"""HTTP/1.1 with bounds: uvicorn's protocol, and how much time, memory and how many connections a client may take.

Nothing here knows a route. Bodies are bounded where they are read, in `app.http.parsing`.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from enum import Enum
from typing import Any, ClassVar

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.deadline import Deadline
from app.errors import (
    HeaderTooLargeError,
    MalformedHttpError,
    RequestTimeoutError,
    ServiceError,
    UnavailableError,
)
from app.http.gate import HEADERS, new_request_id
from app.logs import log_request
from app.metrics import Metrics
from app.settings import Settings

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("carousel")

LINGER_SECONDS = 2.0
"""How long a refused client has to read why, before its connection is cut off."""

OLD_HEAD_SECONDS = 1.0
"""A client that sends the head of a request for longer makes room for others when all connections are taken."""

RESERVED_DESCRIPTORS = 100
"""Descriptors of the process that are not for clients: files, the listening socket, refused clients."""

MAX_REFUSED = 32
"""Clients that are told at once that all connections are taken; more of them are cut off without a word."""

MAX_AHEAD = 8
"""Requests that a client may send ahead of the answer to its first."""

FRAMING = 8
"""Bytes of chunk sizes and the like that may come with each byte of a body, beside what a head may have."""

READ_BYTES = 48 * 1024
"""As much must be read in `stall_seconds` of what waits for a client; a stream goes on after as much."""

KERNEL_BYTES = 16 * 1024
"""Bytes not sent yet that the kernel holds for a client, where it can be told."""


def server_config(app: FastAPI, settings: Settings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves the application: with the bounds of the settings. options: as of `uvicorn.Config`."""

    class Bounded(Connection):
        bounds = Bounds(settings, app.state.metrics)

    return uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        access_log=False,  # a line for each request is written in app/http/gate.py
        log_config=None,  # as the rest of the process
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # a fraction is fine, too
        **options,
    )


class Bounds:
    """What the connections of a server share.

    idle: those that wait for a next request, the longest first. heads: those whose request has not told its route yet.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.max_connections = _affordable(settings.max_connections)
        self.idle: dict[Connection, None] = {}
        self.heads: dict[Connection, None] = {}
        self.refused = 0
        self._looking = False
        self._pause = min(1.0, settings.header_seconds / 4, settings.stall_seconds / 4)

    def make_room(self, now: float) -> bool:
        """Close the connection that has been idle for longest, else one that has long not told what it wants."""
        chosen = next(iter(self.idle), None)
        if chosen is None:
            chosen = next(iter(self.heads), None)
            if chosen is None or not chosen.overdue(now, OLD_HEAD_SECONDS):
                return False
        chosen.leave()
        return True

    def look_after(self, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        """From now on look through the connections now and then, until there are none."""

        def look() -> None:
            now = loop.time()
            for connection in list(connections):
                connection.check(now)
            self._looking = bool(connections)
            if self._looking:
                loop.call_later(self._pause, look)

        if not self._looking:
            self._looking = True
            loop.call_later(self._pause, look)


class Reading(Enum):
    """What a connection is reading: the head of a request, its body, nothing as a request is whole, or nothing any
    more."""

    HEAD = 0
    BODY = 1
    WHOLE = 2
    NOTHING = 3


class Connection(HttpToolsProtocol):
    """One client's connection."""

    bounds: ClassVar[Bounds]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._reading = Reading.HEAD
        self._since = now = self.loop.time()
        self._came = 0  # bytes of this head, as they came; of this body's framing
        self._parsed = 0  # bytes of this head, as the parser told them
        self._unsent: tuple[float, int] | None = None  # since when how much has waited for the client
        self._counted = True
        _keep_little(transport)
        bounds = self.bounds
        bounds.look_after(self.connections, self.loop)
        if len(self.connections) - bounds.refused > bounds.max_connections and not bounds.make_room(now):
            self._turn_away()
        else:
            bounds.heads[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if not self._counted:
            self.bounds.refused -= 1
        super().connection_lost(exc)

    # -- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._reading is Reading.NOTHING:
            return
        self._unset_keepalive_if_required()
        if self._reading is Reading.WHOLE:
            self._begin_head()
        self._came += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # there is nothing to upgrade to; the request is answered as any other
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, ServiceError) else MalformedHttpError())
            return
        limit = self.bounds.settings.max_header_bytes
        if self._came > limit and self._reading in (Reading.HEAD, Reading.BODY):
            self._refuse(HeaderTooLargeError(limit))

    def _begin_head(self) -> None:
        self._reading = Reading.HEAD
        self._since = self.loop.time()
        self._came = self._parsed = 0
        self.bounds.idle.pop(self, None)
        self.bounds.heads[self] = None

    def on_message_begin(self) -> None:
        if self._reading is not Reading.HEAD:  # behind another in one piece
            self._begin_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        """Raises `HeaderTooLargeError`. Fields behind a body in chunks count, too."""
        self._parsed += size
        limit = self.bounds.settings.max_header_bytes
        if self._parsed > limit:
            raise HeaderTooLargeError(limit)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD:
            raise MalformedHttpError(f"more than {MAX_AHEAD} requests were sent ahead of an answer")
        self._reading = Reading.BODY
        self._came = max(0, self._came - self._parsed)  # what came with the head in one piece
        self.bounds.heads.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._came = max(0, self._came - (1 + FRAMING) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = Reading.WHOLE
        super().on_message_complete()

    # -- answering -------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reading is Reading.WHOLE and self.cycle.response_complete:
            self.bounds.idle[self] = None
        elif self._reading is Reading.BODY:
            self._since = self.loop.time()  # the rest of a body that nobody wants: see `check`

    def resume_writing(self) -> None:
        self._unsent = None
        super().resume_writing()

    # -- what the bounds ask ---------------------------------------------------------------------------------------

    def overdue(self, now: float, seconds: float) -> bool:
        """Whether it has been reading the same part of a request for longer."""
        return now - self._since > seconds

    def leave(self) -> None:
        """Close for the sake of others."""
        self._forget()
        self.transport.close()

    def check(self, now: float) -> None:
        """Close when the client has had its time."""
        settings = self.bounds.settings
        if self._reading is Reading.NOTHING:
            if self.overdue(now, LINGER_SECONDS):
                self.transport.abort()
        elif self._stalled(now):
            self._cut_off()
        elif self._reading is Reading.HEAD and self.overdue(now, settings.header_seconds):
            if self._came:
                self._refuse(RequestTimeoutError(f"the head did not come within {settings.header_seconds:g} seconds"))
            else:
                self.leave()
        elif self._reading is Reading.BODY and self._answered and self.overdue(now, settings.header_seconds):
            self.leave()

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _stalled(self, now: float) -> bool:
        """Whether the client does not read what waits for it. Looked at while nothing is added."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or not (self.flow.write_paused or self._answered or self.transport.is_closing()):
            self._unsent = None
            return False
        if self.flow.write_paused and not self._answered and self._late():
            return True
        if self._unsent is None or unsent <= self._unsent[1] - READ_BYTES:
            self._unsent = now, unsent
        return now - self._unsent[0] > self.bounds.settings.stall_seconds

    def _late(self) -> bool:
        deadline: Deadline | None = self.cycle.scope["state"].get("deadline")
        return deadline is not None and deadline.remaining < 0

    def _cut_off(self) -> None:
        self.bounds.metrics.count_stalled(self.cycle.scope["state"].get("model_name", "") if self.cycle else "")
        self.transport.abort()

    def _turn_away(self) -> None:
        self._counted = False
        self.bounds.refused += 1
        if self.bounds.refused > MAX_REFUSED:
            self._reading = Reading.NOTHING
            self.transport.abort()
        else:
            self._refuse(UnavailableError("all connections of the server are taken; try again later", retry_after=1))

    def _refuse(self, error: ServiceError) -> None:
        """Say why, and read nothing any more. An answer that is under way is cut off: an error would be taken for a
        part of it."""
        self._forget()
        self._unset_keepalive_if_required()
        self._reading = Reading.NOTHING
        self._since = self.loop.time()
        self.bounds.metrics.count_error("", error.code)
        if not self._answered:
            self.transport.abort()
            return
        request_id = new_request_id()
        log_request("-", "-", error.status, request_id, error=error.code)
        self.transport.write(_response(error, request_id, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.pause_reading()

    def _forget(self) -> None:
        self.bounds.idle.pop(self, None)
        self.bounds.heads.pop(self, None)


def _response(error: ServiceError, request_id: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """An error as the last bytes of a connection, where no application has been asked."""
    body = error.response().model_dump_json().encode()
    own = [
        *((name.lower().encode(), value.encode()) for name, value in ({"Connection": "close"} | error.headers).items()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    lines = [name + b": " + value for name, value in (*headers, *HEADERS, *own)]
    return STATUS_LINE[error.status] + b"\r\n".join(lines) + b"\r\n\r\n" + body


def _affordable(max_connections: int) -> int:
    """As many connections as the process has descriptors for. The limit is raised where the system lets us."""
    if resource is None:
        return max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + RESERVED_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_connections
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    except (OSError, ValueError):
        granted = soft
    affordable = max(granted - RESERVED_DESCRIPTORS, granted // 3, 1)
    if affordable < max_connections:
        logger.warning(
            "CAROUSEL_MAX_CONNECTIONS: %d connections, not %d: the process may open %d files (ulimit -n)",
            affordable,
            max_connections,
            granted,
        )
    return affordable


def _keep_little(transport: asyncio.BaseTransport) -> None:
    """Let the kernel hold little for a client that does not read."""
    with suppress(OSError, AttributeError):  # no TCP, or a system without this: its own limits hold
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)
