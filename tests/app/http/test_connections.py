"""What a client's connection may cost: bytes and seconds of heads and bodies, connections in all, answers not read."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.conftest import metric, serving

QUICK: dict[str, Any] = {"header_seconds": 0.3, "body_seconds": 0.3, "stall_seconds": 0.5, "threads": 1}


@pytest.fixture(scope="module")
def quick(checkpoints_dir: Path) -> Iterator[httpx.Client]:
    """A client of a server that waits for nobody."""
    with serving(checkpoints=checkpoints_dir, default_model="word", max_sampled_tokens=10**6, **QUICK) as client:
        yield client


def connect(client: httpx.Client, sent: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    """A connection to a client's server, on which something has been sent."""
    connection = socket.socket()
    connection.settimeout(30)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((client.base_url.host, client.base_url.port))
    connection.sendall(sent)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an error in the one shape, which ends a connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert b"x-content-type-options: nosniff" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"

POST = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"x" * 40_000,
        GET + b"A: " + b"x" * 40_000 + b"\r\n\r\n",
        GET + b"A: " + b"x" * 40_000,
        GET + b"A: b\r\n" * 20_000,
        GET + b"A: b\r\n" * 20_000 + b"\r\n",
        b"\r\n" * 20_000,
    ],
    ids=["line", "endless line", "header", "endless header", "endless headers", "headers", "empty lines"],
)
def test_a_head_has_a_bound(quick: httpx.Client, sent: bytes) -> None:
    assert error_of(rest(connect(quick, sent))) == (431, "header_too_large")


def test_nothing_is_read_behind_a_head_that_is_too_large(client: httpx.Client) -> None:
    """A server that went on reading would take all of it."""
    connection = connect(client, GET + b"A: " + b"x" * 40_000)
    connection.settimeout(0.5)
    sent = 0
    with suppress(OSError):  # it is reset, or the buffers of both sides are full
        while sent < 100_000_000:
            sent += connection.send(b"x" * 100_000)
    connection.close()
    assert sent < 50_000_000


