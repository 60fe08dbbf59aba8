"""Are the answers of two source trees the same? By equality of bytes: for when code moves and nothing else may.

    python benchmarks/same_answers.py record --python old/.venv/bin/python --tree old --out old.jsonl
    python benchmarks/same_answers.py record --python new/.venv/bin/python --tree new --out new.jsonl
    python benchmarks/same_answers.py compare old.jsonl new.jsonl

`record` asks real servers of a tree 500 things, one after another and some at once, and runs its commands on small
files. `trainings` and `compare-trainings` do the same for short trainings and what they write. A tree is asked by HTTP
and by command line alone, so its modules may be called what they like, and this file may be a copy outside both trees.

What differs from one run to the next is left out: ids, times, a seed that was not given, figures of speed. The prefix
cache makes `cached_tokens` depend on what was asked before; it is left out where requests run at once, and stays
elsewhere.
"""

import fnmatch
import hashlib
import http.client
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

HOST = "127.0.0.1"

REQUESTS = 500

AT_ONCE = 8
"""Requests under way together, of those that are asked together."""

START_SECONDS, ANSWER_SECONDS, COMMAND_SECONDS = 300, 300, 1800

SHOWN = 70
"""Characters of each side that a difference shows."""

THREADS = 2
"""Of a network step and of a training: the trees get the same number whatever the machine has."""

_FRACTION = re.compile(r"-?\d+\.\d+(?:[eE][-+]?\d+)?")

HEADERS = (
    "content-type",
    "retry-after",
    "www-authenticate",
    "allow",
    "cache-control",
    "x-accel-buffering",
    "content-security-policy",
    "x-content-type-options",
)

progress = Console(stderr=True, highlight=False)

app = typer.Typer(help="Compare the answers of two source trees.", no_args_is_help=True, add_completion=False)


# -- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class From:
    """A value of an earlier answer, to be put into a request. spoiled: with one character changed."""

    name: str
    path: tuple[str | int, ...]
    spoiled: bool = False

    def describe(self) -> dict[str, Any]:
        return {"from": self.name, "path": list(self.path), "spoiled": self.spoiled}


@dataclass(frozen=True)
class Ask:
    """One request. body: what JSON is made of, with `From` in it; bytes are sent as they are.

    server: which of `SERVERS` is asked. together: with others at once. chunked: without a content length. busy: while
    another request holds the only place.
    """

    name: str
    path: str
    body: Any = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    server: str = "default"
    together: bool = False
    chunked: bool = False
    busy: bool = False

    def describe(self) -> dict[str, Any]:
        """What is recorded of it."""
        body = self.body
        if isinstance(body, bytes):
            body = {"bytes": len(body), "sha256": _digest(body), "beginning": body[:200].decode(errors="replace")}
        plain = json.loads(json.dumps(body, default=lambda value: value.describe()))
        shown = {"server": self.server, "method": self.method, "path": self.path, "body": plain}
        return shown | ({"headers": self.headers} if self.headers else {})


@dataclass(frozen=True)
class Subject:
    """A model, and texts that suit it. ids: some tokens. stop: a string that its texts soon contain."""

    name: str
    prompt: str
    other: str
    begun: str
    ids: tuple[int, ...]
    stop: str

    @property
    def long(self) -> str:
        """A text of several hundred tokens."""
        return " ".join(f"{self.other} {self.prompt}" for _ in range(24)) + " " + self.other


SUBJECTS = (
    Subject("english-word", "The old man", "Cats average 15", "The old ma", (109, 115, 78, 2, 137), "."),
    Subject("english-speech", "the old man", "i do not know what", "the old ma", (97, 68, 120), " the"),
    Subject("shakespeare-char", "ROMEO:\nWhat", "First Citizen:\nBefore we", "What sa", (31, 7, 3, 2, 5), "\n"),
)

UNKNOWN = "The zyxqv flobbered a Brobdingnagian quuxity."
UNICODE = "Café naïve — “quotes” 中文 🙂 e\u0301"
SYMBOLS = "<unk> and <eos> here"
BLANK = "  \n\t x \r\n"
CONTROL = "a\u0000b\u0007c\u007f"

LIMITED: dict[str, str] = {
    "CAROUSEL_API_KEYS": "first-key, second-key",
    "CAROUSEL_CHECKPOINTS": "{temp}/checkpoints",
    "CAROUSEL_DEFAULT_MODEL": "shakespeare-char",
    "CAROUSEL_MAX_BODY_BYTES": "20000",
    "CAROUSEL_MAX_TOKENS": "1000000",
    "CAROUSEL_MAX_TEXTS": "8",
    "CAROUSEL_MAX_CHOICES": "8",
    "CAROUSEL_MAX_LOGPROBS": "2",
    "CAROUSEL_MAX_TOP": "3",
    "CAROUSEL_MAX_STOP": "2",
    "CAROUSEL_MAX_STOP_CHARACTERS": "4",
    "CAROUSEL_MAX_LOGIT_BIAS": "2",
    "CAROUSEL_MAX_REPORTED": "50",
    "CAROUSEL_MAX_REQUESTS": "1",
    "CAROUSEL_MAX_ROWS": "2",
    "CAROUSEL_PROMPT_TOKENS_PER_STEP": "16",
    "CAROUSEL_PREFIX_CACHE_BYTES": "0",
    "CAROUSEL_TIMEOUT_SECONDS": "60",
}

SERVERS: dict[str, dict[str, str]] = {
    "default": {},
    "float32": {"CAROUSEL_DTYPE": "float32"},
    "bfloat16": {"CAROUSEL_DTYPE": "bfloat16"},
    "limited": LIMITED,
}
"""Settings of the servers that are asked, one after another."""

KEY = {"Authorization": "Bearer second-key"}

HOLD: dict[str, Any] = {"seed": 1, "n": 8, "max_tokens": 1_000_000, "ignore_eos": True, "stream": True}
"""A request to /generate that takes longer than all that is asked meanwhile."""


def all_asks() -> list[Ask]:
    """In the order in which they are asked; those that go together come last on their server."""
    asks = [*_system(), *_numbers(), *_limited()]
    for subject in SUBJECTS:
        asks += [*_generate(subject), *_states(subject), *_next(subject), *_score(subject), *_rescore(subject)]
        asks += [*_completions(subject), *_tokens(subject)]
    asks += [*_errors(), Ask("system/metrics", "/metrics", method="GET")]
    asks += _mixed(REQUESTS - len(asks))
    twice = [name for name, count in Counter(ask.name for ask in asks).items() if count > 1]
    if twice or len(asks) != REQUESTS:
        raise AssertionError(f"{len(asks)} requests, of which {twice} have the name of another")
    order = list(SERVERS)
    return sorted(asks, key=lambda ask: (order.index(ask.server), ask.together, ask.busy))


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())


