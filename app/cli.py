"""`python -m app`: serve, and the model's tasks for the terminal and for files. Prints and exits, computes nothing."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from app.answers import generate as generation
from app.answers import next as next_words
from app.answers import score as scoring
from app.bulk import InputError, Item, count_lines, read_batches
from app.errors import ServiceError, validation_error
from app.limits import check_generate, check_next, check_score
from app.main import create_app
from app.metrics import Metrics
from app.registry import Registry, ServedModel, StartupError, load_model
from app.schemas import GenerateRequest, NextRequest, Score, ScoreRequest, StreamedText
from app.settings import Settings

cli = typer.Typer(
    help="Serve recurrent language models over HTTP, or use them from the terminal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

GRACE_SECONDS = 5
"""Time that requests under way have to finish when the server is told to stop."""

ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Name of a checkpoint; not given: the default.")]
CheckpointsOption = Annotated[
    Path | None, typer.Option("--checkpoints", help="Folder of checkpoints (CAROUSEL_CHECKPOINTS).")
]


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (CAROUSEL_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one (CAROUSEL_PORT).")] = None,
    checkpoints: CheckpointsOption = None,
    model: Annotated[str | None, typer.Option(help="The default model (CAROUSEL_DEFAULT_MODEL).")] = None,
) -> None:
    """Serve every checkpoint over HTTP."""
    settings = _settings(host=host, port=port, checkpoints=checkpoints, default_model=model)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        app = create_app(settings)
    except StartupError as error:
        _fail(str(error))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_graceful_shutdown=GRACE_SECONDS + 1,
    )
    server = _Server(config, app.state.registry)
    server.run()
    if not server.started:
        raise typer.Exit(1)


class _Server(uvicorn.Server):
    """Lets requests under way finish for a while; what is not done by then is told that the server shuts down."""

    def __init__(self, config: uvicorn.Config, registry: Registry) -> None:
        super().__init__(config)
        self._registry = registry

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._registry.stop)
        await super().shutdown(sockets)


@cli.command(name="settings")
def show_settings() -> None:
    """Every CAROUSEL_* environment variable, with its default and meaning."""
    print(Settings.table(), end="")  # noqa: T201


@cli.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; '-' reads it from standard input.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a completion.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0: always the likeliest token.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest whose mass reaches p.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="The text ends before this; may be given again.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Exactly --max-tokens tokens.")] = False,
    n: Annotated[int, typer.Option("-n", help="Completions.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.")] = None,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """Continue a text, printed as it is drawn."""
    body = _body(
        GenerateRequest,
        prompt=sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=stop or [],
        ignore_eos=ignore_eos,
        n=n,
        seed=seed,
    )

    async def work(served: ServedModel, settings: Settings) -> None:
        check_generate(body, settings, len(served.checkpoint.tokenizer))
        if body.n > 1:
            answer = await generation.answer(body, served, settings.timeout_seconds)
            for choice in answer.choices:
                print(body.prompt[0] + choice.text)  # noqa: T201
            return
        sys.stdout.write(body.prompt[0])
        async for together in generation.stream(body, served, settings.timeout_seconds):
            sys.stdout.write("".join(event.text for event in together if isinstance(event, StreamedText)))
            sys.stdout.flush()
        sys.stdout.write("\n")

    _run(work, model, checkpoints)


@cli.command(name="next")
def next_(
    text: Annotated[str, typer.Argument(help="Text so far; inside a word, the word is completed.")],
    top: Annotated[int, typer.Option(help="Most words to offer.")] = 10,
    punctuation: Annotated[bool, typer.Option("--punctuation", help="Offer punctuation marks too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """The likeliest next words."""
    body = _body(NextRequest, text=text, model=model, top=top, punctuation=punctuation)

    async def work(served: ServedModel, settings: Settings) -> None:
        check_next(body, settings)
        answer = await next_words.answer(body, served, settings.timeout_seconds)
        if as_json:
            print(answer.model_dump_json())  # noqa: T201
            return
        table = Table("word", "probability")
        for word in answer.words:
            table.add_row(Text(word.word), f"{word.prob:.4f}")
        Console().print(table)

    _run(work, model, checkpoints)


@cli.command()
def score(
    source: Annotated[Path | None, typer.Argument(help="File of lines or JSONL; not given: standard input.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text to score; may be given again.")] = None,
    field: Annotated[str, typer.Option(help="Where a JSONL object has its text.")] = "text",
    lines: Annotated[
        bool, typer.Option("--lines", help="Every line is a text, also where it looks like JSON.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there; not given: standard output.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print a table rather than JSONL.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Report each token (JSONL).")] = False,
    bos: Annotated[bool, typer.Option(help="A text starts a sentence.")] = True,
    eos: Annotated[bool, typer.Option(help="The end of a text is predicted, and counts.")] = True,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """How probable texts are: one JSON object a text, in the order of the input.

    A JSONL record keeps its fields; those of the score win where names are equal.
    """
    if source is not None and text:
        _fail("give a file or --text, not both", code=2)
    if source is not None and not source.is_file():
        _fail(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}", code=2)
    if source is not None and output is not None and output.resolve() == source.resolve():
        _fail(f"{output}: would replace the texts by their scores; write somewhere else", code=2)
    if table and tokens:
        _fail("--tokens is for JSONL; leave --table out", code=2)

    async def work(served: ServedModel, settings: Settings) -> None:
        async def scored(texts: list[str]) -> list[Score]:
            body = _body(ScoreRequest, text=texts, model=model, bos=bos, eos=eos, tokens=tokens)
            check_score(body, settings)
            return (await scoring.answer(body, served, settings)).scores

        with ExitStack() as stack:
            if text:
                batches = iter([[Item(one, {}) for one in text]])
            else:
                file = stack.enter_context(source.open("rb")) if source else sys.stdin.buffer
                batches = read_batches(file.fileno(), None if lines else field)
            out = stack.enter_context(_writing(output)) if output else sys.stdout
            total = count_lines(source) if source else None
            await _score_all(batches, scored, out, table, total)

    _run(work, model, checkpoints)


@contextmanager
def _writing(path: Path) -> Iterator[TextIO]:
    """A file that is there whole or, when something goes wrong on the way, as it was before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