def test_heads_below_the_bound_are_taken_in_pieces_and_one_after_another(client: httpx.Client) -> None:
    connection = connect(client)
    for _ in range(3):
        for piece in (GET, b"A: " + b"x" * 15_000, b"x" * 15_000, b"\r\n", b"\r\n"):
            connection.sendall(piece)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [b"0\r\nA: " + b"x" * 40_000, b"0\r\n" + b"A: b\r\n" * 20_000, b"1;" + b"x" * 40_000],
    ids=["one field", "many fields", "beside a chunk"],
)
def test_fields_behind_a_body_have_the_bound_of_a_head(client: httpx.Client, sent: bytes) -> None:
    """An answer may be under way by then, so that the connection is cut off."""
    connection = connect(client, POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" + sent)
    with suppress(ConnectionError):
        assert rest(connection) == b""


def test_what_is_not_http_is_refused_in_the_one_shape(client: httpx.Client) -> None:
    assert error_of(rest(connect(client, b"nonsense\r\n\r\n"))) == (400, "malformed_http")


def test_a_head_has_its_time(quick: httpx.Client) -> None:
    assert error_of(rest(connect(quick, GET))) == (408, "request_timeout")
    assert rest(connect(quick)) == b"", "who says nothing hears nothing"
    with connect(quick, GET + b"\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert error_of(rest(connection)) == (408, "request_timeout")


def test_a_connection_is_kept_for_a_next_request_for_its_time(checkpoints_dir: Path) -> None:
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, keep_alive_seconds=0.3) as client:
        connection = connect(client)
        for _ in range(2):
            connection.sendall(GET + b"\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert rest(connection) == b""


def test_a_body_has_its_time(quick: httpx.Client) -> None:
    answer = rest(connect(quick, POST + b'Content-Length: 100\r\n\r\n{"text":'))
    assert error_of(answer) == (408, "request_timeout")
    assert b"8 bytes of the body came within 0.3 seconds" in answer


def test_a_body_that_nobody_wants_has_its_time(quick: httpx.Client) -> None:
    """The answer does not wait for the body, and the connection not for its end."""
    answer = rest(connect(quick, POST.replace(b"score", b"nowhere") + b"Content-Length: 100\r\n\r\n{"))
    assert answer.startswith(b"HTTP/1.1 404")


def test_a_large_body_over_a_slow_link_is_taken(quick: httpx.Client) -> None:
    """It takes twice its time, and moves."""
    text = b'{"text": "' + b"The cat sat. " * 1000 + b'"}'
    with connect(quick, POST + b"Content-Length: %d\r\n\r\n" % len(text)) as connection:
        paced = connect(quick)  # closed by the server after 0.3 s: the clock of this test
        for part in range(3):
            connection.sendall(text[part * len(text) // 3 : (part + 1) * len(text) // 3])
            if part < 2:
                assert rest(paced) == b""
                paced = connect(quick)
        paced.close()
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [GET, POST + b"Content-Length: 100\r\n\r\n{"], ids=["heads", "bodies"])
def test_slow_clients_leave_the_server_to_others(client: httpx.Client, sent: bytes) -> None:
    with ExitStack() as slow:
        for _ in range(200):
            slow.enter_context(connect(client, sent))
        assert httpx.get(f"{client.base_url}/health").status_code == 200


class TestConnectionsAreBounded:
    @pytest.fixture
    def few(self, checkpoints_dir: Path) -> Iterator[httpx.Client]:
        with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, max_connections=3) as client:
            yield client

    def test_the_one_that_was_idle_for_longest_makes_room(self, few: httpx.Client) -> None:
        idle = []
        for _ in range(4):
            idle.append(connect(few, GET + b"\r\n"))
            assert idle[-1].recv(1000).startswith(b"HTTP/1.1 200")
        assert rest(idle[0]) == b""
        for connection in idle[1:]:
            connection.sendall(GET + b"\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            connection.close()

    def test_where_none_is_idle_the_new_one_is_refused_at_once(self, few: httpx.Client) -> None:
        busy = [connect(few, POST + b"Content-Length: 100\r\n\r\n{") for _ in range(3)]
        answer = rest(connect(few, GET + b"\r\n"))
        assert error_of(answer) == (503, "unavailable")
        assert b"retry-after: 1" in answer
        for connection in busy:
            connection.close()

    def test_one_that_says_nothing_for_long_makes_room(self, few: httpx.Client) -> None:
        with ExitStack() as slow:
            for _ in range(3):
                slow.enter_context(connect(few, GET))
            while (answer := rest(connect(few, GET + b"Connection: close\r\n\r\n"))).startswith(b"HTTP/1.1 503"):
                pass
            assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_cut_off_and_counted(quick: httpx.Client) -> None:
    body = json.dumps({"max_tokens": 4096, "n": 64, "ignore_eos": True, "stream": True}).encode()
    before = metric(quick, "carousel_clients_stalled_total")
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as deaf:
        for _ in range(3):
            deaf.enter_context(connect(quick, head % len(body) + body, receive_buffer=4096))
        for _ in range(10_000):
            if metric(quick, "carousel_clients_stalled_total") == before + 3:
                break
        assert metric(quick, "carousel_clients_stalled_total") == before + 3
    for _ in range(10_000):
        if metric(quick, "carousel_requests_in_flight") == 0:
            return
    raise AssertionError("their requests are still held")


def test_requests_sent_ahead_are_few(client: httpx.Client) -> None:
    with connect(client, (GET + b"\r\n") * 5) as connection:
        answers = b""
        while answers.count(b'{"status":"ok"}') < 5:
            answers += connection.recv(1 << 16)
        connection.sendall((GET + b"\r\n") * 1000)
        with suppress(ConnectionError):
            while connection.recv(1 << 16):
                pass
