"""The library answers as the server does, from any thread."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest
from pydantic import BaseModel

import carousel
from app.http.streaming import encode
from app.tasks.generate import GenerateRequest
from carousel.included import INCLUDED, find_model
from carousel.options import GenerateOptions
from tests.app.conftest import serving

TEXTS = ["The cat sat.", "The cats ate pear!", "", "The dog ate"]


@pytest.fixture(scope="module")
def server(checkpoints_dir: Path) -> Any:
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1) as client:
        yield client


def same(answer: BaseModel, server: httpx.Client, route: str, **body: Any) -> bool:
    """Whether the server gives the same answer, its id aside, to the last bit."""
    ours = answer.model_validate_json(encode(answer))
    theirs = type(answer).model_validate_json(server.post(route, json=body).content)
    return ours.model_copy(update={"id": ""}) == theirs.model_copy(update={"id": ""})


class TestSameAsServer:
    def test_score(self, lm: carousel.LanguageModel, server: httpx.Client) -> None:
        answer = lm.score(TEXTS, context="The ", tokens=True, top=3, return_state=True).response
        body = {"text": TEXTS, "context": "The ", "tokens": True, "top": 3, "return_state": True}
        assert same(answer, server, "/score", **body)

    @pytest.mark.parametrize("model", ["word", "char"])
    def test_next(self, model: str, request: pytest.FixtureRequest, server: httpx.Client) -> None:
        lm = request.getfixturevalue("lm" if model == "word" else "char_lm")
        answer = lm.next("the c", top=4, punctuation=True, return_state=True).response
        body = {"text": "the c", "model": model, "top": 4, "punctuation": True, "return_state": True}
        assert same(answer, server, "/next", **body)

    def test_generate(self, lm: carousel.LanguageModel, server: httpx.Client) -> None:
        options: GenerateOptions = {
            "n": 3,
            "seed": 7,
            "temperature": 1.3,
            "top_k": 5,
            "return_state": True,
            "stop": [" sat"],
            "logprobs": 2,
        }
        answer = lm.generate(["The", ""], **options).response
        body = {"prompt": ["The", ""], **options}
        # what the prefix cache spared depends on what was asked before
        theirs = server.post("/generate", json=body).json()
        assert answer.model_validate_json(encode(answer)).choices == type(answer).model_validate(theirs).choices

    def test_rescore(self, lm: carousel.LanguageModel, server: httpx.Client) -> None:
        answer = lm.rescore([("The cat", -1.0), {"text": "The cats", "score": -1.5}], weight=0.7, length_weight=0.1)
        hypotheses = [{"text": "The cat", "score": -1.0}, {"text": "The cats", "score": -1.5}]
        body = {"hypotheses": hypotheses, "weight": 0.7, "length_weight": 0.1}
        assert same(answer.response, server, "/rescore", **body)

    def test_a_state_goes_from_the_library_to_the_server(
        self, lm: carousel.LanguageModel, server: httpx.Client
    ) -> None:
        state = lm.state(" sat", state=lm.state("The cat"))
        there = server.post("/score", json={"text": "!", "state": state}).json()["scores"][0]["logprob"]
        assert there == lm.score("!", state=state)[0].logprob == lm.score("!", context="The cat sat")[0].logprob


def test_pieces_of_a_stream_are_the_generated_text(lm: carousel.LanguageModel) -> None:
    pieces = []

    def read() -> Any:
        end = yield from lm.stream("The", seed=3, max_tokens=12, ignore_eos=True)
        assert (end.seed, end.usage.completion_tokens) == (3, 12)

    pieces = list(read())
    assert len(pieces) == 12
    assert pieces[-1].finish_reason == "length"
    whole = lm.generate("The", seed=3, max_tokens=12, ignore_eos=True)[0].text
    assert "".join(piece.text for piece in pieces) == whole


def test_a_stream_that_is_left_early_is_cancelled(lm: carousel.LanguageModel) -> None:
    stream = lm.stream("The", max_tokens=10**9, ignore_eos=True)
    assert next(stream).text
    stream.close()
    assert lm.next("The")  # the engine works for others


def test_threads_share_a_model(lm: carousel.LanguageModel) -> None:
    expected = [lm.score(text)[0].logprob for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: lm.score(text)[0].logprob, TEXTS * 50))
    assert found == expected * 50


def test_limits_of_a_server_do_not_apply(lm: carousel.LanguageModel) -> None:
    assert len(lm.score(["The cat"] * 1025)) == 1025
    assert len(lm.next("The", top=60)) > 0
    assert len(lm.generate("The", n=65, max_tokens=1)) == 65


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda lm: lm.score([]), "text"),
        (lambda lm: lm.score(3), "text"),
        (lambda lm: lm.score("a", state="no state"), "state"),
        (lambda lm: lm.next("a", top=0), "top"),
        (lambda lm: lm.generate("a", temperature=11), "temperature"),
        (lambda lm: lm.generate("a", logit_bias={"9999": 1.0}), "logit_bias.9999"),
        (lambda lm: lm.generate("a", stop=[""]), "stop.0"),
        (lambda lm: lm.generate("a", warmth=1), "warmth"),
        (lambda lm: lm.generate("a", allow_unk="spell"), "allow_unk"),
        (lambda lm: next(lm.stream("a", max_tokens=-1)), "max_tokens"),
        (lambda lm: lm.rescore([]), "hypotheses"),
        (lambda lm: lm.rescore([("a", float("nan"))]), "hypotheses.0.score"),
    ],
)
def test_a_wrong_argument_is_named(lm: carousel.LanguageModel, call: Callable[[Any], Any], param: str) -> None:
    with pytest.raises(carousel.Error) as raised:
        call(lm)
    assert raised.value.param == param


class TestLoad:
    def test_an_unknown_name_lists_the_included_models(self) -> None:
        with pytest.raises(carousel.Error, match="english-word") as raised:
            carousel.load("no-such-model")
        assert raised.value.param == "name_or_path"

    def test_an_included_name_wins_over_a_folder_without_a_slash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "english-word").mkdir()
        monkeypatch.chdir(tmp_path)
        assert find_model("english-word") == INCLUDED / "english-word"
        assert find_model("./english-word") == tmp_path / "english-word"

    def test_a_folder_that_is_no_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(carousel.Error, match=r"config\.json"):
            carousel.load(tmp_path)

    def test_threads_are_counted_from_one(self, checkpoints_dir: Path) -> None:
        with pytest.raises(carousel.Error, match="threads"):
            carousel.load(checkpoints_dir / "word", threads=0)

    def test_the_environment_has_no_effect(self, checkpoints_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAROUSEL_DTYPE", "nonsense")
        with carousel.load(checkpoints_dir / "word", dtype="float32", threads=1) as lm:
            assert lm.backend == "cpu-float32"


class TestClose:
    def test_ends_the_threads(self, checkpoints_dir: Path) -> None:
        before = threading.active_count()
        lm = carousel.load(checkpoints_dir / "word", threads=1)
        assert threading.active_count() == before + 2
        lm.close()
        lm.close()
        assert threading.active_count() == before
        with pytest.raises(carousel.Error, match="closed"):
            lm.score("The cat")

    def test_a_model_that_is_forgotten_is_closed(self, checkpoints_dir: Path) -> None:
        before = threading.active_count()
        lm = carousel.load(checkpoints_dir / "word", threads=1)
        assert lm.score("The cat")
        del lm
        assert threading.active_count() == before

    def test_ends_what_is_under_way(self, checkpoints_dir: Path) -> None:
        lm = carousel.load(checkpoints_dir / "word", threads=1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lm.generate, "The", max_tokens=10**9, ignore_eos=True)
            next(lm.stream("The", ignore_eos=True))  # the engine is at work
            lm.close()
            with pytest.raises(carousel.Error):
                waiting.result(10)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_forked_child_is_told_to_load_its_own(self, lm: carousel.LanguageModel) -> None:
        child = os.fork()
        if child == 0:
            try:
                lm.score("The cat")
            except carousel.Error as error:
                os._exit(0 if "fork" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


def test_options_are_the_fields_of_generate() -> None:
    fields = set(GenerateRequest.model_fields) - {"prompt", "model", "stream"}
    assert set(get_type_hints(GenerateOptions)) == fields
