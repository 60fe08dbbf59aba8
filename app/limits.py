"""The limits of requests that are settings: checked here, so that each is a number an operator can change."""

from app.errors import InvalidValueError, shown
from app.schemas import GenerateRequest, NextRequest, RescoreRequest, ScoreRequest
from app.settings import Settings


def at_most(param: str, value: float, limit: float, what: str = "") -> None:
    """Raises `InvalidValueError` when a value is above its limit."""
    if value > limit:
        raise InvalidValueError(f"{param}: {shown(value)}{what} is more than the limit of {limit}", param)


def check_generate(body: GenerateRequest, settings: Settings, vocabulary_size: int) -> None:
    """Raises `InvalidValueError`, naming field, value and limit."""
    at_most("prompt", len(body.prompt), settings.max_texts, " prompts")
    if not body.prompt:
        raise InvalidValueError("prompt: an empty list; at least one prompt is needed", "prompt")
    at_most("max_tokens", body.max_tokens, settings.max_tokens)
    at_most("min_tokens", body.min_tokens, body.max_tokens)
    at_most("n", body.n, settings.max_choices)
    at_most("n", body.n * len(body.prompt), settings.max_texts, " completions in all")
    if body.logprobs is not None:
        at_most("logprobs", body.logprobs, settings.max_logprobs)
        reported = len(body.prompt) * body.n * body.max_tokens * (1 + body.logprobs)
        at_most("logprobs", reported, settings.max_reported, " tokens to report, alternatives included,")
    at_most("logit_bias", len(body.logit_bias), settings.max_logit_bias, " entries")
    for key in body.logit_bias:
        at_most(f"logit_bias.{key}", int(key), vocabulary_size - 1)
    at_most("stop", len(body.stop), settings.max_stop, " strings")
    for i, stop in enumerate(body.stop):
        if not stop:
            raise InvalidValueError(f"stop.{i}: an empty string would stop at once", f"stop.{i}")
        at_most(f"stop.{i}", len(stop), settings.max_stop_characters, " characters")
    check_timeout(body.timeout_seconds, settings)


def check_score(body: ScoreRequest, settings: Settings) -> None:
    """Raises `InvalidValueError`, naming field, value and limit."""
    at_most("text", len(body.text), settings.max_texts, " texts")
    if not body.text:
        raise InvalidValueError("text: an empty list; at least one text is needed", "text")
    at_most("top", body.top, settings.max_top)
    if body.context:
        characters = len(body.context) * len(body.text)
        at_most("context", characters, settings.max_body_bytes, " characters, once for each text,")
    check_timeout(body.timeout_seconds, settings)


def check_reported(tokens: int, top: int, settings: Settings, param: str | None = None) -> None:
    """Raises `InvalidValueError` when details would be larger than an answer may be. tokens: to be reported."""
    param = param or ("top" if top else "tokens")
    at_most(param, tokens * (1 + top), settings.max_reported, " tokens to report, alternatives included,")


def check_next(body: NextRequest, settings: Settings) -> None:
    """Raises `InvalidValueError`, naming field, value and limit."""
    at_most("top", body.top, settings.max_top)
    check_timeout(body.timeout_seconds, settings)


def check_rescore(body: RescoreRequest, settings: Settings) -> None:
    """Raises `InvalidValueError`, naming field, value and limit."""
    at_most("hypotheses", len(body.hypotheses), settings.max_texts, " hypotheses")
    if not body.hypotheses:
        raise InvalidValueError("hypotheses: an empty list; at least one is needed", "hypotheses")
    check_timeout(body.timeout_seconds, settings)


def check_timeout(value: float | None, settings: Settings) -> None:
    if value is not None:
        at_most("timeout_seconds", value, settings.timeout_seconds)
