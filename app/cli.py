"""`python -m app`: serve, and the model's tasks for the terminal and for files. Prints and exits, computes nothing."""

import asyncio
import json
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.answers import generate as generation
from app.answers import next as next_words
from app.answers import score as scoring
from app.errors import ServiceError, validation_error
from app.limits import check_generate, check_next, check_score
from app.main import create_app
from app.metrics import Metrics
from app.registry import Registry, ServedModel, StartupError, load_registry
from app.schemas import GenerateRequest, NextRequest, Score, ScoreRequest, StreamedText
from app.settings import Settings

cli = typer.Typer(
    help="Serve recurrent language models over HTTP, or use them from the terminal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

BATCH = 64
"""Texts scored together when a file is read."""

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
        prompt=sys.stdin.read() if prompt == "-" else prompt,
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
        async for event in generation.stream(body, served, settings.timeout_seconds):
            if isinstance(event, StreamedText):
                sys.stdout.write(event.text)
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
            table.add_row(word.word, f"{word.prob:.4f}")
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
    """How probable texts are: one JSON object a text, in the order of the input."""

    async def work(served: ServedModel, settings: Settings) -> None:
        def scored(texts: list[str]) -> Coroutine[Any, Any, list[Score]]:
            body = _body(ScoreRequest, text=texts, model=model, bos=bos, eos=eos, tokens=tokens)
            check_score(body, settings)
            return _scores(body, served, settings)

        with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8") as out:
            await _score_all(_texts(source, text, field, lines), scored, out, table)

    if source is not None and not source.is_file():
        _fail(f"{source}: no such file", code=2)
    _run(work, model, checkpoints)


async def _scores(body: ScoreRequest, served: ServedModel, settings: Settings) -> list[Score]:
    return (await scoring.answer(body, served, settings.timeout_seconds)).scores


async def _score_all(
    texts: Iterator[tuple[dict[str, Any], str]],
    scored: Callable[[list[str]], Coroutine[Any, Any, list[Score]]],
    out: TextIO,
    as_table: bool,
) -> None:
    """Score in batches at constant memory; the table alone keeps its rows."""
    table = Table("logprob", "perplexity", "bits/character", "oov", "text")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=None)
        for batch in _batches(texts, BATCH):
            scores = await scored([text for _, text in batch])
            for (record, _), result in zip(batch, scores, strict=True):
                if as_table:
                    table.add_row(
                        f"{result.logprob:.3f}",
                        _figure(result.perplexity),
                        _figure(result.bits_per_character),
                        str(result.oov),
                        result.text,
                    )
                else:
                    values = record | result.model_dump(exclude_unset=True)
                    out.write(json.dumps(values, ensure_ascii=False) + "\n")
            progress.advance(task, len(batch))
    if as_table:
        Console(file=out).print(table)


def _texts(
    source: Path | None, given: list[str] | None, field: str, plain: bool
) -> Iterator[tuple[dict[str, Any], str]]:
    """(the record it came with, text) of each text, read as it is needed."""
    if given:
        yield from (({}, text) for text in given)
        return
    with nullcontext(sys.stdin) if source is None else source.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.removesuffix("\n")
            if plain or not line.lstrip().startswith("{"):
                yield {}, line
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                _fail(f"line {number}: not JSON ({error}); --lines takes every line as text", code=2)
            if not isinstance(record.get(field), str):
                _fail(f"line {number}: no text under {field!r}; name its field with --field", code=2)
            yield record, record[field]


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


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
        async with _served(settings, model) as served:
            await work(served, settings)

    try:
        asyncio.run(main())
    except (StartupError, ServiceError, OSError, UnicodeError) as error:
        _fail(str(error), code=2 if isinstance(error, ServiceError) and error.status < 500 else 1)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@asynccontextmanager
async def _served(settings: Settings, model: str | None) -> AsyncGenerator[ServedModel]:
    registry = load_registry(settings, Metrics())
    served = registry.find(model)
    served.engine.start()
    try:
        yield served
    finally:
        served.engine.stop()


def _fail(message: str, code: int = 1) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)