def _generate(subject: Subject) -> Iterator[Ask]:
    """Every field of /generate; streams and requests of several texts go together with others."""
    several = [subject.prompt, subject.other, subject.prompt + " ", "", UNKNOWN]
    alone: dict[str, dict[str, Any]] = {
        "plain": {},
        "again": {},
        "greedy": {"temperature": 0},
        "hottest": {"temperature": 10},
        "top-k-5": {"top_k": 5},
        "min-p": {"min_p": 0.1},
        "filters": {"temperature": 1.4, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
        "penalties": {"presence_penalty": 1.5, "frequency_penalty": 1.2},
        "penalties-below": {"presence_penalty": -1, "frequency_penalty": -0.5, "repetition_penalty": 0.9},
        "bias": {"logit_bias": {"5": 8, "17": -100, "0": 3.5}},
        "stop": {"stop": subject.stop, "max_tokens": 200},
        "stop-state": {"stop": [subject.stop, "never there"], "max_tokens": 200, "return_state": True},
        "ignore-eos": {"ignore_eos": True, "max_tokens": 150},
        "min-tokens": {"min_tokens": 40, "max_tokens": 60},
        "unk": {"allow_unk": True, "temperature": 1.5, "logprobs": 1},
        "spell": {"allow_unk": "spell", "temperature": 1.6, "max_tokens": 80, "logprobs": 2},
        "logprobs-20": {"logprobs": 20, "max_tokens": 8},
        "one-token": {"max_tokens": 1, "logprobs": 0},
        "no-token": {"max_tokens": 0},
        "empty": {"prompt": ""},
        "long": {"prompt": subject.long},
        "long-again": {"prompt": subject.long + " and"},
        "unknown": {"prompt": UNKNOWN},
        "unicode": {"prompt": UNICODE},
        "symbols": {"prompt": SYMBOLS},
        "blank": {"prompt": BLANK},
        "no-seed": {"seed": None, "temperature": 0},
    }
    together: dict[str, dict[str, Any]] = {
        "n": {"n": 4, "logprobs": 0},
        "prompts": {"prompt": several, "n": 2},
        "stream": {"stream": True, "max_tokens": 100},
        "stream-logprobs": {"stream": True, "logprobs": 3},
        "stream-n": {"stream": True, "n": 3, "prompt": several[:2]},
        "stream-stop": {"stream": True, "stop": [subject.stop], "max_tokens": 200, "return_state": True},
        "stream-spell": {"stream": True, "allow_unk": "spell", "temperature": 1.6, "logprobs": 0, "max_tokens": 60},
    }
    for name, values in (alone | together).items():
        full = f"generate/{subject.name}/{name}"
        same = f"generate/{subject.name}/plain" if name == "again" else full
        body = {"model": subject.name, "prompt": subject.prompt, "max_tokens": 32, "seed": _seed(same)} | values
        yield Ask(full, "/generate", body, together=name in together)


def _states(subject: Subject) -> Iterator[Ask]:
    """Chains: what one route returns, another goes on from."""
    name = f"states/{subject.name}"
    base: dict[str, Any] = {"model": subject.name, "return_state": True}
    drawing = base | {"seed": 11, "max_tokens": 12}
    generated, streamed = From(f"{name}/generate", ("choices", 0, "state")), From(f"{name}/stream", (-2, "state"))
    scored, continued = From(f"{name}/score", ("scores", 0, "state")), From(f"{name}/next", ("state",))
    prompt = From(f"{name}/prompt", ("choices", 0, "state"))
    yield Ask(f"{name}/prompt", "/generate", base | {"prompt": subject.prompt, "max_tokens": 0})
    yield Ask(f"{name}/generate", "/generate", drawing | {"state": prompt})
    yield Ask(f"{name}/more", "/generate", drawing | {"state": generated, "prompt": " " + subject.prompt, "n": 2})
    yield Ask(f"{name}/stream", "/generate", drawing | {"state": generated, "prompt": "", "stream": True})
    yield Ask(f"{name}/score", "/score", base | {"state": streamed, "text": f" {subject.other}", "tokens": True})
    yield Ask(f"{name}/next", "/next", base | {"state": scored, "text": f" {subject.begun}"})
    yield Ask(f"{name}/last", "/score", base | {"state": continued, "text": ["", subject.prompt], "eos": False})


def _next(subject: Subject) -> Iterator[Ask]:
    cases: dict[str, dict[str, Any]] = {
        "word": {"text": subject.prompt + " "},
        "empty": {"text": ""},
        "completing": {"text": subject.begun},
        "capitals": {"text": subject.begun.upper()},
        "no-candidate": {"text": f"{subject.prompt} zyxqvw"},
        "punctuation": {"text": subject.prompt + " ", "punctuation": True, "top": 20},
        "after-comma": {"text": subject.prompt + ", ", "top": 50},
        "apostrophe": {"text": "I don'", "top": 5},
        "digit": {"text": "at 1", "top": 5},
        "unicode": {"text": UNICODE + " ", "top": 3, "return_state": True},
        "long": {"text": subject.long, "top": 5},
    }
    for name, values in cases.items():
        yield Ask(f"next/{subject.name}/{name}", "/next", {"model": subject.name} | values, together=True)


def _score(subject: Subject) -> Iterator[Ask]:
    texts = [subject.prompt, f"{subject.prompt}.", UNKNOWN, "", UNICODE, SYMBOLS, BLANK, subject.other]
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "tokens": {"tokens": True},
        "top": {"top": 5},
        "no-bos": {"bos": False, "tokens": True},
        "no-eos": {"eos": False, "tokens": True},
        "empty": {"text": "", "tokens": True},
        "empty-no-eos": {"text": "", "eos": False},
        "context": {"context": subject.other + " ", "tokens": True},
        "context-joined": {"context": subject.begun[:-1], "text": subject.begun[-1:] + "n", "tokens": True},
        "context-no-bos": {"context": subject.other, "bos": False, "return_state": True},
        "unknown": {"text": UNKNOWN, "tokens": True},
        "unicode": {"text": UNICODE, "tokens": True},
        "control": {"text": CONTROL, "tokens": True, "top": 1},
        "several": {"text": texts, "tokens": True},
        "several-open": {"text": ["the flobber", "the blibber", "the old"], "return_state": True},
        "long": {"text": subject.long},
        "many": {"text": [f"{subject.prompt} {number}" for number in range(200)]},
    }
    for name, values in cases.items():
        body = {"model": subject.name, "text": f"{subject.prompt} and {subject.other}."} | values
        yield Ask(f"score/{subject.name}/{name}", "/score", body, together=True)


def _rescore(subject: Subject) -> Iterator[Ask]:
    texts = (subject.prompt, subject.other, UNKNOWN, subject.prompt, "", subject.prompt.upper())
    hypotheses = [{"text": text, "score": -4.0 - place / 8} for place, text in enumerate(texts)]
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "weights": {"weight": 1.75, "length_weight": -0.5},
        "lowercase": {"lowercase": True, "bos": False, "eos": False},
        "ties": {"weight": 0, "hypotheses": [{"text": text, "score": 1} for text in texts]},
    }
    for name, values in cases.items():
        body = {"model": subject.name, "hypotheses": hypotheses} | values
        yield Ask(f"rescore/{subject.name}/{name}", "/rescore", body, together=True)


