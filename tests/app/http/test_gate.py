"""What holds for every request, whatever its route: ids, headers, methods, origins, hosts, and the log."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.logs import JsonFormatter, TextFormatter
from app.settings import Settings
from tests.app.conftest import serving
from tests.app.http.test_connections import connect, rest

FRIEND, STRANGER = "https://friend.example", "https://stranger.example"


@pytest.fixture(scope="module")
def behind(checkpoints_dir: Path) -> Iterator[httpx.Client]:
    """A client of a server under a prefix and a name, whose pages of one origin may ask."""
    with serving(
        checkpoints=checkpoints_dir,
        default_model="word",
        threads=1,
        root_path="/models",
        allowed_origins=FRIEND,
        allowed_hosts="carousel.example",
    ) as client:
        yield client


class Lines(logging.Handler):
    """What the log says of requests, in both forms."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.json: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(TextFormatter().format(record))
        self.json.append(json.loads(JsonFormatter().format(record)))

    def of(self, request_id: str) -> dict[str, Any]:
        """The line of a request, once its answer has been read."""
        for _ in range(1_000_000):
            for line in list(self.json):
                if line["request_id"] == request_id:
                    return line
        raise AssertionError(self.text)


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("carousel.requests"), Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


GETS = ["/", "/page/style.css", "/docs", "/openapi.json", "/health", "/ready", "/info", "/metrics", "/v1/models"]


