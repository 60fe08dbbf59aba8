"""POST /score: totals, details, boundaries."""

import math

import httpx
import pytest

from tests.app.conftest import post


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
