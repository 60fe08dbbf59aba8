"""The HTTP contract, over a real socket."""

import json
import math
from typing import Any

import httpx
import pytest

from tests.app.conftest import metric


def post(client: httpx.Client, route: str, **body: Any) -> Any:
    response = client.post(route, json=body)
    assert response.status_code == 200, response.text
    return response.json()


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


class TestScore:
    def test_a_total_is_the_sum_of_its_details(self, client: httpx.Client) -> None:
        (score,) = post(client, "/score", text="The cat ate fish and cats", tokens=True)["scores"]
        assert score["logprob"] == math.fsum(detail["logprob"] for detail in score["details"])
        assert score["tokens"] == len(score["details"]) == 7
        assert score["perplexity"] == pytest.approx(math.exp(-score["logprob"] / 7))
        assert score["perplexity_per_word"] == pytest.approx(math.exp(-score["logprob"] / 7))  # 6 words and <eos>
        assert score["bits_per_character"] == pytest.approx(-score["logprob"] / math.log(2) / 25)
        for detail in score["details"]:
            assert detail["surprisal_bits"] == pytest.approx(-detail["logprob"] / math.log(2))

    def test_alternatives_do_not_change_a_number(self, client: httpx.Client) -> None:
        texts = ["The cat ate fish", "The pear sat on cats"]
        plain = post(client, "/score", text=texts, tokens=True)["scores"]
        with_top = post(client, "/score", text=texts, top=12)["scores"]
        for one, other in zip(plain, with_top, strict=True):
            assert one["logprob"] == other["logprob"]
            for detail in other["details"]:
                assert {top["id"]: top["logprob"] for top in detail["top"]}[detail["id"]] == detail["logprob"]

    def test_offsets_slice_the_text_and_unknown_words_show_themselves(self, client: httpx.Client) -> None:
        text = "The xyzzy sat"
        (score,) = post(client, "/score", text=text, tokens=True)["scores"]
        assert [text[d["start"] : d["end"]] for d in score["details"]] == [d["text"] for d in score["details"]]
        assert [d["text"] for d in score["details"]] == ["The", " xyzzy", " sat", ""]
        assert [d["oov"] for d in score["details"]] == [False, True, False, False]
        assert score["details"][1]["token"] == "<unk>"
        assert score["oov"] == 1
        without = score["logprob"] - score["details"][1]["logprob"]
        assert score["logprob_without_oov"] == pytest.approx(without)

    def test_context_and_text_are_one_text_of_which_the_end_is_scored(self, client: httpx.Client) -> None:
        (whole,) = post(client, "/score", text="The cat ate fish and cats", tokens=True)["scores"]
        (part,) = post(client, "/score", text=" fish and cats", context="The cat ate", tokens=True)["scores"]
        assert [d["logprob"] for d in part["details"]] == pytest.approx([d["logprob"] for d in whole["details"][3:]])
        assert [d["text"] for d in part["details"]] == [" fish", " and", " cats", ""]
        assert part["details"][0]["start"] == 0

    @pytest.mark.parametrize(
        ("bos", "eos", "tokens"), [(True, True, 4), (True, False, 3), (False, True, 3), (False, False, 2)]
    )
    def test_bos_and_eos_say_which_tokens_are_predicted(
        self, client: httpx.Client, bos: bool, eos: bool, tokens: int
    ) -> None:
        (score,) = post(client, "/score", text="The cat sat", bos=bos, eos=eos, tokens=True)["scores"]
        assert score["tokens"] == tokens
        assert (score["details"][0]["logprob"] is None) == (not bos)
        assert len(score["details"]) == 3 + eos

    def test_probabilities_are_the_softmax_of_the_totals(self, client: httpx.Client) -> None:
        answer = post(client, "/score", text=["The cat sat", "cat The The sat", "The"])
        totals = [score["logprob"] for score in answer["scores"]]
        weights = [math.exp(total) for total in totals]
        assert answer["probabilities"] == pytest.approx([weight / sum(weights) for weight in weights])
        assert answer["best"] == totals.index(max(totals))

    def test_the_empty_text_has_an_end_or_nothing(self, client: httpx.Client) -> None:
        (score,) = post(client, "/score", text="")["scores"]
        assert score["tokens"] == 1
        assert score["bits_per_character"] is None
        for bos in (True, False):
            (nothing,) = post(client, "/score", text="", eos=False, bos=bos, tokens=True)["scores"]
            assert (nothing["logprob"], nothing["tokens"], nothing["details"]) == (0.0, 0, [])
            assert nothing["perplexity"] is nothing["perplexity_per_word"] is None

    def test_a_list_is_scored_as_its_texts_alone(self, client: httpx.Client) -> None:
        texts = ["The cat", "The cats ate pear", ""]
        together = post(client, "/score", text=texts)["scores"]
        for text, score in zip(texts, together, strict=True):
            (alone,) = post(client, "/score", text=text)["scores"]
            assert alone["logprob"] == pytest.approx(score["logprob"], abs=1e-5)

    def test_special_tokens_may_be_written_out(self, client: httpx.Client) -> None:
        (score,) = post(client, "/score", text="The <unk><eos>The cat", tokens=True)["scores"]
        assert [d["token"] for d in score["details"]] == ["The", "<unk>", "<eos>", "The", " cat", "<eos>"]

    def test_character_models_score_characters(self, client: httpx.Client) -> None:
        (score,) = post(client, "/score", text="the hen", model="char", tokens=True)["scores"]
        assert [d["text"] for d in score["details"]] == [*"the hen", ""]


