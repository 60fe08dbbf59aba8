"""Checkpoints are taken up while the server runs, and no request notices."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.checkpoint.format import save_checkpoint
from tests.app.conftest import post, serving
from tests.tiny import tiny_model, tiny_tokenizer

WORD = tiny_tokenizer("word")


def write(directory: Path, seed: int) -> None:
    """A version of a model: seed 0 is that of `checkpoints_dir`."""
    save_checkpoint(directory, tiny_model(len(WORD), seed=seed), WORD, about={"version": seed}, card="A toy model.\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("other", "word"):
        write(tmp_path / "models" / name, seed=0)
    return tmp_path / "models"


@pytest.fixture
def client(folder: Path) -> Iterator[httpx.Client]:
    with serving(checkpoints=folder, default_model="word", threads=1, old_version_seconds=600) as client:
        yield client


def reload(client: httpx.Client, **headers: str) -> dict[str, list[str]]:
    answer = client.post("/models/reload", headers=headers)
    assert answer.status_code == 200, answer.text
    names: dict[str, list[str]] = answer.json()
    return names


def about(client: httpx.Client) -> dict[str, Any]:
    return {model["name"]: model for model in client.get("/info").json()["models"]}


def test_new_changed_and_missing_checkpoints_are_taken_up(client: httpx.Client, folder: Path) -> None:
    before = post(client, "/score", text="The cat sat")["scores"][0]["logprob"]
    assert reload(client) == {"loaded": [], "kept": ["other", "word"], "refused": [], "removed": []}
    write(folder / "word", seed=1)
    write(folder / "added", seed=2)
    shutil.rmtree(folder / "other")
    assert reload(client) == {"loaded": ["added", "word"], "kept": [], "refused": [], "removed": ["other"]}
    assert post(client, "/score", text="The cat sat")["scores"][0]["logprob"] != before
    assert post(client, "/score", text="The cat sat", model="added")
    assert client.post("/score", json={"text": "The cat", "model": "other"}).status_code == 404


def test_the_default_model_stays_when_its_folder_is_gone(client: httpx.Client, folder: Path) -> None:
    shutil.rmtree(folder / "word")
    assert reload(client)["removed"] == []
    assert post(client, "/score", text="The cat sat")


def test_a_broken_version_is_refused_and_the_one_before_it_stays(client: httpx.Client, folder: Path) -> None:
    before = post(client, "/score", text="The cat sat")["scores"]
    write(folder / "word", seed=1)
    weights = folder / "word" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert reload(client)["refused"] == ["word"]
    assert post(client, "/score", text="The cat sat")["scores"] == before
    assert [refused["name"] for refused in client.get("/info").json()["refused"]] == ["word"]


def test_a_stream_ends_on_the_version_that_it_began_with(client: httpx.Client, folder: Path) -> None:
    body = {"prompt": "The", "max_tokens": 3000, "ignore_eos": True, "seed": 5}
    alone = post(client, "/generate", **body)["choices"][0]["text"]
    with client.stream("POST", "/generate", json=body | {"stream": True}) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        write(folder / "word", seed=1)
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            assert reload(other)["loaded"] == ["word"]
            assert post(other, "/generate", **body)["choices"][0]["text"] != alone
        events = [json.loads(line[6:]) for line in [first, *lines] if line.startswith("data: {")]
    assert "".join(event.get("text", "") for event in events) == alone


def test_a_model_whose_folder_is_gone_answers_who_has_begun(client: httpx.Client, folder: Path) -> None:
    body = {"prompt": "The", "max_tokens": 3000, "ignore_eos": True, "seed": 5, "model": "other"}
    alone = post(client, "/generate", **body)["choices"][0]["text"]
    with client.stream("POST", "/generate", json=body | {"stream": True}) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        shutil.rmtree(folder / "other")
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            assert reload(other)["removed"] == ["other"]
        events = [json.loads(line[6:]) for line in [first, *lines] if line.startswith("data: {")]
    assert "".join(event.get("text", "") for event in events) == alone


def test_a_state_is_answered_by_the_version_that_made_it(client: httpx.Client, folder: Path) -> None:
    state = post(client, "/generate", prompt="The cat", max_tokens=0, return_state=True)["choices"][0]["state"]
    before = post(client, "/score", text=" sat", state=state)["scores"]
    old = about(client)["word"]["version"]
    write(folder / "word", seed=1)
    reload(client)
    assert post(client, "/score", text=" sat", state=state)["scores"] == before
    info = about(client)["word"]
    assert info["version"] != old
    assert info["old_versions"] == [old]


def test_a_state_of_a_version_that_is_gone_is_refused_by_name(folder: Path) -> None:
    with serving(checkpoints=folder, default_model="word", threads=1, old_version_seconds=0) as client:
        state = post(client, "/generate", prompt="The", max_tokens=0, return_state=True)["choices"][0]["state"]
        write(folder / "word", seed=1)
        reload(client)
        while about(client)["word"]["old_versions"]:
            pass
        refused = client.post("/score", json={"text": " sat", "state": state})
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "state_of_old_version"


def test_who_may_reload(folder: Path) -> None:
    with serving(checkpoints=folder, default_model="word", threads=1) as client:
        assert client.post("/models/reload", headers={"x-forwarded-for": "1.2.3.4"}).status_code == 403
        assert client.post("/models/reload", headers={"origin": "http://example.org"}).status_code == 403
    with serving(checkpoints=folder, default_model="word", threads=1, api_keys="secret") as client:
        assert client.post("/models/reload").status_code == 401
        assert reload(client, authorization="Bearer secret")["kept"] == ["other", "word"]


def test_a_hundred_reloads_under_load_lose_nothing(client: httpx.Client, folder: Path) -> None:
    """Every answer is that of one version or the other, whole."""
    bodies = [{"prompt": "The cat", "max_tokens": 60, "seed": seed, "ignore_eos": True} for seed in range(4)]
    expected = [{post(client, "/generate", **body)["choices"][0]["text"]} for body in bodies]
    write(folder / "word", seed=1)
    reload(client)
    for texts, body in zip(expected, bodies, strict=True):
        texts.add(post(client, "/generate", **body)["choices"][0]["text"])
    over = threading.Event()
    wrong: list[str] = []
    answered = [0]

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as mine:
            while not over.is_set():
                for texts, body in zip(expected, bodies, strict=True):
                    answer = mine.post("/generate", json=body)
                    if answer.status_code != 200 or answer.json()["choices"][0]["text"] not in texts:
                        wrong.append(answer.text)
                    answered[0] += 1

    with ExitStack() as stack:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(over.set)
        for number in range(100):
            write(folder / "word", seed=number % 2)
            assert reload(client)["loaded"] == ["word"]
    assert wrong == []
    assert answered[0] > 100


def test_models_are_loaded_at_first_use_and_let_go_when_others_need_room(folder: Path) -> None:
    for name in ("a", "b", "c"):
        write(folder / name, seed=3)
    with serving(checkpoints=folder, default_model="word", threads=1, models_bytes=1, prefix_cache_bytes=0) as client:
        assert [name for name, model in about(client).items() if model["loaded"]] == ["word"]
        first = post(client, "/score", text="The cat", model="a")["scores"]
        assert about(client)["a"]["loaded"]
        assert post(client, "/score", text="The cat", model="b")["scores"] == first
        assert {name for name, model in about(client).items() if model["loaded"]} == {"word", "b"}
        assert post(client, "/score", text="The cat", model="a")["scores"] == first
