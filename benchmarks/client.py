"""A small HTTP/1.1 client on asyncio and httptools: one request at a time on a connection that is kept alive.

Measuring a server from the same two cores needs a client that costs much less than the server does.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

HOST = "127.0.0.1"

OnPiece = Callable[[bytes, float], None]
"""Takes a part of a body and the moment, of `time.perf_counter`, at which it was read: parts read at once share it."""


@dataclass(frozen=True)
class Answer:
    """retry_after: seconds, of the header of that name; 1 without it."""

    status: int
    body: bytes
    retry_after: int = 1


class Connection(asyncio.Protocol):
    """One connection; reopened when the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._on_piece: OnPiece | None = None
        self._arrived = 0.0
        self._retry_after = 1
        self._answer: asyncio.Future[Answer] | None = None

    async def post(self, path: str, body: bytes, on_piece: OnPiece | None = None) -> Answer:
        """Send a JSON body and wait for the whole answer; on_piece sees parts of its body as they come."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, HOST, self._port)
        assert self._transport is not None
        self._pieces, self._on_piece = [], on_piece
        self._answer = loop.create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._arrived = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionError(f"the server closed the connection ({error})"))

    def _fail(self, error: ConnectionError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._retry_after = 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = int(value)

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        if self._on_piece is not None:
            self._on_piece(body, self._arrived)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), b"".join(self._pieces), self._retry_after))
