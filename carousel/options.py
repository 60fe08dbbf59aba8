"""The options of `generate` and `stream`: the fields of /generate, for type checkers. A test compares the two."""

from collections.abc import Sequence
from typing import Literal, TypedDict


class GenerateOptions(TypedDict, total=False):
    """What each means, and its range: docs/api.md."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[str, float]
    stop: str | Sequence[str]
    ignore_eos: bool
    allow_unk: bool | Literal["spell"]
    n: int
    seed: int | None
    logprobs: int | None
    state: str | None
    return_state: bool
    timeout_seconds: float | None
