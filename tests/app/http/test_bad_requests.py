"""Nothing a client sends gives a 500, and every refusal names the field, the value and the limit."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import SHOWN_CHARACTERS, shown
from tests.app.conftest import serving
from tests.app.http.test_connections import connect

GENERATE, SCORE, NEXT = "/generate", "/score", "/next"

WRONG: list[tuple[str, str, int, str | None, str]] = [
    # route, body, status, param, part of the message
    (GENERATE, "", 422, None, "JSON object"),
    (GENERATE, "null", 422, None, "JSON object"),
    (GENERATE, "[]", 422, None, "JSON object"),
    (GENERATE, '"text"', 422, None, "JSON object"),
    (GENERATE, "{", 400, None, "not JSON"),
    (GENERATE, "\x00", 400, None, "not JSON"),
    (GENERATE, "[" * 100_000, 400, None, "not JSON"),
    (GENERATE, '{"seed": ' + "9" * 5000 + "}", 400, None, "not JSON"),
    (GENERATE, '{"temperature": NaN}', 400, None, "NaN"),
    (GENERATE, '{"temperature": Infinity}', 400, None, "Infinity"),
    (GENERATE, '{"temperature": 1e999}', 422, "temperature", "finite"),
    (GENERATE, '{"temperature": -1}', 422, "temperature", "-1"),
    (GENERATE, '{"temperature": 10.5}', 422, "temperature", "10"),
    (GENERATE, '{"temperature": "hot"}', 422, "temperature", "hot"),
    (GENERATE, '{"top_p": 0}', 422, "top_p", "greater than 0"),
    (GENERATE, '{"top_p": 1.01}', 422, "top_p", "1.01"),
    (GENERATE, '{"min_p": 1.1}', 422, "min_p", "less than or equal to 1"),
    (GENERATE, '{"top_k": -1}', 422, "top_k", "-1"),
    (GENERATE, '{"repetition_penalty": 0}', 422, "repetition_penalty", "greater than 0"),
    (GENERATE, '{"presence_penalty": 3}', 422, "presence_penalty", "3"),
    (GENERATE, '{"max_tokens": -1}', 422, "max_tokens", "-1"),
    (GENERATE, '{"max_tokens": 4097}', 422, "max_tokens", "4096"),
    (GENERATE, '{"max_tokens": 1e30}', 422, "max_tokens", "e+30"),
    (GENERATE, '{"max_tokens": 1.5}', 422, "max_tokens", "1.5"),
    (GENERATE, '{"max_tokens": true}', 422, "max_tokens", "True"),
    (GENERATE, '{"min_tokens": 65}', 422, "min_tokens", "64"),
    (GENERATE, '{"n": 0}', 422, "n", "0"),
    (GENERATE, '{"n": 65}', 422, "n", "64"),
    (GENERATE, '{"seed": -2}', 422, "seed", "-2"),
    (GENERATE, '{"seed": 9223372036854775808}', 422, "seed", "9223372036854775807"),
    (GENERATE, '{"logprobs": 21}', 422, "logprobs", "20"),
    (GENERATE, '{"logprobs": 20, "n": 64, "max_tokens": 4096}', 422, "logprobs", "100000"),
    (GENERATE, '{"prompt": 5}', 422, "prompt", "list of strings"),
    (GENERATE, '{"prompt": []}', 422, "prompt", "at least 1"),
    (GENERATE, '{"prompt": ["a", 5]}', 422, "prompt.1", "5"),
    (GENERATE, '{"prompt": "\\ud800"}', 422, "prompt", "surrogate"),
    (GENERATE, '{"\\ud800": 1}', 422, None, ""),
    (GENERATE, '{"' + "x" * 100_000 + '": 1}', 422, "x" * 64, "no such field"),
    (GENERATE, '{"stop": [""]}', 422, "stop.0", "at least 1"),
    (GENERATE, '{"stop": ["\\udfff"]}', 422, "stop.0", "surrogate"),
    (GENERATE, '{"stop": "' + "x" * 257 + '"}', 422, "stop.0", "256"),
    (GENERATE, '{"stop": [' + ",".join(['"s"'] * 1000) + "]}", 422, "stop", "16"),
    (GENERATE, '{"logit_bias": {"The": 1}}', 422, "logit_bias", "The"),
    (GENERATE, '{"logit_bias": {"100000": 1}}', 422, "logit_bias.100000", "limit"),
    (GENERATE, '{"logit_bias": {"1": 101}}', 422, "logit_bias.1", "100"),
    (GENERATE, '{"timeout_seconds": 0}', 422, "timeout_seconds", "greater than 0"),
    (GENERATE, '{"timeout_seconds": 1e6}', 422, "timeout_seconds", "120"),
    (GENERATE, '{"model": "nobody"}', 404, "model", "nobody"),
    (GENERATE, '{"model": ""}', 404, "model", "''"),
    (GENERATE, '{"model": "../word"}', 404, "model", "../word"),
    (GENERATE, '{"tempurature": 1}', 422, "tempurature", "no such field"),
    (SCORE, "{}", 422, "text", "required"),
    (SCORE, '{"text": []}', 422, "text", "at least 1"),
    (SCORE, '{"text": [' + ",".join(['"x"'] * 10_000) + "]}", 422, "text", "1024"),
    (SCORE, '{"text": "a", "top": 51}', 422, "top", "50"),
    (SCORE, '{"text": "a", "bos": 1}', 422, "bos", "1"),
    (SCORE, '{"text": "' + "The " * 3000 + '", "top": 50}', 422, "top", "100000"),
    (SCORE, '{"text": [' + ",".join(['"x"'] * 1000) + '], "context": "' + "x" * 3000 + '"}', 422, "context", "2000000"),
    (SCORE, '{"text": "a", "context": "\\ud800"}', 422, "context", "surrogate"),
    (NEXT, "{}", 422, "text", "required"),
    (NEXT, '{"text": ["a"]}', 422, "text", "string"),
    (NEXT, '{"text": "a", "top": 0}', 422, "top", "1"),
    (NEXT, '{"text": "a", "top": 51}', 422, "top", "50"),
]


@pytest.mark.parametrize(
    ("route", "body", "status", "param", "part"), WRONG, ids=[f"{route}-{body[:40]}" for route, body, *_ in WRONG]
)
def test_a_wrong_request_is_refused_with_its_reason(
    client: httpx.Client, route: str, body: str, status: int, param: str | None, part: str
) -> None:
    response = client.post(route, content=body.encode())
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert part in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 400


@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
def test_null_is_the_default_and_a_whole_number_may_have_a_point(client: httpx.Client, route: str) -> None:
    body = {"prompt": "The", "max_tokens": 8, "seed": 1, "ignore_eos": True}
    odd = {"min_p": None, "n": None, "stop": None, "stream": None, "model": None, "top_k": 0.0, "max_tokens": 8.0}
    plain, other = (client.post(route, json=one).json()["choices"] for one in (body, body | odd))
    assert plain == other


def test_minus_one_asks_for_a_seed_and_min_p_may_be_one(client: httpx.Client) -> None:
    drawn = client.post("/generate", json={"seed": -1, "max_tokens": 3}).json()
    assert drawn["seed"] >= 0
    assert client.post("/generate", json={"min_p": 1, "max_tokens": 3}).status_code == 200


def test_a_wrong_value_is_shown_but_not_all_of_it(client: httpx.Client) -> None:
    error = client.post("/generate", json={"temperature": "x" * 10_000}).json()["error"]
    assert "xxx" in error["message"]
    assert len(error["message"]) < 200


def test_a_value_is_shown_as_python_writes_it() -> None:
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    for value in (1, "a'b", [], {}, [1, [2, {"a": [3]}], "x"], {"a": 1, "b": [2]}, list(range(99)), "x" * 99, nested):
        text = repr(value)
        assert shown(value) == (text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")


def test_no_more_of_a_value_is_looked_at_than_is_shown() -> None:
    class Part:
        looked_at = 0

        def __repr__(self) -> str:
            Part.looked_at += 1
            return "."

    assert shown([[Part()] * 1000, {"a": [Part()] * 1000}] * 1000).startswith("[[., ., .")
    assert Part.looked_at <= SHOWN_CHARACTERS


HUGE: list[tuple[str, str, str]] = [
    # route, body, param
    ("/rescore", '{"hypotheses": [' + ",".join(["1"] * 949_000) + "]}", "hypotheses"),
    ("/rescore", '{"hypotheses": [' + ",".join(["1"] * 1000) + "]}", "hypotheses.0"),
    ("/rescore", '{"hypotheses": [' + json.dumps({f"f{i}": 1 for i in range(140_000)}) + "]}", "hypotheses.0.text"),
    ("/detokenize", '{"tokens": [' + ",".join(["-1"] * 650_000) + "]}", "tokens"),
    ("/detokenize", '{"tokens": [' + ",".join(["-1"] * 131_000) + "]}", "tokens.0"),
    ("/generate", json.dumps({f"f{i}": 1 for i in range(140_000)}), "f0"),
    ("/generate", json.dumps({"logit_bias": {str(i): "x" for i in range(130_000)}}), "logit_bias"),
    ("/v1/completions", json.dumps({f"f{i}": 1 for i in range(140_000)} | {"n": 0}), "n"),
    ("/v1/completions", '{"logit_bias": {' + ",".join(f'"{i}": 101' for i in range(120_000)) + "}}", "logit_bias"),
    ("/v1/completions", '{"prompt": [' + ",".join(["[]"] * 640_000) + "]}", "prompt"),
    ("/v1/completions", '{"prompt": [' + ",".join(["1"] * 949_000) + "]}", "prompt"),
    ("/generate", '{"temperature": [' + ",".join(['{"a":[1]}'] * 180_000) + "]}", "temperature"),
    ("/v1/completions", '{"stop": [' + ",".join(["5"] * 949_000) + "]}", "stop"),
]


@pytest.mark.parametrize(("route", "body", "param"), HUGE, ids=[f"{route}-{body[:24]}" for route, body, _ in HUGE])
def test_a_body_full_of_faults_is_refused_at_the_first(client: httpx.Client, route: str, body: str, param: str) -> None:
    """Every fault of 950,000 was once collected, on the event loop: 6 seconds of processor, a gigabyte and a half."""
    began = time.process_time()
    response = client.post(route, content=body.encode(), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)
    assert time.process_time() - began < 0.5


def test_others_are_answered_while_large_bodies_are_read(client: httpx.Client) -> None:
    body = ('{"hypotheses": [' + ",".join(["{}"] * 640_000) + "]}").encode()

    def many() -> None:
        for _ in range(3):
            assert httpx.post(f"{client.base_url}/rescore", content=body, timeout=60).status_code == 422

    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(many) for _ in range(4)]
        waited = []
        while not all(one.done() for one in sending):
            began = time.monotonic()
            assert client.get("/health").status_code == 200
            waited.append(time.monotonic() - began)
        for one in sending:
            one.result()
    assert sorted(waited)[len(waited) * 9 // 10] < 0.5


def test_large_bodies_are_held_up_to_a_bound_and_small_ones_always(checkpoints_dir: Path) -> None:
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, max_bodies_bytes=90_000) as client:
        large = json.dumps({"text": "The cat sat. " * 4000}).encode()
        head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        with connect(client, head % len(large) + large[:-1]) as held:
            while (answer := client.post("/score", content=large)).status_code == 200:
                pass  # the other has not come yet
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert client.post("/score", json={"text": "The cat"}).status_code == 200
            held.sendall(large[-1:])
            assert held.recv(1000).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            assert client.post("/score", content=large).status_code == 200, "what was held is given back"


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_ten_megabytes_are_too_many(client: httpx.Client, chunked: bool) -> None:
    body = b'{"prompt": "' + b"x" * 10_000_000 + b'"}'

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    response = client.post("/generate", content=chunks() if chunked else body)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("text", ["\x00\x07\x1b[31m", "\r\n\t", "\u202e\ufeff", "🦜" * 100, "e\u0301" * 50])
def test_control_characters_and_odd_unicode_are_legal_text(client: httpx.Client, text: str) -> None:
    for model in ("word", "char"):
        for route, body in (
            (GENERATE, {"prompt": text}),
            (SCORE, {"text": text, "tokens": True}),
            (NEXT, {"text": text}),
        ):
            assert client.post(route, json=body | {"model": model}).status_code == 200


@pytest.mark.parametrize("field", ["repetition_penalty", "temperature"])
def test_extreme_values_are_legal_and_harm_nobody(client: httpx.Client, field: str) -> None:
    """A penalty of 1e-300 once made logits infinite, and failed every request the model held."""
    body = {"prompt": "The cat", "max_tokens": 5, "ignore_eos": True, field: 1e-300}
    response = client.post("/generate", json=body)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 5


def test_a_body_is_json_whatever_its_content_type_says(client: httpx.Client) -> None:
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "nonsense"):
        response = client.post("/score", content=b'{"text": "The"}', headers={"content-type": content_type})
        assert response.status_code == 200


def test_routes_and_methods_that_do_not_exist_have_the_error_shape(client: httpx.Client) -> None:
    for response, status in (
        (client.get("/nothing"), 404),
        (client.post("/nothing/"), 404),
        (client.get("/generate"), 405),
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_deadline_is_a_504(client: httpx.Client) -> None:
    body: dict[str, Any] = {"max_tokens": 4096, "n": 64, "ignore_eos": True, "timeout_seconds": 0.05}
    response = client.post("/generate", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_deadline_in_a_stream_is_its_last_event(client: httpx.Client) -> None:
    body: dict[str, Any] = {"max_tokens": 4096, "n": 64, "ignore_eos": True, "timeout_seconds": 0.2, "stream": True}
    response = client.post("/generate", json=body)
    assert response.status_code == 200
    *_, error, done = [line for line in response.text.split("\n") if line]
    assert '"deadline_exceeded"' in error
    assert done == "data: [DONE]"


def test_too_many_requests_are_refused_at_once_with_a_time_to_come_back(checkpoints_dir: Path) -> None:
    with serving(
        checkpoints=checkpoints_dir,
        default_model="word",
        threads=1,
        max_requests=1,
        max_tokens=10**9,
        max_sampled_tokens=10**9,
    ) as client:
        endless = {"max_tokens": 10**9, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/generate", json=endless) as stream:
            lines = stream.iter_lines()
            next(lines)
            refused = client.post("/score", json={"text": "The cat"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "too_many_requests"


def test_where_one_model_is_served_and_full_no_body_is_read(checkpoints_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints_dir / "word", tmp_path / "word")
    limits = {"max_requests": 1, "max_tokens": 10**9, "max_sampled_tokens": 10**9}
    with serving(checkpoints=tmp_path, default_model="word", threads=1, api_keys="one", **limits) as client:
        asks = {"authorization": "Bearer one"}
        endless = {"max_tokens": 10**9, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/generate", json=endless, headers=asks) as stream:
            next(stream.iter_lines())
            refused = client.post("/generate", content=b"no JSON", headers=asks)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.post("/generate", content=b"no JSON").status_code == 401, "a key is asked for first"
            assert client.post("/tokenize", json={"prompt": "The"}, headers=asks).status_code == 200, "asks no engine"
            counts = client.get("/metrics", headers=asks).text
        assert 'carousel_requests_refused_total{model_name="word"} 1.0' in counts
        assert 'carousel_request_errors_total{code="too_many_requests",model_name="word"} 1.0' in counts


def test_keys_are_asked_for_when_there_are_some(checkpoints_dir: Path) -> None:
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys="one, two") as client:
        body = {"text": "The cat"}
        assert client.post("/score", json=body).status_code == 401
        assert client.post("/score", json=body, headers={"authorization": "Bearer three"}).status_code == 401
        assert client.post("/score", json=body, headers={"authorization": "Bearer two"}).status_code == 200
        assert client.get("/health").status_code == 200
