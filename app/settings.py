"""Every setting of the service, from `CAROUSEL_*` environment variables."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Count = Annotated[int, Field(ge=1)]


_INTRODUCTION = """\
Environment variables, read once, when the server starts; a wrong value stops it with a message. For example:
`CAROUSEL_THREADS=2 CAROUSEL_API_KEYS=secret make serve`. Made by `python -m app settings`.
"""


class Settings(BaseSettings):
    """Read once, when the server starts; a wrong value stops it with a message."""

    model_config = SettingsConfigDict(env_prefix="CAROUSEL_", env_ignore_empty=True, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    checkpoints: Path = Field(Path("checkpoints"), description="Folder of checkpoints; each one found is served.")
    default_model: str | None = Field(
        None, description="Model of requests that name none. Not set: `english-word`, else the first by name."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the networks run; auto: a GPU if any.")
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="Number type of the weights; auto: the fastest here that keeps the quality."
    )
    threads: int | None = Field(None, ge=1, description="Threads of one network step. Not set: one a core.")
    api_keys: Annotated[list[SecretStr], NoDecode] = Field(
        [], description="Comma-separated keys, one of which requests must bear. Not set: no key is asked for."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="Least level logged; debug: each request too."
    )

    max_rows: Count = Field(256, description="Sequences a model works on at once.")
    max_requests: Count = Field(512, description="Requests a model holds, running and waiting; one more is a 429.")
    prompt_tokens_per_step: Count = Field(
        2048, description="Prompt tokens run between two steps of the sequences that generate."
    )
    prefix_cache_bytes: int = Field(
        64_000_000, ge=0, description="Memory for the states of prompts, per model; 0: none are kept."
    )
    max_body_bytes: Count = Field(2_000_000, description="Largest request body.")
    max_tokens: Count = Field(4096, description="Largest `max_tokens` of a request.")
    max_choices: Count = Field(64, description="Largest `n`.")
    max_texts: Count = Field(1024, description="Most texts, prompts or hypotheses in one request.")
    max_logprobs: Count = Field(20, description="Largest `logprobs`.")
    max_top: Count = Field(50, description="Largest `top` on /score and /next.")
    max_stop: Count = Field(16, description="Most stop strings.")
    max_stop_characters: Count = Field(256, description="Longest stop string.")
    max_logit_bias: Count = Field(1024, description="Most entries of `logit_bias`.")
    max_reported: Count = Field(100_000, description="Most tokens, alternatives included, that one answer reports.")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(120.0, description="Longest time a request may take.")

    @classmethod
    def table(cls) -> str:
        """Every variable with its default and meaning, as Markdown."""
        rows = [f"# Settings\n\n{_INTRODUCTION}", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in cls.model_fields.items():
            default = "" if field.default in (None, []) else f"`{field.default}`"
            rows.append(f"| `CAROUSEL_{name.upper()}` | {default} | {field.description} |")
        return "\n".join(rows) + "\n"

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else value