class TestNext:
    def test_probabilities_are_those_of_score(self, client: httpx.Client) -> None:
        answer = post(client, "/next", text="The cat", top=50)
        # "The cat" ends in a letter: it is completing "cat".
        assert answer["completing"] == "cat"
        answer = post(client, "/next", text="The cat,", top=50)
        assert answer["completing"] is None
        for word in answer["words"]:
            forms = [
                post(client, "/score", text=form, context="The cat,", eos=False)["scores"][0]
                for form in (word["word"], " " + word["word"])
            ]
            known = [math.exp(form["logprob"]) for form in forms if not form["oov"]]
            assert word["prob"] == pytest.approx(sum(known), rel=1e-4)

    def test_a_begun_word_is_completed_and_renormalised(self, client: httpx.Client) -> None:
        answer = post(client, "/next", text="The c", top=50)
        assert answer["completing"] == "c"
        assert all(word["word"].startswith("c") for word in answer["words"])
        assert sum(word["prob"] for word in answer["words"]) == pytest.approx(1)
        assert answer["coverage"] == pytest.approx(1)

    def test_a_word_nobody_knows_has_no_completion(self, client: httpx.Client) -> None:
        answer = post(client, "/next", text="The xyzzyx")
        assert (answer["words"], answer["coverage"]) == ([], 0)

    def test_special_tokens_are_never_offered_and_punctuation_when_asked(self, client: httpx.Client) -> None:
        plain = {word["word"] for word in post(client, "/next", text="", top=50)["words"]}
        marked = {word["word"] for word in post(client, "/next", text="", top=50, punctuation=True)["words"]}
        assert not {"<unk>", "<eos>", ""} & marked
        assert plain < marked
        assert "." in marked - plain

    def test_character_models_offer_whole_words(self, client: httpx.Client) -> None:
        answer = post(client, "/next", text="the h", model="char", top=5)
        assert answer["completing"] == "h"
        assert len(answer["words"]) == 5
        assert all(word["word"].startswith("h") for word in answer["words"])
        assert 0 < answer["coverage"] <= 1


class TestSystem:
    def test_health_ready_and_info(self, client: httpx.Client) -> None:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json() == {"status": "ready"}
        info = client.get("/info").json()
        assert info["default"] == "word"
        assert {model["name"] for model in info["models"]} == {"word", "char"}
        assert info["models"][0]["card"].startswith("#")
        assert info["refused"] == []
        assert info["limits"]["max_tokens"] == 4096

    def test_metrics_count_tokens(self, client: httpx.Client) -> None:
        before = metric(client, "carousel_generation_tokens_total")
        post(client, "/generate", max_tokens=7, ignore_eos=True)
        assert metric(client, "carousel_generation_tokens_total") == before + 7

    def test_every_route_is_documented_with_its_errors(self, client: httpx.Client) -> None:
        paths = client.get("/openapi.json").json()["paths"]
        for route in ("/generate", "/score", "/next"):
            operation = paths[route]["post"]
            assert "requestBody" in operation
            assert {"200", "400", "404", "422", "429"} <= set(operation["responses"])
        assert client.get("/docs").status_code == 200
