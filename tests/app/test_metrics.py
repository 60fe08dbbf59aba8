"""What an operator sees: the figures move."""

import re
import sys
import threading
from pathlib import Path

import httpx
import pytest

from app.engine.runner import Runner
from tests.app.conftest import metric, serving


def errors(client: httpx.Client, code: str, model: str) -> float:
    pattern = rf'^carousel_request_errors_total{{code="{code}",model_name="{model}"}} (\S+)$'
    found = re.search(pattern, client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def figure(client: httpx.Client, name: str) -> float:
    """The value of a metric of the whole server."""
    return float(re.findall(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)[0])


def test_a_completion_is_timed(client: httpx.Client) -> None:
    names = ["time_to_first_token_seconds", "time_per_output_token_seconds", "e2e_request_latency_seconds"]
    names = [f"carousel_{name}_count" for name in names]
    before = [metric(client, name) for name in names]
    client.post("/generate", json={"max_tokens": 20, "n": 3, "ignore_eos": True})
    assert [metric(client, name) - old for name, old in zip(names, before, strict=True)] == [3, 3, 1]
    client.post("/generate", json={"max_tokens": 1})  # nothing comes between one token
    assert metric(client, names[1]) == before[1] + 3


def test_errors_are_counted_by_type_and_model(client: httpx.Client) -> None:
    before = errors(client, "invalid_value", ""), errors(client, "model_not_found", ""), errors(client, "not_found", "")
    client.post("/generate", json={"max_tokens": -1})
    client.post("/score", json={"text": "a", "model": "nobody"})
    client.get("/nothing")
    after = errors(client, "invalid_value", ""), errors(client, "model_not_found", ""), errors(client, "not_found", "")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
    before_of_word = errors(client, "invalid_value", "word")
    client.post("/generate", json={"n": 65})
    assert errors(client, "invalid_value", "word") == before_of_word + 1


def test_errors_of_the_server_are_shown_before_the_first_one(client: httpx.Client) -> None:
    """Prometheus sees that a count grows; of one that comes into being at 1 it sees nothing."""
    shown = client.get("/metrics").text
    for code in ("internal_error", "unavailable", "deadline_exceeded", "too_many_requests"):
        for model in ("", "word", "char"):
            assert f'carousel_request_errors_total{{code="{code}",model_name="{model}"}}' in shown


def test_the_state_of_the_server_is_shown(checkpoints: Path) -> None:
    (checkpoints / "char" / "model.safetensors").write_bytes(b"damaged")
    with serving(checkpoints=checkpoints, default_model="word", threads=1) as client:
        assert figure(client, "carousel_ready") == 1
        assert figure(client, "carousel_checkpoints_refused") == 1
        assert figure(client, "carousel_step_age_seconds") == 0
        assert figure(client, "carousel_memory_limit_bytes") > 1e8


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_descriptors_and_start_of_the_process_are_shown(client: httpx.Client) -> None:
    assert figure(client, "process_resident_memory_bytes") > 1e7
    assert 0 < figure(client, "process_open_fds") < figure(client, "process_max_fds")
    assert figure(client, "process_start_time_seconds") > 1e9


def test_a_step_that_does_not_end_is_seen_to_grow_old(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = threading.Event(), threading.Event()

    def hang(*_: object) -> list[list[int]]:
        begun.set()
        over.wait(60)
        raise RuntimeError("over")

    with serving(checkpoints=checkpoints, default_model="word", threads=1) as client:
        monkeypatch.setattr(Runner, "decode", hang)
        asking = threading.Thread(target=client.post, args=("/generate",), kwargs={"json": {"max_tokens": 5}})
        asking.start()
        try:
            assert begun.wait(60)
            first = figure(client, "carousel_step_age_seconds")
            assert 0 < first < figure(client, "carousel_step_age_seconds")
        finally:
            over.set()
            asking.join()
