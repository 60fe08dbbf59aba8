"""Going on from a returned state: the same bits as one request over the whole text."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.conftest import serving

MODELS = ("word", "char")


def post(client: httpx.Client, route: str, **body: Any) -> Any:
    response = client.post(route, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("model", MODELS)
def test_a_text_drawn_in_two_requests_is_the_text_drawn_in_one(client: httpx.Client, model: str) -> None:
    body = {"model": model, "prompt": "The cat", "seed": 11, "ignore_eos": True, "logprobs": 2, "return_state": True}
    (whole,) = post(client, "/generate", max_tokens=40, **body)["choices"]
    for cut in (0, 1, 17, 39):
        (first,) = post(client, "/generate", max_tokens=cut, **body)["choices"]
        rest = body | {"prompt": "", "state": first["state"]}
        (second,) = post(client, "/generate", max_tokens=40 - cut, **rest)["choices"]
        assert first["text"] + second["text"] == whole["text"]
        assert first["tokens"] + second["tokens"] == whole["tokens"]
        assert second["state"] == whole["state"]


def test_the_state_comes_with_the_last_event_of_a_stream(client: httpx.Client) -> None:
    body = {"prompt": "The cat", "seed": 4, "max_tokens": 9, "ignore_eos": True, "return_state": True}
    whole = post(client, "/generate", **body)["choices"][0]
    lines = client.post("/generate", json=body | {"stream": True}).text.split("\n")
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][:-1]
    assert ["state" in piece for piece in pieces] == [False] * 8 + [True]
    assert pieces[-1]["state"] == whole["state"]
    assert pieces[-1]["finish_reason"] == "length"


def test_a_state_after_eos_or_a_stop_string_covers_what_it_says(client: httpx.Client) -> None:
    for ending, reason in (({}, "eos"), ({"logit_bias": {"1": -100}, "stop": ["e"]}, "stop")):
        body = {"model": "char", "prompt": "the", "seed": 1, "max_tokens": 500, "return_state": True, "logprobs": 0}
        (choice,) = post(client, "/generate", **body, **ending)["choices"]
        assert choice["finish_reason"] == reason
        text = "the" + "".join(token["text"] for token in choice["tokens"])
        (scored,) = post(client, "/score", model="char", text=text, eos=False, return_state=True)["scores"]
        assert scored["state"] == choice["state"]


@pytest.mark.parametrize("model", MODELS)
def test_a_text_scored_in_two_requests_has_the_scores_of_one(client: httpx.Client, model: str) -> None:
    first, second = "The cat ate fish.", " The cats sat"
    if model == "char":
        first, second = "he sat on\nth", "e hen. "
    body = {"model": model, "tokens": True, "return_state": True}
    (whole,) = post(client, "/score", text=first + second, **body)["scores"]
    (begin,) = post(client, "/score", text=first, eos=False, **body)["scores"]
    (end,) = post(client, "/score", text=second, state=begin["state"], **body)["scores"]
    logprobs = [detail["logprob"] for detail in begin["details"] + end["details"]]
    assert logprobs == [detail["logprob"] for detail in whole["details"]]
    assert end["state"] == whole["state"]
    (nothing,) = post(client, "/score", text="", state=begin["state"], model=model)["scores"]
    assert nothing["tokens"] == 1


@pytest.mark.parametrize(("model", "first", "second"), [("word", "The cat ate", " fi"), ("char", "he sat", " on\nth")])
def test_next_words_go_on_from_a_state(client: httpx.Client, model: str, first: str, second: str) -> None:
    whole = post(client, "/next", text=first + second, model=model, return_state=True)
    state = post(client, "/next", text=first, model=model, return_state=True)["state"]
    assert post(client, "/next", text=second, model=model, state=state, return_state=True) | {"id": ""} == whole | {
        "id": ""
    }


def test_every_choice_returns_its_own_state_and_a_state_applies_to_every_prompt(client: httpx.Client) -> None:
    body = {"seed": 2, "max_tokens": 12, "ignore_eos": True, "return_state": True}
    answer = post(client, "/generate", prompt="The cat", n=3, **body)
    states = [choice["state"] for choice in answer["choices"]]
    assert len(set(states)) == 3
    both = post(client, "/generate", prompt=["", " sat"], state=states[0], **body)["choices"]
    assert both[0] == post(client, "/generate", prompt="", state=states[0], **body)["choices"][0]
    alone = post(client, "/generate", prompt=" sat", state=states[0], **body)["choices"][0]
    assert (both[1]["text"], both[1]["state"]) == (alone["text"], alone["state"])


def test_another_server_of_the_same_model_goes_on_exactly(client: httpx.Client, checkpoints_dir: Path) -> None:
    body = {"prompt": "The", "seed": 6, "max_tokens": 30, "ignore_eos": True, "return_state": True}
    whole = post(client, "/generate", **body | {"max_tokens": 60})["choices"][0]
    first = post(client, "/generate", **body)["choices"][0]
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=2) as other:
        second = post(other, "/generate", **body | {"prompt": "", "state": first["state"]})["choices"][0]
    assert first["text"] + second["text"] == whole["text"]
    assert second["state"] == whole["state"]


def test_a_state_of_another_model_or_a_changed_one_is_refused_with_the_reason(client: httpx.Client) -> None:
    state = post(client, "/generate", prompt="The", max_tokens=0, return_state=True)["choices"][0]["state"]
    changed = state[:40] + ("A" if state[40] != "A" else "B") + state[41:]
    for body, reason in (
        ({"state": changed}, "checksum"),
        ({"state": state[:-3]}, "characters"),
        ({"state": ""}, "characters"),
        ({"state": state, "model": "char"}, "another model|characters"),
    ):
        for route in ("/generate", "/score", "/next"):
            response = client.post(route, json=({"prompt": "a"} if route == "/generate" else {"text": "a"}) | body)
            assert response.status_code == 422
            error = response.json()["error"]
            assert (error["param"], error["code"]) == ("state", "invalid_state")
            assert any(part in error["message"] for part in reason.split("|"))
