"""Doors that are easily left open: routes beside the main ones, names in paths, packed bodies."""

import gzip
import json
import secrets
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.errors import UnauthorizedError
from app.keys import load_keys, new_key
from app.settings import Settings
from tests.app.conftest import serving

OPEN = {("get", "/health"), ("get", "/ready")}
PUBLIC = OPEN | {("get", "/info"), ("get", "/metrics")}


@pytest.mark.parametrize(("public", "without_key"), [(True, PUBLIC), (False, OPEN)])
def test_every_route_asks_for_a_key_but_those_that_are_open(
    checkpoints_dir: Path, public: bool, without_key: set[tuple[str, str]]
) -> None:
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys="key", public=public) as client:
        paths = client.get("/openapi.json", headers={"authorization": "Bearer key"}).json()["paths"]
        routes = {(method, path) for path, methods in paths.items() for method in methods}
        assert len(routes) > 10
        answered = {route: client.request(*route).status_code for route in routes}
        assert {route for route, status in answered.items() if status != 401} == without_key


@pytest.mark.parametrize(
    "path",
    ["..%2fmain.py", "%2e%2e/main.py", "..%5cmain.py", "%2fetc%2fpasswd", "page.js%00", "index.html", "PAGE.JS", "."],
)
def test_a_path_opens_no_file_but_those_of_the_page(client: httpx.Client, path: str) -> None:
    answer = client.get(httpx.URL(str(client.base_url), raw_path=b"/page/" + path.encode()))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("name", ["../word", "..%2fword", "/etc/passwd", "word\n", "word/../char", "."])
def test_the_name_of_a_model_opens_no_file(client: httpx.Client, name: str) -> None:
    answer = client.post("/score", json={"text": "a", "model": name})
    assert answer.status_code == 404
    assert "\n" not in answer.json()["error"]["message"]


def test_a_packed_body_is_not_unpacked(client: httpx.Client) -> None:
    """What is small on its way stays small in memory."""
    body = gzip.compress(json.dumps({"text": "a" * 10_000_000}).encode())
    answer = client.post("/score", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed_json"


def test_finding_a_key_takes_the_same_steps_whatever_is_right_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of what was sent is compared with every key's, each time by a comparison of constant time."""
    keys = load_keys(Settings(api_keys="first,second,third"))
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one) == len(other) == 32)
        return one == other

    monkeypatch.setattr(secrets, "compare_digest", compare)
    for sent in ("first", "second", "third", "firsx", "x", "", "first " + "x" * 10_000):
        with suppress(UnauthorizedError):
            keys.find(f"Bearer {sent}")
        assert compared == [True] * 3
        compared.clear()


def test_only_digests_of_keys_are_held() -> None:
    key, line = new_key("ann")
    assert key not in line
    keys = load_keys(Settings(api_keys=key))
    assert key not in repr([vars(held) for held in keys._keys])


@pytest.mark.parametrize("route", ["/", "/score", "/info", "/health"])
def test_no_other_origin_may_read_an_answer(client: httpx.Client, route: str) -> None:
    headers = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    for method in ("OPTIONS", "GET", "POST"):
        answer = client.request(method, route, headers=headers, json={"text": "a"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_page_runs_no_script_but_its_own_and_is_not_framed(client: httpx.Client) -> None:
    for path in ("/", "/page/page.js", "/page/style.css"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert "script-src" not in policy
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