@pytest.mark.parametrize("path", [*GETS, "/v1/models/word", "/tokenizer_info", "/docs/docs.js"])
def test_where_there_is_get_there_is_head(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert client.get("/health").status_code == 200, "the connection goes on"


def test_head_sends_no_body_and_says_what_there_is(client: httpx.Client) -> None:
    answer = rest(connect(client, b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    assert answer.endswith(b"\r\n\r\n")
    assert client.head("/generate").status_code == 405
    assert client.post("/health").headers["allow"] == "GET, HEAD"


def test_a_slash_at_the_end_changes_nothing(client: httpx.Client) -> None:
    for path in GETS:
        assert client.get(f"{path}/".replace("//", "/")).status_code == 200
    assert client.post("/score/", json={"text": "The"}).status_code == 200


def test_every_answer_bears_its_headers(client: httpx.Client) -> None:
    answers = [client.get(path) for path in GETS]
    answers += [client.get("/nothing"), client.post("/score", content=b"{"), client.options("/score")]
    answers += [client.post("/generate", json={"stream": True}), client.post("/score", json={"text": "The"})]
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        (policy,) = answer.headers.get_list("content-security-policy")
        assert policy.startswith(("default-src 'none'", "default-src 'self'"))
        assert "frame-ancestors 'none'" in policy
        assert len(answer.headers["x-request-id"]) == 32
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


@pytest.mark.parametrize(("given", "taken"), [("a.B-1_", True), ("x" * 65, False), ("a b", False), ("", False)])
def test_an_id_is_taken_from_the_request_if_it_is_sane(client: httpx.Client, given: str, taken: bool) -> None:
    for answer in (
        client.get("/health", headers={"x-request-id": given}),
        client.post("/score", content=b"{", headers={"x-request-id": given}),
    ):
        assert (answer.headers["x-request-id"] == given) == taken


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "text/plain; a=json"])
@pytest.mark.parametrize("origin", [STRANGER, "null"])
def test_a_page_of_another_origin_cannot_put_load_on_the_server(
    client: httpx.Client, content_type: str, origin: str
) -> None:
    """A browser sends these without asking whether it may."""
    headers = {"content-type": content_type, "origin": origin}
    for path in ("/score", "/generate", "/v1/completions", "/models/reload", "/nothing"):
        answer = client.post(path, content=b'{"text": "The"}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    asked = {"origin": origin, "access-control-request-method": "POST"}
    answer = client.options("/score", headers=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers


def test_others_may_send_what_they_like(client: httpx.Client) -> None:
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "text/plain", "origin": own},
        {"content-type": "application/json; charset=utf-8", "origin": STRANGER},
        {"content-type": "application/hal+json", "origin": STRANGER},
    ):
        assert client.post("/score", content=b'{"text": "The"}', headers=headers).status_code == 200
    assert client.get("/health", headers={"origin": STRANGER}).status_code == 200


def test_an_allowed_origin_may_ask(behind: httpx.Client) -> None:
    asked = {
        "origin": FRIEND,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    allowed = behind.options("/score", headers=asked).headers
    assert allowed["access-control-allow-origin"] == FRIEND
    assert "POST" in allowed["access-control-allow-methods"]
    assert "authorization" in allowed["access-control-allow-headers"]
    for content in (b'{"text": "The"}', b"{"):
        answer = behind.post("/score", content=content, headers={"origin": FRIEND, "content-type": "text/plain"})
        assert answer.status_code in (200, 400)
        assert answer.headers["access-control-allow-origin"] == FRIEND
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    assert behind.options("/score", headers=asked | {"origin": STRANGER}).status_code == 403
    assert "access-control-allow-origin" not in behind.get("/health", headers={"origin": STRANGER}).headers


def test_a_server_with_a_name_answers_to_no_other(behind: httpx.Client) -> None:
    """A page can have its own name lead to this machine; it then asks by that name."""
    for host in ("carousel.example", "Carousel.example:8000", "localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert behind.get("/health", headers={"host": host}).status_code == 200
    for host in ("stranger.example", "stranger.example:8000", "127.0.0.1.stranger.example", ""):
        assert behind.get("/health", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("prefix", ["", "/models"], ids=["taken off by the proxy", "passed on"])
def test_a_prefix_leads_to_the_same(behind: httpx.Client, prefix: str) -> None:
    for path in GETS:
        assert behind.get(prefix + path).status_code == 200
    assert behind.get(f"{prefix}/health/").status_code == 200
    assert behind.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/models"}]
    page = behind.get(f"{prefix}/docs").text
    assert 'src="/models/docs/swagger-ui-bundle.js"' in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("name", "value"),
    [("allowed_origins", "https://a.example/"), ("allowed_origins", "a.example"), ("root_path", "models/")],
)
def test_a_setting_that_cannot_work_is_refused(name: str, value: str) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValidationError, match=name):
        Settings(**given)


class TestLog:
    def test_a_line_tells_of_a_request_without_its_text(self, client: httpx.Client, lines: Lines) -> None:
        body = {"prompt": "The cat", "max_tokens": 3, "ignore_eos": True}
        for path in ("/generate", "/v1/completions"):
            line = lines.of(client.post(f"{path}?secret", json=body).headers["x-request-id"])
            assert (line["message"], line["route"], line["status"], line["model"]) == ("POST", path, 200, "word")
            assert (line["prompt_tokens"], line["completion_tokens"]) == (2, 3)
            assert 0 < line["milliseconds"] < 60_000
            assert (line["level"], line["logger"]) == ("info", "carousel.requests")
        assert not any("secret" in text or "cat" in text for text in lines.text)
        assert all(text.startswith("INFO carousel.requests: POST route=/") for text in lines.text)

    def test_a_stream_is_told_once_it_has_ended(self, client: httpx.Client, lines: Lines) -> None:
        body = {"prompt": "The cat", "max_tokens": 3, "ignore_eos": True, "stream": True}
        line = lines.of(client.post("/generate", json=body).headers["x-request-id"])
        assert (line["status"], line["completion_tokens"]) == (200, 3)

    def test_errors_are_told_by_their_code(self, client: httpx.Client, lines: Lines) -> None:
        for answer, route, status, error in (
            (client.get("/v1/models/secret"), "/v1/models/{name}", 404, "model_not_found"),
            (client.get("/secret"), "-", 404, "not_found"),
            (client.post("/score", content=b"secret"), "/score", 400, "malformed_json"),
            (client.get("/health", headers={"A": "x" * 40_000}), "-", 431, "header_too_large"),
        ):
            line = lines.of(answer.headers["x-request-id"])
            assert (line["route"], line["status"], line["error"]) == (route, status, error)
        assert not any("secret" in text for text in lines.text)

    def test_the_name_of_a_key_is_told(self, checkpoints_dir: Path, lines: Lines) -> None:
        with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys="hidden") as client:
            headers = {"authorization": "Bearer hidden"}
            line = lines.of(client.post("/score", json={"text": "The"}, headers=headers).headers["x-request-id"])
        assert line["key"] == "key-1"
        assert "hidden" not in str(lines.text)

    def test_an_exception_is_one_line_of_json(self) -> None:
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            info = (type(error), error, error.__traceback__)
        record = logging.LogRecord("carousel", logging.ERROR, "", 1, "unexpected", None, info)
        line = JsonFormatter().format(record)
        assert "\n" not in line
        assert "two\nlines" in json.loads(line)["exception"]


def test_documents_are_closed_where_all_is(checkpoints_dir: Path) -> None:
    with serving(
        checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys="hidden", public=False
    ) as client:
        for path in ("/docs", "/openapi.json", "/docs/docs.js", "/"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer hidden"}).status_code == 200
