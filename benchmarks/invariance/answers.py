"""Asking a server, and telling whether two answers are the same: equality of texts, floats and states, no tolerance."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.client import Connection

Body = dict[str, Any]
"""A request, or an answer."""

TEXT = ("text", "finish_reason", "state")
"""What every choice is compared by."""

TOKENS = (*TEXT, "tokens")
"""The same with token ids and log-probabilities, where they are reported."""


class AskError(Exception):
    """A server that did not answer with 200, or whose stream failed."""


@dataclass(frozen=True)
class Finding:
    """What one comparison came to. compared: how many of what. difference: the first one; None: all are equal."""

    axis: str
    shape: str
    backend: str
    compared: str
    difference: str | None


async def ask(port: int, path: str, body: Body) -> Body:
    """One request on a connection of its own. A stream comes back in the form of an answer that is not streamed.

    Raises `AskError`, or `ConnectionError` when the server hangs up.
    """
    connection = Connection(port)
    try:
        answer = await connection.post(path, json.dumps(body).encode())
    finally:
        connection.close()
    if answer.status != 200:
        raise AskError(f"POST {path}: {answer.status}: {answer.body[:300].decode(errors='replace')}")
    return merged(answer.body) if body.get("stream") else dict(json.loads(answer.body))


def merged(stream: bytes) -> Body:
    """Server-sent events as one answer: texts and tokens of a choice put together, what comes at the end taken over."""
    choices: dict[int, Body] = {}
    answer: Body = {}
    for event in _events(stream):
        if "error" in event:
            raise AskError(f"a stream failed: {event['error']}")
        if "index" not in event:
            answer |= event
            continue
        choice = choices.setdefault(event["index"], {"text": ""})
        text, tokens = choice["text"] + event.pop("text"), event.pop("tokens", None)
        choice |= event | {"text": text}
        if tokens is not None:
            choice["tokens"] = choice.get("tokens", []) + tokens
    return answer | {"choices": [choices[index] for index in sorted(choices)]}


def _events(stream: bytes) -> list[Body]:
    lines = [line.removeprefix(b"data: ") for line in stream.splitlines() if line.startswith(b"data: ")]
    if lines[-1:] != [b"[DONE]"]:
        raise AskError("a stream broke off")
    return [json.loads(line) for line in lines[:-1]]


def told(answers: Iterable[Body], fields: tuple[str, ...] = TOKENS) -> list[Body]:
    """The given fields of every choice of every answer, in order: identities and places in a list are left out."""
    return [{field: choice[field] for field in fields} for answer in answers for choice in answer["choices"]]


def first_difference(expected: object, found: object, place: str = "") -> str | None:
    """Where two JSON values first differ, and how; None: they are the same. Numbers are compared exactly."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{place or 'the answer'} has {', '.join(found)}, not {', '.join(expected)}"
        pairs = [(expected[key], found[key], f"{place}.{key}".lstrip(".")) for key in expected]
    elif isinstance(expected, list) and isinstance(found, list):
        pairs = [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(expected, found, strict=False))]
        pairs.append((len(expected), len(found), f"the length of {place or 'the list'}"))
    elif isinstance(expected, str) and isinstance(found, str):
        return _text_difference(expected, found, place)
    else:
        return None if expected == found else f"{place} is {found!r}, not {expected!r}"
    return next((difference for pair in pairs if (difference := first_difference(*pair))), None)


def _text_difference(expected: str, found: str, place: str) -> str | None:
    if expected == found:
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(map(len, (expected, found)))
    )
    return f"{place} from character {at} on is {found[at : at + 24]!r}, not {expected[at : at + 24]!r}"


def differences(expected: list[Body], found: list[Body]) -> str | None:
    """How many of the answers, which come in pairs, differ, and where the first one does; None: none."""
    if len(expected) != len(found):
        return f"{len(found)} answers, not {len(expected)}"
    each = map(first_difference, expected, found)
    differing = [(number, difference) for number, difference in enumerate(each) if difference]
    if not differing:
        return None
    number, difference = differing[0]
    return f"{len(differing)} of {len(found)} answers differ; of answer {number}, {difference}"
