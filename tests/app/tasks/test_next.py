"""POST /next: words and completions."""

import math

import httpx
import pytest

from tests.app.conftest import post


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