def _completions(subject: Subject) -> Iterator[Ask]:
    ids = list(subject.ids)
    alone: dict[str, dict[str, Any]] = {
        "plain": {},
        "echo-logprobs": {"echo": True, "logprobs": 2},
        "echo-alone": {"echo": True, "logprobs": 1, "max_tokens": 0},
        "ids": {"prompt": ids, "echo": True, "logprobs": 0},
        "ids-start": {"prompt": [1, *ids], "echo": True, "logprobs": 1},
        "ids-lists": {"prompt": [ids, ids[:2], [0]], "echo": True},
        "one-token": {"max_tokens": 1, "logprobs": 1, "logit_bias": {"1": 100}},
        "sampling": {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1},
        "penalties": {"presence_penalty": 1, "frequency_penalty": 0.5, "logit_bias": {"7": -5}, "min_tokens": 5},
        "stop": {"stop": [subject.stop], "max_tokens": 200, "logprobs": 0},
        "ignore-eos": {"ignore_eos": True, "max_tokens": 120},
        "greedy": {"temperature": 0, "seed": None},
        "unicode": {"prompt": UNICODE, "echo": True, "logprobs": 1},
        "ignored": {"user": "somebody", "frobnicate": [1], "temperature": None, "n": None, "top_k": -1},
    }
    together: dict[str, dict[str, Any]] = {
        "best-of": {"best_of": 5, "n": 2},
        "best-of-logprobs": {"best_of": 3, "logprobs": 1, "prompt": [subject.prompt, subject.other]},
        "stream": {"stream": True},
        "stream-usage": {"stream": True, "stream_options": {"include_usage": True}},
        "stream-continuous": {
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "logprobs": 1,
        },
        "stream-echo": {"stream": True, "echo": True, "logprobs": 1, "n": 2, "prompt": [subject.prompt, UNKNOWN]},
    }
    for name, values in (alone | together).items():
        full = f"completions/{subject.name}/{name}"
        body = {"model": subject.name, "prompt": subject.prompt, "seed": _seed(full)} | values
        yield Ask(full, "/v1/completions", body, together=name in together)


def _tokens(subject: Subject) -> Iterator[Ask]:
    name, model = f"tokens/{subject.name}", {"model": subject.name}
    text = f"{subject.prompt} {UNKNOWN} {UNICODE} {SYMBOLS}{BLANK}"
    shown = {"prompt": text, "return_token_strs": True}
    yield Ask(f"{name}/tokenize", "/tokenize", model | {"prompt": subject.long}, together=True)
    yield Ask(f"{name}/tokenize-shown", "/tokenize", model | shown, together=True)
    yield Ask(f"{name}/detokenize", "/detokenize", model | {"tokens": [1, *subject.ids, 0, 1, 1]}, together=True)
    yield Ask(f"{name}/info", f"/tokenizer_info?model={subject.name}", method="GET")
    yield Ask(f"{name}/card", f"/v1/models/{subject.name}", method="GET")


def _system() -> Iterator[Ask]:
    """All that is read, and what there is not."""
    paths = {
        "health": "/health",
        "ready": "/ready",
        "info": "/info",
        "models": "/v1/models",
        "tokenizer-info": "/tokenizer_info",
        "openapi": "/openapi.json",
        "docs": "/docs",
        "page": "/",
        "page-style": "/page/style.css",
        "page-script": "/page/page.js",
        "page-nothing": "/page/nothing.js",
        "page-outside": "/page/..%2Fmain.py",
        "nothing": "/nothing",
        "slash": "/health/",
        "query": "/health?x=1",
        "model-escaped": "/v1/models/english%2Dword",
        "model-nothing": "/v1/models/nothing",
        "tokenizer-nothing": "/tokenizer_info?model=nothing",
        "tokenizer-empty": "/tokenizer_info?model=",
    }
    for name, path in paths.items():
        yield Ask(f"system/{name}", path, method="GET")


def _errors() -> Iterator[Ask]:
    """Requests that are wrong in every way, most of them on /generate, and what other routes have of their own."""
    for name, raw in _malformed().items():
        yield Ask(f"errors/body/{name}", "/generate", raw)
    for route in ("score", "next", "rescore", "v1/completions", "tokenize", "detokenize"):
        yield Ask(f"errors/body/cut-off-{route}", f"/{route}", b'{"text": ')
        yield Ask(f"errors/body/empty-{route}", f"/{route}", {"max_tokens": 0})
    methods = (("GET", "/generate"), ("PUT", "/score"), ("DELETE", "/v1/completions"), ("POST", "/health"))
    for method, path in (*methods, ("HEAD", "/health"), ("OPTIONS", "/generate"), ("GET", "/next")):
        yield Ask(f"errors/method/{method}{path}", path, method=method)
    for path in ("/generate/", "//generate", "/Generate", "/v1/completions/", "/v1/chat/completions"):
        yield Ask(f"errors/path{path}", path, {"seed": 1, "max_tokens": 2})
    for route, cases in _wrong_values().items():
        needed: dict[str, Any] = {"generate": {"seed": 1}, "v1/completions": {"seed": 1}}.get(
            route, {"text": "The old man"}
        )
        needed = {} if route in ("rescore", "tokenize", "detokenize") else needed
        for name, values in cases.items():
            yield Ask(f"errors/{route}/{name}", f"/{route}", needed | values)
    yield Ask("errors/too-large/announced", "/score", b'{"text": "' + b"x" * 2_000_000 + b'"}')
    yield Ask("errors/too-large/chunked", "/score", b'{"text": "' + b"x" * 2_000_000 + b'"}', chunked=True)


def _malformed() -> dict[str, bytes | None]:
    return {
        "none": None,
        "null": b"null",
        "list": b"[]",
        "text": b'"text"',
        "cut-off": b'{"prompt": ',
        "more": b'{"seed": 1} {}',
        "nan": b'{"temperature": NaN}',
        "infinity": b'{"temperature": -Infinity}',
        "huge-number": b'{"temperature": 1e999}',
        "many-digits": b'{"seed": ' + b"9" * 5000 + b"}",
        "nested": b"[" * 100_000,
        "not-utf-8": b'{"prompt": "\xff\xfe"}',
        "byte-order-mark": b'\xef\xbb\xbf{"seed": 1}',
        "repeated-field": b'{"seed": 1, "seed": 2, "max_tokens": 3}',
        "surrogate": b'{"prompt": "a\\ud800b"}',
        "raw-unicode": '{"prompt": "Café 🙂", "seed": 1, "max_tokens": 3}'.encode(),
        "form": b"prompt=x&seed=1",
    }


