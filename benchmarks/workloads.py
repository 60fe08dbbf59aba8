"""What the clients ask for: texts drawn at random from a vocabulary, seeded, and requests made of them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from random import Random
from typing import Any

from models.text.tokenizer import Tokenizer

Number = Callable[[int], int]
"""How many of something a run of full length needs -> how many this one makes."""


@dataclass(frozen=True)
class Workload:
    """Requests to one route. warmup: what each client sends before the measurement. once: no body is sent twice,
    because a cache would know it."""

    path: str
    bodies: list[str]
    warmup: str
    stream: bool = False
    once: bool = True


class Texts:
    """Random texts of a vocabulary. Common ids are likelier, as in language."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._random = Random(seed)
        self._ids = [token_id for token_id, token in enumerate(tokenizer.tokens) if self._joins(token)]

    def _joins(self, token: str) -> bool:
        """Whether a token is one token wherever it stands: a word with its space; a character but a line end."""
        if self._tokenizer.level == "char":
            return len(token) == 1 and token != "\n"
        return token.startswith(" ") and token[1:].isalpha()

    def ids(self, tokens: int) -> list[int]:
        return [self._ids[int(len(self._ids) * self._random.random() ** 2)] for _ in range(tokens)]

    def text(self, tokens: int) -> str:
        return self._tokenizer.decode(self.ids(tokens))

    def fresh(self, tokens: int) -> Iterator[str]:
        """Texts without end that differ from the beginning on, made of one tail: fast to make, new to a cache."""
        tail = self.text(max(1, tokens - 6))
        while True:
            yield self.text(6) + tail

    @property
    def sentence_tokens(self) -> int:
        """A sentence has some 25 words."""
        return 100 if self._tokenizer.level == "char" else 25

    def variants(self, n: int) -> list[str]:
        """An n-best list: hypotheses that differ in one place, half of them in the second half of the sentence."""
        ids = self.ids(self.sentence_tokens)
        lists = [ids]
        for other in self.ids(n - 1):
            place = int(len(ids) * self._random.random() ** 0.5)
            lists.append([*ids[:place], other, *ids[place + 1 :]])
        return [self._tokenizer.decode(changed) for changed in lists]

    def typed(self) -> Iterator[str]:
        """Texts as they grow under somebody's fingers."""
        while True:
            sentence = self.text(self.sentence_tokens)
            yield from (sentence[:end] for end in range(1, len(sentence) + 1))


def make_workload(name: str, tokenizer: Tokenizer, seed: int, scale: float = 1.0) -> Workload:
    """A workload by name; `scale` shortens its lists of bodies (a smoke run needs few)."""
    return _WORKLOADS[name](Texts(tokenizer, seed), lambda number: max(8, int(number * scale)))


def _generate(bodies: list[dict[str, Any]], stream: bool = False, once: bool = True) -> Workload:
    def encoded(body: dict[str, Any]) -> str:
        return json.dumps({"ignore_eos": True, "stream": stream, **body})

    warmup = {**bodies[-1], "max_tokens": min(2, bodies[-1]["max_tokens"])}
    return Workload("/generate", [encoded(body) for body in bodies[:-1]], encoded(warmup), stream, once)


def _texts_of(path: str, texts: list[Any]) -> Workload:
    bodies = [json.dumps({"text": text}) for text in texts]
    return Workload(path, bodies[:-1], bodies[-1])


def _decode(texts: Texts, number: Number) -> Workload:
    """Many tokens after a short prompt."""
    prompts = [texts.text(8) for _ in range(number(512))]
    return replace(_generate([{"prompt": prompt, "max_tokens": 64} for prompt in prompts]), once=False)


def _prefill(texts: Texts, number: Number) -> Workload:
    """Few tokens after a long prompt that no cache knows."""
    return _generate([{"prompt": p, "max_tokens": 8} for p in islice(texts.fresh(512), number(4000))])


def _mixed(texts: Texts, number: Number) -> Workload:
    """In turn: a chat line, a long document, a medium one."""
    kinds = [(8, 64), (512, 16), (64, 64), (8, 128)]
    sources = [texts.fresh(prompt) for prompt, _ in kinds]
    choices = islice((i % len(kinds) for i in count()), number(4000))
    return _generate([{"prompt": next(sources[i]), "max_tokens": kinds[i][1]} for i in choices])


def _long_prompt(texts: Texts, number: Number) -> Workload:
    return _generate([{"prompt": p, "max_tokens": 4} for p in islice(texts.fresh(2000), number(40))], stream=True)


def _long_prompt_again(texts: Texts, number: Number) -> Workload:
    prompt = texts.text(2000)
    return _generate([{"prompt": prompt, "max_tokens": 4}] * number(40), stream=True, once=False)


def _streamed(workload: Workload) -> Workload:
    on = [body.replace('"stream": false', '"stream": true') for body in (*workload.bodies, workload.warmup)]
    return replace(workload, bodies=on[:-1], warmup=on[-1], stream=True)


def _sentences(texts: Texts, number: int, length: int) -> list[list[str]]:
    source = texts.fresh(texts.sentence_tokens)
    return [list(islice(source, length)) for _ in range(number)]


_WORKLOADS: dict[str, Callable[[Texts, Number], Workload]] = {
    "decode": _decode,
    "decode-stream": lambda texts, number: _streamed(_decode(texts, number)),
    "prefill": _prefill,
    "mixed-stream": lambda texts, number: _streamed(_mixed(texts, number)),
    "prompt-cold": _long_prompt,
    "prompt-warm": _long_prompt_again,
    "score": lambda texts, number: _texts_of("/score", [s for [s] in _sentences(texts, number(20_000), 1)]),
    "score-list64": lambda texts, number: _texts_of("/score", _sentences(texts, number(600), 64)),
    "unrelated10": lambda texts, number: _texts_of("/score", _sentences(texts, number(3000), 10)),
    "nbest10": lambda texts, number: _texts_of("/score", [texts.variants(10) for _ in range(number(3000))]),
    "nbest10-apart": lambda texts, number: _texts_of(
        "/score", [text for _ in range(number(2000)) for text in texts.variants(10)]
    ),
    "next": lambda texts, number: _texts_of("/next", list(islice(texts.typed(), number(8000)))),
}
