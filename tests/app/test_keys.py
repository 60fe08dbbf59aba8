"""Who may ask what; and that nobody learns what others ask."""

import threading
from pathlib import Path

import httpx
import pytest

from app.catalog import StartupError
from app.keys import load_keys, new_key
from app.settings import Settings
from tests.app.conftest import serving


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the keys by name."""
    made = {
        "ann": new_key("ann"),
        "ben": new_key("ben", models=["char"]),
        "one": new_key("one", max_requests=1, reloads=True),
    }
    path = tmp_path / "keys"
    path.write_text("# who\n\n" + "\n".join(line for _, line in made.values()) + "\n")
    return path, {name: key for name, (key, _) in made.items()}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ann", "a line is NAME"),
        ("ann secret", "a line is NAME"),
        ("ann sha256:12", "64 hexadecimal digits"),
        (f"ann sha256:{'a' * 64} requests=0", "requests=0"),
        (f"ann sha256:{'a' * 64} admin", "admin"),
        (f"ann sha256:{'a' * 64}\nann sha256:{'b' * 64}", "twice"),
        ("# nobody", "holds no key"),
    ],
)
def test_a_wrong_file_of_keys_is_refused_with_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(line + "\n")
    with pytest.raises(StartupError, match=message):
        load_keys(Settings(api_keys_file=path))


def test_a_key_asks_its_models_and_sees_no_others(checkpoints_dir: Path, keys: tuple[Path, dict[str, str]]) -> None:
    path, by_name = keys
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys_file=path) as client:
        ann, ben = bearer(by_name["ann"]), bearer(by_name["ben"])
        assert client.post("/score", json={"text": "he"}, headers=ann).json()["model"] == "word"
        assert client.post("/score", json={"text": "he"}, headers=ben).json()["model"] == "char"
        refused = client.post("/score", json={"text": "he", "model": "word"}, headers=ben)
        assert refused.status_code == 404
        assert "word" not in refused.json()["error"]["message"].split("served models")[1]
        listed = client.get("/v1/models", headers=ben).json()["data"]
        assert [model["id"] for model in listed] == ["char"]
        assert client.post("/models/reload", headers=ann).status_code == 403
        assert client.post("/models/reload", headers=bearer(by_name["one"])).status_code == 200


def test_a_key_has_no_more_requests_under_way_than_it_may(
    checkpoints_dir: Path, keys: tuple[Path, dict[str, str]]
) -> None:
    path, by_name = keys
    one = bearer(by_name["one"])
    endless = {"max_tokens": 10**9, "ignore_eos": True, "stream": True}
    with serving(
        checkpoints=checkpoints_dir,
        default_model="word",
        threads=1,
        api_keys_file=path,
        max_tokens=10**9,
        max_sampled_tokens=10**9,
    ) as client:
        with client.stream("POST", "/generate", json=endless, headers=one) as stream:
            lines = stream.iter_lines()  # it is closed with the last reference to it
            assert next(lines).startswith("data: ")
            refused = client.post("/score", json={"text": "The"}, headers=one)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert client.post("/score", json={"text": "The"}, headers=bearer(by_name["ann"])).status_code == 200
        _until_answered(client, one)


def _until_answered(client: httpx.Client, headers: dict[str, str]) -> None:
    """A place is given back when the stream has ended."""
    for _ in range(1000):
        if client.post("/score", json={"text": "The"}, headers=headers).status_code == 200:
            return
    raise AssertionError("the place was not given back")


def test_nobody_learns_from_a_cache_what_another_has_sent(
    checkpoints_dir: Path, keys: tuple[Path, dict[str, str]]
) -> None:
    path, by_name = keys
    body = {"prompt": "The cat ate fish. " * 30, "max_tokens": 1}

    def cached(client: httpx.Client, name: str) -> int:
        answer = client.post("/generate", json=body, headers=bearer(by_name[name]))
        tokens: int = answer.json()["usage"]["cached_tokens"]
        return tokens

    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys_file=path) as client:
        assert cached(client, "ann") == 0
        assert cached(client, "ann") > 0
        assert cached(client, "one") == 0
        assert cached(client, "one") > 0


def test_a_signed_state_is_taken_from_its_owner_alone(checkpoints_dir: Path, keys: tuple[Path, dict[str, str]]) -> None:
    path, by_name = keys
    settings = {"checkpoints": checkpoints_dir, "default_model": "word", "threads": 1, "api_keys_file": path}
    ann, one = bearer(by_name["ann"]), bearer(by_name["one"])
    prompt = {"prompt": "The cat", "max_tokens": 0, "return_state": True}
    with serving(**settings, state_key="a secret") as client:
        state = client.post("/generate", json=prompt, headers=ann).json()["choices"][0]["state"]
        unsigned_size = len(state)
        assert client.post("/score", json={"text": " sat", "state": state}, headers=ann).status_code == 200
        refused = client.post("/score", json={"text": " sat", "state": state}, headers=one)
        assert refused.json()["error"]["code"] == "invalid_state"
    with serving(**settings, state_key="another") as client:
        assert client.post("/score", json={"text": " sat", "state": state}, headers=ann).status_code == 422
    with serving(**settings) as client:
        plain = client.post("/generate", json=prompt, headers=ann).json()["choices"][0]["state"]
        assert len(plain) < unsigned_size


def test_pages_metrics_and_info_can_be_closed(checkpoints_dir: Path, keys: tuple[Path, dict[str, str]]) -> None:
    path, by_name = keys
    closed = ("/", "/info", "/metrics")
    settings = {"checkpoints": checkpoints_dir, "default_model": "word", "threads": 1, "api_keys_file": path}
    with serving(**settings) as client:
        assert [client.get(route).status_code for route in closed] == [200] * 3
    with serving(**settings, public=False) as client:
        assert [client.get(route).status_code for route in closed] == [401] * 3
        assert [client.get(route, headers=bearer(by_name["ann"])).status_code for route in closed] == [200] * 3
        assert client.get("/health").status_code == 200


def test_a_key_is_found_by_many_threads_at_once(keys: tuple[Path, dict[str, str]]) -> None:
    path, by_name = keys
    known = load_keys(Settings(api_keys_file=path))
    found: list[str] = []

    def look(name: str) -> None:
        key = known.find(f"Bearer {by_name[name]}")
        assert key is not None
        found.append(key.name)

    threads = [threading.Thread(target=look, args=(name,)) for name in by_name]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(by_name)