def _wrong_values() -> dict[str, dict[str, dict[str, Any]]]:
    """By route and name: fields, of which one is wrong, or right at the edge."""
    state = From("states/english-word/generate", ("choices", 0, "state"))
    spoiled = replace(state, spoiled=True)
    hypothesis: dict[str, Any] = {"text": "The old man", "score": -1}
    generate: dict[str, dict[str, Any]] = {
        "unknown-field": {"frobnicate": 1},
        "null-field": {"temperature": None},
        "prompt-number": {"prompt": 5},
        "prompt-numbers": {"prompt": [1]},
        "prompt-none": {"prompt": []},
        "max-tokens-negative": {"max_tokens": -1},
        "max-tokens-text": {"max_tokens": "5"},
        "max-tokens-many": {"max_tokens": 4097},
        "min-tokens": {"min_tokens": 65},
        "temperature": {"temperature": 10.5},
        "top-k": {"top_k": -1},
        "top-p": {"top_p": 0},
        "min-p": {"min_p": 1},
        "repetition": {"repetition_penalty": 0},
        "frequency": {"frequency_penalty": -2.5},
        "bias-key": {"logit_bias": {"a": 1}},
        "bias-id": {"logit_bias": {"99999999": 1}},
        "bias-value": {"logit_bias": {"1": 101}},
        "stop-empty": {"stop": ["x", ""]},
        "n-none": {"n": 0},
        "n-in-all": {"n": 64, "prompt": ["x"] * 17},
        "seed-negative": {"seed": -1},
        "seed-large": {"seed": 2**63},
        "reported": {"logprobs": 20, "max_tokens": 4096, "n": 2},
        "unk": {"allow_unk": "maybe"},
        "state": {"state": "x"},
        "state-spoiled": {"state": spoiled},
        "state-of-another": {"state": state, "model": "english-speech"},
        "model": {"model": "nothing"},
        "model-empty": {"model": ""},
        "model-long": {"model": "x" * 300},
        "timeout-none": {"timeout_seconds": 0},
        "deadline": {"timeout_seconds": 1e-9, "max_tokens": 4096},
        "deadline-stream": {"timeout_seconds": 1e-9, "stream": True},
    }
    return {
        "generate": generate,
        "score": {
            "unknown-field": {"frobnicate": 1},
            "text-none": {"text": []},
            "text-nested": {"text": [["x"]]},
            "context": {"context": 5},
            "reported": {"text": ["The old man " * 40] * 40, "top": 50},
            "state-spoiled": {"state": spoiled},
            "deadline": {"timeout_seconds": 1e-9},
        },
        "next": {
            "text-list": {"text": ["x"]},
            "top-none": {"top": 0},
            "deadline": {"timeout_seconds": 1e-9},
        },
        "rescore": {
            "none": {"hypotheses": []},
            "score-text": {"hypotheses": [hypothesis | {"score": "1"}]},
            "score-large": {"hypotheses": [hypothesis, hypothesis | {"score": 2e9}]},
            "text-missing": {"hypotheses": [{"score": 1}]},
            "unknown-field": {"hypotheses": [hypothesis | {"frobnicate": 1}]},
            "weight": {"hypotheses": [hypothesis], "weight": 2e6},
        },
        "v1/completions": {
            "suffix": {"suffix": "x"},
            "best-of": {"best_of": 1, "n": 2},
            "best-of-stream": {"best_of": 2, "stream": True},
            "prompt-mixed": {"prompt": ["x", 1]},
            "prompt-negative": {"prompt": [-1]},
            "prompt-id": {"prompt": [99999999]},
            "n": {"n": 65},
            "model": {"model": "nothing"},
        },
        "tokenize": {"number": {"prompt": 1}, "model": {"prompt": "x", "model": "nothing"}},
        "detokenize": {"id": {"tokens": [1, 99999999]}, "negative": {"tokens": [-1]}, "text": {"tokens": "x"}},
    }


def _numbers() -> Iterator[Ask]:
    """The same networks in other number types. The state comes from a server of the default one."""
    state = From("states/english-word/generate", ("choices", 0, "state"))
    for server in ("float32", "bfloat16"):
        for subject in SUBJECTS:
            name, model = f"{server}/{subject.name}", {"model": subject.name}
            drawing = model | {"prompt": [subject.prompt, subject.long], "seed": 5, "n": 2, "logprobs": 1}
            yield Ask(f"{name}/generate", "/generate", drawing | {"max_tokens": 40}, server=server)
            yield Ask(f"{name}/score", "/score", model | {"text": [subject.long, UNKNOWN], "top": 2}, server=server)
            yield Ask(f"{name}/next", "/next", model | {"text": subject.begun}, server=server)
        body = {"state": state, "seed": 3, "max_tokens": 20, "model": "english-word", "return_state": True}
        yield Ask(f"{server}/state", "/generate", body, server=server)


def _limited() -> Iterator[Ask]:
    """A server that asks for a key, has low limits, serves few at once, and has refused a checkpoint."""
    keyed = Ask("", "", headers=KEY, server="limited")
    for name, headers in {
        "none": {},
        "wrong": {"Authorization": "Bearer third-key"},
        "scheme": {"Authorization": "Basic second-key"},
    }.items():
        yield replace(keyed, name=f"limited/key-{name}", path="/generate", body={"seed": 1}, headers=headers)
    for path in ("/v1/models", "/tokenizer_info", "/info", "/health", "/metrics"):
        yield replace(keyed, name=f"limited/no-key{path}", path=path, method="GET", headers={})
    yield replace(keyed, name="limited/models", path="/v1/models", method="GET")
    wrong: dict[str, tuple[str, Any]] = {
        "body": ("/score", {"text": "x" * 20_000}),
        "max-tokens": ("/generate", {"max_tokens": 1_000_001}),
        "texts": ("/score", {"text": ["x"] * 9}),
        "n": ("/generate", {"n": 9}),
        "logprobs": ("/generate", {"logprobs": 3}),
        "top": ("/next", {"text": "x", "top": 4}),
        "stop": ("/generate", {"stop": ["a", "b", "c"]}),
        "stop-long": ("/generate", {"stop": "abcde"}),
        "bias": ("/generate", {"logit_bias": {"1": 1, "2": 1, "3": 1}}),
        "reported": ("/score", {"text": "x" * 60, "tokens": True}),
        "timeout": ("/generate", {"timeout_seconds": 61}),
        "model-refused": ("/generate", {"model": "broken"}),
    }
    for name, (path, body) in wrong.items():
        yield replace(keyed, name=f"limited/wrong-{name}", path=path, body=body)
    for subject in SUBJECTS:
        several = [subject.prompt, subject.other, subject.long, subject.long]
        body = {"model": subject.name, "prompt": several, "n": 2, "seed": 9, "max_tokens": 30}
        yield replace(keyed, name=f"limited/generate-{subject.name}", path="/generate", body=body)
    busy: dict[str, tuple[str, Any]] = {
        "generate": ("/generate", {"seed": 1}),
        "stream": ("/generate", {"seed": 1, "stream": True}),
        "score": ("/score", {"text": "x"}),
        "completions": ("/v1/completions", {"seed": 1}),
        "other-model": ("/generate", {"seed": 1, "max_tokens": 3, "model": "english-word"}),
    }
    for name, (path, body) in busy.items():
        yield replace(keyed, name=f"limited/busy-{name}", path=path, body=body, busy=True)


def _mixed(count: int) -> Iterator[Ask]:
    """Options that meet by chance, drawn from one seed; all are asked together."""
    draw = random.Random(500)
    for number in range(count):
        subject = draw.choice(SUBJECTS)
        prompt = draw.choice([subject.prompt, subject.other, subject.begun, UNKNOWN, subject.long])
        drawing: dict[str, Any] = {
            "seed": draw.randrange(2**63),
            "temperature": draw.choice([0, 0.7, 1, 1.3]),
            "top_k": draw.choice([0, 20]),
            "top_p": draw.choice([1, 0.9]),
            "repetition_penalty": draw.choice([1, 1.2]),
            "n": draw.choice([1, 3]),
            "max_tokens": draw.choice([10, 40, 160]),
            "logprobs": draw.choice([None, 2]),
            "stream": draw.choice([False, True]),
            "stop": draw.choice([[], [subject.stop]]),
            "ignore_eos": draw.choice([False, True]),
        }
        route = draw.choice(["generate", "generate", "v1/completions", "score", "next"])
        body: dict[str, Any] = {
            "generate": {"prompt": prompt, **drawing, "return_state": draw.choice([False, True])},
            "v1/completions": {"prompt": prompt, **drawing, "echo": draw.choice([False, True])},
            "score": {"text": [prompt, UNKNOWN], "tokens": True, "bos": draw.choice([False, True])},
            "next": {"text": prompt, "top": draw.choice([3, 30])},
        }[route]
        yield Ask(f"mixed/{number:03d}", f"/{route}", {"model": subject.name} | body, together=True)


