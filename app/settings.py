"""Every setting of the service, from `CAROUSEL_*` environment variables."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Count = Annotated[int, Field(ge=1)]

Seconds = Annotated[float, Field(gt=0)]

Origin = Annotated[str, Field(pattern=r"^([a-z][a-z0-9+.-]*://[^/?#\s]+|\*)$")]
"""As browsers write it: no path, no slash at the end."""


def _limit(default: float, description: str) -> Any:
    """A setting that limits what a request may ask for: `/info` shows it, and the tasks name the fields it limits."""
    return Field(default, description=description, json_schema_extra=_LIMIT)


_LIMIT: dict[str, Any] = {"limit": True}

_INTRODUCTION = """\
Environment variables, read once, when the server starts; a wrong value stops it with a message. For example:
`CAROUSEL_THREADS=2 CAROUSEL_API_KEYS=secret make serve`. Made by `python -m app settings`.
"""


class Settings(BaseSettings):
    """Read once, when the server starts; a wrong value stops it with a message."""

    model_config = SettingsConfigDict(env_prefix="CAROUSEL_", env_ignore_empty=True, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    checkpoints: Path = Field(
        Path("checkpoints"), description="Folder of checkpoints; the server serves every checkpoint in it."
    )
    default_model: str | None = Field(
        None, description="Model of requests that name no model. Not set: `english-word`, else the first by name."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the networks run; auto: on a GPU if the machine has one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="Number type of the weights; auto: the fastest type on this machine that keeps the quality."
    )
    threads: int | None = Field(None, ge=1, description="Threads of one network step. Not set: one for each core.")
    api_keys: Annotated[list[SecretStr], NoDecode] = Field(
        [], description="Comma-separated keys; each request must bear one of them. Not set: no key is needed."
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of keys, a line each: `NAME sha256:DIGEST [models=A,B] [requests=N] [reload]`; "
        "`python -m app key NAME` makes them.",
    )
    public: bool = Field(
        True, description="Where keys are needed: whether docs, metrics, the page and /info are open without one."
    )
    state_key: SecretStr | None = Field(
        None, description="Secret that states are signed with: only servers that share it take each other's states."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="Least level that is logged, in any case; info: a line for each request, without its text."
    )

    max_rows: Count = Field(256, description="Sequences a model works on at once.")
    max_requests: Count = Field(
        512, description="Requests a model holds, running and waiting; further requests get a 429."
    )
    prompt_tokens_per_step: Count = Field(
        2048, description="Prompt tokens run between two steps of the sequences that generate."
    )
    prefix_cache_bytes: int = Field(
        64_000_000, ge=0, description="Memory for the states of prompts, per model; 0: no states are kept."
    )
    models_bytes: Count | None = Field(
        None,
        description="Memory for models. Set: a model is loaded at its first use, and those used longest ago are let "
        "go; not set: all are loaded at the start.",
    )
    old_version_seconds: Annotated[float, Field(ge=0)] = Field(
        600.0, description="How long a version of a model is kept after its last use, once a newer one is served."
    )
    grace_seconds: Annotated[float, Field(ge=0)] = Field(
        5.0, description="Time that requests under way have to end when the server is told to stop."
    )
    max_body_bytes: Count = _limit(2_000_000, "Largest request body.")
    max_prompt_tokens: Count = _limit(
        131_072, "Most tokens that one request may have read: prompts, texts and contexts, common beginnings once."
    )
    max_next_characters: Count = _limit(100_000, "Longest text of /next.")
    max_spelled_bytes: Count = _limit(4096, "Longest unknown word whose spelling is scored, in bytes of UTF-8.")
    max_sampled_tokens: Count = _limit(262_144, "Largest `n` times `max_tokens`, over all prompts of a request.")
    max_tokens: Count = _limit(4096, "Largest `max_tokens` of a request.")
    max_choices: Count = _limit(64, "Largest `n`.")
    max_texts: Count = _limit(1024, "Most texts, prompts or hypotheses in one request.")
    max_logprobs: Count = _limit(20, "Largest `logprobs`.")
    max_top: Count = _limit(50, "Largest `top` on /score and /next.")
    max_stop: Count = _limit(16, "Most stop strings.")
    max_stop_characters: Count = _limit(256, "Longest stop string.")
    max_logit_bias: Count = _limit(1024, "Most entries of `logit_bias`.")
    max_reported: Count = _limit(100_000, "Most tokens, alternatives included, that one answer reports.")
    timeout_seconds: Annotated[float, Field(gt=0)] = _limit(120.0, "Longest time a request may take.")

    max_header_bytes: Annotated[int, Field(ge=1024)] = _limit(32_768, "Most bytes of request line and headers.")
    max_connections: Count = _limit(
        1000,
        "Connections open at once, as far as the process may open files. Above: the one that has been idle for longest "
        "is closed, else the new one gets a 503.",
    )
    header_seconds: Seconds = _limit(10.0, "Time that request line and headers may take.")
    body_seconds: Seconds = _limit(
        30.0, "Time that a body may take; a body goes on for longer while it comes at 4,000 bytes a second or faster."
    )
    keep_alive_seconds: Seconds = Field(75.0, description="Time that a connection is kept for a next request.")
    stall_seconds: Seconds = Field(
        20.0, description="A client that reads nothing of its answer for so long, or past its deadline, is cut off."
    )

    max_bodies_bytes: Count = Field(
        256_000_000, description="Bytes of bodies, each above 20,000, that are held at once; further ones get a 429."
    )
    log_format: Literal["text", "json"] = Field("text", description="How lines of the log look.")
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = Field(
        "",
        description="Path prefix under which a proxy shows the server, such as `/models`; it may pass it on or not.",
    )
    allowed_origins: Annotated[list[Origin], NoDecode] = Field(
        [],
        description="Comma-separated origins (`https://example.org`) whose pages may ask from a browser; `*`: all; not "
        "set: the server's own page alone.",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        [],
        description="Comma-separated names, without ports, that the server may be asked by, beside `localhost` and its "
        "addresses; not set: any.",
    )

    def limits(self) -> dict[str, int | float]:
        """The settings that limit requests, by name."""
        fields = type(self).model_fields.items()
        return {name: getattr(self, name) for name, field in fields if field.json_schema_extra == _LIMIT}

    @classmethod
    def table(cls) -> str:
        """Every variable with its default and meaning, as Markdown."""
        rows = [f"# Settings\n\n{_INTRODUCTION}", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in cls.model_fields.items():
            default = "" if field.default in (None, [], "") else f"`{field.default}`"
            rows.append(f"| `CAROUSEL_{name.upper()}` | {default} | {field.description} |")
        return "\n".join(rows) + "\n"

    @field_validator("api_keys", "allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
