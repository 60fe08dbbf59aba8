"""The OpenAI routes, called by the `openai` client over a real socket; and the helpers that harnesses call."""

import http.client
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Completion

from models.checkpoint.format import save_checkpoint
from models.text.levels import Level
from tests.app.conftest import serving
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def server(checkpoints_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Serves `word`, `char`, `bpe` and `split`."""
    root = tmp_path_factory.mktemp("three")
    for path in checkpoints_dir.iterdir():
        (root / path.name).symlink_to(path)
    levels: list[Level] = ["bpe", "split"]
    for level in levels:
        tokenizer = tiny_tokenizer(level)
        save_checkpoint(root / level, tiny_model(len(tokenizer)), tokenizer, about={"created": "2026-11-21"})
    with serving(checkpoints=root, default_model="word", threads=1) as client:
        yield client


def client_of(server: httpx.Client, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(server: httpx.Client) -> OpenAI:
    return client_of(server)


def create(client: OpenAI, **body: Any) -> Completion:
    answer: Completion = client.completions.create(**{"model": "word"} | body)
    return answer


class TestCompletions:
    def test_draws_what_generate_draws(self, client: OpenAI, server: httpx.Client) -> None:
        wishes = {"prompt": "The cat", "max_tokens": 30, "seed": 3, "temperature": 0.7, "n": 2, "top_p": 0.9}
        native = server.post("/generate", json=wishes).json()
        found = create(client, **wishes)
        assert [c.text for c in found.choices] == [c["text"] for c in native["choices"]]
        assert found.usage is not None
        assert found.usage.completion_tokens == native["usage"]["completion_tokens"]
        assert found.usage.total_tokens == found.usage.completion_tokens + 2
        assert found.system_fingerprint == native["backend"]
        assert {c.finish_reason for c in found.choices} <= {"stop", "length"}

    def test_sixteen_tokens_unless_asked_for_more(self, client: OpenAI) -> None:
        found = create(client, prompt="The", extra_body={"ignore_eos": True})
        assert found.usage is not None
        assert found.usage.completion_tokens == 16

    def test_the_four_forms_of_a_prompt_answer_alike(self, client: OpenAI, server: httpx.Client) -> None:
        texts = ["The cat", " pear"]
        ids = [server.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in texts]
        alone = [create(client, prompt=text, seed=1, max_tokens=9).choices[0].text for text in texts]
        as_ids = [create(client, prompt=one, seed=1, max_tokens=9).choices[0].text for one in ids]
        together = create(client, prompt=texts, seed=1, max_tokens=9)
        ids_together = create(client, prompt=ids, seed=1, max_tokens=9)
        assert alone == as_ids == [c.text for c in together.choices] == [c.text for c in ids_together.choices]
        assert [c.index for c in together.choices] == [0, 1]

    def test_the_start_symbol_in_token_ids_is_not_doubled(self, client: OpenAI, server: httpx.Client) -> None:
        info = server.get("/tokenizer_info").json()
        ids = server.post("/tokenize", json={"prompt": "The cat"}).json()["tokens"]
        wishes = {"seed": 1, "max_tokens": 9, "echo": True}
        bare, started = (create(client, prompt=one, **wishes) for one in (ids, [info["bos_token_id"], *ids]))
        assert bare.choices[0].text == started.choices[0].text

    def test_a_boundary_that_a_text_begins_with_is_its_own(self, client: OpenAI, server: httpx.Client) -> None:
        wishes = {"prompt": "\nThe cat", "max_tokens": 12, "seed": 6}
        native = server.post("/generate", json=wishes).json()["choices"][0]["text"]
        assert create(client, **wishes).choices[0].text == native

    def test_best_of_returns_the_likeliest_by_token(self, client: OpenAI) -> None:
        def mean(choice: Any) -> float:
            return float(sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs))

        wishes: dict[str, Any] = {"prompt": "The", "seed": 4, "max_tokens": 6, "logprobs": 0}
        every = create(client, n=8, **wishes).choices
        best = create(client, n=2, best_of=8, **wishes).choices
        assert [c.text for c in best] == [c.text for c in sorted(every, key=mean, reverse=True)[:2]]
        assert [c.index for c in best] == [0, 1]
        del wishes["logprobs"]
        unreported = create(client, n=2, best_of=8, **wishes).choices
        assert [(c.text, c.logprobs) for c in unreported] == [(c.text, None) for c in best]

    def test_null_stands_for_every_default_and_unknown_fields_are_ignored(self, server: httpx.Client) -> None:
        fields = server.get("/openapi.json").json()["components"]["schemas"]["CompletionRequest"]["properties"]
        body = dict.fromkeys(fields) | {"prompt": "The cat", "some_new_field": {"a": 1}}
        assert server.post("/v1/completions", json=body).status_code == 200
        assert server.post("/v1/completions", json={}).status_code == 200

    def test_requests_of_load_generators_are_accepted(self, server: httpx.Client) -> None:
        common = {"model": "word", "prompt": "The cat", "stream": True}
        bench = {
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": 8,
            "logprobs": None,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        guide = {
            "max_tokens": 8,
            "stop": None,
            "ignore_eos": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        for body in (bench, guide):
            *chunks, last = _chunks(server.post("/v1/completions", json=common | body))
            assert last["choices"] == []
            assert last["usage"]["completion_tokens"] == 8
            assert len(chunks) == 8
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == 8

    def test_an_empty_bearer_is_accepted_where_no_keys_are_asked_for(self, server: httpx.Client) -> None:
        connection = http.client.HTTPConnection(server.base_url.host, server.base_url.port)
        connection.request("POST", "/v1/completions", b'{"prompt": "The"}', {"Authorization": "Bearer "})
        assert connection.getresponse().status == 200
        connection.close()


class TestLogprobs:
    def test_an_echoed_prompt_has_the_logprobs_of_score(self, client: OpenAI, server: httpx.Client) -> None:
        text = "The cat xylophone sat"
        details = server.post("/score", json={"text": text, "eos": False, "tokens": True}).json()["scores"][0][
            "details"
        ]
        choice = create(client, prompt=text, echo=True, max_tokens=0, logprobs=2).choices[0]
        assert choice.text == text
        assert choice.finish_reason == "length"
        shown = choice.logprobs
        assert shown is not None
        assert shown.token_logprobs == [None, *(detail["logprob"] for detail in details[1:])]
        assert shown.tokens == [detail["text"] for detail in details]
        assert shown.text_offset == [detail["start"] for detail in details]
        assert shown.top_logprobs is not None
        assert shown.top_logprobs[0] is None

    @pytest.mark.parametrize("logprobs", [0, 1, 3])
    def test_alternatives_hold_the_token_itself_with_the_same_number(self, client: OpenAI, logprobs: int) -> None:
        wishes = {"prompt": "The cat", "seed": 2, "extra_body": {"ignore_eos": True}}
        shown = create(client, echo=True, max_tokens=40, logprobs=logprobs, **wishes).choices[0].logprobs
        assert shown is not None
        assert shown.tokens is not None
        assert shown.top_logprobs is not None
        assert len(shown.tokens) == 42
        ranks = set()
        for token, logprob, top in list(zip(shown.tokens, shown.token_logprobs or [], shown.top_logprobs, strict=True))[
            1:
        ]:
            assert top[token] == logprob
            assert logprobs <= len(top) <= logprobs + 1 or len(top) == 1
            ranks.add(logprob == max(top.values()))
        assert logprobs == 0 or ranks == {True, False}

    def test_one_token_is_reported_also_when_it_is_the_end(self, client: OpenAI, server: httpx.Client) -> None:
        eos_id = server.get("/tokenizer_info").json()["eos_token_id"]
        found = create(client, prompt="The cat", echo=True, max_tokens=1, logprobs=1, logit_bias={str(eos_id): 100})
        choice = found.choices[0]
        assert choice.text == "The cat"
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == ["The", " cat", "<eos>"]

    @pytest.mark.parametrize("model", ["bpe", "char", "word"])
    def test_offsets_point_at_the_tokens_in_text_of_any_width(self, client: OpenAI, model: str) -> None:
        wishes = {"prompt": "the né𝄞w", "seed": 1, "max_tokens": 60, "extra_body": {"ignore_eos": True}}
        choice = create(client, model=model, echo=True, logprobs=1, **wishes).choices[0]
        assert choice.logprobs is not None
        tokens, offsets = choice.logprobs.tokens, choice.logprobs.text_offset
        assert tokens is not None
        assert offsets is not None
        assert offsets == sorted(offsets)
        placed = [(token, offset) for token, offset in zip(tokens, offsets, strict=True) if token.isascii()]
        placed = [(token, offset) for token, offset in placed if not token.startswith(("bytes:", "<"))]
        assert len(placed) > 10
        for token, offset in placed:
            assert choice.text[offset : offset + len(token)] == token

    def test_tokens_between_spaces_are_shown_as_they_stand(self, client: OpenAI) -> None:
        choice = create(client, model="split", prompt="the  cat\nzat", echo=True, max_tokens=0, logprobs=0).choices[0]
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == ["the", "cat", "<eos>", "zat"]
        assert choice.logprobs.text_offset == [0, 5, 8, 9]

    def test_bytes_that_are_no_text_have_names_of_their_own(self, client: OpenAI) -> None:
        choice = create(client, model="bpe", prompt="é", echo=True, max_tokens=0, logprobs=20).choices[0]
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == ["bytes:\\xc3", "bytes:\\xa9"]
        assert choice.logprobs.top_logprobs is not None
        assert len(choice.logprobs.top_logprobs[1]) in (20, 21)


def _chunks(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


class TestStreams:
    def test_chunks_put_together_are_the_whole_answer(self, client: OpenAI) -> None:
        wishes: dict[str, Any] = {"prompt": ["The cat", "pear"], "n": 2, "seed": 5, "logprobs": 2, "max_tokens": 12}
        for echo in (True, False):
            whole = create(client, echo=echo, **wishes)
            chunks = list(client.completions.create(model="word", echo=echo, stream=True, **wishes))
            for choice in whole.choices:
                mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
                assert "".join(c.text for c in mine) == choice.text
                assert choice.logprobs is not None
                for key, values in choice.logprobs.model_dump().items():
                    assert [one for c in mine for one in getattr(c.logprobs, key)] == values
                assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
                assert all(len(c.logprobs.tokens or []) == 1 for c in mine[echo:] if c.logprobs)

    def test_usage_comes_last_and_only_when_asked_for(self, client: OpenAI) -> None:
        wishes: dict[str, Any] = {"model": "word", "prompt": "The", "seed": 1, "stream": True}
        assert all(chunk.usage is None for chunk in client.completions.create(**wishes))
        *chunks, last = client.completions.create(stream_options={"include_usage": True}, **wishes)
        assert all(chunk.usage is None for chunk in chunks)
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == len(chunks)

    def test_a_stream_of_the_prompt_alone(self, client: OpenAI) -> None:
        chunks = list(client.completions.create(model="word", prompt="The cat", echo=True, max_tokens=0, stream=True))
        assert [(c.choices[0].text, c.choices[0].finish_reason) for c in chunks] == [("The cat", "length")]


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"temperature": -1}, "temperature"),
            ({"suffix": " end"}, "suffix"),
            ({"n": 3, "best_of": 2}, "best_of"),
            ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
            ({"prompt": [1, "a"]}, "prompt"),
            ({"prompt": [[1], [99_999]]}, "prompt.1.0"),
            ({"prompt": []}, "prompt"),
            ({"max_tokens": 1_000_000}, "max_tokens"),
            ({"logprobs": 21}, "logprobs"),
            ({"logit_bias": {"cat": 1}}, "logit_bias"),
            ({"logit_bias": {"99999": 1}}, "logit_bias.99999"),
            ({"best_of": 100}, "best_of"),
            ({"prompt": [10**400]}, "prompt.0.0"),
            ({"prompt": [[1] * 2000], "echo": True, "logprobs": 20, "max_tokens": 4000}, "logprobs"),
        ],
    )
    def test_wrong_values_are_unprocessable_and_named(self, client: OpenAI, body: dict[str, Any], param: str) -> None:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            create(client, **{"prompt": "The"} | body)
        assert caught.value.param == param
        assert param.split(".")[0] in caught.value.message

    def test_unknown_model_is_not_found(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="no model is called 'gpt-9'"):
            create(client, model="gpt-9", prompt="The")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")

    def test_a_body_that_is_not_json_is_a_bad_request(self, server: httpx.Client) -> None:
        response = server.post("/v1/completions", content=b"{")
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "malformed_json"

    def test_what_is_no_text_is_unprocessable(self, server: httpx.Client) -> None:
        response = server.post("/v1/completions", content=rb'{"prompt": ["fine", "\ud800"]}')
        assert response.status_code == 422
        assert "surrogate" in response.json()["error"]["message"]

    def test_keys_are_asked_for_where_there_are_any(self, checkpoints_dir: Path) -> None:
        with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys="right") as server:
            for call in (lambda c: create(c, prompt="The"), lambda c: c.models.list()):
                with pytest.raises(openai.AuthenticationError):
                    call(client_of(server, "wrong"))
                call(client_of(server, "right"))
            for route in ("/tokenize", "/detokenize"):
                assert server.post(route, json={"prompt": "a", "tokens": []}).status_code == 401
            assert server.get("/tokenizer_info").status_code == 401

    def test_too_many_requests_is_a_rate_limit(self, checkpoints_dir: Path) -> None:
        with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, max_requests=1) as server:
            client = client_of(server)
            running = client.completions.create(
                model="word", prompt="The", stream=True, max_tokens=4096, extra_body={"ignore_eos": True}, logprobs=20
            )
            next(iter(running))
            with pytest.raises(openai.RateLimitError) as caught:
                create(client, prompt="The")
            assert int(caught.value.response.headers["Retry-After"]) >= 1
            running.close()


class TestModelsAndTokens:
    def test_models_are_listed_the_default_one_first(self, client: OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["word", "bpe", "char", "split"]
        assert client.models.retrieve("bpe").created > 1_700_000_000

    @pytest.mark.parametrize("model", ["word", "char", "bpe"])
    def test_tokens_and_back(self, server: httpx.Client, model: str) -> None:
        text = {"word": "The cat sat!\npear", "char": "he sat on\nthe", "bpe": "lower né\U0001d11e"}[model]
        answer = server.post("/tokenize", json={"prompt": text, "model": model, "return_token_strs": True}).json()
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        back = server.post("/detokenize", json={"tokens": answer["tokens"], "model": model}).json()
        assert back == {"prompt": text}

    def test_nothing_is_added_and_a_beginning_is_cut_alike(self, server: httpx.Client) -> None:
        def tokens(text: str) -> list[int]:
            found: list[int] = server.post("/tokenize", json={"prompt": text, "add_special_tokens": True}).json()[
                "tokens"
            ]
            return found

        eos_id = server.get("/tokenizer_info").json()["eos_token_id"]
        assert eos_id not in tokens("The cat")
        assert tokens("The cat sat!")[:2] == tokens("The cat")
        assert tokens("") == []

    def test_wrong_ids_are_named(self, server: httpx.Client) -> None:
        response = server.post("/detokenize", json={"tokens": [1, 12345]})
        assert response.status_code == 422
        assert response.json()["error"]["param"] == "tokens.1"

    def test_logprobs_sum_to_the_score(self, client: OpenAI, server: httpx.Client) -> None:
        """As evaluation harnesses do it: the start symbol as context, one token too many asked for."""
        info = server.get("/tokenizer_info").json()
        ids = server.post("/tokenize", json={"prompt": "The cat sat!"}).json()["tokens"]
        found = create(client, prompt=[info["bos_token_id"], *ids], echo=True, max_tokens=1, logprobs=1)
        shown = found.choices[0].logprobs
        assert shown is not None
        assert shown.token_logprobs is not None
        score = server.post("/score", json={"text": "The cat sat!", "eos": False}).json()["scores"][0]
        assert math.fsum(shown.token_logprobs[1:-1]) == score["logprob"]