# -- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """The code that is asked. python: of its environment."""

    python: Path
    folder: Path

    def environment(self, **settings: str) -> dict[str, str]:
        """Without settings of the product and of Python, but for the given ones; tables have one width."""
        unwanted = ("CAROUSEL_", "PYTHON", "FORCE_COLOR")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        plain = {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1", "TZ": "UTC", "CAROUSEL_THREADS": str(THREADS)}
        return kept | plain | settings

    def masked(self, text: str, temporary: Path) -> str:
        """A text without the places of this run."""
        return text.replace(str(temporary), "<temp>").replace(str(self.folder), "<tree>")


@dataclass(frozen=True)
class Answer:
    """status 0: the connection broke; the body says how."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Entry:
    """One line of a recording: what was asked, and the answer without what differs from run to run."""

    name: str
    request: dict[str, Any]
    answer: dict[str, Any]

    def line(self) -> str:
        values = {"name": self.name, "request": self.request, "answer": self.answer}
        return json.dumps(values, ensure_ascii=False)


@contextmanager
def tree_server(tree: Tree, settings: dict[str, str], log: Path) -> Iterator[int]:
    """A server of the tree, ready; its port."""
    port = _free_port()
    command = [str(tree.python), "-m", "app", "serve", "--port", str(port)]
    with log.open("wb") as output:
        environment = tree.environment(**settings)
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tree.folder, env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _ready(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return _send(port, "GET", "/ready", None, {}).status == 200
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _send(port: int, method: str, path: str, body: bytes | Iterable[bytes] | None, headers: dict[str, str]) -> Answer:
    """On a connection of its own. Raises `OSError` or `HTTPException` when that breaks."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before all has been sent
            connection.request(method, path, body, headers)
        response = connection.getresponse()
        kept = {name: value for name in HEADERS if (value := response.getheader(name)) is not None}
        return Answer(response.status, kept, response.read())
    finally:
        connection.close()


def _ask(port: int, ask: Ask, answers: dict[str, Answer]) -> Answer:
    """answers: what has been answered so far, by name."""
    try:
        body = ask.body
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(_filled(body, answers)).encode()
        sent = iter([body]) if ask.chunked and body is not None else body
        return _send(port, ask.method, ask.path, sent, {"Content-Type": "application/json"} | ask.headers)
    except (OSError, http.client.HTTPException, LookupError, TypeError, ValueError) as error:
        return Answer(0, {}, f"{type(error).__name__}: {error}".encode())


def _filled(body: Any, answers: dict[str, Answer]) -> Any:
    """The body with values of earlier answers. Raises `LookupError`, `TypeError` or `ValueError` where one lacks."""
    if isinstance(body, dict):
        return {key: _filled(value, answers) for key, value in body.items()}
    if not isinstance(body, From):
        return body
    value: Any = _parsed(answers[body.name].body)
    for step in body.path:
        value = value[step]
    if body.spoiled:
        value = value[:100] + ("B" if value[100] == "A" else "A") + value[101:]
    return value


def _parsed(body: bytes) -> Any:
    """JSON, or the list of a stream's events without the closing one."""
    if not body.startswith(b"data: "):
        return json.loads(body)
    events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event]
    return [json.loads(event) for event in events if event != "[DONE]"]


def _ask_all(port: int, asks: Sequence[Ask], answers: dict[str, Answer]) -> None:
    """Put the answers of one server's requests into `answers`."""
    for ask in asks:
        if not ask.together and not ask.busy:
            answers[ask.name] = _ask(port, ask, answers)
    together = [ask for ask in asks if ask.together]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda ask: _ask(port, ask, answers), together))
    answers |= {ask.name: answer for ask, answer in zip(together, found, strict=True)}
    busy = [ask for ask in asks if ask.busy]
    if busy:
        with _held(port):
            answers |= {ask.name: _ask(port, ask, answers) for ask in busy}


@contextmanager
def _held(port: int) -> Iterator[None]:
    """While this lasts, a stream takes the server's only place."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST", "/generate", json.dumps(HOLD), KEY)
        connection.getresponse().readline()
        yield
    finally:
        connection.close()


# -- what is left of an answer -----------------------------------------------------------------------------------------

_ID = re.compile(r'("id":\s*"[a-z]+-)[0-9a-f]{32}"')
_CREATED = re.compile(r'("created":\s*)\d+')
_SEED = re.compile(r'("seed":\s*)\d+')
_CACHED = re.compile(r'("cached_tokens":\s*)\d+')

COUNTED = ("carousel_requests_total", "carousel_request_errors_total")
"""Metrics whose values follow from the requests; of others the names are compared."""


def _canonical(ask: Ask, answer: Answer) -> dict[str, Any]:
    """What must be the same in every run."""
    body = answer.body.decode(errors="backslashreplace")
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        body = _by_choice(body)
    if ask.path == "/metrics":
        body = _metric_names(body)
    body = _ID.sub(r'\1*"', body)
    if ask.path == "/v1/completions":
        body = _CREATED.sub(r"\1*", body)
    if isinstance(ask.body, dict) and ask.body.get("seed") is None:
        body = _SEED.sub(r"\1*", body)
    if ask.together:
        body = _CACHED.sub(r"\1*", body)
    return {"status": answer.status, "headers": answer.headers, "body": body}


def _by_choice(body: str) -> str:
    """Events in the order of their choices: which of several goes ahead is a matter of time."""
    return "\n\n".join(sorted(body.split("\n\n"), key=_choice))


def _choice(event: str) -> float:
    try:
        content = json.loads(event.removeprefix("data: "))
        parts = content.get("choices", [content])
        return float(parts[0]["index"])
    except (ValueError, LookupError, AttributeError):
        return math.inf  # what ends the stream


def _metric_names(body: str) -> str:
    return "\n".join(
        line if line.startswith(("#", *COUNTED)) else line.rpartition(" ")[0] for line in body.splitlines()
    )


# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """`python -m` these arguments; "{temp}" stands for the folder of the files. writes: files that it makes there."""

    name: str
    arguments: tuple[str, ...]
    stdin: str = ""
    writes: tuple[str, ...] = ()


BULK_TEXTS = (
    "The apple and pear salad was delicious.",
    "The apple and pair salad was delicious.",
    "",
    UNKNOWN,
    "i do not know what you mean",
    "ROMEO: What say you?",
    "Cats average 15 pounds, and sleep.",
    UNICODE,
    SYMBOLS,
    "  white   space  ",
    "word " * 300,
)

NBEST = (
    ("the apple and pear salad", ("the apple and pair salad", "the apple and pear salad", "an apple and pear salad")),
    ("i do not know", ("i do not no", "i do know", "i do not know")),
    ("what did you say", ("what did you say", "what did he say", "what did you sea")),
    ("he went to the sea", ("he went to the see", "he went to the sea", "he want to the sea")),
    ("a flobbered quux", ("a flobbered quux", "a flow bird quacks")),
)


def _write_files(folder: Path) -> None:
    """What commands read, and checkpoints beside a broken one."""
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in BULK_TEXTS), encoding="utf-8")
    records = [{"id": place, "text": text, "content": text[::-1]} for place, text in enumerate(BULK_TEXTS * 20)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (folder / "wrong.jsonl").write_text('{"text": "fine"}\n{"text": 5}\n', encoding="utf-8")
    lists, lines = [], []
    for reference, texts in NBEST:
        hyps = [{"text": text, "score": -3 - place / 4, "kept": place} for place, text in enumerate(texts)]
        lists.append(json.dumps({"hyps": hyps, "ref": reference}) + "\n")
        lines.append("".join(f"{each['text']}\t{each['score']}\n" for each in hyps) + "\n")
    (folder / "nbest.jsonl").write_text("".join(lists), encoding="utf-8")
    (folder / "nbest.txt").write_text("".join(lines), encoding="utf-8")


def _link_checkpoints(tree: Tree, folder: Path) -> None:
    """The tree's checkpoints beside one that no server takes."""
    (folder / "checkpoints" / "broken").mkdir(parents=True)
    (folder / "checkpoints" / "broken" / "config.json").write_text("{}\n")
    for subject in SUBJECTS:
        (folder / "checkpoints" / subject.name).symlink_to(tree.folder / "checkpoints" / subject.name)