async def _score_all(
    batches: Iterator[list[Item]],
    scored: Callable[[list[str]], Coroutine[Any, Any, list[Score]]],
    out: TextIO,
    as_table: bool,
    total: int | None,
) -> None:
    """Score batch by batch; only the table keeps its rows."""
    table = Table("logprob", "perplexity", "bits/character", "oov", "text")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scoring", total=total)
        for batch in batches:
            for item, result in zip(batch, await scored([item.text for item in batch]), strict=True):
                if as_table:
                    figures = (_figure(result.perplexity), _figure(result.bits_per_character), str(result.oov))
                    table.add_row(f"{result.logprob:.3f}", *figures, Text(result.text))
                else:
                    values = item.record | result.model_dump(exclude_unset=True)
                    out.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
            out.flush()
            progress.advance(task, len(batch))
    if as_table:
        Console(file=out).print(table)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _settings(**given: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"setting CAROUSEL_{str(first['loc'][0]).upper()}: {first['msg']} (got {first['input']!r})", code=2)


def _body(kind: type[Any], **values: Any) -> Any:
    """A request body of command-line values; wrong ones end the command."""
    try:
        return kind(**values)
    except ValidationError as error:
        _fail(validation_error([dict(e) for e in error.errors()]).message, code=2)


def _run(
    work: Callable[[ServedModel, Settings], Coroutine[Any, Any, None]], model: str | None, checkpoints: Path | None
) -> None:
    """Load one model, run a coroutine with it, and turn what goes wrong into a message."""
    settings = _settings(checkpoints=checkpoints)

    async def main() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own waits for a read to return
        served = load_model(settings, model, Metrics())
        served.engine.start()
        try:
            await work(served, settings)
        finally:
            served.engine.stop()

    try:
        asyncio.run(main())
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except (StartupError, ServiceError, InputError, OSError) as error:
        _fail(str(error), code=1 if isinstance(error, StartupError | OSError) else 2)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(message: str, code: int = 1) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)
