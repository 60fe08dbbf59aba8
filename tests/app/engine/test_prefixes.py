"""Common beginnings are run once, and nothing but the time shows it."""

import random
from typing import Any

import httpx
import numpy as np

from app.engine.prefixes import PrefixCache, cache_keys, share_prefixes
from app.engine.sequence import Sequence
from tests.app.conftest import metric


def post(client: httpx.Client, route: str, **body: Any) -> Any:
    response = client.post(route, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def whole(sequence: Sequence) -> tuple[list[int], list[int | None]]:
    """Inputs and targets of a sequence with its parents put before it."""
    before: tuple[list[int], list[int | None]] = whole(sequence.parent) if sequence.parent else ([], [])
    return before[0] + sequence.inputs, before[1] + sequence.targets


def scoring(*ids: int) -> Sequence:
    return Sequence([1, *ids], targets=[None, *ids, 1])


def test_texts_that_begin_alike_become_a_tree() -> None:
    first, second, third = scoring(5, 6, 7), scoring(5, 6, 8), scoring(9)
    *leaves, root, branch = share_prefixes([first, second, third])
    assert leaves == [first, second, third]
    assert (root.inputs, root.targets, root.parent) == ([1], [None], None)
    assert (branch.inputs, branch.targets, branch.parent) == ([5, 6], [5, 6], root)
    assert (first.inputs, first.targets, first.parent) == ([7], [7, 1], branch)
    assert (third.inputs, third.targets, third.parent) == ([9], [9, 1], root)


def test_a_tree_holds_every_text_whole_and_every_beginning_once() -> None:
    generator = random.Random(0)
    for _ in range(200):
        texts = [
            [generator.randint(2, 4) for _ in range(generator.randint(0, 7))] for _ in range(generator.randint(1, 12))
        ]
        sequences = share_prefixes([scoring(*text) for text in texts])
        for sequence, text in zip(sequences, texts, strict=False):
            assert whole(sequence) == whole(scoring(*text))
        beginnings = {tuple([1, *text][:n]) for text in texts for n in range(1, len(text) + 2)}
        assert sum(len(sequence.inputs) for sequence in sequences) == len(beginnings)


def test_the_tree_of_a_thousand_texts_each_a_token_longer_is_no_deep_recursion() -> None:
    sequences = share_prefixes([scoring(*range(2, n + 2)) for n in range(1024)])
    assert sum(len(sequence.inputs) for sequence in sequences) == 1024


def test_the_cache_finds_the_longest_beginning_and_forgets_the_oldest() -> None:
    prompt = list(range(200))
    keys = cache_keys(prompt)
    assert list(keys) == [64, 128, 192, 200]
    cache = PrefixCache(np.empty((2, 10), np.float32))
    assert cache.find(keys) == (0, None)
    states = {length: np.full(10, float(length), np.float32) for length in keys}
    for length in (64, 192):
        cache.keep(keys[length], states[length])
    assert cache.find(keys)[0] == 192
    assert cache.find(cache_keys([*prompt[:190], 7, 7]))[0] == 64  # used: 192 is now the oldest
    cache.keep(keys[200], states[200])
    length, state = cache.find(keys)
    assert length == 200
    assert state is not None
    assert state.tolist() == states[200].tolist()
    assert cache.find(cache_keys(prompt[:192]))[0] == 64
    nothing = PrefixCache(np.empty((0, 10), np.float32))
    nothing.keep(keys[64], states[64])
    assert nothing.find(keys) == (0, None)


def test_a_warm_cache_changes_the_usage_alone(client: httpx.Client) -> None:
    prompt = "pear cats ate fish. " * 60
    body = {"prompt": prompt, "seed": 3, "max_tokens": 20, "logprobs": 3, "return_state": True, "ignore_eos": True}
    before = metric(client, "carousel_prefix_cache_hits_total")
    cold = post(client, "/generate", **body)
    warm = post(client, "/generate", **body)
    longer = post(client, "/generate", **body | {"prompt": prompt + " The cat"})
    assert warm["choices"] == cold["choices"]
    assert cold["usage"]["cached_tokens"] == 0
    assert warm["usage"]["cached_tokens"] == warm["usage"]["prompt_tokens"]
    assert 0 < longer["usage"]["cached_tokens"] < longer["usage"]["prompt_tokens"]
    assert metric(client, "carousel_prefix_cache_hits_total") == before + 2


def test_short_prompts_and_those_that_only_draw_are_cached_but_for_their_last_token(client: httpx.Client) -> None:
    body = {"prompt": "fish fish pear cat fish cats", "seed": 3, "max_tokens": 20, "ignore_eos": True}
    cold, warm = post(client, "/generate", **body), post(client, "/generate", **body)
    assert warm["choices"] == cold["choices"]
    assert cold["usage"]["cached_tokens"] == 0
    assert warm["usage"]["cached_tokens"] == warm["usage"]["prompt_tokens"] - 1


def test_hypotheses_of_a_list_are_scored_as_alone_in_fewer_steps(client: httpx.Client) -> None:
    texts = [
        f"The cat ate fish. The cats sat! {a} {b}" for a in ("The", "pear") for b in ("cat", "cats", "fish", "", "ate")
    ]
    alone = [post(client, "/score", text=text, tokens=True, return_state=True)["scores"][0] for text in texts]
    before = metric(client, "carousel_prompt_tokens_total")
    together = post(client, "/score", text=texts, tokens=True, return_state=True)["scores"]
    steps = metric(client, "carousel_prompt_tokens_total") - before
    assert together == alone
    assert steps < sum(score["tokens"] for score in alone) / 2


def test_choices_of_a_prompt_share_its_run(client: httpx.Client) -> None:
    prompt = "The cats ate pear. " * 30
    before = metric(client, "carousel_prompt_tokens_total")
    answer = post(client, "/generate", prompt=prompt, n=8, max_tokens=1, seed=1)
    assert metric(client, "carousel_prompt_tokens_total") - before == answer["usage"]["prompt_tokens"] + 1


def test_a_thousand_texts_each_a_beginning_of_the_next(client: httpx.Client) -> None:
    longest = ("he " * 342)[:1024]
    texts = [longest[:length] for length in range(1, 1025)]
    scores = client.post("/score", json={"text": texts, "model": "char"}).json()["scores"]
    (alone,) = client.post("/score", json={"text": longest, "model": "char"}).json()["scores"]
    assert len(scores) == 1024
    assert scores[-1]["logprob"] == alone["logprob"]
    answer = client.post("/generate", json={"prompt": texts, "model": "char", "max_tokens": 1})
    assert answer.status_code == 200