def all_commands() -> list[Command]:
    """The product's command line, its help included."""
    speech, char = ("-m", "english-speech"), ("-m", "shakespeare-char")
    cases: dict[str, tuple[str, ...]] = {
        "help": ("--help",),
        **{f"help-{name}": (name, "--help") for name in ("serve", "generate", "next", "score", "rescore")},
        "settings": ("settings",),
        "reference": ("reference",),
        "nothing": ("nothing",),
        "score-lines": ("score", "{temp}/texts.txt"),
        "score-tokens": ("score", "{temp}/texts.txt", "--tokens", "--no-bos", "--no-eos"),
        "score-char": ("score", "{temp}/texts.txt", *char, "--thresholds", "5,20"),
        "score-table": ("score", "{temp}/texts.txt", "--table", *speech),
        "score-texts": ("score", "--text", "The old man", "--text", UNKNOWN),
        "score-field": ("score", "{temp}/texts.jsonl", "--field", "content"),
        "score-as-lines": ("score", "{temp}/wrong.jsonl", "--lines"),
        "score-wrong": ("score", "{temp}/wrong.jsonl"),
        "score-missing": ("score", "{temp}/missing.txt"),
        "score-model": ("score", "{temp}/texts.txt", "-m", "nothing"),
        "score-thresholds": ("score", "{temp}/texts.txt", "--thresholds", "9,2"),
        "rescore-jsonl": ("rescore", "{temp}/nbest.jsonl"),
        "rescore-lines": ("rescore", "{temp}/nbest.txt", "--weight", "1.5", "--length-weight", "0.3", *speech),
        "rescore-tune": ("rescore", "{temp}/nbest.jsonl", "--tune", "{temp}/nbest.jsonl", *speech),
        "rescore-folds": ("rescore", "{temp}/nbest.jsonl", "--folds", "2", *speech, "--lowercase"),
        "rescore-also": ("rescore", "{temp}/nbest.jsonl", *speech, "--also", "english-word", "--no-bos", "--no-eos"),
        "rescore-wrong": ("rescore", "{temp}/texts.txt"),
        "generate": ("generate", "Cats average 15", "--seed", "7", "-t", "0.8"),
        "generate-n": ("generate", "ROMEO:", "--seed", "3", "-n", "3", "--max-tokens", "80", *char),
        "generate-options": (
            "generate",
            "the",
            "--seed",
            "5",
            "--top-k",
            "9",
            "--top-p",
            "0.9",
            "--stop",
            "of",
            *speech,
        ),
        "generate-exactly": ("generate", "--seed", "1", "--ignore-eos", "--max-tokens", "200"),
        "generate-wrong": ("generate", "x", "-t", "11"),
        "next": ("next", "The apple and pe"),
        "next-json": ("next", "The apple and ", "--json", "--top", "20", "--punctuation"),
        "next-char": ("next", "What sa", *char, "--top", "5"),
        "next-speech": ("next", "i do not ", *speech),
        "serve-model": ("serve", "--model", "nothing", "--port", "0"),
        "serve-empty": ("serve", "--checkpoints", "{temp}/none", "--port", "0"),
        "serve-port": ("serve", "--port", "99999"),
    }
    commands = [Command(f"command/{name}", ("app", *arguments)) for name, arguments in cases.items()]
    score_out = ("app", "score", "{temp}/texts.jsonl", "-o", "{temp}/scored.jsonl", "--tokens")
    rescore_out = ("app", "rescore", "{temp}/nbest.jsonl", "-o", "{temp}/rescored.jsonl")
    return [
        *commands,
        Command("command/score-output", score_out, writes=("scored.jsonl",)),
        Command("command/score-stdin", ("app", "score"), stdin="The old man\nCats average 15\n"),
        Command("command/rescore-output", rescore_out, writes=("rescored.jsonl",)),
        Command("command/generate-stdin", ("app", "generate", "-", "--seed", "2"), stdin="The old\nman\n"),
    ]


def _run(tree: Tree, command: Command, folder: Path) -> Entry:
    arguments = [argument.replace("{temp}", str(folder)) for argument in command.arguments]
    done = subprocess.run(
        [str(tree.python), "-m", *arguments],
        cwd=tree.folder,
        env=tree.environment(),
        input=command.stdin.encode(),
        capture_output=True,
        timeout=COMMAND_SECONDS,
    )
    written = {name: (folder / name).read_bytes() for name in command.writes if (folder / name).is_file()}

    def shown(content: bytes) -> str:
        return _ID.sub(r'\1*"', tree.masked(content.decode(errors="backslashreplace"), folder))

    answer = {"exit": done.returncode, "stdout": shown(done.stdout), "stderr": shown(done.stderr)}
    files = {"files": {name: shown(content) for name, content in written.items()}} if written else {}
    return Entry(command.name, {"arguments": list(command.arguments), "stdin": command.stdin}, answer | files)


# -- recording and comparing -------------------------------------------------------------------------------------------

PythonOption = Annotated[Path, typer.Option("--python", help="Python of the tree's environment.")]
TreeOption = Annotated[Path, typer.Option("--tree", help="Folder of the source tree.", exists=True, file_okay=False)]
AllowOption = Annotated[
    list[str] | None, typer.Option(help="Pattern of names that may differ, as 'command/help*'. Repeatable.")
]


