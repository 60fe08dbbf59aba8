"""POST /generate: completions, their tokens, streams."""

import json
from typing import Any

import httpx
import pytest

from tests.app.conftest import post


def events(response: httpx.Response) -> list[Any]:
    """The events of a streamed answer, without the closing `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


class TestGenerate:
    def test_same_seed_same_text_and_the_reported_seed_reproduces_it(self, client: httpx.Client) -> None:
        first = post(client, "/generate", prompt="The cat", max_tokens=30, ignore_eos=True)
        again = post(client, "/generate", prompt="The cat", max_tokens=30, ignore_eos=True, seed=first["seed"])
        other = post(client, "/generate", prompt="The cat", max_tokens=30, ignore_eos=True, seed=first["seed"] ^ 1)
        assert first["choices"] == again["choices"] != other["choices"]

    def test_a_stream_gives_the_text_of_the_whole_answer(self, client: httpx.Client) -> None:
        body = {"prompt": ["The cat", "The pear"], "n": 2, "seed": 5, "max_tokens": 20, "stop": ["pear"], "logprobs": 1}
        whole = post(client, "/generate", **body)
        *pieces, end = events(client.post("/generate", json=body | {"stream": True}))
        for choice in whole["choices"]:
            mine = [piece for piece in pieces if piece["index"] == choice["index"]]
            assert "".join(piece["text"] for piece in mine) == choice["text"]
            assert [token for piece in mine for token in piece["tokens"]] == choice["tokens"]
            assert [piece["finish_reason"] for piece in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
            assert {piece["prompt_index"] for piece in mine} == {choice["prompt_index"]}
        assert end["usage"] | {"cached_tokens": 0} == whole["usage"] | {"cached_tokens": 0}
        assert end["seed"] == 5
        assert end["backend"] == whole["backend"]

    def test_a_prompt_in_a_list_answers_as_it_does_alone(self, client: httpx.Client) -> None:
        both = post(client, "/generate", prompt=["The cat", "The pear"], n=2, seed=9, max_tokens=15)
        alone = post(client, "/generate", prompt="The pear", n=2, seed=9, max_tokens=15)
        assert [c["text"] for c in both["choices"][2:]] == [c["text"] for c in alone["choices"]]
        assert [c["prompt_index"] for c in both["choices"]] == [0, 0, 1, 1]
        assert [c["index"] for c in both["choices"]] == [0, 1, 2, 3]

    def test_ignore_eos_gives_exactly_the_tokens_asked_for(self, client: httpx.Client) -> None:
        answer = post(client, "/generate", max_tokens=200, ignore_eos=True, seed=0)
        assert answer["usage"]["completion_tokens"] == 200
        assert answer["choices"][0]["finish_reason"] == "length"

    def test_eos_ends_the_text_and_is_the_last_token_without_text(self, client: httpx.Client) -> None:
        answer = post(client, "/generate", max_tokens=500, seed=0, logprobs=0)
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "eos"
        assert choice["tokens"][-1]["text"] == ""
        assert len(choice["tokens"]) == answer["usage"]["completion_tokens"]
        assert "".join(token["text"] for token in choice["tokens"]) == choice["text"]

    def test_an_eos_that_is_passed_over_is_written_as_the_boundary(self, client: httpx.Client) -> None:
        body = {"max_tokens": 60, "ignore_eos": True, "seed": 3, "logprobs": 0, "logit_bias": {"1": 3}}
        (choice,) = post(client, "/generate", **body)["choices"]
        assert "\n" in choice["text"]
        assert "".join(token["text"] for token in choice["tokens"]) == choice["text"]

    def test_unk_comes_only_when_allowed(self, client: httpx.Client) -> None:
        def drawn(**body: Any) -> set[str]:
            answer = post(client, "/generate", max_tokens=300, ignore_eos=True, n=4, seed=1, logprobs=0, **body)
            return {token["text"].strip() for choice in answer["choices"] for token in choice["tokens"]}

        assert "<unk>" not in drawn()
        assert "<unk>" in drawn(allow_unk=True)

    def test_nothing_is_generated_at_max_tokens_0(self, client: httpx.Client) -> None:
        (choice,) = post(client, "/generate", prompt="The", max_tokens=0)["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "length")

    def test_logprobs_are_the_models_own_whatever_was_filtered(self, client: httpx.Client) -> None:
        answer = post(client, "/generate", prompt="The cat", max_tokens=1, temperature=0, logprobs=3, seed=1)
        (token,) = answer["choices"][0]["tokens"]
        scored = post(client, "/score", text="The cat" + token["text"], eos=False, top=3)
        detail = scored["scores"][0]["details"][-1]
        assert token["id"] == detail["id"]
        assert token["logprob"] == pytest.approx(detail["logprob"], abs=1e-5)
        assert [t["id"] for t in token["top"]] == [t["id"] for t in detail["top"]]

    def test_tokens_are_there_only_when_asked_for(self, client: httpx.Client) -> None:
        assert "tokens" not in post(client, "/generate", max_tokens=2)["choices"][0]

    def test_a_named_model_answers(self, client: httpx.Client) -> None:
        assert post(client, "/generate", model="char", max_tokens=3)["model"] == "char"
