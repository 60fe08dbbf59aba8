"""What an operator sees: every figure that the dashboard asks for is there, and moves."""

import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.app.conftest import metric

DEPLOY = Path(__file__).parents[2] / "deploy"


def errors(client: httpx.Client, code: str, model: str) -> float:
    pattern = rf'^carousel_request_errors_total{{code="{code}",model_name="{model}"}} (\S+)$'
    found = re.search(pattern, client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_the_dashboard_asks_for_what_there_is(client: httpx.Client) -> None:
    client.post("/generate", json={"max_tokens": 5, "prompt": "The"})
    client.post("/generate", json={"max_tokens": -1})
    there = set(re.findall(r"^(carousel_\w+)", client.get("/metrics").text, re.MULTILINE))
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for one in panel["targets"]
        for name in re.findall(r"carousel_\w+", one["expr"])
    }
    assert len(asked) > 15
    assert asked <= there


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