@app.command()
def record(
    python: PythonOption,
    tree: TreeOption,
    out: Annotated[Path, typer.Option(help="JSONL file of what was asked and answered.", dir_okay=False)],
) -> None:
    """Ask the servers and commands of a tree; two cores take about five minutes."""
    asked = Tree(_program(python), tree.resolve())
    with tempfile.TemporaryDirectory(prefix="same-answers-") as name:
        folder = Path(name).resolve()
        _write_files(folder)
        _link_checkpoints(asked, folder)
        entries = _recorded_requests(asked, folder)
        for command in all_commands():
            progress.print(command.name, markup=False)
            entries.append(_run(asked, command, folder))
    _write_entries(out, entries)
    statuses = Counter(entry.answer["status"] for entry in entries if "status" in entry.answer)
    typer.echo(f"statuses of answers: {', '.join(f'{status}: {statuses[status]}' for status in sorted(statuses))}")
    if bad := [entry.name for entry in entries if entry.answer.get("status") in (0, 500)]:
        typer.echo(f"failures: {', '.join(bad)}")


def _recorded_requests(tree: Tree, folder: Path) -> list[Entry]:
    asks = all_asks()
    answers: dict[str, Answer] = {}
    for server, settings in SERVERS.items():
        mine = [ask for ask in asks if ask.server == server]
        progress.print(f"{len(mine)} requests to the server {server!r}", markup=False)
        filled = {key: value.replace("{temp}", str(folder)) for key, value in settings.items()}
        with tree_server(tree, filled, folder / f"{server}.log") as port:
            _ask_all(port, mine, answers)
    entries = []
    for ask in asks:
        found = _canonical(ask, answers[ask.name])
        found["body"] = tree.masked(found["body"], folder)
        entries.append(Entry(ask.name, ask.describe(), found))
    return entries


def _program(python: Path) -> Path:
    """With its whole path; an environment's link is not followed, for it tells which environment it is."""
    found = shutil.which(python)
    if found is None:
        raise typer.BadParameter(f"{python}: no such program", param_hint="--python")
    return Path(found).absolute()


def _write_entries(path: Path, entries: Sequence[Entry]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(entry.line() + "\n" for entry in entries), encoding="utf-8")


def _read_entries(path: Path) -> dict[str, Entry]:
    lines = path.read_text(encoding="utf-8").split("\n")
    entries = [Entry(**json.loads(line)) for line in lines if line]
    return {entry.name: entry for entry in entries}


@app.command()
def compare(
    one: Annotated[Path, typer.Argument(help="A recording.", exists=True, dir_okay=False)],
    other: Annotated[Path, typer.Argument(help="Another one.", exists=True, dir_okay=False)],
    allow: AllowOption = None,
    tolerance: Annotated[
        float, typer.Option(help="Answers that differ only in fractions, by no more than this, are counted apart.")
    ] = 0.0,
) -> None:
    """Say which answers differ; exit status 1 when any does that is not allowed to."""
    first, second = _read_entries(one), _read_entries(other)
    differing = _differences(first, second)
    distances = {name: _distance(first[name], second[name]) for name in differing if name in first and name in second}
    close = {name for name, distance in distances.items() if distance <= tolerance}
    far = {name: difference for name, difference in differing.items() if name not in close}
    requests = {name for name in first | second if not name.startswith("command/")}
    _tell(far, allow or [])
    for what, names in (("requests", requests), ("commands", (first | second).keys() - requests)):
        _summarise(what, names, differing)
        if near := close & names:
            largest = max(distances[name] for name in near)
            typer.echo(f"    of these, {len(near)} only in fractions, by {largest:.1e} at most")
    raise typer.Exit(any(not _allowed(name, allow or []) for name in far))


def _distance(first: Entry, second: Entry) -> float:
    """The largest difference between the fractions of two answers; infinite where anything else differs."""
    texts = [json.dumps(entry.answer, ensure_ascii=False) for entry in (first, second)]
    if _FRACTION.sub("", texts[0]) != _FRACTION.sub("", texts[1]):
        return math.inf
    numbers = (map(float, _FRACTION.findall(text)) for text in texts)
    return max((abs(a - b) for a, b in zip(*numbers, strict=True)), default=math.inf)


def _differences(first: dict[str, Entry], second: dict[str, Entry]) -> dict[str, str]:
    """By name, what is different: one line for each part."""
    found = {}
    for name in first | second:
        if name not in first or name not in second:
            found[name] = f"only in the {'first' if name in first else 'second'}"
        elif first[name] != second[name]:
            parts = {"request": first[name].request, **first[name].answer}
            others = {"request": second[name].request, **second[name].answer}
            unequal = [part for part in parts | others if parts.get(part) != others.get(part)]
            found[name] = "\n".join(f"{part}: {_difference(parts.get(part), others.get(part))}" for part in unequal)
    return found


