"""What commands share: common options, settings, a model to run, and errors as messages instead of tracebacks."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.catalog import StartupError
from app.deadline import Deadline
from app.errors import ServiceError, validation_error
from app.files.lines import InputError
from app.metrics import Metrics
from app.registry import load_model
from app.settings import Settings
from app.tasks.task import Call

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Name of a checkpoint; without it, the default model.")
]
CheckpointsOption = Annotated[
    Path | None, typer.Option("--checkpoints", help="Folder of checkpoints (CAROUSEL_CHECKPOINTS).")
]


def make_settings(**options: Any) -> Settings:
    """The environment's settings, those of the command line on top; a wrong value ends the command."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"setting CAROUSEL_{str(first['loc'][0]).upper()}: {first['msg']} (got {first['input']!r})", code=2)


def make_body(kind: type[Any], **values: Any) -> Any:
    """A request body from values of the command line; a wrong value ends the command."""
    try:
        return kind(**values)
    except ValidationError as error:
        fail(validation_error([dict(e) for e in error.errors()]).message, code=2)


def run_with_model(
    work: Callable[[Call], Coroutine[Any, Any, None]], model: str | None, checkpoints: Path | None
) -> None:
    """Load one model and run a coroutine with it; an error becomes a message and an exit code."""
    run_with_models(lambda calls: work(calls[0]), [model], checkpoints)


def run_with_models(
    work: Callable[[list[Call]], Coroutine[Any, Any, None]],
    models: Sequence[str | None],
    checkpoints: Path | None,
) -> None:
    """The same with several models."""
    # The limits protect a server from its clients; a command serves its only user.
    settings = make_settings(checkpoints=checkpoints).model_copy(
        update={"timeout_seconds": 1e9, "max_reported": 10**12, "max_prompt_tokens": 10**12}
    )

    async def main() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own waits for a read to return
        metrics = Metrics()
        served = [load_model(settings, name, metrics) for name in models]
        with ExitStack() as stack:
            for model in served:
                model.engine.start()
                stack.callback(model.engine.stop)
            deadline = Deadline.after(settings.timeout_seconds)
            await work([Call(model, settings, deadline) for model in served])

    try:
        asyncio.run(main())
    except BrokenPipeError:
        # The reader of our output has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except (StartupError, ServiceError, InputError, OSError) as error:
        fail(str(error), code=1 if isinstance(error, StartupError | OSError) else 2)
    except KeyboardInterrupt:
        fail("interrupted", code=130)


def json_lines_out() -> TextIO:
    """Standard output for JSON lines, which are UTF-8 whatever the terminal is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdout


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with a message on standard error."""
    Console(stderr=True, highlight=False).print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def check_paths(sources: Sequence[Path | None], output: Path | None) -> None:
    """End the command when a source does not exist, or when the output is a source or cannot be written."""
    for source in filter(None, sources):
        if not source.exists() or source.is_dir():
            fail(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}", code=2)
        if output is not None and output.resolve() == source.resolve():
            fail(f"{output}: would replace what is read; write somewhere else", code=2)
    if output is not None and output.exists() and not output.is_file():
        fail(f"{output}: is not a file that could be replaced", code=2)
    if output is not None and not os.access(output.absolute().parent, os.W_OK):
        fail(f"{output.absolute().parent}: no such folder, or it cannot be written to", code=2)


def progress_bar() -> Progress:
    """On standard error, where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