def _difference(one: Any, other: Any) -> str:
    """Both sides from a little before the place where they part."""
    left, right = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (one, other))
    pairs = enumerate(zip(left, right, strict=False))
    place = next((place for place, (a, b) in pairs if a != b), min(len(left), len(right)))
    start = max(0, place - SHOWN // 3)
    sides = [repr(text[start : start + SHOWN]) for text in (left, right)]
    return f"from character {place} of {len(left)} and {len(right)} on\n    - {sides[0]}\n    + {sides[1]}"


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _tell(differing: dict[str, str], allow: Sequence[str]) -> None:
    for name, difference in differing.items():
        typer.echo(f"{name}{' (allowed)' if _allowed(name, allow) else ''}\n  " + difference.replace("\n", "\n  "))


def _summarise(what: str, names: Collection[str], differing: Collection[str]) -> None:
    unequal = sum(name in differing for name in names)
    typer.echo(f"{len(names)} {what}: {len(names) - unequal} equal bytes, {unequal} differ")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- trainings ---------------------------------------------------------------------------------------------------------

TYPES, LINES = 6_000, 9_000
"""Of the text that is trained on: different words, and sentences."""

TRAININGS: dict[str, str] = {
    "char": "--level char --boundary document --cell gru --embedding-size 48 --hidden-sizes 192 --dropout 0.1 "
    "--steps 600 --batch-size 32 --bptt-length 64 --validate-every 60 --averaging ema --average-decay 0.98",
    "word": "--level word --boundary line --vocabulary-size 1500 --embedding-size 96 --hidden-sizes 192,192 --tied "
    "--dropout 0.2 --steps 900 --batch-size 32 --bptt-length 32 --validate-every 90 --sampled-softmax 256 "
    "--partition sequential --reset-probability 0.05 --storage int8",
    "awd": "--level word --boundary line --vocabulary-size 1200 --cell lstm --embedding-size 96 "
    "--hidden-sizes 160,160,96 --tied --optimizer sgd --schedule constant --averaging triggered --learning-rate 30 "
    "--warmup-steps 5 --clip-norm 0.25 --weight-decay 1.2e-6 --truncation variable --bptt-length 35 --batch-size 20 "
    "--dropout 0.2 --input-dropout 0.3 --output-dropout 0.2 --locked --word-dropout 0.1 --dropconnect 0.3 "
    "--activation-l2 2 --temporal-l2 1 --steps 900 --validate-every 10 --patience 100 --precision float32 "
    "--storage float32",
}
"""Options of the trainings by name. The last is NT-ASGD with all there is against overfitting."""

AVERAGED = "awd"
"""The training that has to have averaged its weights, or it would not show that averaging stays as it is."""

PASSING = ("seconds", "tokens_per_second", "minutes", "created", "hardware", "command")
"""Fields of what a training writes that tell of its time and place."""


@app.command()
def trainings(
    python: PythonOption,
    tree: TreeOption,
    out: Annotated[Path, typer.Option(help="Folder of the text, the runs, the checkpoints and the record.")],
) -> None:
    """Train three small models and use what they wrote; two cores take about five minutes."""
    asked = Tree(_program(python), tree.resolve())
    with tempfile.TemporaryDirectory(prefix="same-trainings-") as name:  # places as long as those of another run
        folder = Path(name).resolve()
        entries = _recorded_trainings(asked, folder)
        shutil.copytree(folder, out, dirs_exist_ok=True)
    _write_entries(out / "trainings.jsonl", entries)
    typer.echo(f"{len(entries)} results in {out / 'trainings.jsonl'}")


def _recorded_trainings(tree: Tree, folder: Path) -> list[Entry]:
    """What is printed and written. A command that fails ends it all."""
    for name in ("text", "runs", "checkpoints"):
        (folder / name).mkdir()
    for name, seed, lines in (("train", 1, LINES), ("held-out", 2, LINES // 20)):
        (folder / "text" / f"{name}.txt").write_text(_text(seed, lines), encoding="utf-8")
    entries = []
    for command in (*_training_commands(), *_tool_commands()):
        progress.print(command.name, markup=False)
        entry = _run(tree, command, folder)
        if entry.answer["exit"]:
            progress.print(entry.answer["stderr"], markup=False)
            raise typer.Exit(1)
        entries.append(_without_times(entry) if command.name.startswith("train/") else entry)
    for name in TRAININGS:
        entries += _training_results(tree, folder, name)
    return [*entries, *_written_files(folder / "checkpoints")]


@app.command("compare-trainings")
def compare_trainings(
    one: Annotated[Path, typer.Argument(help="A folder of trainings.", exists=True, file_okay=False)],
    other: Annotated[Path, typer.Argument(help="Another one.", exists=True, file_okay=False)],
    allow: AllowOption = None,
) -> None:
    """Say which weights, logs and outputs differ; exit status 1 when any does that is not allowed to."""
    first, second = (_read_entries(folder / "trainings.jsonl") for folder in (one, other))
    differing = _differences(first, second)
    _tell(differing, allow or [])
    _summarise("results of trainings", (first | second).keys(), differing)
    raise typer.Exit(any(not _allowed(name, allow or []) for name in differing))


def _text(seed: int, lines: int) -> str:
    """Sentences of made-up words, as frequent as words are, each partly foretold by the one before it."""
    draw = random.Random(seed)
    return "".join(_sentence(draw) + "\n" for _ in range(lines))


def _sentence(draw: random.Random) -> str:
    rank, words = 0, []
    for place in range(4 + int(draw.random() * 12)):
        rank = (rank * 7 + place) % 90 if draw.random() < 0.5 else int(TYPES ** draw.random())
        words.append(_word(rank) + ("," if draw.random() < 0.06 else ""))
    return " ".join(words).strip(",").capitalize() + ".?!"[int(3 * draw.random() ** 3)]


def _word(rank: int) -> str:
    """The word of a rank, in syllables: the commonest are short."""
    consonants, vowels = "tnsrdlmkgbfvpz", "aeiou"
    word = ""
    while rank >= 0:
        rank, place = rank // 70 - 1, rank % 70
        word += consonants[place // 5] + vowels[place % 5]
    return word


def _training_commands() -> Iterator[Command]:
    for name, options in TRAININGS.items():
        places = ("{temp}/text/train.txt", "--out", f"{{temp}}/checkpoints/{name}", "--run", f"{{temp}}/runs/{name}")
        fixed = ("--seed", "17", "--threads", str(THREADS), "--description", "made-up words")
        yield Command(f"train/{name}", ("training", "train", *places, *fixed, *options.split()))


def _tool_commands() -> Iterator[Command]:
    """What else works on checkpoints, runs and texts."""
    text, held_out = "{temp}/text/train.txt", "{temp}/text/held-out.txt"
    word, again, mean = (f"{{temp}}/checkpoints/{name}" for name in ("word", "again", "mean"))
    threads = ("--threads", str(THREADS))
    one_thread = ("--threads", "1")  # with more, PyTorch adds up the gradient of an indexed matrix in any order
    cases: dict[str, tuple[str, ...]] = {
        "help": ("train", "--help"),
        "evaluate-char": ("evaluate", "{temp}/checkpoints/char", held_out, "--json", *threads),
        "evaluate-word": ("evaluate", word, held_out, "--reset", "line", *threads),
        "ngram": ("ngram", word, held_out, "--train", text, "--json"),
        "stats": ("stats", text, "--json"),
        "stats-table": ("stats", held_out, "--level", "char"),
        "export": ("export", "{temp}/runs/word", "--out", again, "--storage", "bfloat16", *threads),
        "average": ("average", word, again, "--out", mean),
        "speller": ("speller", mean, text, "--valid", held_out, "--seed", "3", *threads),
        "gradient-flow": ("gradient-flow", held_out, "--out", "{temp}/flow.json", "--steps", "20", *one_thread),
    }
    for name, arguments in cases.items():
        writes = ("flow.json",) if name == "gradient-flow" else ()
        yield Command(f"tool/{name}", ("training", *arguments), writes=writes)


_TIME = r"(?:\d[\d,.]* ?(?:tokens/s|ms|s|min|minutes|seconds|h)\b|\b\d+:\d\d(?::\d\d)?\b)"
_TIMES = re.compile(f"{_TIME}(?: {_TIME})*")


def _without_times(entry: Entry) -> Entry:
    """A training tells its user how long it takes; that is no result."""
    answer = {key: _TIMES.sub("*", value) if isinstance(value, str) else value for key, value in entry.answer.items()}
    return replace(entry, answer=answer)


def _training_results(tree: Tree, folder: Path, name: str) -> Iterator[Entry]:
    """Of one training: its log, where it ended, and what the checkpoint tells of it. Raises `RuntimeError` where it
    should have averaged and did not."""
    log = (folder / "runs" / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
    yield Entry(f"log/{name}", {}, {"lines": "\n".join(json.dumps(_lasting(json.loads(line))) for line in log)})
    position = _position(folder / "runs" / name / "trainer.safetensors")
    if name == AVERAGED and not position.get("averaged"):
        raise RuntimeError(f"{name}: no average of the weights was begun; {position}")
    yield Entry(f"end/{name}", {}, {"position": _lasting(position)})
    config = json.loads((folder / "checkpoints" / name / "config.json").read_text(encoding="utf-8"))
    told = tree.masked(json.dumps(_lasting(config), ensure_ascii=False), folder)
    yield Entry(f"config/{name}", {}, {"config": told})


def _written_files(checkpoints: Path) -> Iterator[Entry]:
    """Weights, tokenizers and spellers by their digests."""
    for path in sorted(checkpoints.rglob("*")):
        if path.suffix == ".safetensors" or path.name == "tokenizer.json":
            yield Entry(f"file/{path.relative_to(checkpoints)}", {}, {"sha256": _digest(path.read_bytes())})


def _position(path: Path) -> dict[str, Any]:
    """Where a run ended, from the header of its tensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    position: dict[str, Any] = json.loads(header["__metadata__"]["position"])
    return position


def _lasting(value: Any) -> Any:
    """Without what tells of time and place, at any depth."""
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in PASSING}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server is left behind
    app()
